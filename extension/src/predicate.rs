//! Predicates as the catalog keeps them.

use std::ffi::CString;

use cachetag_core::Predicate;
use pgrx::prelude::*;

use crate::column::{Column, table_name, type_name};
use crate::error::{Error, Result};
use crate::render::Renderer;
use crate::settings::RenderSettings;
use crate::tags::text;

/// The columns of a predicate, each once.
#[pg_extern(sql = false)]
fn predicate_columns(predicate: &str) -> Result<Vec<String>, pg_sys::panic::ErrorReport> {
    let predicate = Predicate::parse(predicate).map_err(Error::from)?;
    Ok(predicate.columns().map(str::to_owned).collect())
}

/// The predicate with every literal written as its column writes it, which is what the daemon compares with.
#[pg_extern(sql = false)]
fn predicate_canonical(table: pg_sys::Oid, predicate: &str) -> Result<String, pg_sys::panic::ErrorReport> {
    let predicate = Predicate::parse(predicate).map_err(Error::from)?;
    for name in predicate.columns() {
        column(table, name)?;
    }
    let _settings = RenderSettings::enter();
    let canonical = predicate.map_literals(|name, literal| canonical(&column(table, name)?, literal))?;
    Ok(canonical.to_string())
}

fn column(table: pg_sys::Oid, name: &str) -> Result<Column> {
    Column::find(table, name).ok_or_else(|| Error::NoSuchColumn {
        column: name.to_owned(),
        table: table_name(table),
        columns: Column::names(table).join(", "),
    })
}

/// Literals only for types of which equal values have equal texts: the daemon compares bytes. IS NULL is for every type.
fn check_column(column: &Column) -> Result<()> {
    let (base, _) = column.base_type();
    let is_known = matches!(
        base,
        pg_sys::BOOLOID
            | pg_sys::INT2OID
            | pg_sys::INT4OID
            | pg_sys::INT8OID
            | pg_sys::OIDOID
            | pg_sys::TEXTOID
            | pg_sys::VARCHAROID
            | pg_sys::NAMEOID
            | pg_sys::CHAROID
            | pg_sys::UUIDOID
            | pg_sys::DATEOID
    );
    // SAFETY: look-ups of the type and the collation of an existing column.
    let (is_enum, is_deterministic) = unsafe {
        (
            pg_sys::get_typtype(base) == pg_sys::TYPTYPE_ENUM as std::ffi::c_char,
            column.collation == pg_sys::InvalidOid || pg_sys::get_collation_isdeterministic(column.collation),
        )
    };
    if !is_known && !is_enum {
        let type_name = type_name(column.type_oid, column.typmod);
        return Err(Error::PredicateType { column: column.name.clone(), type_name });
    }
    if !is_deterministic {
        return Err(Error::PredicateCollation { column: column.name.clone() });
    }
    Ok(())
}

/// A literal through the input and the output of its column's type. What the type does not take is PostgreSQL's own error.
fn canonical(column: &Column, literal: &str) -> Result<String> {
    check_column(column)?;
    let (base, _) = column.base_type();
    let literal = CString::new(literal).unwrap_or_default();
    let (mut input, mut parameter) = (pg_sys::InvalidOid, pg_sys::InvalidOid);
    // SAFETY: the type exists and is one of those that have been checked: built in or an enum. No modifier, so nothing is cut off.
    unsafe {
        pg_sys::getTypeInputInfo(base, &mut input, &mut parameter);
        let value = pg_sys::OidInputFunctionCall(input, literal.as_ptr().cast_mut(), parameter, -1);
        Ok(text(Renderer::default().text(value, base)))
    }
}

//! A row that a query hands in.

use pgrx::prelude::*;
use pgrx::{PgTupleDesc, htup};

use crate::column::{Column, base_type, table_name, type_name};
use crate::error::{Error, Result};
use crate::render::Renderer;

/// A composite value, of the table's row type or of any other with columns of the same names.
pub struct Row {
    values: Vec<pg_sys::Datum>,
    nulls: Vec<bool>,
    description: PgTupleDesc<'static>,
}

impl Row {
    /// # Safety
    ///
    /// `datum` is a record and not NULL. The row must not outlive the memory context of the call.
    pub unsafe fn new(datum: pg_sys::Datum) -> Row {
        // SAFETY: a record's datum is a tuple header that names its type. The description is a copy, so an error that unwinds leaves no count behind.
        // Both arrays have an element for each attribute.
        unsafe {
            let header: pg_sys::HeapTupleHeader = pg_sys::pg_detoast_datum(datum.cast_mut_ptr()).cast();
            let description = PgTupleDesc::from_pg_is_copy(pg_sys::lookup_rowtype_tupdesc_copy(
                htup::heap_tuple_header_get_type_id(header),
                htup::heap_tuple_header_get_typmod(header),
            ));
            let mut tuple = pg_sys::HeapTupleData {
                t_len: htup::heap_tuple_header_get_datum_length(header) as u32,
                t_data: header,
                ..std::mem::zeroed()
            };
            let mut values = vec![pg_sys::Datum::null(); description.len()];
            let mut nulls = vec![true; description.len()];
            pg_sys::heap_deform_tuple(&mut tuple, description.as_ptr(), values.as_mut_ptr(), nulls.as_mut_ptr());
            Row { values, nulls, description }
        }
    }

    /// The text of the columns of these names; `None` is NULL. A column that is missing, or of a type whose text could differ, is an error.
    pub fn values(&self, columns: &[Column], table: pg_sys::Oid) -> Result<Vec<Option<Vec<u8>>>> {
        let mut renderer = Renderer::default();
        columns.iter().map(|column| self.value(column, table, &mut renderer)).collect()
    }

    fn value(&self, column: &Column, table: pg_sys::Oid, renderer: &mut Renderer) -> Result<Option<Vec<u8>>> {
        let found = self
            .description
            .iter()
            .enumerate()
            .find(|(_, attribute)| !attribute.attisdropped && attribute.name() == column.name);
        let Some((at, attribute)) = found else {
            return Err(Error::RowColumn { column: column.name.clone(), table: table_name(table) });
        };
        if !looks_alike(column, attribute.atttypid, attribute.atttypmod) {
            return Err(Error::RowType {
                column: column.name.clone(),
                table: table_name(table),
                found: type_name(attribute.atttypid, attribute.atttypmod),
                expected: type_name(column.type_oid, column.typmod),
            });
        }
        if self.nulls[at] {
            return Ok(None);
        }
        // SAFETY: the value is of its attribute's type and not NULL.
        Ok(Some(unsafe { renderer.text(self.values[at], attribute.atttypid) }))
    }
}

/// Does a value of this type have the same text as in the table's column?
fn looks_alike(column: &Column, type_oid: pg_sys::Oid, typmod: i32) -> bool {
    if column.type_oid == type_oid && column.typmod == typmod {
        return true;
    }
    let is_text = |type_oid| matches!(type_oid, pg_sys::TEXTOID | pg_sys::VARCHAROID);
    let (expected, expected_typmod) = column.base_type();
    let (found, found_typmod) = base_type(type_oid, typmod);
    // A modifier changes the text that is stored: padding, scale, precision. Of varchar it only limits the length.
    (is_text(expected) && is_text(found))
        || (expected == found && (expected_typmod < 0 || expected_typmod == found_typmod))
}

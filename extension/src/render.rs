//! `tags_of`: the tags of a row, by the rules of its table, in the bytes in which the daemon computes them.

use std::ffi::{CStr, CString};

use cachetag_core::{Predicate, RENDER_SETTINGS, Rendered, Template, Value};
use pgrx::prelude::*;
use pgrx::{AnyElement, PgMemoryContexts, PgTupleDesc};

use crate::error::{Error, raise};

/// The rules of one table, kept for the calls of one query.
struct Rules {
    relation: pg_sys::Oid,
    rules: Vec<Rule>,
}

struct Rule {
    template: Template,
    predicate: Option<Predicate>,
    is_sound: bool,
}

#[pg_extern(sql = false)]
fn tags_of(relation: pg_sys::Oid, row: AnyElement, fcinfo: pg_sys::FunctionCallInfo) -> Vec<String> {
    // SAFETY: fcinfo is that of the running call; fn_extra is ours alone and lives in fn_mcxt.
    let rules = unsafe { cached(fcinfo, relation) };
    // SAFETY: the function is declared with a record argument, so the datum is a composite.
    let columns = unsafe { Columns::read(row.datum()) };
    let values = columns.texts(rules.rules.iter().flat_map(|rule| {
        rule.template.columns().chain(rule.predicate.iter().flat_map(|p| p.columns())).filter(|_| rule.is_sound)
    }));
    let value = |name: &str| match values.iter().find(|(known, _)| known == name) {
        Some((_, text)) => text.as_deref().map(CStr::to_bytes),
        None => raise(Err(Error::NoColumn { column: name.to_string(), relation: name_of(relation) })),
    };
    let mut tags: Vec<String> = Vec::with_capacity(rules.rules.len());
    for rule in &rules.rules {
        if rule.is_sound
            && let Some(predicate) = &rule.predicate
            && predicate.eval(|name| value(name).map_or(Value::Null, Value::Text)) == Some(false)
        {
            continue;
        }
        let tag = if rule.is_sound { rule.template.render(value) } else { Rendered::TooLong };
        match tag {
            Rendered::Tag(tag) => tags.push(tag.into()),
            Rendered::Null => {}
            // What the daemon does with such a row.
            Rendered::TooLong | Rendered::Unrenderable => tags.push(rule.template.whole_family().into()),
        }
    }
    tags.sort_unstable();
    tags.dedup();
    tags
}

unsafe fn cached<'c>(fcinfo: pg_sys::FunctionCallInfo, relation: pg_sys::Oid) -> &'c Rules {
    // SAFETY: the caller's; what fn_extra points to is made below, and dropped with fn_mcxt, which outlives the call.
    unsafe {
        let info = (*fcinfo).flinfo;
        let kept = (*info).fn_extra as *const Rules;
        if !kept.is_null() && (*kept).relation == relation {
            return &*kept;
        }
        let rules = raise(load(relation));
        let kept = PgMemoryContexts::For((*info).fn_mcxt).leak_and_drop_on_delete(rules);
        (*info).fn_extra = kept.cast();
        &*kept
    }
}

fn load(relation: pg_sys::Oid) -> Result<Rules, Error> {
    const QUERY: &str = "SELECT r.template, r.predicate, r.state = 'ok' \
        FROM cachetag.rule r JOIN cachetag.binding b ON b.rule_id = r.id WHERE b.relation = $1 ORDER BY r.id";
    let rules = Spi::connect(|client| {
        let mut rules = Vec::new();
        for row in client.select(QUERY, None, &[relation.into()])? {
            let template: String = row.get(1)?.unwrap_or_default();
            let predicate: Option<String> = row.get(2)?;
            rules.push(Rule {
                template: Template::parse(&template)?,
                predicate: predicate.map(|text| Predicate::parse(&text)).transpose()?,
                is_sound: row.get(3)?.unwrap_or(false),
            });
        }
        Ok::<_, Error>(rules)
    })?;
    if rules.is_empty() {
        return Err(Error::NotTracked { relation: name_of(relation) });
    }
    Ok(Rules { relation, rules })
}

/// The table's name as a person would write it.
fn name_of(relation: pg_sys::Oid) -> String {
    Spi::get_one_with_args::<String>("SELECT $1::regclass::text", &[relation.into()])
        .ok()
        .flatten()
        .unwrap_or_else(|| relation.to_string())
}

/// A row, taken apart.
struct Columns {
    descriptor: PgTupleDesc<'static>,
    values: Vec<pg_sys::Datum>,
    nulls: Vec<bool>,
}

impl Columns {
    unsafe fn read(row: pg_sys::Datum) -> Columns {
        // SAFETY: the caller's: a composite datum, whose header names its type; the arrays have room for each of its columns.
        unsafe {
            let header = pg_sys::pg_detoast_datum(row.cast_mut_ptr()) as pg_sys::HeapTupleHeader;
            let descriptor = PgTupleDesc::from_pg(pg_sys::lookup_rowtype_tupdesc(
                pgrx::heap_tuple_header_get_type_id(header),
                pgrx::heap_tuple_header_get_typmod(header),
            ));
            let mut tuple = pg_sys::HeapTupleData {
                t_len: pgrx::heap_tuple_header_get_datum_length(header) as u32,
                t_data: header,
                ..Default::default()
            };
            let mut values = vec![pg_sys::Datum::from(0); descriptor.len()];
            let mut nulls = vec![true; descriptor.len()];
            pg_sys::heap_deform_tuple(&mut tuple, descriptor.as_ptr(), values.as_mut_ptr(), nulls.as_mut_ptr());
            Columns { descriptor, values, nulls }
        }
    }

    /// The text of the columns of these names, as far as the row has them; `None` is NULL.
    fn texts<'n>(&self, names: impl Iterator<Item = &'n str>) -> Vec<(String, Option<CString>)> {
        let mut wanted: Vec<(String, usize)> = Vec::new();
        for name in names {
            let index = self.descriptor.iter().position(|column| !column.is_dropped() && column.name() == name);
            if let Some(index) = index
                && !wanted.iter().any(|(known, _)| known == name)
            {
                wanted.push((name.to_string(), index));
            }
        }
        let plain = wanted.iter().all(|&(_, index)| self.type_of(index).is_some_and(is_plain));
        let settings = if plain { None } else { Some(Settings::fixed()) };
        let texts = wanted.into_iter().map(|(name, index)| (name, self.text(index))).collect();
        drop(settings);
        texts
    }

    fn type_of(&self, index: usize) -> Option<pg_sys::Oid> {
        self.descriptor.get(index).map(|column| column.atttypid)
    }

    fn text(&self, index: usize) -> Option<CString> {
        let type_oid = self.type_of(index).filter(|_| !self.nulls[index])?;
        // SAFETY: the datum is of the column's type; the result is a palloc'd C string, copied at once.
        unsafe {
            let (mut output, mut is_varlena) = (pg_sys::InvalidOid, false);
            pg_sys::getTypeOutputInfo(type_oid, &mut output, &mut is_varlena);
            let text = pg_sys::OidOutputFunctionCall(output, self.values[index]);
            let copy = CStr::from_ptr(text).to_owned();
            pg_sys::pfree(text.cast());
            Some(copy)
        }
    }
}

/// Types whose text depends on no setting.
fn is_plain(type_oid: pg_sys::Oid) -> bool {
    matches!(
        type_oid,
        pg_sys::INT2OID
            | pg_sys::INT4OID
            | pg_sys::INT8OID
            | pg_sys::TEXTOID
            | pg_sys::VARCHAROID
            | pg_sys::BOOLOID
            | pg_sys::UUIDOID
            | pg_sys::NUMERICOID
    )
}

/// The daemon's settings, until dropped. An error on the way restores the session's own with the (sub)transaction.
struct Settings(i32);

impl Settings {
    fn fixed() -> Settings {
        // SAFETY: a nest level that is left in `drop` or by abort; names and values are C strings for the time of the call.
        unsafe {
            let level = pg_sys::NewGUCNestLevel();
            for (name, value) in RENDER_SETTINGS {
                let (Ok(name), Ok(value)) = (CString::new(*name), CString::new(*value)) else { continue };
                pg_sys::set_config_option(
                    name.as_ptr(),
                    value.as_ptr(),
                    pg_sys::GucContext::PGC_USERSET,
                    pg_sys::GucSource::PGC_S_SESSION,
                    pg_sys::GucAction::GUC_ACTION_SAVE,
                    true,
                    0,
                    false,
                );
            }
            Settings(level)
        }
    }
}

impl Drop for Settings {
    fn drop(&mut self) {
        // SAFETY: the level was opened by `fixed`, and nothing inside it is open any more.
        unsafe { pg_sys::AtEOXact_GUC(true, self.0) }
    }
}

//! The relations whose columns make a type: what `NULL::t` is depends on them, though no row is read.

use std::collections::BTreeSet;

use pgrx::{PgTupleDesc, pg_sys};

use crate::rules;

/// The relations behind these types, also behind those of their columns. What is made of the types is looked at anew when one of them changes.
pub fn relations(types: BTreeSet<u32>) -> BTreeSet<u32> {
    let mut relations = BTreeSet::new();
    let mut open: Vec<u32> = types.into_iter().collect();
    while let Some(next) = open.pop() {
        // SAFETY: look-ups by number; a type that is gone is not found.
        unsafe {
            let base = base_type(next.into());
            let relation = pg_sys::get_typ_typrelid(base);
            if relation == pg_sys::InvalidOid || !relations.insert(relation.to_u32()) {
                continue;
            }
            rules::watch(relation);
            let columns = pg_sys::lookup_rowtype_tupdesc_noerror(base, -1, true);
            if !columns.is_null() {
                let columns = PgTupleDesc::from_pg(columns);
                let types = columns.iter().filter(|column| !column.attisdropped).map(|column| column.atttypid.to_u32());
                open.extend(types.filter(|number| is_of_users(*number)));
            }
        }
    }
    relations
}

/// Was this made by users? All row types are but those of the catalog.
pub fn is_of_users(number: u32) -> bool {
    number >= pg_sys::FirstNormalObjectId
}

/// What domains, arrays and ranges of a type are made of in the end.
unsafe fn base_type(mut type_oid: pg_sys::Oid) -> pg_sys::Oid {
    // SAFETY: look-ups by number.
    unsafe {
        while is_of_users(type_oid.to_u32()) {
            let base = pg_sys::getBaseType(type_oid);
            let parts =
                [pg_sys::get_element_type(base), pg_sys::get_multirange_range(base), pg_sys::get_range_subtype(base)];
            let part = parts.into_iter().find(|part| *part != pg_sys::InvalidOid).unwrap_or(base);
            if part == type_oid {
                break;
            }
            type_oid = part;
        }
    }
    type_oid
}

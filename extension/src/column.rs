//! Columns of tables, by name, as the server's catalog has them.

use std::ffi::{CStr, CString, c_char};

use pgrx::pg_sys;

/// A column of a table.
pub struct Column {
    pub name: String,
    pub number: i16,
    pub type_oid: pg_sys::Oid,
    pub typmod: i32,
    pub collation: pg_sys::Oid,
}

impl Column {
    /// The column of this name, unless the table has none or only a system column.
    pub fn find(table: pg_sys::Oid, name: &str) -> Option<Column> {
        let c_name = CString::new(name).ok()?;
        let (mut type_oid, mut collation) = (pg_sys::InvalidOid, pg_sys::InvalidOid);
        let mut typmod = -1;
        let number;
        // SAFETY: look-ups in the catalog; the column that the first one finds exists for the second.
        unsafe {
            number = pg_sys::get_attnum(table, c_name.as_ptr());
            if number <= 0 {
                return None;
            }
            pg_sys::get_atttypetypmodcoll(table, number, &mut type_oid, &mut typmod, &mut collation);
        }
        Some(Column { name: name.to_owned(), number, type_oid, typmod, collation })
    }

    /// The names of all columns of a table.
    pub fn names(table: pg_sys::Oid) -> Vec<String> {
        let mut names = Vec::new();
        for number in 1..=pg_sys::MaxHeapAttributeNumber as i16 {
            // SAFETY: a look-up that gives NULL for a number beyond the last column and an empty text for none.
            let name = unsafe { text(pg_sys::get_attname(table, number, true)) };
            // A dropped column keeps its place under a name with dots.
            if !name.is_empty() && Column::find(table, &name).is_some() {
                names.push(name);
            }
        }
        names
    }

    /// The type and modifier below all domains.
    pub fn base_type(&self) -> (pg_sys::Oid, i32) {
        base_type(self.type_oid, self.typmod)
    }
}

/// The type and modifier below all domains.
pub fn base_type(type_oid: pg_sys::Oid, mut typmod: i32) -> (pg_sys::Oid, i32) {
    // SAFETY: looks the type of an existing column up.
    let base = unsafe { pg_sys::getBaseTypeAndTypmod(type_oid, &mut typmod) };
    (base, typmod)
}

/// The name of a type as SQL writes it.
pub fn type_name(type_oid: pg_sys::Oid, typmod: i32) -> String {
    // SAFETY: gives a C string for every oid; "???" for an unknown one.
    unsafe { text(pg_sys::format_type_with_typemod(type_oid, typmod)) }
}

/// The name of a table with its schema, for messages.
pub fn table_name(table: pg_sys::Oid) -> String {
    // SAFETY: look-ups that give NULL for what does not exist.
    unsafe {
        let name = pg_sys::get_rel_name(table);
        if name.is_null() {
            return table.to_u32().to_string();
        }
        let schema = pg_sys::get_namespace_name_or_temp(pg_sys::get_rel_namespace(table));
        text(pg_sys::quote_qualified_identifier(schema, name))
    }
}

/// # Safety
///
/// `text` is a C string or NULL.
unsafe fn text(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: the caller's promise.
    unsafe { CStr::from_ptr(text).to_string_lossy().into_owned() }
}

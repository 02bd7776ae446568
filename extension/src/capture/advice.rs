//! Which rules would make which queries finer.

use std::ffi::CStr;

use cachetag_core::Tag;
use pgrx::pg_sys;

/// The template of a rule for this table by these columns; a constant one without columns.
pub fn template_for(relation: pg_sys::Oid, columns: &[String]) -> Option<String> {
    // SAFETY: a look-up that gives NULL for a relation that does not exist.
    let name = unsafe {
        let name = pg_sys::get_rel_name(relation);
        if name.is_null() {
            return None;
        }
        CStr::from_ptr(name).to_string_lossy().into_owned()
    };
    let family = Tag::new(&name, &[]).ok()?;
    let columns = columns.iter().map(|column| format!(":{{{}}}", column.replace('}', "}}")));
    Some(format!("{family}{}", columns.collect::<String>()))
}

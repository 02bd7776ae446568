//! The values that a scan has recorded already: most executions of a query, and most rows of a join, meet some of them again.

use pgrx::{pg_sys, varlena};

use super::hash::FastSet;

/// Values beyond these are recorded again each time.
const MAX_VALUES: usize = 10_000;
/// Longer texts make tags that are too long anyway.
const MAX_TEXT: usize = 512;

/// Values as bytes: equal bytes are values with equal texts.
#[derive(Clone, Default)]
pub struct Memo {
    /// Those of the last row, to compare with before anything is looked up.
    last: Option<Vec<u8>>,
    met: FastSet<Box<[u8]>>,
}

impl Memo {
    /// Have these values been met?
    pub fn knows(&mut self, key: &mut Vec<u8>) -> bool {
        if self.last.as_deref() == Some(key.as_slice()) {
            return true;
        }
        let is_known = self.met.contains(key.as_slice());
        if is_known {
            self.set_last(key);
        }
        is_known
    }

    /// They have been recorded.
    pub fn remember(&mut self, key: &mut Vec<u8>) {
        if self.met.len() < MAX_VALUES {
            self.met.insert(key.as_slice().into());
        }
        self.set_last(key);
    }

    fn set_last(&mut self, key: &mut Vec<u8>) {
        std::mem::swap(self.last.get_or_insert_default(), key);
    }

    pub fn clear(&mut self) {
        self.last = None;
        self.met.clear();
    }
}

/// Adds the bytes of a value to those of others. `false`: a value of this type is not told by few bytes.
///
/// # Safety
///
/// The value is of this type, unless it is NULL.
pub unsafe fn add_value(value: pg_sys::Datum, is_null: bool, type_oid: pg_sys::Oid, key: &mut Vec<u8>) -> bool {
    // Each value says how long it is, so that no two lists of values have the same bytes.
    if is_null {
        key.push(0);
        return true;
    }
    match type_oid {
        pg_sys::INT2OID | pg_sys::INT4OID | pg_sys::INT8OID | pg_sys::OIDOID | pg_sys::BOOLOID | pg_sys::DATEOID => {
            key.push(1);
            key.extend_from_slice(&value.value().to_le_bytes());
        }
        pg_sys::UUIDOID => {
            key.push(2);
            // SAFETY: the caller's promise: a uuid is a pointer to its bytes.
            key.extend_from_slice(&unsafe { *value.cast_mut_ptr::<[u8; 16]>() });
        }
        pg_sys::TEXTOID | pg_sys::VARCHAROID => {
            // SAFETY: the caller's promise: a varlena, whose header says whether its bytes are behind it.
            unsafe {
                let text = value.cast_mut_ptr::<pg_sys::varlena>();
                if !varlena::varatt_is_4b_u(text) && (!varlena::varatt_is_1b(text) || varlena::varatt_is_1b_e(text)) {
                    return false;
                }
                let bytes = varlena::varlena_to_byte_slice(text);
                if bytes.len() > MAX_TEXT {
                    return false;
                }
                key.push(3);
                key.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
                key.extend_from_slice(bytes);
            }
        }
        _ => return false,
    }
    true
}

//! Values as the text that the daemon sees of them.

use std::ffi::CStr;

use pgrx::{pg_sys, varlena};

use crate::broken::{Guard, forgets};
use crate::settings::RenderSettings;

/// Turns values into PostgreSQL's text output under the fixed settings. The settings are entered with the first value that needs them.
#[derive(Default)]
pub struct Renderer {
    settings: Option<RenderSettings>,
}

impl Renderer {
    /// The text output of a value.
    ///
    /// # Safety
    ///
    /// `datum` is a value of the type `type_oid` and not NULL.
    pub unsafe fn text(&mut self, datum: pg_sys::Datum, type_oid: pg_sys::Oid) -> Vec<u8> {
        match type_oid {
            pg_sys::INT2OID => return (datum.value() as i16).to_string().into_bytes(),
            pg_sys::INT4OID => return (datum.value() as i32).to_string().into_bytes(),
            pg_sys::INT8OID => return (datum.value() as i64).to_string().into_bytes(),
            pg_sys::TEXTOID | pg_sys::VARCHAROID => {
                // SAFETY: a value of these types is a varlena, toasted or not; the slice is copied before anything else happens.
                return unsafe {
                    let text = pg_sys::pg_detoast_datum_packed(datum.cast_mut_ptr());
                    varlena::varlena_to_byte_slice(text).to_vec()
                };
            }
            _ => {}
        }
        if self.settings.is_none() && !is_plain(type_oid) {
            self.settings = (!forgets(Guard::Settings)).then(RenderSettings::enter);
        }
        let mut output = pg_sys::InvalidOid;
        let mut is_varlena = false;
        // SAFETY: the type exists, since there is a value of it. An output function gives a C string in the current memory context.
        unsafe {
            pg_sys::getTypeOutputInfo(type_oid, &mut output, &mut is_varlena);
            let text = pg_sys::OidOutputFunctionCall(output, datum);
            let bytes = CStr::from_ptr(text).to_bytes().to_vec();
            pg_sys::pfree(text.cast());
            bytes
        }
    }
}

/// Is the text of every value of this type the same under all settings?
fn is_plain(type_oid: pg_sys::Oid) -> bool {
    // SAFETY: looks a type up; an unknown one is its own base type.
    let base = unsafe { pg_sys::getBaseType(type_oid) };
    matches!(
        base,
        pg_sys::BOOLOID
            | pg_sys::INT2OID
            | pg_sys::INT4OID
            | pg_sys::INT8OID
            | pg_sys::OIDOID
            | pg_sys::TEXTOID
            | pg_sys::VARCHAROID
            | pg_sys::BPCHAROID
            | pg_sys::NAMEOID
            | pg_sys::CHAROID
            | pg_sys::UUIDOID
            | pg_sys::NUMERICOID
            | pg_sys::INETOID
            | pg_sys::CIDROID
            | pg_sys::MACADDROID
            | pg_sys::JSONOID
            | pg_sys::JSONBOID
    )
}

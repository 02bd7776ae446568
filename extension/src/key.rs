//! `key(…)`: one key for everything that means the same.

use std::fmt::Write as _;

use pgrx::prelude::*;
use pgrx::{IntoDatum, direct_function_call, direct_function_call_as_datum};

use crate::error::{Error, Result};
use crate::render::Renderer;
use crate::tags::text;

/// Longer keys are hashed, in bytes.
const MAX_KEY_LEN: usize = 200;
/// Stands for NULL: no text has a byte 0.
const NULL_PART: &str = "%00";
/// Comes before a hash. No part encodes to it, since a `%` that is not followed by two upper-case hexadecimal digits is never written.
const HASH_MARK: &str = "%sha256-";

/// An argument of a VARIADIC "any" function.
pub struct Argument {
    /// The value; `None` is NULL.
    pub datum: Option<pg_sys::Datum>,
    pub type_oid: pg_sys::Oid,
}

/// The arguments from number `start` on; `None` if a NULL array was passed as `VARIADIC`.
///
/// # Safety
///
/// `fcinfo` is that of a function whose argument `start`, counted from 0, is declared VARIADIC "any".
pub unsafe fn arguments(fcinfo: pg_sys::FunctionCallInfo, start: usize) -> Result<Option<Vec<Argument>>> {
    // SAFETY: the caller's promise; the server allocates the three arrays, each with as many elements as it returns.
    unsafe {
        if fcinfo.is_null() || (*fcinfo).flinfo.is_null() {
            return Err(Error::UnknownArguments);
        }
        if (*fcinfo).nargs as usize <= start {
            return Ok(Some(Vec::new()));
        }
        let (mut values, mut types, mut nulls) = (std::ptr::null_mut(), std::ptr::null_mut(), std::ptr::null_mut());
        let count = pg_sys::extract_variadic_args(fcinfo, start as i32, true, &mut values, &mut types, &mut nulls);
        let Ok(count) = usize::try_from(count) else { return Ok(None) };
        let argument =
            |at: usize| Argument { datum: (!*nulls.add(at)).then_some(*values.add(at)), type_oid: *types.add(at) };
        Ok(Some((0..count).map(argument).collect()))
    }
}

/// The key `namespace:part:…` of values of any type, of the characters `A-Z a-z 0-9 . _ ~ - % :`. Equal JSON gives equal keys, whatever the order of its
/// members, its white space and the way its numbers are written. Longer than 200 bytes, it is `namespace:` and a hash.
#[pg_extern(sql = false)]
fn key(fcinfo: pg_sys::FunctionCallInfo) -> Result<Option<String>, pg_sys::panic::ErrorReport> {
    // SAFETY: declared in SQL with a text and a VARIADIC "any" after it.
    let (namespace, arguments) = unsafe { (pgrx::fcinfo::pg_getarg::<&str>(fcinfo, 0), arguments(fcinfo, 1)) };
    let (Some(namespace), Some(arguments)) = (namespace, arguments?) else { return Ok(None) };
    let mut key = encoded(namespace);
    let namespace_len = key.len();
    let mut renderer = Renderer::default();
    for argument in arguments {
        key.push(':');
        match argument.datum {
            None => key.push_str(NULL_PART),
            // SAFETY: the argument carries its own type.
            Some(datum) => key.push_str(&encoded(&unsafe { part(&mut renderer, datum, argument.type_oid) })),
        }
    }
    Ok(Some(if key.len() <= MAX_KEY_LEN { key } else { hashed(&key, namespace_len) }))
}

/// The key that is a namespace alone.
#[pg_extern(sql = false)]
fn key_namespace(namespace: &str) -> String {
    let key = encoded(namespace);
    if key.len() <= MAX_KEY_LEN { key } else { hashed(&key, key.len()) }
}

/// # Safety
///
/// `datum` is a value of the type `type_oid` and not NULL.
unsafe fn part(renderer: &mut Renderer, datum: pg_sys::Datum, type_oid: pg_sys::Oid) -> String {
    // SAFETY: the caller's promise. A jsonb is made of valid JSON text only, and the server allocates what it gives back.
    unsafe {
        match pg_sys::getBaseType(type_oid) {
            pg_sys::JSONBOID => canonical_json(&text(renderer.text(datum, type_oid))),
            pg_sys::JSONOID => {
                let json = std::ffi::CString::new(renderer.text(datum, type_oid)).unwrap_or_default();
                let jsonb = direct_function_call_as_datum(pg_sys::jsonb_in, &[Some(json.as_ptr().into())]);
                jsonb.map_or_else(String::new, |jsonb| canonical_json(&text(renderer.text(jsonb, pg_sys::JSONBOID))))
            }
            pg_sys::NUMERICOID | pg_sys::FLOAT4OID | pg_sys::FLOAT8OID => {
                trimmed_number(&text(renderer.text(datum, type_oid))).to_owned()
            }
            _ => text(renderer.text(datum, type_oid)),
        }
    }
}

/// The text of a `jsonb`, which sorts members and keeps the last of equal ones, without white space and with every number written one way.
fn canonical_json(jsonb: &str) -> String {
    let mut out = String::with_capacity(jsonb.len());
    let mut rest = jsonb;
    while let Some(first) = rest.chars().next() {
        let len = match first {
            '"' => string_len(rest),
            '-' | '0'..='9' => {
                rest.find(|c: char| !matches!(c, '-' | '+' | '.' | 'e' | 'E' | '0'..='9')).unwrap_or(rest.len())
            }
            other => other.len_utf8(),
        };
        let (token, after) = rest.split_at(len);
        match first {
            ' ' => {}
            '-' | '0'..='9' => out.push_str(trimmed_number(token)),
            _ => out.push_str(token),
        }
        rest = after;
    }
    out
}

/// Bytes of the string at the beginning of a JSON text, quotes included.
fn string_len(json: &str) -> usize {
    let mut escaped = true;
    for (at, byte) in json.bytes().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return at + 1,
            _ => {}
        }
    }
    json.len()
}

/// A number without the zeros at its end that do not matter: `1.50` is `1.5`, `1.0` is `1`, `-0` is `0`.
fn trimmed_number(number: &str) -> &str {
    let trimmed = if number.contains('.') && !number.contains(['e', 'E']) {
        number.trim_end_matches('0').trim_end_matches('.')
    } else {
        number
    };
    if trimmed == "-0" { "0" } else { trimmed }
}

fn encoded(raw: &str) -> String {
    let mut out = String::with_capacity(raw.len());
    for byte in raw.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'.' | b'_' | b'~' | b'-' => out.push(char::from(byte)),
            other => {
                // Writing to a String does not fail.
                let _ = write!(out, "%{other:02X}");
            }
        }
    }
    out
}

fn hashed(key: &str, namespace_len: usize) -> String {
    let bytes = key.as_bytes().to_vec().into_datum();
    // SAFETY: sha256(bytea) with a bytea.
    let digest = unsafe { direct_function_call::<Vec<u8>>(pg_sys::sha256_bytea, &[bytes]) }.unwrap_or_default();
    let mut out = if namespace_len <= MAX_KEY_LEN / 2 { format!("{}:", &key[..namespace_len]) } else { String::new() };
    out.push_str(HASH_MARK);
    for byte in digest {
        // Writing to a String does not fail.
        let _ = write!(out, "{byte:02x}");
    }
    out
}

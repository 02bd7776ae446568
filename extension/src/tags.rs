//! `tag(…)` and the check of tags that users write.

use cachetag_core::{Tag, TagReason};
use pgrx::prelude::*;

use crate::error::{Error, Result};
use crate::key::arguments;
use crate::render::Renderer;

/// The tag of a family and parts of any type. NULL anywhere gives NULL: no tag. A tag that would be too long is its whole family, as it is for the daemon.
#[pg_extern(sql = false)]
fn tag(fcinfo: pg_sys::FunctionCallInfo) -> Result<Option<String>, pg_sys::panic::ErrorReport> {
    // SAFETY: declared in SQL with a text and a VARIADIC "any" after it.
    let (family, arguments) = unsafe { (pgrx::fcinfo::pg_getarg::<&str>(fcinfo, 0), arguments(fcinfo, 1)) };
    let (Some(family), Some(arguments)) = (family, arguments?) else { return Ok(None) };
    let mut renderer = Renderer::default();
    let mut parts = Vec::with_capacity(arguments.len());
    for argument in arguments {
        let Some(datum) = argument.datum else { return Ok(None) };
        // SAFETY: the argument carries its own type.
        parts.push(text(unsafe { renderer.text(datum, argument.type_oid) }));
    }
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    Ok(Some(tag_or_family(family, &parts)?))
}

/// The tag that is a family alone.
#[pg_extern(sql = false)]
fn tag_family(family: &str) -> Result<String, pg_sys::panic::ErrorReport> {
    Ok(tag_or_family(family, &[])?)
}

/// The same text if it is a canonical tag, else an error.
#[pg_extern(sql = false)]
fn check_tag(tag: &str) -> Result<String, pg_sys::panic::ErrorReport> {
    Ok(String::from(Tag::parse(tag).map_err(Error::from)?))
}

fn tag_or_family(family: &str, parts: &[&str]) -> Result<String> {
    match Tag::new(family, parts) {
        Ok(tag) => Ok(tag.into()),
        Err(error) if matches!(error.reason(), TagReason::TooLong { .. }) => {
            Ok(Tag::new(family, &[])?.whole_family().into())
        }
        Err(error) => Err(error.into()),
    }
}

/// Output of a server whose encoding is UTF-8, which `track` asks for; elsewhere what is not UTF-8 must not become a panic.
pub fn text(bytes: Vec<u8>) -> String {
    String::from_utf8(bytes).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned())
}

//! The payload of logical messages.

use std::collections::BTreeSet;

use cachetag_core::{InvalidationMessage, Tag};
use pgrx::prelude::*;

use crate::error::Error;

/// The payload that invalidates these tags, each named once. NULLs are no tags.
#[pg_extern(sql = false)]
fn invalidation_message(tags: Vec<Option<String>>, soft: bool) -> Result<String, pg_sys::panic::ErrorReport> {
    let tags = tags
        .into_iter()
        .flatten()
        .map(|tag| Tag::parse(&tag).map_err(Error::from))
        .collect::<Result<BTreeSet<Tag>, Error>>()?;
    Ok(InvalidationMessage { soft, tags: tags.into_iter().collect() }.encode())
}

//! Tags from text, and messages made of them.

use cachetag_core::{InvalidationMessage, Tag};
use pgrx::prelude::*;

use crate::error::raise;

/// The canonical tag of a family and parts.
#[pg_extern(sql = false)]
fn tag_of_parts(family: &str, parts: Vec<String>) -> String {
    let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
    raise(Tag::new(family, &parts)).into()
}

/// An error unless every text is a canonical tag.
#[pg_extern(sql = false)]
fn check_tags(tags: Vec<String>) {
    raise(parsed(&tags));
}

/// The payload of a logical message.
#[pg_extern(sql = false)]
fn message(soft: bool, tags: Vec<Option<String>>) -> String {
    let tags: Vec<String> = tags.into_iter().flatten().collect();
    InvalidationMessage { soft, tags: raise(parsed(&tags)) }.encode()
}

fn parsed(tags: &[String]) -> Result<Vec<Tag>, cachetag_core::TagError> {
    tags.iter().map(|tag| Tag::parse(tag)).collect()
}

//! What the catalog's SQL asks about templates.

use cachetag_core::{KeyTemplate, Predicate, Template};
use pgrx::prelude::*;

use crate::error::{Error, Result};

/// The family of all tags of a template.
#[pg_extern(sql = false)]
fn template_family(template: &str) -> Result<String, pg_sys::panic::ErrorReport> {
    Ok(parse(template)?.family().to_owned())
}

/// The columns of a template, each once.
#[pg_extern(sql = false)]
fn template_columns(template: &str) -> Result<Vec<String>, pg_sys::panic::ErrorReport> {
    Ok(parse(template)?.columns().map(str::to_owned).collect())
}

/// The names in a key template, in the order of the parameters `$1`, `$2`, … that they are.
#[pg_extern(sql = false)]
fn key_template_names(template: &str) -> Result<Vec<String>, pg_sys::panic::ErrorReport> {
    let template = KeyTemplate::parse(template).map_err(Error::from)?;
    Ok(template.names().to_vec())
}

/// The template after columns were renamed, all at once.
#[pg_extern(sql = false)]
fn template_renamed(template: &str, old: Vec<String>, new: Vec<String>) -> Result<String, pg_sys::panic::ErrorReport> {
    Ok(renamed(parse(template)?, &old, &new, |template, old, new| template.rename_column(old, new)).to_string())
}

/// The predicate after columns were renamed, all at once.
#[pg_extern(sql = false)]
fn predicate_renamed(
    predicate: &str,
    old: Vec<String>,
    new: Vec<String>,
) -> Result<String, pg_sys::panic::ErrorReport> {
    let predicate = Predicate::parse(predicate).map_err(Error::from)?;
    Ok(renamed(predicate, &old, &new, |predicate, old, new| predicate.rename_column(old, new)).to_string())
}

fn parse(template: &str) -> Result<Template> {
    Ok(Template::parse(template)?)
}

/// Renames by way of names that no column has, so that two columns may swap theirs.
fn renamed<T>(subject: T, old: &[String], new: &[String], rename: impl Fn(T, &str, &str) -> T) -> T {
    let between = |at: usize| format!("\0{at}");
    let subject = old.iter().enumerate().fold(subject, |subject, (at, old)| rename(subject, old, &between(at)));
    new.iter().enumerate().fold(subject, |subject, (at, new)| rename(subject, &between(at), new))
}

//! What a rule's template and predicate are made of; for the SQL that keeps them through renames.

use cachetag_core::{Predicate, Template};
use pgrx::prelude::*;

use crate::error::{Error, raise};

#[pg_extern(sql = false)]
fn template_family(template: &str) -> String {
    raise(Template::parse(template)).family().to_string()
}

/// The columns that a rule uses, each once: the template's, those that matter, the predicate's.
#[pg_extern(sql = false)]
fn rule_columns(template: &str, columns: Option<Vec<Option<String>>>, predicate: Option<&str>) -> Vec<String> {
    let mut names: Vec<String> = raise(Template::parse(template)).columns().map(str::to_string).collect();
    names.extend(columns.into_iter().flatten().flatten());
    if let Some(predicate) = predicate {
        names.extend(raise(Predicate::parse(predicate)).columns().map(str::to_string));
    }
    let mut distinct: Vec<String> = Vec::with_capacity(names.len());
    for name in names {
        if !distinct.contains(&name) {
            distinct.push(name);
        }
    }
    distinct
}

#[pg_extern(sql = false)]
fn template_rename(template: &str, old: &str, new: &str) -> String {
    raise(Template::parse(template)).rename_column(old, new).to_string()
}

#[pg_extern(sql = false)]
fn predicate_rename(predicate: &str, old: &str, new: &str) -> String {
    raise(Predicate::parse(predicate)).rename_column(old, new).to_string()
}

/// Column, literal, column, literal, …: in the order in which [`predicate_with`] takes the literals back.
#[pg_extern(sql = false)]
fn predicate_literals(predicate: &str) -> Vec<String> {
    let mut pairs = Vec::new();
    let collected = raise(Predicate::parse(predicate)).map_literals(|column, literal| {
        pairs.extend([column.to_string(), literal.to_string()]);
        Ok::<_, Error>(literal.to_string())
    });
    raise(collected);
    pairs
}

#[pg_extern(sql = false)]
fn predicate_with(predicate: &str, literals: Vec<Option<String>>) -> String {
    let mut literals = literals.into_iter();
    let replaced =
        raise(Predicate::parse(predicate)).map_literals(|_, _| literals.next().flatten().ok_or(Error::Literals));
    raise(replaced).to_string()
}

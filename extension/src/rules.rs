//! `tags_of(…)`: the tags of a row under the rules of its table.

mod cache;
mod row;

use std::collections::BTreeSet;

use cachetag_core::{BoundPredicate, BoundTemplate, Predicate, RenderOutcome, Tag, Template, Value};
use pgrx::prelude::*;

use crate::column::Column;
use crate::error::Result;
use crate::tags::text;
use row::Row;

/// The rules that the changes of one table fall under, and the columns that they need.
#[derive(Default)]
struct TableRules {
    rules: Vec<Rule>,
    columns: Vec<Column>,
}

enum Rule {
    /// Its tag is computed from the row. The numbers in it are places in [`TableRules::columns`].
    Exact { template: BoundTemplate, predicate: Option<BoundPredicate> },
    /// The daemon knows no more than the family.
    Family(Tag),
}

/// Exactly the tags that the daemon touches for this row of this table.
#[pg_extern(sql = false)]
fn tags_of(fcinfo: pg_sys::FunctionCallInfo) -> Result<Option<Vec<String>>, pg_sys::panic::ErrorReport> {
    // SAFETY: declared in SQL with a regclass and a record.
    let (table, row) =
        unsafe { (pgrx::fcinfo::pg_getarg::<pg_sys::Oid>(fcinfo, 0), pgrx::fcinfo::pg_getarg_datum(fcinfo, 1)) };
    let (Some(table), Some(row)) = (table, row) else { return Ok(None) };
    // SAFETY: the datum is a record that is not NULL.
    let row = unsafe { Row::new(row) };
    let rules = cache::rules_of(table)?;
    Ok(Some(tags_of_row(&rules, table, &row)?.into_iter().collect()))
}

fn tags_of_row(rules: &TableRules, table: pg_sys::Oid, row: &Row) -> Result<BTreeSet<String>> {
    let values = row.values(&rules.columns, table)?;
    let mut tags = BTreeSet::new();
    let mut tag = Vec::new();
    for rule in &rules.rules {
        let (template, predicate) = match rule {
            Rule::Exact { template, predicate } => (template, predicate),
            Rule::Family(family) => {
                tags.insert(family.to_string());
                continue;
            }
        };
        let matches = predicate.as_ref().is_none_or(|predicate| {
            predicate.eval(|column| values[column].as_deref().map_or(Value::Null, Value::Text)) != Some(false)
        });
        if !matches {
            continue;
        }
        tag.clear();
        match template.render_into(|column| values[column].as_deref(), &mut tag) {
            RenderOutcome::Tag => tags.insert(text(std::mem::take(&mut tag))),
            RenderOutcome::TooLong | RenderOutcome::Unrenderable => tags.insert(template.whole_family().to_string()),
            RenderOutcome::Null => false,
        };
    }
    Ok(tags)
}

impl TableRules {
    /// Adds a rule as the catalog has it. Whatever cannot be read or bound counts as its whole family, never as nothing.
    fn add(&mut self, template: &str, family: &str, predicate: Option<&str>, is_ok: bool, table: pg_sys::Oid) {
        let exact = if is_ok { self.bind(template, predicate, table) } else { None };
        self.rules.push(exact.unwrap_or_else(|| Rule::Family(whole_family(family))));
    }

    fn bind(&mut self, template: &str, predicate: Option<&str>, table: pg_sys::Oid) -> Option<Rule> {
        let template = Template::parse(template).ok()?;
        let predicate = predicate.map(Predicate::parse).transpose().ok()?;
        let mut index_of = |name: &str| self.index_of(name, table);
        let template = template.bind(&mut index_of).ok()?;
        let predicate = predicate.map(|predicate| predicate.bind(&mut index_of)).transpose().ok()?;
        Some(Rule::Exact { template, predicate })
    }

    fn index_of(&mut self, name: &str, table: pg_sys::Oid) -> Option<usize> {
        if let Some(known) = self.columns.iter().position(|column| column.name == name) {
            return Some(known);
        }
        self.columns.push(Column::find(table, name)?);
        Some(self.columns.len() - 1)
    }
}

fn whole_family(family: &str) -> Tag {
    // The catalog's family is canonical text by its trigger; whoever wrote something else there gets the widest tag.
    Tag::parse(family).map_or_else(|_| Tag::everything(), |family| family.whole_family())
}

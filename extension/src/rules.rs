//! `tags_of(…)`: the tags of a row under the rules of its table.

mod cache;
mod row;

pub use cache::{generation, rules_of, watch};

use std::collections::BTreeSet;

use cachetag_core::{BoundPredicate, BoundTemplate, Predicate, RenderOutcome, Tag, Template, Value};
use pgrx::prelude::*;

use crate::column::Column;
use crate::error::Result;
use crate::tags::text;
use row::Row;

/// The rules that the changes of one table fall under, and the columns that they need.
#[derive(Default)]
pub struct TableRules {
    pub rules: Vec<Rule>,
    pub columns: Vec<Column>,
}

/// A rule of a table.
pub struct Rule {
    pub template: String,
    pub whole_family: Tag,
    pub soft: bool,
    /// What changes of the table it does not see, in words, whatever the rows and columns; `None`: none.
    pub blind_to: Option<&'static str>,
    /// The columns whose change it sees in an update, if not all: those that matter and those of its tag. Of those of its predicate it sees only whether the
    /// predicate's truth has changed.
    pub columns: Option<BTreeSet<i16>>,
    pub form: Form,
}

/// What the daemon makes of a row under a rule.
pub enum Form {
    /// Its tag is computed from the row. The numbers in it are places in [`TableRules::columns`].
    Exact { template: BoundTemplate, predicate: Option<BoundPredicate> },
    /// The daemon knows no more than the family.
    Family,
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
        let (template, predicate) = match &rule.form {
            Form::Exact { template, predicate } => (template, predicate),
            Form::Family => {
                tags.insert(rule.whole_family.to_string());
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

/// A rule as the catalog has it.
struct Stored<'a> {
    template: &'a str,
    family: &'a str,
    predicate: Option<&'a str>,
    is_ok: bool,
    soft: bool,
    all_operations: bool,
    /// The columns that matter as an array in JSON; `None`: all.
    columns: Option<&'a str>,
}

impl Rule {
    /// The rows that it sees, if not all.
    pub fn predicate(&self) -> Option<&BoundPredicate> {
        match &self.form {
            Form::Exact { predicate, .. } => predicate.as_ref(),
            Form::Family => None,
        }
    }
}

impl TableRules {
    /// Adds a rule. Whatever cannot be read or bound counts as its whole family, never as nothing.
    fn add(&mut self, stored: &Stored<'_>, table: pg_sys::Oid) {
        let exact = if stored.is_ok { self.bind(stored.template, stored.predicate, table) } else { None };
        let blind_to = if !stored.all_operations { Some("some operations") } else { None };
        // The daemon knows no more than the family for a rule that it cannot bind: then every change counts.
        let columns = exact.as_ref().and(stored.columns).map(|names| self.columns_seen(names, exact.as_ref(), table));
        self.rules.push(Rule {
            template: stored.template.to_owned(),
            whole_family: whole_family(stored.family),
            soft: stored.soft,
            blind_to,
            columns,
            form: exact.unwrap_or(Form::Family),
        });
    }

    fn columns_seen(&self, names: &str, form: Option<&Form>, table: pg_sys::Oid) -> BTreeSet<i16> {
        let names: Vec<String> = serde_json::from_str(names).unwrap_or_default();
        let mut seen: BTreeSet<i16> =
            names.iter().filter_map(|name| Column::find(table, name)).map(|column| column.number).collect();
        if let Some(Form::Exact { template, .. }) = form {
            seen.extend(template.columns().iter().map(|column| self.columns[*column].number));
        }
        seen
    }

    fn bind(&mut self, template: &str, predicate: Option<&str>, table: pg_sys::Oid) -> Option<Form> {
        let template = Template::parse(template).ok()?;
        let predicate = predicate.map(Predicate::parse).transpose().ok()?;
        let mut index_of = |name: &str| self.index_of(name, table);
        let template = template.bind(&mut index_of).ok()?;
        let predicate = predicate.map(|predicate| predicate.bind(&mut index_of)).transpose().ok()?;
        Some(Form::Exact { template, predicate })
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

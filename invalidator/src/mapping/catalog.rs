//! Rules and bindings as the catalog's rows tell them, from a query at the start and from the stream afterwards.

use std::collections::HashMap;

use cachetag_core::{Predicate, Tag, Template};

use super::error::{MappingError, Problem};
use super::graph::Edge;
use super::operation::Operations;
use super::text;

/// A table of the catalog that the daemon follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Table {
    Rule,
    Binding,
    Dependency,
}

impl Table {
    /// The table of this name in schema `cachetag`.
    pub(super) fn of(name: &str) -> Option<Self> {
        match name {
            "rule" => Some(Self::Rule),
            "binding" => Some(Self::Binding),
            "dependency" => Some(Self::Dependency),
            _ => None,
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Rule => "rule",
            Self::Binding => "binding",
            Self::Dependency => "dependency",
        }
    }
}

/// A row of the catalog, by column name; `None` is NULL or no such column.
pub(super) struct Fields<'f> {
    pub(super) table: Table,
    pub(super) value: &'f dyn Fn(&str) -> Option<Vec<u8>>,
}

impl Fields<'_> {
    fn error(&self, column: &'static str, problem: impl Into<Problem>) -> MappingError {
        let id = (self.value)("id").map(|id| String::from_utf8_lossy(&id).into_owned()).unwrap_or_default();
        MappingError { table: self.table.name(), id, column, problem: problem.into() }
    }

    fn required(&self, column: &'static str) -> Result<Vec<u8>, MappingError> {
        (self.value)(column).ok_or_else(|| self.error(column, Problem::Missing))
    }

    fn read<T, E: Into<Problem>>(
        &self,
        column: &'static str,
        read: impl FnOnce(&[u8]) -> Result<T, E>,
    ) -> Result<T, MappingError> {
        read(&self.required(column)?).map_err(|problem| self.error(column, problem))
    }

    pub(super) fn id(&self) -> Result<i64, MappingError> {
        self.read("id", text::number)
    }

    pub(super) fn rule(&self) -> Result<Rule, MappingError> {
        let columns_that_matter = match (self.value)("columns_that_matter") {
            None => None,
            Some(array) => {
                let names = text::array(&array).map_err(|e| self.error("columns_that_matter", e))?;
                Some(names.into_iter().flatten().collect())
            }
        };
        let predicate = match (self.value)("predicate") {
            None => None,
            Some(raw) => {
                let source = text::utf8(&raw).map_err(|e| self.error("predicate", e))?;
                Some(Predicate::parse(source).map_err(|e| self.error("predicate", e))?)
            }
        };
        Ok(Rule {
            template: self.read("template", |raw| {
                text::utf8(raw).map_err(Problem::from).and_then(|t| Template::parse(t).map_err(Problem::from))
            })?,
            columns_that_matter,
            operations: Operations::parse((self.value)("operations").as_deref())
                .map_err(|e| self.error("operations", e))?,
            soft: self.read("soft", text::boolean)?,
            predicate,
            is_sound: self.required("state")? == b"ok",
        })
    }

    pub(super) fn binding(&self) -> Result<Binding, MappingError> {
        Ok(Binding { rule: self.read("rule_id", text::number)?, relation: self.read("relation", text::number)? })
    }

    pub(super) fn dependency(&self) -> Result<Edge, MappingError> {
        let tag = |column| {
            self.read(column, |raw| {
                text::utf8(raw).map_err(Problem::from).and_then(|t| Tag::parse(t).map_err(Problem::from))
            })
        };
        Ok(Edge {
            parent: tag("parent")?.as_str().as_bytes().into(),
            child: tag("child")?.as_str().as_bytes().into(),
            soft: self.read("soft", text::boolean)?,
            max_depth: self.read("max_depth", text::number)?,
            operations: Operations::parse((self.value)("operations").as_deref())
                .map_err(|e| self.error("operations", e))?,
        })
    }
}

/// A rule: which tag a change of a row touches.
#[derive(Debug, Clone)]
pub(super) struct Rule {
    pub(super) template: Template,
    /// An update that changes none of these touches nothing.
    pub(super) columns_that_matter: Option<Vec<String>>,
    pub(super) operations: Operations,
    pub(super) soft: bool,
    pub(super) predicate: Option<Predicate>,
    /// The extension found nothing wrong with it; otherwise it bumps its whole family.
    pub(super) is_sound: bool,
}

/// A physical table whose changes feed a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Binding {
    pub(super) rule: i64,
    pub(super) relation: u32,
}

/// All rules and bindings.
#[derive(Debug, Default)]
pub(super) struct Catalog {
    rules: HashMap<i64, Rule>,
    bindings: HashMap<i64, Binding>,
    /// Counts changes, so that what was compiled from an earlier state is known to be old.
    generation: u64,
}

impl Catalog {
    pub(super) fn rules(&self) -> usize {
        self.rules.len()
    }

    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    pub(super) fn put_rule(&mut self, id: i64, rule: Rule) -> Option<Rule> {
        self.generation += 1;
        self.rules.insert(id, rule)
    }

    pub(super) fn remove_rule(&mut self, id: i64) -> Option<Rule> {
        self.generation += 1;
        self.rules.remove(&id)
    }

    pub(super) fn put_binding(&mut self, id: i64, binding: Binding) -> Option<Binding> {
        self.generation += 1;
        self.bindings.insert(id, binding)
    }

    pub(super) fn remove_binding(&mut self, id: i64) -> Option<Binding> {
        self.generation += 1;
        self.bindings.remove(&id)
    }

    pub(super) fn rule(&self, id: i64) -> Option<&Rule> {
        self.rules.get(&id)
    }

    /// An empty catalog that is newer than `old`.
    pub(super) fn after(old: &Catalog) -> Self {
        Catalog { generation: old.generation + 1, ..Catalog::default() }
    }

    /// The rules that a physical table feeds; each with whether other tables feed it too.
    pub(super) fn of_relation(&self, relation: u32) -> impl Iterator<Item = (&Rule, bool)> {
        let mut ids: Vec<i64> = self.bindings.values().filter(|b| b.relation == relation).map(|b| b.rule).collect();
        ids.sort_unstable();
        ids.dedup();
        ids.into_iter().filter_map(move |id| {
            let shared = self.bindings.values().any(|b| b.rule == id && b.relation != relation);
            self.rules.get(&id).map(|rule| (rule, shared))
        })
    }

    /// Is the table bound to any rule, present or still to come?
    pub(super) fn is_bound(&self, relation: u32) -> bool {
        self.bindings.values().any(|b| b.relation == relation)
    }
}

//! What a change touches: rows in, tags out. Rules, bindings and dependencies are kept from the stream itself, at the place where
//! they change. Pure: no I/O, and nothing here waits.
//!
//! Where a tag cannot be computed the whole family takes its place, where a family cannot, everything: never nothing.

mod bumps;
mod catalog;
mod error;
mod graph;
mod operation;
mod relation;
mod row;
mod rule;
mod scope;
#[cfg(test)]
mod tests;
mod text;

use std::collections::HashMap;

use cachetag_core::InvalidationMessage;

use bumps::{Added, TagSet};
use catalog::{Catalog, Fields, Table};
use graph::Graph;
use operation::Marks;
use row::{After, Before, Known, Side};
use rule::CompiledRule;
use scope::EVERYTHING;

pub use bumps::TransactionBumps;
pub use error::MappingError;
pub use operation::Operations;
pub use relation::{Column, Relation, ReplicaIdentity};
pub use row::{OldRow, Row, Value};

/// What became of a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Its tags are in the transaction's set.
    Mapped,
    /// The table is published, but no rule is bound to it: the caller decides what that means.
    UnknownRelation,
    /// The message could not be read; everything is in the transaction's set.
    Malformed(String),
}

/// A table of the stream, and what its rows mean.
#[derive(Debug)]
struct Tracked {
    relation: Relation,
    meaning: Meaning,
    /// The catalog's generation that `meaning` was compiled from.
    generation: u64,
}

#[derive(Debug)]
enum Meaning {
    Rows(Vec<CompiledRule>),
    Catalog(Table),
    /// Another table of the extension's schema.
    Ignored,
    /// Nothing is bound to it.
    Unknown,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Mapper {
    catalog: Catalog,
    relations: HashMap<u32, Tracked>,
    bumps: Bumps,
}

/// Where touched tags go: into the transaction's set, and along the edges of the graph.
#[derive(Debug)]
struct Bumps {
    graph: Graph,
    set: TagSet,
    rendered: Vec<u8>,
}

impl Mapper {
    /// Starts from rows read by SQL, every value as text or `None`. Columns: rule: id, template, columns_that_matter, operations, soft,
    /// predicate, widen, state; binding: id, rule_id, relation; dependency: id, parent, child, soft, max_depth, operations.
    ///
    /// # Errors
    /// A row that cannot be read.
    pub fn load(
        rules: &[Vec<Option<String>>],
        bindings: &[Vec<Option<String>>],
        dependencies: &[Vec<Option<String>>],
        max_tags_per_transaction: usize,
    ) -> Result<Mapper, MappingError> {
        const RULE: &[&str] =
            &["id", "template", "columns_that_matter", "operations", "soft", "predicate", "widen", "state"];
        const BINDING: &[&str] = &["id", "rule_id", "relation"];
        const DEPENDENCY: &[&str] = &["id", "parent", "child", "soft", "max_depth", "operations"];
        let mut catalog = Catalog::default();
        let mut graph = Graph::default();
        for (table, names, rows) in [
            (Table::Rule, RULE, rules),
            (Table::Binding, BINDING, bindings),
            (Table::Dependency, DEPENDENCY, dependencies),
        ] {
            for row in rows {
                let value = |name: &str| {
                    let index = names.iter().position(|known| *known == name)?;
                    row.get(index)?.as_ref().map(|text| text.as_bytes().to_vec())
                };
                let fields = Fields { table, value: &value };
                let id = fields.id()?;
                match table {
                    Table::Rule => drop(catalog.put_rule(id, fields.rule()?)),
                    Table::Binding => drop(catalog.put_binding(id, fields.binding()?)),
                    Table::Dependency => drop(graph.put(id, fields.dependency()?)),
                }
            }
        }
        let bumps = Bumps { graph, set: TagSet::new(max_tags_per_transaction), rendered: Vec::new() };
        Ok(Mapper { catalog, relations: HashMap::new(), bumps })
    }

    /// Number of rules.
    pub fn rules(&self) -> usize {
        self.catalog.rules()
    }

    /// Number of dependencies.
    pub fn dependencies(&self) -> usize {
        self.bumps.graph.len()
    }

    /// Takes a Relation message in: changes that follow have these columns.
    pub fn relation(&mut self, relation: Relation) {
        let meaning = compile(&self.catalog, &relation);
        let tracked = Tracked { meaning, generation: self.catalog.generation(), relation };
        self.relations.insert(tracked.relation.oid, tracked);
    }

    /// A new row.
    ///
    /// # Errors
    /// A row of the catalog that cannot be read.
    pub fn insert<R: Row + ?Sized>(&mut self, relation: u32, new: &R) -> Result<Outcome, MappingError> {
        let Mapper { catalog, relations, bumps } = self;
        let Some(tracked) = current(relations, catalog, relation) else { return Ok(Outcome::UnknownRelation) };
        match &tracked.meaning {
            Meaning::Rows(rules) => {
                bumps.each(rules, |rule, out, touch| rule.insert(&tracked.relation, new, out, touch));
                Ok(Outcome::Mapped)
            }
            Meaning::Catalog(table) => {
                let after = After::insert(&tracked.relation, new);
                let value = |name: &str| field(&tracked.relation, &after, name);
                let change = Fields { table: *table, value: &value };
                put(catalog, bumps, &change).map(|()| Outcome::Mapped)
            }
            Meaning::Ignored => Ok(Outcome::Mapped),
            Meaning::Unknown => Ok(Outcome::UnknownRelation),
        }
    }

    /// A changed row.
    ///
    /// # Errors
    /// A row of the catalog that cannot be read.
    pub fn update<R: Row + ?Sized>(
        &mut self,
        relation: u32,
        old: OldRow<'_, R>,
        new: &R,
    ) -> Result<Outcome, MappingError> {
        let Mapper { catalog, relations, bumps } = self;
        let Some(tracked) = current(relations, catalog, relation) else { return Ok(Outcome::UnknownRelation) };
        match &tracked.meaning {
            Meaning::Rows(rules) => {
                bumps.each(rules, |rule, out, touch| rule.update(&tracked.relation, old, new, out, touch));
                Ok(Outcome::Mapped)
            }
            Meaning::Catalog(table) => {
                let after = After::update(&tracked.relation, old, new);
                let value = |name: &str| field(&tracked.relation, &after, name);
                let change = Fields { table: *table, value: &value };
                put(catalog, bumps, &change).map(|()| Outcome::Mapped)
            }
            Meaning::Ignored => Ok(Outcome::Mapped),
            Meaning::Unknown => Ok(Outcome::UnknownRelation),
        }
    }

    /// A row that is gone.
    ///
    /// # Errors
    /// A row of the catalog that cannot be read.
    pub fn delete<R: Row + ?Sized>(&mut self, relation: u32, old: OldRow<'_, R>) -> Result<Outcome, MappingError> {
        let Mapper { catalog, relations, bumps } = self;
        let Some(tracked) = current(relations, catalog, relation) else { return Ok(Outcome::UnknownRelation) };
        match &tracked.meaning {
            Meaning::Rows(rules) => {
                bumps.each(rules, |rule, out, touch| rule.delete(&tracked.relation, old, out, touch));
                Ok(Outcome::Mapped)
            }
            Meaning::Catalog(table) => {
                let before = Before { relation: &tracked.relation, old, new: None };
                let value = |name: &str| field(&tracked.relation, &before, name);
                let change = Fields { table: *table, value: &value };
                remove(catalog, bumps, &change).map(|()| Outcome::Mapped)
            }
            Meaning::Ignored => Ok(Outcome::Mapped),
            Meaning::Unknown => Ok(Outcome::UnknownRelation),
        }
    }

    /// A table without rows. Emptying the catalog is not something that the extension does: everything is bumped, and the rules are
    /// forgotten as they are in the table.
    pub fn truncate(&mut self, relation: u32) -> Outcome {
        let Mapper { catalog, relations, bumps } = self;
        let Some(tracked) = current(relations, catalog, relation) else { return Outcome::UnknownRelation };
        match &tracked.meaning {
            Meaning::Rows(rules) => {
                bumps.each(rules, |rule, out, touch| rule.truncate(out, touch));
                Outcome::Mapped
            }
            Meaning::Catalog(table) => {
                match table {
                    Table::Rule | Table::Binding => *catalog = Catalog::after(catalog),
                    Table::Dependency => bumps.graph = Graph::default(),
                }
                bumps.touch(EVERYTHING, Operations::ALL, false);
                Outcome::Mapped
            }
            Meaning::Ignored => Outcome::Mapped,
            Meaning::Unknown => Outcome::UnknownRelation,
        }
    }

    /// A logical message with the prefix `cachetag`. What cannot be read invalidates everything.
    pub fn message(&mut self, content: &[u8]) -> Outcome {
        match InvalidationMessage::parse(content) {
            Ok(message) => {
                for tag in &message.tags {
                    self.bumps.touch(tag.as_str().as_bytes(), Operations::ALL, message.soft);
                }
                Outcome::Mapped
            }
            Err(error) => {
                self.everything();
                Outcome::Malformed(error.to_string())
            }
        }
    }

    /// Bumps everything with the present transaction.
    pub fn everything(&mut self) {
        self.bumps.touch(EVERYTHING, Operations::ALL, false);
    }

    /// The transaction is complete: what it touched.
    pub fn commit(&mut self) -> TransactionBumps {
        self.bumps.set.take()
    }

    /// The transaction never was.
    pub fn discard(&mut self) {
        self.bumps.set.clear();
    }
}

impl Bumps {
    fn each(&mut self, rules: &[CompiledRule], apply: impl Fn(&CompiledRule, &mut Vec<u8>, &mut rule::Touch<'_>)) {
        let mut rendered = std::mem::take(&mut self.rendered);
        for rule in rules {
            apply(rule, &mut rendered, &mut |tag, cause, soft| self.touch(tag, cause, soft));
        }
        self.rendered = rendered;
    }

    /// Adds a tag, and what depends on it.
    fn touch(&mut self, tag: &[u8], cause: Operations, soft: bool) {
        let added = self.set.add(tag, Marks::new(cause, soft));
        if added == Added::Known || !self.graph.concerns(tag) {
            return;
        }
        let Bumps { graph, set, .. } = self;
        let followed = graph.wake(tag, cause, soft, |child, soft| {
            set.add(child, Marks::new(cause, soft));
        });
        if followed.is_err() {
            set.add(EVERYTHING, Marks::new(cause, soft));
        }
    }
}

/// The table with its rules as they are now.
fn current<'r>(relations: &'r mut HashMap<u32, Tracked>, catalog: &Catalog, relation: u32) -> Option<&'r Tracked> {
    let tracked = relations.get_mut(&relation)?;
    if tracked.generation != catalog.generation() {
        tracked.meaning = compile(catalog, &tracked.relation);
        tracked.generation = catalog.generation();
    }
    Some(tracked)
}

fn compile(catalog: &Catalog, relation: &Relation) -> Meaning {
    if &*relation.namespace == "cachetag" {
        return Table::of(&relation.name).map_or(Meaning::Ignored, Meaning::Catalog);
    }
    if !catalog.is_bound(relation.oid) {
        return Meaning::Unknown;
    }
    let rules = catalog.of_relation(relation.oid);
    Meaning::Rows(rules.map(|(rule, shared)| CompiledRule::new(rule, relation, shared)).collect())
}

fn field(relation: &Relation, side: &impl Side, name: &str) -> Option<Vec<u8>> {
    match side.known(relation.column(name)?) {
        Known::Text(text) => Some(text.to_vec()),
        Known::Null | Known::Unknown => None,
    }
}

/// A row of the catalog was added or changed: what it concerns, before and after, is bumped.
fn put(catalog: &mut Catalog, bumps: &mut Bumps, fields: &Fields<'_>) -> Result<(), MappingError> {
    let id = fields.id()?;
    match fields.table {
        Table::Rule => {
            let rule = fields.rule()?;
            bumps.touch_family(Some(&rule));
            let old = catalog.put_rule(id, rule);
            bumps.touch_family(old.as_ref());
        }
        Table::Binding => {
            let binding = fields.binding()?;
            let old = catalog.put_binding(id, binding);
            for rule in [Some(binding.rule), old.map(|old| old.rule)].into_iter().flatten() {
                bumps.touch_family(catalog.rule(rule));
            }
        }
        Table::Dependency => {
            let edge = fields.dependency()?;
            let child = edge.child.clone();
            if let Some(old) = bumps.graph.put(id, edge) {
                bumps.touch(&old.child, Operations::ALL, false);
            }
            bumps.touch(&child, Operations::ALL, false);
        }
    }
    Ok(())
}

/// A row of the catalog is gone: changes that came before its removal may have been mapped without it.
fn remove(catalog: &mut Catalog, bumps: &mut Bumps, fields: &Fields<'_>) -> Result<(), MappingError> {
    let id = fields.id()?;
    match fields.table {
        Table::Rule => {
            // The old row is read too: after a restart the rule may not be known any more.
            bumps.touch_family(Some(&fields.rule()?));
            let old = catalog.remove_rule(id);
            bumps.touch_family(old.as_ref());
        }
        Table::Binding => {
            let binding = fields.binding()?;
            catalog.remove_binding(id);
            bumps.touch_family(catalog.rule(binding.rule));
        }
        Table::Dependency => {
            let child = fields.dependency()?.child;
            bumps.graph.remove(id);
            bumps.touch(&child, Operations::ALL, false);
        }
    }
    Ok(())
}

impl Bumps {
    fn touch_family(&mut self, rule: Option<&catalog::Rule>) {
        if let Some(rule) = rule {
            self.touch(rule.template.whole_family().as_str().as_bytes(), Operations::ALL, false);
        }
    }
}

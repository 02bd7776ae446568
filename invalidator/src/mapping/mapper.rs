//! The mapping as the daemon's loop sees it: messages of a transaction in, its bumps out.

use std::collections::HashMap;

use cachetag_core::{InvalidationMessage, MessageError, Tag, Value as Known};

use super::bumps::{TagSet, TransactionBumps};
use super::catalog::{self, Catalog, Replacement};
use super::graph::{Graph, TooWide};
use super::metadata::{Entry, Metadata, MetadataError, MetadataTable, is_ours};
use super::operation::{Marks, Operations};
use super::relation::Relation;
use super::row::{After, Before, OldRow, Row, Side};
use super::rules::{Changes, CompiledRule, Widened};

/// What one transaction may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Distinct tags of a transaction; beyond, its largest families are bumped as a whole.
    pub tags: usize,
    /// Edges of the dependency graph that a transaction may look at; beyond, it bumps everything.
    pub edges: usize,
}

impl Default for Limits {
    /// Ten thousand tags of at most half a kilobyte are five megabytes; a hundred thousand edges take milliseconds.
    fn default() -> Self {
        Self { tags: 10_000, edges: 100_000 }
    }
}

/// What a message has meant, beyond bumps.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "an unbound relation is a change that has touched no tag"]
pub enum Outcome {
    /// It went through the rules (which may concern none of its rows).
    Mapped,
    /// The catalog has changed.
    Metadata,
    /// A published table that no rule is bound to; nothing was bumped. While the stream is behind the position at which
    /// the metadata was read this is to be expected: the table was tracked then and the removal, which bumps, is still
    /// to come. Later on somebody else published it: bump everything ([`Mapper::bump_everything`]).
    Unbound,
    /// An invalidation message that could not be read; everything was bumped.
    Malformed(MessageError),
}

/// Why the mapping cannot go on. What was mapped of the transaction is of no use: open a new epoch.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MappingError {
    /// A row of a table that the stream has not described.
    #[error("the stream has a change of relation {0} that it has not described: reconnect")]
    UnknownRelation(u32),
    /// The catalog cannot be read.
    #[error(transparent)]
    Metadata(#[from] MetadataError),
}

/// The mapping: relations, rules and dependencies as of the present position in the stream, and the tags of the
/// transaction that is being read.
///
/// One transaction at a time, its changes between [`begin`](Self::begin) and [`commit`](Self::commit). Transactions that
/// are streamed in pieces have to be put together first.
#[derive(Debug)]
pub struct Mapper {
    limits: Limits,
    relations: HashMap<u32, Target>,
    catalog: Catalog,
    graph: Graph,
    tags: TagSet,
    text: Vec<u8>,
    widened: Widened,
    /// Whether this transaction has changed the catalog.
    metadata_changed: bool,
}

#[derive(Debug)]
struct Target {
    relation: Relation,
    /// Which table of the catalog it is, if it is one.
    metadata: Option<MetadataTable>,
    /// `None` from when they or the relation have changed until the next row.
    rules: Option<Vec<CompiledRule>>,
}

/// Everything that a change of a row needs, borrowed apart.
enum Dispatch<'m> {
    Metadata(MetadataTable),
    Rules(&'m Relation, &'m [CompiledRule], Changes<'m>),
}

impl Mapper {
    /// A mapping with the catalog as it was read; relations come with the stream.
    pub fn load(metadata: Metadata, limits: Limits) -> Self {
        let (catalog, graph) = Catalog::load(metadata);
        Self {
            limits,
            relations: HashMap::new(),
            catalog,
            graph,
            tags: TagSet::new(limits.tags),
            text: Vec::new(),
            widened: Widened::default(),
            metadata_changed: false,
        }
    }

    /// A transaction begins. Anything of an unfinished one is forgotten; see [`discard`](Self::discard).
    pub fn begin(&mut self) {
        self.tags.clear();
        self.graph.discard();
        self.metadata_changed = false;
    }

    /// The stream describes a relation, for the first time or anew.
    pub fn relation(&mut self, relation: Relation) {
        match self.relations.get(&relation.oid) {
            // The server repeats itself whenever its caches were invalidated.
            Some(known) if known.relation == relation => {}
            _ => {
                let metadata = MetadataTable::of(&relation);
                self.relations.insert(relation.oid, Target { relation, metadata, rules: None });
            }
        }
    }

    /// A row was inserted.
    pub fn insert<R: Row + ?Sized>(&mut self, relation: u32, new: &R) -> Result<Outcome, MappingError> {
        match self.dispatch(relation)? {
            Dispatch::Metadata(table) => self.change_metadata(table, relation, None, Some(new)),
            Dispatch::Rules(relation, rules, mut changes) => {
                let row = After::insert(relation, new);
                rules.iter().for_each(|rule| rule.insert(&row, &mut changes));
                Ok(outcome(relation, rules))
            }
        }
    }

    /// A row was updated.
    pub fn update<R: Row + ?Sized>(
        &mut self,
        relation: u32,
        old: OldRow<'_, R>,
        new: &R,
    ) -> Result<Outcome, MappingError> {
        match self.dispatch(relation)? {
            Dispatch::Metadata(table) => self.change_metadata(table, relation, Some(old), Some(new)),
            Dispatch::Rules(relation, rules, mut changes) => {
                let row = After::update(relation, old, new);
                rules.iter().for_each(|rule| rule.update(&row, &mut changes));
                Ok(outcome(relation, rules))
            }
        }
    }

    /// A row was deleted.
    pub fn delete<R: Row + ?Sized>(&mut self, relation: u32, old: OldRow<'_, R>) -> Result<Outcome, MappingError> {
        match self.dispatch(relation)? {
            Dispatch::Metadata(table) => self.change_metadata(table, relation, Some(old), None),
            Dispatch::Rules(relation, rules, mut changes) => {
                let row = Before { relation, old, new: None };
                rules.iter().for_each(|rule| rule.delete(&row, &mut changes));
                Ok(outcome(relation, rules))
            }
        }
    }

    /// A table was emptied.
    pub fn truncate(&mut self, relation: u32) -> Result<Outcome, MappingError> {
        match self.dispatch(relation)? {
            Dispatch::Metadata(table) => {
                match table {
                    MetadataTable::Rule => self.catalog.clear_rules(),
                    MetadataTable::Binding => self.catalog.clear_bindings(),
                    MetadataTable::Dependency => self.graph = Graph::default(),
                }
                // The rows are not in the log, and the memory may be ahead of the stream.
                self.bump_everything();
                self.metadata_has_changed();
                Ok(Outcome::Metadata)
            }
            Dispatch::Rules(relation, rules, mut changes) => {
                rules.iter().for_each(|rule| rule.truncate(&mut changes));
                Ok(outcome(relation, rules))
            }
        }
    }

    /// A logical message with cachetag's prefix. Its tags fire every edge, whatever operations the edge listens to.
    pub fn message(&mut self, content: &[u8]) -> Outcome {
        match InvalidationMessage::parse(content) {
            Ok(message) => {
                let marks = Marks::new(Operations::ALL, message.soft);
                self.touch_all(&message.tags, marks);
                Outcome::Mapped
            }
            Err(error) => {
                self.bump_everything();
                Outcome::Malformed(error)
            }
        }
    }

    /// Makes the transaction bump everything, hard.
    pub fn bump_everything(&mut self) {
        self.tags.add("*", Marks::new(Operations::ALL, false));
    }

    /// The transaction has committed: its tags, with all that depends on them.
    pub fn commit(&mut self) -> TransactionBumps {
        if self.tags.is_everything() {
            self.graph.discard();
        }
        let Self { graph, tags, widened, limits, .. } = self;
        if let Err(TooWide { soft }) = graph.close(limits.edges, |tag, marks| {
            tags.add(tag.as_str(), marks);
        }) {
            widened.transactions += 1;
            tags.add("*", Marks::new(Operations::ALL, soft));
        }
        self.metadata_changed = false;
        let collapsed = std::mem::take(&mut self.tags.collapsed);
        self.widened.families += collapsed.families;
        self.widened.transactions += collapsed.everything;
        self.tags.take()
    }

    /// The transaction will not be finished: the stream has ended. `true` if it has changed the catalog, which is then ahead
    /// of what was committed to the cache: read the metadata again before the stream goes on.
    #[must_use = "after a change of the catalog the metadata has to be read again"]
    pub fn discard(&mut self) -> bool {
        let reload = self.metadata_changed;
        self.begin();
        reload
    }

    /// The relation with this oid, for messages.
    pub fn describe(&self, relation: u32) -> Option<&Relation> {
        self.relations.get(&relation).map(|target| &target.relation)
    }

    /// How often more was bumped than has changed.
    pub fn widened(&self) -> Widened {
        self.widened
    }

    fn dispatch(&mut self, relation: u32) -> Result<Dispatch<'_>, MappingError> {
        let Self { relations, catalog, graph, tags, text, widened, .. } = self;
        let target = relations.get_mut(&relation).ok_or(MappingError::UnknownRelation(relation))?;
        if let Some(table) = target.metadata {
            return Ok(Dispatch::Metadata(table));
        }
        let rules = target.rules.get_or_insert_with(|| compile(catalog, &target.relation));
        Ok(Dispatch::Rules(&target.relation, rules, Changes { tags, graph, widened, text }))
    }

    fn change_metadata<R: Row + ?Sized>(
        &mut self,
        table: MetadataTable,
        relation: u32,
        old: Option<OldRow<'_, R>>,
        new: Option<&R>,
    ) -> Result<Outcome, MappingError> {
        let target = self.relations.get(&relation).ok_or(MappingError::UnknownRelation(relation))?;
        let row = MetadataRow { relation: &target.relation, old, new };
        let touched = match table {
            MetadataTable::Rule => self.catalog.replace_rule(row.read()?),
            MetadataTable::Binding => self.catalog.replace_binding(row.read()?),
            MetadataTable::Dependency => catalog::replace_dependency(&mut self.graph, row.read()?),
        };
        self.metadata_has_changed();
        self.touch_all(&touched, Marks::new(Operations::ALL, false));
        Ok(Outcome::Metadata)
    }

    fn metadata_has_changed(&mut self) {
        self.metadata_changed = true;
        self.relations.values_mut().for_each(|target| target.rules = None);
    }

    fn touch_all(&mut self, touched: &[Tag], marks: Marks) {
        let Self { graph, tags, text, widened, .. } = self;
        let mut changes = Changes { tags, graph, widened, text };
        for tag in touched {
            changes.touch(tag.as_str(), marks);
        }
    }
}

fn compile(catalog: &Catalog, relation: &Relation) -> Vec<CompiledRule> {
    let rules = catalog.rules_of(relation.oid);
    rules
        .map(|(id, rule)| {
            let (compiled, degraded) = CompiledRule::new(rule, relation);
            if let Some(reason) = degraded {
                let Relation { namespace, name, .. } = relation;
                tracing::warn!(rule = id, relation = %format_args!("{namespace}.{name}"), template = %rule.template,
                    reason, "the rule bumps its whole family");
            }
            compiled
        })
        .collect()
}

/// Other tables of the extension's schema mean nothing to a cache.
fn outcome(relation: &Relation, rules: &[CompiledRule]) -> Outcome {
    if rules.is_empty() && !is_ours(relation) { Outcome::Unbound } else { Outcome::Mapped }
}

/// A change of a row of the catalog: no old row for an insert, no new one for a delete.
struct MetadataRow<'r, R: ?Sized> {
    relation: &'r Relation,
    old: Option<OldRow<'r, R>>,
    new: Option<&'r R>,
}

impl<R: Row + ?Sized> MetadataRow<'_, R> {
    /// An old row that is not in the log as a whole is an error: its tags would be missed.
    fn read<T: Entry>(&self) -> Result<Replacement<T>, MetadataError> {
        let Self { relation, old, new } = *self;
        let before = old.map(|old| Before { relation, old, new });
        let old = before.as_ref().map(|before| entry(relation, before)).transpose()?;
        let after = new.map(|new| match before {
            Some(before) => After { new, before },
            None => After::insert(relation, new),
        });
        let new = after.as_ref().map(|after| entry(relation, after)).transpose()?;
        Ok(Replacement { old, new })
    }
}

/// Reads the columns of one side by their names.
fn entry<T: Entry>(relation: &Relation, side: &impl Side) -> Result<(i64, T), MetadataError> {
    T::read(&|name| relation.column(name).map_or(Known::Unknown, |column| side.known(column)))
}

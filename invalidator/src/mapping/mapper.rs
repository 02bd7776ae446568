//! The mapping as the daemon's loop sees it: messages of a transaction in, its bumps out.

use std::collections::HashMap;
use std::rc::Rc;

use cachetag_core::{InvalidationMessage, MessageError, Tag, Value as Known};

use super::bumps::{TagSet, TransactionBumps};
use super::catalog::{Catalog, CatalogChange, Replacement};
use super::graph::{Graph, TooWide};
use super::metadata::{Entry, Metadata, MetadataError, MetadataTable, is_ours};
use super::operation::{Marks, Operations};
use super::relation::Relation;
use super::row::{After, Before, OldRow, Row, Side};
use super::rules::{Changes, CompiledRule, Widened};
use super::streamed::Streams;
use super::target::Target;
use crate::broken;

/// What one transaction may cost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Distinct tags of a transaction; beyond, its largest families are bumped as a whole.
    pub tags: usize,
    /// Edges of the dependency graph that a transaction may look at; beyond, it bumps everything.
    pub edges: usize,
    /// Distinct tags of all transactions together that are streamed before their commit; beyond, the largest of them keep families.
    pub streamed_tags: usize,
    /// Changes of the catalog in one streamed transaction, which have to wait for its commit.
    pub streamed_metadata: usize,
}

impl Default for Limits {
    /// Ten thousand tags of at most half a kilobyte are five megabytes; a hundred thousand edges take milliseconds. Tags of usual length
    /// take about 120 bytes: those of streamed transactions stay below 20 MB.
    fn default() -> Self {
        Self { tags: 10_000, edges: 100_000, streamed_tags: 100_000, streamed_metadata: 50_000 }
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
    /// A streamed transaction goes on or ends that never began.
    #[error("the stream has a piece of transaction {0}, whose beginning it has not sent: reconnect")]
    UnknownTransaction(u32),
    /// One transaction changes more rules and dependencies than are kept until it commits.
    #[error("transaction {0} has changed more rules and dependencies than one transaction may; change them in several")]
    TooMuchMetadata(u32),
    /// The catalog cannot be read.
    #[error(transparent)]
    Metadata(#[from] MetadataError),
}

/// The mapping: relations, rules and dependencies as of the present position in the stream, and the tags of the
/// transaction that is being read.
///
/// Whole transactions come one at a time, their changes between [`begin`](Self::begin) and [`commit`](Self::commit). Those that are
/// streamed before their commit come in blocks, between [`begin_block`](Self::begin_block) and [`end_block`](Self::end_block), any number
/// of them open at a time, and end by [`commit_streamed`](Self::commit_streamed) or [`abort_streamed`](Self::abort_streamed).
#[derive(Debug)]
pub struct Mapper {
    limits: Limits,
    relations: HashMap<u32, Rc<Target>>,
    catalog: Catalog,
    /// How often the catalog has changed: what was compiled under another number is compiled anew.
    generation: u64,
    graph: Graph,
    streams: Streams,
    tags: TagSet,
    text: Vec<u8>,
    widened: Widened,
    /// Whether this transaction has changed the catalog.
    metadata_changed: bool,
}

impl Mapper {
    /// A mapping with the catalog as it was read; relations come with the stream.
    pub fn load(metadata: Metadata, limits: Limits) -> Self {
        let (catalog, graph) = Catalog::load(metadata);
        Self {
            limits,
            relations: HashMap::new(),
            catalog,
            generation: 0,
            graph,
            streams: Streams::new(&limits),
            tags: TagSet::new(limits.tags),
            text: Vec::new(),
            widened: Widened::default(),
            metadata_changed: false,
        }
    }

    /// A whole transaction begins. Anything of an unfinished one is forgotten; see [`discard`](Self::discard).
    pub fn begin(&mut self) {
        self.tags.clear();
        self.graph.discard();
        self.metadata_changed = false;
    }

    /// A block of a streamed transaction begins: what follows, up to [`end_block`](Self::end_block), belongs to it.
    ///
    /// # Errors
    /// It is not the transaction's first block, and the first one is unknown.
    pub fn begin_block(&mut self, xid: u32, is_first: bool) -> Result<(), MappingError> {
        self.streams.begin_block(xid, is_first, self.generation)
    }

    /// The next change of the block is of this subtransaction, or of the transaction itself.
    pub fn within(&mut self, subxid: u32) {
        self.streams.within(subxid);
    }

    /// The block is over.
    pub fn end_block(&mut self) {
        self.streams.end_block();
    }

    /// The stream describes a relation, for the first time or anew; within a block, for that transaction.
    pub fn relation(&mut self, relation: Relation) {
        let known = self.streams.target(relation.oid).or_else(|| self.relations.get(&relation.oid));
        let target = match known {
            // The server repeats itself whenever its caches were invalidated.
            Some(known) if known.relation == relation => known.clone(),
            _ => Rc::new(Target::new(relation)),
        };
        if !self.streams.describe(&target) {
            self.relations.insert(target.relation.oid, target);
        }
    }

    /// A row was inserted.
    pub fn insert<R: Row + ?Sized>(&mut self, relation: u32, new: &R) -> Result<Outcome, MappingError> {
        let target = self.target(relation)?;
        if let Some(table) = target.metadata {
            return self.change_metadata(table, &target.relation, None, Some(new));
        }
        let row = After::insert(&target.relation, new);
        Ok(self.apply(&target, |rule, changes| rule.insert(&row, changes)))
    }

    /// A row was updated.
    pub fn update<R: Row + ?Sized>(
        &mut self,
        relation: u32,
        old: OldRow<'_, R>,
        new: &R,
    ) -> Result<Outcome, MappingError> {
        let target = self.target(relation)?;
        if let Some(table) = target.metadata {
            return self.change_metadata(table, &target.relation, Some(old), Some(new));
        }
        let old = if broken::is(broken::Variant::NoOldRow) { OldRow::Full(new) } else { old };
        let row = After::update(&target.relation, old, new);
        Ok(self.apply(&target, |rule, changes| rule.update(&row, changes)))
    }

    /// A row was deleted.
    pub fn delete<R: Row + ?Sized>(&mut self, relation: u32, old: OldRow<'_, R>) -> Result<Outcome, MappingError> {
        let target = self.target(relation)?;
        if let Some(table) = target.metadata {
            return self.change_metadata(table, &target.relation, Some(old), None);
        }
        let row = Before { relation: &target.relation, old, new: None };
        Ok(self.apply(&target, |rule, changes| rule.delete(&row, changes)))
    }

    /// A table was emptied.
    pub fn truncate(&mut self, relation: u32) -> Result<Outcome, MappingError> {
        let target = self.target(relation)?;
        if let Some(table) = target.metadata {
            self.apply_metadata(CatalogChange::Emptied(table))?;
            // The rows are not in the log, and the memory may be ahead of the stream.
            self.bump_everything();
            return Ok(Outcome::Metadata);
        }
        Ok(self.apply(&target, |rule, changes| rule.truncate(changes)))
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
        self.changes().tags.add("*", Marks::new(Operations::ALL, false));
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

    /// A streamed transaction has committed: its tags, with all that depends on them now.
    ///
    /// # Errors
    /// Nothing of it has come before, or it has changed too much of the catalog.
    pub fn commit_streamed(&mut self, xid: u32) -> Result<TransactionBumps, MappingError> {
        let stream = self.streams.take(xid)?;
        self.begin();
        self.relations.extend(stream.relations);
        // Its rows were mapped by rules that are no longer those of its commit; nobody knows which tags that would have made.
        let is_precise = stream.metadata.is_empty() && stream.generation == self.generation;
        for (_, change) in stream.metadata {
            self.apply_metadata(change)?;
        }
        let mut changes = self.changes();
        for mut part in stream.parts {
            part.tags.drain(|tag, marks| changes.touch(tag, marks));
        }
        if !is_precise {
            self.widened.transactions += 1;
            self.bump_everything();
        }
        Ok(self.commit())
    }

    /// A streamed transaction, or one subtransaction of it, was rolled back.
    pub fn abort_streamed(&mut self, xid: u32, subxid: u32) {
        self.streams.abort(xid, subxid);
    }

    /// The transaction will not be finished: the stream has ended. `true` if it has changed the catalog, which is then ahead
    /// of what was committed to the cache: read the metadata again before the stream goes on.
    #[must_use = "after a change of the catalog the metadata has to be read again"]
    pub fn discard(&mut self) -> bool {
        let reload = self.metadata_changed;
        self.streams = Streams::new(&self.limits);
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

    /// Tags that are kept for transactions streamed so far, for messages.
    pub fn streamed_tags(&self) -> usize {
        self.streams.tags()
    }

    fn target(&self, relation: u32) -> Result<Rc<Target>, MappingError> {
        let known = self.streams.target(relation).or_else(|| self.relations.get(&relation));
        known.cloned().ok_or(MappingError::UnknownRelation(relation))
    }

    /// Meets a change with the rules of its table.
    fn apply(&mut self, target: &Target, touch: impl Fn(&CompiledRule, &mut Changes<'_>)) -> Outcome {
        let rules = target.rules(&self.catalog, self.generation);
        let mut changes = self.changes();
        rules.iter().for_each(|rule| touch(rule, &mut changes));
        outcome(&target.relation, &rules)
    }

    /// Where the tags of the present change go. Those of a streamed transaction fire edges at its commit, by the graph of that moment.
    fn changes(&mut self) -> Changes<'_> {
        let Self { streams, graph, tags, text, widened, .. } = self;
        match streams.part() {
            Some(part) => Changes { tags: &mut part.tags, graph: None, widened, text },
            None => Changes { tags, graph: Some(graph), widened, text },
        }
    }

    fn change_metadata<R: Row + ?Sized>(
        &mut self,
        table: MetadataTable,
        relation: &Relation,
        old: Option<OldRow<'_, R>>,
        new: Option<&R>,
    ) -> Result<Outcome, MappingError> {
        let row = MetadataRow { relation, old, new };
        let change = match table {
            MetadataTable::Rule => CatalogChange::Rule(row.read()?),
            MetadataTable::Binding => CatalogChange::Binding(row.read()?),
            MetadataTable::Dependency => CatalogChange::Dependency(row.read()?),
        };
        self.apply_metadata(change)?;
        Ok(Outcome::Metadata)
    }

    /// Changes the catalog, or keeps the change until its transaction commits.
    fn apply_metadata(&mut self, change: CatalogChange) -> Result<(), MappingError> {
        let Some(change) = self.streams.keep(change) else { return Ok(()) };
        let touched = self.catalog.apply(&mut self.graph, change);
        self.metadata_changed = true;
        self.generation += 1;
        self.touch_all(&touched, Marks::new(Operations::ALL, false));
        Ok(())
    }

    fn touch_all(&mut self, touched: &[Tag], marks: Marks) {
        let mut changes = self.changes();
        for tag in touched {
            changes.touch(tag.as_str(), marks);
        }
    }
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

//! Transactions that are streamed before their commit: any number of them open at a time, their tags in bounded memory.
//!
//! Tags are kept for each subtransaction, since each may still be rolled back. What would take too much memory is widened: subtransactions
//! are merged into their transaction (what was rolled back then bumps, too), and tags become families.

use std::collections::HashMap;
use std::rc::Rc;

use super::bumps::TagSet;
use super::catalog::CatalogChange;
use super::mapper::{Limits, MappingError};
use super::target::Target;

/// Subtransactions of one transaction that are kept apart. The oldest are merged first: those that are rolled back are mostly recent.
const PARTS: usize = 64;
/// Changes after which the memory is looked at.
const LOOK_EVERY: usize = 1024;

/// All transactions that are open, and the block that the stream is in.
#[derive(Debug)]
pub(super) struct Streams {
    /// Of one part.
    part_limit: usize,
    /// Of all streams.
    limit: usize,
    metadata_limit: usize,
    open: HashMap<u32, Stream>,
    /// The stream of the present block, taken out of `open`.
    current: Option<(u32, Stream)>,
    /// Tags in `open`.
    tags: usize,
    changes: usize,
}

/// What is kept of one transaction.
#[derive(Debug)]
pub(super) struct Stream {
    /// What tables look like to it.
    pub(super) relations: HashMap<u32, Rc<Target>>,
    /// The first is the transaction's own, with what was merged into it.
    pub(super) parts: Vec<Part>,
    /// The part that takes the tags of the present change.
    at: usize,
    /// The subtransaction of the present change, whose part may have been merged.
    subxid: u32,
    /// Changes of the catalog in order, each with its subtransaction.
    pub(super) metadata: Vec<(u32, CatalogChange)>,
    /// It has changed more of the catalog than is kept.
    overflown: bool,
    /// That of the catalog when the transaction was first seen.
    pub(super) generation: u64,
}

/// The tags of one subtransaction.
#[derive(Debug)]
pub(super) struct Part {
    xid: u32,
    pub(super) tags: TagSet,
}

impl Streams {
    pub(super) fn new(limits: &Limits) -> Self {
        Self {
            part_limit: limits.tags,
            limit: limits.streamed_tags,
            metadata_limit: limits.streamed_metadata,
            open: HashMap::new(),
            current: None,
            tags: 0,
            changes: 0,
        }
    }

    /// A block of this transaction begins.
    pub(super) fn begin_block(&mut self, xid: u32, is_first: bool, generation: u64) -> Result<(), MappingError> {
        self.end_block();
        let stream = match self.remove(xid) {
            Some(stream) if !is_first => stream,
            None if !is_first => return Err(MappingError::UnknownTransaction(xid)),
            _ => Stream::new(xid, self.part_limit, generation),
        };
        self.current = Some((xid, stream));
        Ok(())
    }

    /// The block is over.
    pub(super) fn end_block(&mut self) {
        if let Some((xid, stream)) = self.current.take() {
            self.tags += stream.tags();
            self.open.insert(xid, stream);
            self.stay_within_limit();
        }
    }

    /// The next change is of this subtransaction of the present block's transaction.
    pub(super) fn within(&mut self, subxid: u32) {
        let Some((_, stream)) = &mut self.current else { return };
        stream.select(subxid, self.part_limit);
        self.changes += 1;
        if self.changes.is_multiple_of(LOOK_EVERY) {
            let excess = (self.tags + stream.tags()).saturating_sub(self.limit);
            if excess > 0 && stream.tags() > self.limit / 8 {
                stream.shrink(stream.tags().saturating_sub(excess) / 2);
            }
        }
    }

    /// The part of the present change; `None` outside of a block.
    pub(super) fn part(&mut self) -> Option<&mut Part> {
        let (_, stream) = self.current.as_mut()?;
        stream.parts.get_mut(stream.at)
    }

    /// What a relation looks like to the present block's transaction, if that has been said.
    pub(super) fn target(&self, relation: u32) -> Option<&Rc<Target>> {
        self.current.as_ref()?.1.relations.get(&relation)
    }

    /// Keeps the description of a relation for the present block's transaction; `false` outside of a block.
    pub(super) fn describe(&mut self, target: &Rc<Target>) -> bool {
        let Some((_, stream)) = &mut self.current else { return false };
        stream.relations.insert(target.relation.oid, target.clone());
        true
    }

    /// Keeps a change of the catalog until the commit; outside of a block it is given back.
    pub(super) fn keep(&mut self, change: CatalogChange) -> Option<CatalogChange> {
        let Some((_, stream)) = &mut self.current else { return Some(change) };
        if stream.metadata.len() < self.metadata_limit {
            stream.metadata.push((stream.subxid, change));
        } else {
            stream.overflown = true;
        }
        None
    }

    /// The transaction has committed: all that was kept of it.
    pub(super) fn take(&mut self, xid: u32) -> Result<Stream, MappingError> {
        self.end_block();
        let stream = self.remove(xid).ok_or(MappingError::UnknownTransaction(xid))?;
        if stream.overflown { Err(MappingError::TooMuchMetadata(xid)) } else { Ok(stream) }
    }

    /// A subtransaction, or the transaction if both are the same, was rolled back.
    pub(super) fn abort(&mut self, xid: u32, subxid: u32) {
        self.end_block();
        let Some(mut stream) = self.remove(xid) else { return };
        if xid != subxid {
            stream.parts.retain(|part| part.xid != subxid);
            stream.metadata.retain(|(of, _)| *of != subxid);
            stream.at = 0;
            self.tags += stream.tags();
            self.open.insert(xid, stream);
        }
    }

    /// Tags that are kept.
    pub(super) fn tags(&self) -> usize {
        self.tags + self.current.as_ref().map_or(0, |(_, stream)| stream.tags())
    }

    fn remove(&mut self, xid: u32) -> Option<Stream> {
        let stream = self.open.remove(&xid)?;
        self.tags -= stream.tags();
        Some(stream)
    }

    /// Shrinks the largest transactions until there is room again.
    fn stay_within_limit(&mut self) {
        while self.tags > self.limit {
            let Some(stream) = self.open.values_mut().max_by_key(|stream| stream.tags()) else { return };
            let before = stream.tags();
            stream.shrink(before / 8);
            let after = stream.tags();
            self.tags -= before - after;
            if after == before {
                // Nothing but single tags that stand for everything: less is not possible.
                return;
            }
        }
    }
}

impl Stream {
    fn new(xid: u32, part_limit: usize, generation: u64) -> Self {
        Self {
            relations: HashMap::new(),
            parts: vec![Part { xid, tags: TagSet::new(part_limit) }],
            at: 0,
            subxid: xid,
            metadata: Vec::new(),
            overflown: false,
            generation,
        }
    }

    fn tags(&self) -> usize {
        self.parts.iter().map(|part| part.tags.len()).sum()
    }

    fn select(&mut self, subxid: u32, part_limit: usize) {
        self.subxid = subxid;
        if self.parts[self.at].xid == subxid {
            return;
        }
        if let Some(at) = self.parts.iter().rposition(|part| part.xid == subxid) {
            self.at = at;
            return;
        }
        if self.parts.len() == PARTS {
            self.merge(1);
        }
        self.parts.push(Part { xid: subxid, tags: TagSet::new(part_limit) });
        self.at = self.parts.len() - 1;
    }

    /// Moves the tags of a part to the transaction's own: a rollback of the part comes too late for them.
    fn merge(&mut self, at: usize) {
        let mut part = self.parts.remove(at);
        let own = &mut self.parts[0].tags;
        part.tags.drain(|tag, marks| {
            own.add(tag, marks);
        });
    }

    /// Merges all parts and widens until no more than `goal` tags are left.
    fn shrink(&mut self, goal: usize) {
        while self.parts.len() > 1 {
            self.merge(self.parts.len() - 1);
        }
        self.at = 0;
        self.parts[0].tags.shrink(goal);
    }
}

//! The in-process layer: decoded values, bounded in bytes, each hit proven by a feed.

mod held;
mod options;
mod verdict;

pub use held::{Candidate, Decoded, Held, Kind, Origin};
pub use options::{L1Options, Left, OnLeft};
pub use verdict::{Ask, AtLeast, Miss, Refused, Staleness, Verdict};

use std::sync::Arc;

use crate::feed::Feed;

/// The in-process layer. Clones share one store.
#[derive(Debug, Clone)]
pub struct L1 {}

impl L1 {
    /// An empty layer.
    pub fn new(options: L1Options) -> L1 {
        let _ = options;
        todo!()
    }

    /// The verdict on the copy under `key`, which the shard of this feed is responsible for.
    pub fn get(&self, feed: &Feed, key: &str, ask: &Ask) -> Verdict {
        let _ = (feed, key, ask);
        todo!()
    }

    /// Takes a value in, if the feed shows that it is still true.
    pub fn admit(&self, feed: &Feed, key: &str, candidate: Candidate) -> Result<Arc<Held>, Refused> {
        let _ = (feed, key, candidate);
        todo!()
    }

    /// The copy under `key`, whatever it is worth; counts as no access.
    pub fn peek(&self, key: &str) -> Option<Arc<Held>> {
        let _ = key;
        todo!()
    }

    /// Removes the copy under `key`.
    pub fn remove(&self, key: &str) -> Option<Arc<Held>> {
        let _ = key;
        todo!()
    }

    /// Removes everything.
    pub fn clear(&self) {}

    /// How many copies there are, about.
    pub fn len(&self) -> u64 {
        0
    }

    /// Whether there is none, about.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many bytes they take, about.
    pub fn weight(&self) -> u64 {
        0
    }

    /// The copies with the most accesses, the most asked for first.
    pub fn hottest(&self, n: usize) -> Vec<(Arc<str>, Arc<Held>)> {
        let _ = n;
        Vec::new()
    }
}

//! Results of one session that are kept as a cache would keep them.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use cachetag_core::Tag;

/// Results that are kept at a time.
const POOL: usize = 24;
/// Of those that no bump reaches, so many are asked for again after a change; of those that one reaches, too, to see how many have changed.
pub(super) const ASKED: usize = 4;
/// Queries that take longer are not asked for again.
pub(super) const SLOW: Duration = Duration::from_millis(60);

/// A cached result.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) query: String,
    pub(super) tags: Vec<Tag>,
    pub(super) as_of: u64,
    pub(super) rows: Rows,
}

/// What a query has answered, in any order.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Rows {
    count: u64,
    sum: u64,
    /// Failed, with this SQLSTATE.
    pub(super) error: Option<String>,
}

impl Rows {
    /// Adds one row, as the server has sent it.
    pub(super) fn add(&mut self, row: &[u8]) {
        let mut hasher = DefaultHasher::new();
        row.hash(&mut hasher);
        self.count += 1;
        self.sum = self.sum.wrapping_add(hasher.finish());
    }

    pub(super) fn told(&self) -> String {
        self.error
            .as_ref()
            .map_or_else(|| format!("{} rows ({:016x})", self.count, self.sum), |code| format!("error {code}"))
    }
}

/// The results of a session.
#[derive(Debug, Default)]
pub(super) struct Pool {
    entries: Vec<Entry>,
    turn: usize,
}

impl Pool {
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(super) fn clear(&mut self) {
        self.entries.clear();
    }

    /// Keeps a result, in the place of an older one of the same query or, where there is no room, of any.
    pub(super) fn keep(&mut self, entry: Entry) {
        self.turn += 1;
        if let Some(place) = self.entries.iter().position(|known| known.query == entry.query) {
            self.entries[place] = entry;
        } else if self.entries.len() < POOL {
            self.entries.push(entry);
        } else {
            let place = self.turn % POOL;
            self.entries[place] = entry;
        }
    }

    /// Takes out what is to be judged.
    pub(super) fn split(&mut self, is_reached: impl Fn(&Entry) -> bool) -> (Vec<Entry>, Vec<Entry>) {
        self.turn += 1;
        let (reached, mut left): (Vec<_>, Vec<_>) = self.entries.drain(..).partition(is_reached);
        // Another sample each time.
        if !left.is_empty() {
            let by = self.turn * ASKED % left.len();
            left.rotate_left(by);
        }
        (reached, left)
    }
}

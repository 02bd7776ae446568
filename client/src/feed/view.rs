//! What a feed knows at a moment, for readers.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cachetag_core::{Epoch, Version};

/// What a feed knows: everything up to `position` of this epoch has been seen in the log, and is in the states of all registered tags.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct View {
    /// Whose copies count: only those registered under the same. No two feeds of a process share one.
    pub generation: u64,
    /// Whether the feed is connected and its last look left nothing open.
    pub live: bool,
    /// The present epoch.
    pub epoch: Epoch,
    /// Everything below it is invalid.
    pub floor: Version,
    /// Everything below it is stale.
    pub soft_floor: Option<Version>,
    /// Everything up to it is applied, and visible to new snapshots.
    pub watermark: Option<Version>,
    /// Up to where the log has been followed.
    pub position: Version,
    /// The instance's own bound of staleness, for callers that name none.
    pub max_lag: Option<Duration>,
    /// The identity of the database.
    pub source: Arc<str>,
    /// Its timeline.
    pub timeline: Option<u32>,
    /// When a look first showed this epoch of this database: it was opened before then.
    pub(super) met: Instant,
    /// When the last look was sent.
    pub(super) looked: Instant,
    /// How far the daemon was behind at that look, on Redis's clock; `None` if nothing can be said.
    pub(super) behind: Option<Duration>,
    /// The same as that of an earlier view only if no copy can have ended in between but by time: see `pulse`.
    pub(crate) tick: u64,
}

impl View {
    /// How old, at most, what the feed vouches for is at `now`.
    ///
    /// Two clocks are read, and never compared with each other: Redis's says how far the daemon was behind at the look (`TIME - fresh_at`), and the local one
    /// how long ago the look was *sent*, which is before Redis read its clock.
    pub fn staleness(&self, now: Instant) -> Option<Duration> {
        let since = now.saturating_duration_since(self.looked);
        if self.live { self.watermark.and(self.behind)?.checked_add(since) } else { None }
    }
}

//! What Redis holds, and its calls: each one atomic step.

use std::fmt;

use super::version::{Commits, KEYS, TAGS, Tags, Version};
use super::world::World;
use crate::Variant;

/// Records that the log holds before it cuts its oldest.
const LOG: usize = 6;

/// Whose calls are obeyed. Only equality matters, so claims are named by who is left to make calls under them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Claimant {
    /// Nobody, or one who is gone.
    Nobody,
    /// The daemon that holds the slot.
    Present,
    /// The one before it: paused, or its last calls still under way.
    Former,
}

/// A cached value: the commits that its data holds stand for the data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Entry {
    /// What it answers.
    pub key: u8,
    /// The token that it was stored under.
    pub as_of: Version,
    /// What its snapshot saw.
    pub snapshot: Commits,
}

/// One applied batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Record {
    /// The end of its last commit.
    pub version: Version,
    /// What it bumped.
    pub tags: Tags,
}

/// The stream of applied batches, oldest first.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Log([Option<Record>; LOG]);

impl Log {
    /// Its records.
    pub fn records(&self) -> impl Iterator<Item = Record> {
        self.0.iter().copied().map_while(|record| record)
    }

    /// Forgets the oldest `n`; returns the version of the last that was forgotten.
    pub fn cut(&mut self, n: usize) -> Option<Version> {
        let last = n.checked_sub(1).and_then(|i| self.0[i]).map(|record| record.version);
        self.0.rotate_left(n);
        self.0[LOG - n..].fill(None);
        last
    }

    fn push(&mut self, record: Record) -> Option<Version> {
        let cut = if self.0[LOG - 1].is_some() { self.cut(1) } else { None };
        let free = self.records().count();
        self.0[free] = Some(record);
        cut
    }
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.records()).finish()
    }
}

impl Entry {
    /// What it depends on.
    pub fn tags(&self) -> Tags {
        KEYS[self.key as usize]
    }
}

/// Everything under one `{ct}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Redis {
    /// Who has claimed it.
    pub claimant: Claimant,
    /// Every entry below is invalid; `None` in an empty Redis.
    pub floor: Option<Version>,
    /// Up to where everything is applied.
    pub applied: Option<Version>,
    /// Up to where everything is applied and visible.
    pub watermark: Option<Version>,
    /// The log is complete after this.
    pub log_from: Option<Version>,
    /// The log.
    pub log: Log,
    /// The version of each registered tag.
    pub tags: [Option<Version>; TAGS],
    /// The entry that is watched. No entry has an effect on anything else, so watching any one of them, whichever, watches all.
    pub entry: Option<Entry>,
}

impl Redis {
    /// Started anew, or flushed.
    pub const EMPTY: Redis = Redis {
        claimant: Claimant::Nobody,
        floor: None,
        applied: None,
        watermark: None,
        log_from: None,
        log: Log([None; LOG]),
        tags: [None; TAGS],
        entry: None,
    };

    /// The epoch; 0 in an empty Redis.
    pub fn epoch(&self) -> u8 {
        self.floor.map_or(0, Version::epoch)
    }

    /// `cachetag_get`: the watched entry if it is a hit.
    pub fn get(&self, world: &World) -> Option<Entry> {
        let entry = self.entry?;
        let fresh = |tag: usize| match self.tags[tag] {
            Some(version) => version <= entry.as_of,
            None => world.is(Variant::MissingTagIsValid),
        };
        (self.floor.is_some_and(|floor| entry.as_of >= floor) && entry.tags().indices().all(fresh)).then_some(entry)
    }

    /// `cachetag_put`. The entry is there afterwards if it is to be watched.
    pub fn put(&mut self, world: &World, entry: Entry, watch: bool) {
        let (as_of, tags) = (entry.as_of, entry.tags());
        let (Some(floor), Some(watermark), Some(applied)) = (self.floor, self.watermark, self.applied) else {
            return;
        };
        let foreign = as_of.epoch() != floor.epoch() && !world.is(Variant::ForeignEpoch);
        if foreign || as_of < floor || tags.indices().any(|t| self.tags[t].is_some_and(|v| v > as_of)) {
            return;
        }
        let mut stored = true;
        for tag in tags.indices() {
            if self.tags[tag].is_some() {
                continue;
            }
            self.tags[tag] = if world.is(Variant::NoLogCheck) || self.is_clean(tag, as_of) {
                Some(as_of)
            } else {
                stored = false;
                Some(if world.is(Variant::RegisterAtWatermark) { watermark } else { applied })
            };
        }
        if stored && watch {
            self.entry = Some(entry);
        }
    }

    /// Does the log prove that the tag was not bumped after `as_of`?
    fn is_clean(&self, tag: usize, as_of: Version) -> bool {
        self.log_from.is_some_and(|from| from <= as_of)
            && !self.log.records().any(|r| r.version > as_of && r.tags.indices().any(|t| t == tag))
    }

    /// `cachetag_reset`: a new epoch.
    pub fn reset(&mut self, start: Version) {
        self.floor = Some(start);
        self.applied = Some(start);
        self.watermark = None;
        self.log = Log::default();
        self.log_from = Some(start);
    }

    /// `cachetag_apply`, once it is not refused. Tells whether a version fell within its epoch.
    pub fn apply(&mut self, world: &World, version: Version, tags: Tags) -> bool {
        let raise = |old: Version| if world.lowers() { version } else { old.max(version) };
        let mut fell = false;
        for tag in tags.indices() {
            if let Some(old) = self.tags[tag] {
                let new = raise(old);
                fell |= new < old && new.epoch() == old.epoch();
                self.tags[tag] = Some(new);
            }
        }
        let cut = self.log.push(Record { version, tags });
        self.log_from = cut.or(self.log_from);
        self.applied = Some(self.applied.map_or(version, raise));
        fell
    }

    /// `cachetag_advance`, once it is not refused. A watermark never falls.
    pub fn advance(&mut self, watermark: Version) {
        self.watermark = self.watermark.max(Some(watermark));
    }

    /// The log forgets its oldest records.
    pub fn trim(&mut self, records: usize) {
        self.log_from = self.log.cut(records).or(self.log_from);
    }

    /// Forgets what no call can tell apart any more, so that states which differ only in that are one. `oldest` is the lowest token or
    /// position that a later call can name.
    pub fn normalise(&mut self, oldest: Option<Version>) {
        let Some(floor) = self.floor else { return };
        self.entry = self.entry.filter(|e| e.as_of >= floor);
        for tag in &mut self.tags {
            *tag = tag.map(|version| version.max(floor));
        }
        if let (Some(oldest), Some(from)) = (oldest, self.log_from) {
            let forgotten = self.log.records().take_while(|r| r.version <= oldest).count();
            if forgotten > 0 {
                self.log.cut(forgotten);
            }
            // Complete after an older position is complete after a newer one.
            if from < oldest && self.applied.is_some_and(|applied| oldest <= applied) {
                self.log_from = Some(oldest);
            }
        }
    }
}

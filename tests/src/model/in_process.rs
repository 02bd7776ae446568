//! The in-process cache of an application: copies of hits, kept honest by the log, which it follows as a feed.
//!
//! What it must do, as found here: it reads the feed together with the epoch, `applied` and where the log begins, in one step; it drops everything when
//! the epoch is another, when the log no longer reaches back to where it stood, or when `applied` lies before that; and it keeps an answer of
//! Redis only if that was given at or after the position that the feed has reached when the answer *arrives*. Between two looks at the
//! feed its hits are as old as the last look: that is what `max_lag` bounds.

use super::redis::Entry;
use super::version::Version;
use super::world::{State, World};
use crate::Variant;

/// A cache whose feed is live.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct InProcess {
    /// Up to where it has followed the feed.
    pub seen: Version,
    /// Its copy of the watched entry.
    pub entry: Option<Entry>,
}

/// A hit on its way to the cache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Answer {
    entry: Entry,
    /// Where Redis stood.
    applied: Version,
}

impl State {
    /// One look at the feed.
    pub fn feed(&mut self, world: &World) {
        let redis = &self.redis;
        let (Some(applied), Some(log_from)) = (redis.applied, redis.log_from) else {
            self.in_process = None;
            return;
        };
        let anew = InProcess { seen: applied, entry: None };
        let Some(mut cache) = self.in_process else {
            self.in_process = Some(anew);
            return;
        };
        let gap = log_from > cache.seen && !world.is(Variant::FeedGapUnnoticed);
        let foreign = applied.epoch() != cache.seen.epoch();
        if foreign && !world.is(Variant::ForeignFeed) || !foreign && (gap || applied < cache.seen) {
            self.in_process = Some(anew);
            return;
        }
        for record in redis.log.records().filter(|record| record.version > cache.seen) {
            cache.entry = cache.entry.filter(|copy| copy.as_of >= record.version || !record.tags.meets(copy.tags()));
        }
        cache.seen = applied;
        self.in_process = Some(cache);
    }

    /// Redis answers with a hit and, in the same step, says where it stands.
    pub fn ask(&mut self, world: &World) {
        if self.in_process.is_none() {
            return;
        }
        if let (Some(entry), Some(applied)) = (self.redis.get(world), self.redis.applied) {
            self.answer = Some(Answer { entry, applied });
        }
    }

    /// The answer arrives.
    pub fn keep(&mut self, world: &World) {
        let (Some(cache), Some(answer)) = (&mut self.in_process, self.answer.take()) else { return };
        let of_this_feed = answer.applied.epoch() == cache.seen.epoch() || world.is(Variant::ForeignFeed);
        if of_this_feed && (answer.applied >= cache.seen || world.is(Variant::OvertakenAnswer)) {
            cache.entry = Some(answer.entry);
        }
    }
}

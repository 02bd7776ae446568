//! The verdict on a copy: `judge` and `closed` of `redis/cachetag.lua`, with a feed in the place of Redis.

use std::sync::atomic::Ordering;
use std::time::Instant;

use cachetag_core::{Lsn, Version};

use super::held::Held;
use super::verdict::{Ask, Miss, Staleness};
use crate::feed::{Pulse, Touch, View};

/// What is said for a copy that may be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Usable {
    /// Why it is stale, if it is.
    pub(super) stale: Option<Staleness>,
    /// It is true for every snapshot from its `as_of` up to this version.
    pub(super) valid_to: Version,
}

/// The short way to the most frequent verdict: up to where a copy is true that was found clean before, if nothing has happened since that may end a
/// copy and it is not past its best. `None` says nothing: take the long way.
#[inline]
pub(super) fn unmoved(pulse: &Pulse, held: &Held, ask: &Ask) -> Option<Version> {
    let beat = pulse.read()?;
    // Of another feed, generation or epoch it bears another tick. So times and positions are of this feed only from here on.
    if held.clean_at.load(Ordering::Relaxed) != beat.tick || ask.at_least.is_some() {
        return None;
    }
    let now = pulse.since_origin(ask.now);
    (now < held.good_until && beat.is_within(ask.max_lag, now))
        .then(|| Version { lsn: Lsn(held.known_to.max(beat.position)), ..held.what.as_of })
}

/// The verdict under a view that was loaded before: the states of the tags know every bump up to the view's position.
pub(super) fn judge(view: &View, held: &Held, ask: &Ask) -> Result<Usable, Miss> {
    let what = held.what();
    if ask.now >= what.expires_at {
        return Err(Miss::Expired);
    }
    let staleness = view.staleness(ask.now).ok_or(Miss::NotLive)?;
    if staleness > ask.max_lag {
        return Err(Miss::Lag);
    }
    // Of another generation, the states may have missed bumps. The epoch is another only if the generation is.
    if held.generation() != view.generation {
        return Err(Miss::Revalidate);
    }
    if what.as_of < view.floor {
        return Err(Miss::Floor);
    }
    // As in Redis: the watermark, or the entry itself.
    let covered = |commit: crate::options::AtLeast| {
        let by = |version| commit.is_covered_by(version, view.timeline);
        view.watermark.is_some_and(by) || by(what.as_of)
    };
    if !ask.at_least.is_none_or(covered) {
        return Err(Miss::AtLeast);
    }
    let touch = held.tracked.touch();
    if touch == Touch::Hard {
        return Err(Miss::Bumped);
    }
    // What was softly bumped may have changed at once after its as_of.
    if touch == Touch::Soft || view.soft_floor.is_some_and(|soft_floor| soft_floor > what.as_of) {
        return Ok(Usable { stale: Some(Staleness::Bumped), valid_to: what.as_of });
    }
    #[cfg(test)]
    crate::interleave::at(crate::interleave::Point::Walked);
    // Of this view, not of the last one: the states were read after this one was loaded, and bumps that a later one knows may have come in between.
    if held.clean_at.load(Ordering::Relaxed) != view.tick {
        held.clean_at.store(view.tick, Ordering::Relaxed);
    }
    let past = what.fresh_until.is_some_and(|until: Instant| ask.now >= until);
    Ok(Usable { stale: past.then_some(Staleness::Past), valid_to: held.tracked.known_to().max(view.position) })
}

//! The verdict on an entry, as the library in Redis gives it (`closed` and `judge` in redis/cachetag.lua), as a pure function.

use std::time::Duration;

use super::{RawEntry, ShardState, State, TagValue};
use crate::options::AtLeast;

/// What a reader demands of an entry.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Terms {
    /// How long ago an answer may have been true; without it, what the daemon was configured with.
    pub max_lag: Option<Duration>,
    /// A commit that the answer must cover.
    pub at_least: Option<AtLeast>,
}

/// May an entry be served, and why not?
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// True no longer ago than `max_lag`.
    Hit,
    /// May be served while somebody refreshes it.
    Stale(StaleCause),
    /// Must not be served.
    Miss(MissCause),
    /// Nothing at all may be served.
    Bypass(BypassCause),
}

/// Why an entry is stale.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StaleCause {
    /// The key of this number was softly bumped after it.
    Soft(usize),
    /// Everything was softly bumped after it.
    SoftFloor,
    /// It is past its fresh time.
    Fresh,
}

/// Why an entry is none.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum MissCause {
    /// There is none, or none that can be read.
    None,
    /// Its time has run out.
    Expired,
    /// It is of another epoch.
    Epoch,
    /// It is below the floor.
    Floor,
    /// Neither it nor the watermark covers the commit that was asked for.
    AtLeast,
    /// The key of this number is not there: expired, evicted or lost.
    Unregistered(usize),
    /// The key of this number was bumped after it.
    Bumped(usize),
}

/// Why nothing may be served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BypassCause {
    /// No daemon has advanced this epoch yet.
    NoWatermark,
    /// The state is malformed.
    State,
    /// The clock of Redis went back.
    Clock,
    /// The daemon was last known to be caught up longer ago than `max_lag`.
    Lag,
}

impl Verdict {
    /// What `cachetag_get` with NOLEASE would answer.
    pub fn state(self) -> State {
        match self {
            Verdict::Hit => State::Hit,
            Verdict::Stale(_) => State::Stale,
            Verdict::Miss(_) => State::Miss,
            Verdict::Bypass(_) => State::Bypass,
        }
    }
}

/// Judges an entry. `values` are those of [`RawEntry::keys`], in their order; one that is missing counts as absent.
///
/// For the verdict to be as good as the library's, the state, the time on Redis's clock and the values must be of one moment, as [`Shard::tags`](super::Shard::tags) reads
/// them, and the entry of that moment or an earlier one: what was stored is true as long as none of its tags has moved.
///
/// ```
/// use cachetag_client::l2::{BypassCause, ShardState, Terms, Verdict, judge};
///
/// let nothing = ShardState::default();
/// assert_eq!(judge(None, &nothing, &[], 0, &Terms::default()), Verdict::Bypass(BypassCause::NoWatermark));
/// ```
pub fn judge(
    entry: Option<&RawEntry>,
    state: &ShardState,
    values: &[Option<TagValue>],
    now_ms: u64,
    terms: &Terms,
) -> Verdict {
    match before_tags(entry, state, now_ms, terms) {
        Err(verdict) => verdict,
        Ok(entry) => by_tags(entry, state, values, now_ms),
    }
}

/// What needs no tag's value: a verdict, or the entry if its tags decide.
pub(super) fn before_tags<'a>(
    entry: Option<&'a RawEntry>,
    state: &ShardState,
    now_ms: u64,
    terms: &Terms,
) -> Result<&'a RawEntry, Verdict> {
    let bypass = |cause| Err(Verdict::Bypass(cause));
    let miss = |cause| Err(Verdict::Miss(cause));
    let Some(watermark) = state.watermark else { return bypass(BypassCause::NoWatermark) };
    let (Some(floor), Some(fresh_at)) = (state.floor, state.fresh_at) else { return bypass(BypassCause::State) };
    let Some(max_lag) = terms.max_lag.or(state.max_lag) else { return bypass(BypassCause::State) };
    if fresh_at > now_ms {
        return bypass(BypassCause::Clock);
    }
    if u128::from(now_ms - fresh_at) > max_lag.as_millis() {
        return bypass(BypassCause::Lag);
    }
    let Some(entry) = entry else { return miss(MissCause::None) };
    if entry.is_expired(now_ms) {
        return miss(MissCause::Expired);
    }
    // The floor's epoch is the present one: an entry may be of an earlier or, after a restore, of a foreign later one.
    if entry.as_of.epoch != floor.epoch {
        return miss(MissCause::Epoch);
    }
    if entry.as_of < floor {
        return miss(MissCause::Floor);
    }
    // Few ask for a commit: the timeline is not looked for before one does.
    let covered = |least: AtLeast| {
        let timeline = state.timeline();
        least.is_covered_by(watermark, timeline) || least.is_covered_by(entry.as_of, timeline)
    };
    if !terms.at_least.is_none_or(covered) {
        return miss(MissCause::AtLeast);
    }
    Ok(entry)
}

/// Judges an entry of which is known that no tag was bumped since its `as_of`.
pub(crate) fn judge_unmoved(entry: &RawEntry, state: &ShardState, now_ms: u64, terms: &Terms) -> Verdict {
    match before_tags(Some(entry), state, now_ms, terms) {
        Err(verdict) => verdict,
        Ok(entry) => but_for_tags(None, entry, state, now_ms),
    }
}

fn by_tags(entry: &RawEntry, state: &ShardState, values: &[Option<TagValue>], now_ms: u64) -> Verdict {
    let mut stale = None;
    for (i, _) in entry.keys().enumerate() {
        let Some(value) = values.get(i).copied().flatten() else {
            return Verdict::Miss(MissCause::Unregistered(i));
        };
        if value.hard > entry.as_of {
            return Verdict::Miss(MissCause::Bumped(i));
        }
        if stale.is_none() && value.soft.is_some_and(|soft| soft > entry.as_of) {
            stale = Some(StaleCause::Soft(i));
        }
    }
    but_for_tags(stale, entry, state, now_ms)
}

fn but_for_tags(mut stale: Option<StaleCause>, entry: &RawEntry, state: &ShardState, now_ms: u64) -> Verdict {
    if stale.is_none() && state.soft_floor.is_some_and(|soft| soft > entry.as_of) {
        stale = Some(StaleCause::SoftFloor);
    }
    if stale.is_none() && !entry.is_fresh(now_ms) {
        stale = Some(StaleCause::Fresh);
    }
    stale.map_or(Verdict::Hit, Verdict::Stale)
}

#[cfg(test)]
mod tests {
    use super::*;
    use cachetag_core::Version;

    fn version(epoch: u64, lsn: u64) -> Version {
        format!("{epoch:010}.{lsn:020}").parse().unwrap()
    }

    fn entry(as_of: Version) -> RawEntry {
        RawEntry::parse("v", format!("{as_of} 1000 9000 - 0 value -\nt:a:1\nt:a:*")).unwrap()
    }

    fn state() -> ShardState {
        ShardState {
            floor: Some(version(2, 10)),
            watermark: Some(version(2, 50)),
            fresh_at: Some(4_000),
            max_lag: Some(Duration::from_secs(2)),
            ..ShardState::default()
        }
    }

    fn tag(hard: u64, soft: Option<u64>) -> Option<TagValue> {
        Some(TagValue { hard: version(2, hard), soft: soft.map(|lsn| version(2, lsn)) })
    }

    const NOW: u64 = 5_000;

    #[test]
    fn tags_decide() {
        let entry = entry(version(2, 40));
        let judged = |values: &[Option<TagValue>]| judge(Some(&entry), &state(), values, NOW, &Terms::default());
        assert_eq!(judged(&[tag(40, None), tag(10, None)]), Verdict::Hit);
        assert_eq!(judged(&[tag(41, None), tag(10, None)]), Verdict::Miss(MissCause::Bumped(0)));
        assert_eq!(judged(&[tag(40, Some(41)), tag(10, None)]), Verdict::Stale(StaleCause::Soft(0)));
        assert_eq!(judged(&[tag(40, Some(41)), tag(41, None)]), Verdict::Miss(MissCause::Bumped(1)));
        assert_eq!(judged(&[tag(40, None), None]), Verdict::Miss(MissCause::Unregistered(1)));
        assert_eq!(judged(&[tag(40, None)]), Verdict::Miss(MissCause::Unregistered(1)));
    }

    #[test]
    fn the_state_closes() {
        let judged = |state: ShardState, now| judge(Some(&entry(version(2, 40))), &state, &[], now, &Terms::default());
        let closed = |change: fn(&mut ShardState), now| {
            let mut state = state();
            change(&mut state);
            judged(state, now)
        };
        assert_eq!(closed(|s| s.watermark = None, NOW), Verdict::Bypass(BypassCause::NoWatermark));
        assert_eq!(closed(|s| s.floor = None, NOW), Verdict::Bypass(BypassCause::State));
        assert_eq!(closed(|s| s.max_lag = None, NOW), Verdict::Bypass(BypassCause::State));
        assert_eq!(closed(|_| {}, 3_999), Verdict::Bypass(BypassCause::Clock));
        assert_eq!(closed(|_| {}, 6_001), Verdict::Bypass(BypassCause::Lag));
        assert_eq!(closed(|_| {}, 6_000), Verdict::Miss(MissCause::Unregistered(0)));
    }

    #[test]
    fn the_entry_itself_fails() {
        let judged = |as_of, now, terms: Terms| judge(Some(&entry(as_of)), &state(), &[], now, &terms);
        let patient = Terms { max_lag: Some(Duration::from_secs(60)), at_least: None };
        assert_eq!(judge(None, &state(), &[], NOW, &patient), Verdict::Miss(MissCause::None));
        assert_eq!(judged(version(2, 40), 9_000, patient), Verdict::Miss(MissCause::Expired));
        assert_eq!(judged(version(3, 40), NOW, patient), Verdict::Miss(MissCause::Epoch));
        assert_eq!(judged(version(2, 9), NOW, patient), Verdict::Miss(MissCause::Floor));
        let least = |at_least: AtLeast| Terms { at_least: Some(at_least), ..patient };
        let missed = judged(version(2, 40), NOW, least(version(2, 51).into()));
        assert_eq!(missed, Verdict::Miss(MissCause::AtLeast));
        let covered = judged(version(2, 60), NOW, least(version(2, 51).into()));
        assert_eq!(covered, Verdict::Miss(MissCause::Unregistered(0)));
    }

    #[test]
    fn what_is_soft_is_stale() {
        let lone = RawEntry::parse("v", format!("{} 1000 9000 4500 0 value -", version(2, 40))).unwrap();
        let judged = |state: &ShardState, now| judge(Some(&lone), state, &[], now, &Terms::default());
        assert_eq!(judged(&state(), 4_499), Verdict::Hit);
        assert_eq!(judged(&state(), 4_500), Verdict::Stale(StaleCause::Fresh));
        let soft = ShardState { soft_floor: Some(version(2, 41)), ..state() };
        assert_eq!(judged(&soft, 4_499), Verdict::Stale(StaleCause::SoftFloor));
    }
}

//! The verdict of the audit on an entry that differs from the database. Pure.
//!
//! The entry was read first; then a snapshot was taken, in which the query gave another value; `position` is the end of the WAL after that, so every
//! commit that the snapshot shows ends at or before it. The entry's reader had its snapshot before ours, so the commits that make the difference are
//! among those: not seen by that reader, hence behind the entry's `as_of`, hence bumps that invalidate it, once Redis has applied everything up to
//! `position`. That is so when the watermark has reached it. Until then the entry is late, as `max_lag` allows; from then on it is wrong.

use cachetag_core::Lsn;

use super::entry::{Entry, Verdict};

/// What became of an entry that differed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It fell: its bump was under way.
    Late,
    /// It is served as stale, after a soft bump: readers know.
    SoftlyStale,
    /// Another entry is in its place: look at that one.
    Replaced,
    /// Its time is over, or somebody dropped it, before it could be judged.
    Gone,
    /// The cache has stopped to vouch for anything.
    Bypass,
    /// It is served, and everything that made the difference has been applied.
    Mismatch,
}

/// Looks at an entry again that differed from a snapshot taken before `position`; `None`: it is too early to tell.
pub fn again(differed: &Entry, now: &Entry, position: Lsn) -> Option<Outcome> {
    if now.verdict == Verdict::Bypass {
        return Some(Outcome::Bypass);
    }
    if now.as_of.is_none() {
        return Some(Outcome::Gone);
    }
    if !now.is_same(differed) {
        return Some(Outcome::Replaced);
    }
    if !now.is_served() {
        return Some(if now.is_expired { Outcome::Gone } else { Outcome::Late });
    }
    if !now.covers(position) {
        return None;
    }
    Some(if now.is_softly_bumped() { Outcome::SoftlyStale } else { Outcome::Mismatch })
}

#[cfg(test)]
mod tests {
    use cachetag_core::{Epoch, Version};

    use super::super::entry::EntryTag;
    use super::*;

    fn version(lsn: u64) -> Version {
        Version { epoch: Epoch::new(1_700_000_000).unwrap(), lsn: Lsn(lsn) }
    }

    /// An entry as of 50, hit under watermark 100.
    fn entry() -> Entry {
        Entry {
            verdict: Verdict::Hit,
            reason: String::new(),
            as_of: Some(version(50)),
            payload: Some(b"10".to_vec()),
            put_at: Some(1),
            is_expired: false,
            tags: vec![EntryTag { name: "product:1".into(), hard: Some(version(40)), soft: None }],
            soft_floor: None,
            watermark: Some(version(100)),
            lag_ms: 0,
        }
    }

    #[test]
    fn served_is_wrong_only_when_the_watermark_has_passed_the_snapshot() {
        let differed = entry();
        assert_eq!(again(&differed, &entry(), Lsn(101)), None);
        assert_eq!(again(&differed, &entry(), Lsn(100)), Some(Outcome::Mismatch));
        let stale = Entry { verdict: Verdict::Stale, ..entry() };
        assert_eq!(again(&differed, &stale, Lsn(100)), Some(Outcome::Mismatch), "past FRESH: no bump has told anybody");
        let closed = Entry { watermark: None, verdict: Verdict::Bypass, ..entry() };
        assert_eq!(again(&differed, &closed, Lsn(100)), Some(Outcome::Bypass));
    }

    #[test]
    fn what_fell_was_late() {
        let fallen = Entry { verdict: Verdict::Miss, ..entry() };
        for position in [Lsn(100), Lsn(101)] {
            assert_eq!(
                again(&entry(), &fallen, position),
                Some(Outcome::Late),
                "bumps are applied before the watermark"
            );
        }
        let expired = Entry { is_expired: true, ..fallen.clone() };
        assert_eq!(again(&entry(), &expired, Lsn(100)), Some(Outcome::Gone), "a bump may have come or not");
        let gone = Entry { as_of: None, ..fallen };
        assert_eq!(again(&entry(), &gone, Lsn(100)), Some(Outcome::Gone));
    }

    #[test]
    fn soft_bumps_are_told_to_readers() {
        let softly = |soft| {
            let tags = vec![EntryTag { name: "product:1".into(), hard: Some(version(40)), soft: Some(version(soft)) }];
            again(&entry(), &Entry { verdict: Verdict::Stale, tags, ..entry() }, Lsn(100))
        };
        assert_eq!(softly(60), Some(Outcome::SoftlyStale));
        assert_eq!(softly(50), Some(Outcome::Mismatch), "that bump was before the entry");
        let floor = Entry { verdict: Verdict::Stale, soft_floor: Some(version(51)), ..entry() };
        assert_eq!(again(&entry(), &floor, Lsn(100)), Some(Outcome::SoftlyStale));
    }

    #[test]
    fn another_entry_is_not_judged_by_the_old_value() {
        for now in [
            Entry { as_of: Some(version(60)), ..entry() },
            Entry { put_at: Some(2), ..entry() },
            Entry { payload: None, ..entry() },
            Entry { put_at: Some(2), verdict: Verdict::Miss, ..entry() },
        ] {
            assert_eq!(again(&entry(), &now, Lsn(100)), Some(Outcome::Replaced), "{now:?}");
        }
    }
}

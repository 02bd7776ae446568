//! May a look be trusted to continue from where the feed stands? Pure: a look in, a step or the reason of the loss out.
//!
//! Why a step that is allowed misses nothing. The log is complete after `log_from` as long as its length is what the state says (whoever cuts, deletes or
//! evicts records without telling changes the one and not the other, and the daemon's next append begins the log anew). So with `log_from <= position` the
//! records above `position`, which the same atomic step read, are all the bumps in `(position, applied]`.
//!
//! A Redis that was restored or failed over within the epoch is either found behind (`applied < position`), or it has caught up: then the same daemon replayed
//! the same log of the database, perhaps in other batches. A record that reaches over `position` bumps again what is known; all above is in records above.

use std::sync::Arc;

use cachetag_core::{Epoch, Lsn, Version};

use super::look::{Look, Part, Question, Record};

/// Why everything that was known of the log is void.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum Lost {
    /// There is no state.
    #[error("no daemon has opened an epoch here, or Redis was emptied")]
    NoState,
    /// A part of the answer has another shape than the library gives it.
    #[error("{0} is not as the library writes it: a newer library, or something else wrote to its keys")]
    Unreadable(&'static str),
    /// A new epoch was opened.
    #[error("another epoch was opened")]
    Epoch,
    /// The state was built from another database.
    #[error("the state was built from another database")]
    Source,
    /// The log begins after the position.
    #[error("the log no longer reaches back to where the feed stood")]
    Gap,
    /// Records are missing from the log, or there are foreign ones.
    #[error("the log is not as the daemon left it: evicted, deleted or trimmed by something else")]
    Torn,
    /// The state is older than what was seen.
    #[error("the state is older than what was seen: Redis was restored or failed over")]
    Back,
}

/// Where a feed stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Trail {
    pub(super) epoch: Epoch,
    pub(super) source: Arc<str>,
    /// Everything up to here has been seen.
    pub(super) position: Version,
}

/// A step that a look allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Step {
    /// Everything up to here has been seen when the look's records have been taken.
    pub(super) position: Version,
    /// Nothing is left: the position is what Redis has applied.
    pub(super) complete: bool,
}

impl Trail {
    /// Begins anew at a look at the end of the log. Also tells after which position the look's records are all there were.
    pub(super) fn begin(look: &Look) -> Result<(Trail, Lsn), Lost> {
        check(look)?;
        if look.question.part != Part::Latest || look.records.len() > look.question.count {
            return Err(Lost::Unreadable("the log"));
        }
        let from = match look.records.first() {
            // Not all of the log: complete after where the first that was read continues from, as for one that was cut there.
            Some(first) if (look.records.len() as u64) < look.length => {
                if look.records.len() < look.question.count {
                    return Err(Lost::Unreadable("the log"));
                }
                first.from
            }
            None if look.length > 0 => return Err(Lost::Unreadable("the log")),
            _ => look.log_from,
        };
        follow_one_another(&look.records, look.log_from)?;
        let trail = Trail { epoch: look.epoch, source: Arc::clone(&look.source), position: look.applied };
        Ok((trail, from.lsn))
    }

    /// The step from here that a look allows, which asked for what follows this position.
    pub(super) fn follow(&self, look: &Look) -> Result<Step, Lost> {
        if look.epoch != self.epoch {
            return Err(Lost::Epoch);
        }
        if look.source != self.source {
            return Err(Lost::Source);
        }
        check(look)?;
        if look.log_from > self.position {
            return Err(Lost::Gap);
        }
        if look.applied < self.position {
            return Err(Lost::Back);
        }
        if look.question.part != Part::After(self.position.lsn) || look.records.len() > look.question.count {
            return Err(Lost::Unreadable("the log"));
        }
        // The first may reach over the position: see above.
        if look.records.first().is_some_and(|first| first.to <= self.position) {
            return Err(Lost::Unreadable("the log"));
        }
        follow_one_another(&look.records, Version::default())?;
        let full = look.records.len() == look.question.count;
        let last = look.records.last().map_or(self.position, |record| record.to);
        let complete = !full || last == look.applied;
        Ok(Step { position: if complete { look.applied } else { last }, complete })
    }

    /// The look to take next.
    pub(super) fn question(&self, count: usize) -> Question {
        Question { part: Part::After(self.position.lsn), count }
    }
}

/// What holds in every state of one epoch with a whole log.
fn check(look: &Look) -> Result<(), Lost> {
    let versions = [Some(look.floor), look.soft_floor, look.watermark, Some(look.applied), Some(look.log_from)];
    for version in versions.into_iter().flatten() {
        if version.epoch != look.epoch {
            return Err(Lost::Unreadable("the state"));
        }
        // Nothing in a state is ahead of what is applied.
        if version > look.applied {
            return Err(Lost::Unreadable("the state"));
        }
    }
    if look.length != look.log_len {
        return Err(Lost::Torn);
    }
    if look.records.last().is_some_and(|last| last.to > look.applied) {
        return Err(Lost::Unreadable("the log"));
    }
    Ok(())
}

/// Each record continues from where the one before ended, or later: what is between bumped nothing.
fn follow_one_another(records: &[Record], start: Version) -> Result<(), Lost> {
    let mut end = start;
    for record in records {
        if record.from < end {
            return Err(Lost::Unreadable("the log"));
        }
        end = record.to;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::feed::ring::Bumped;

    fn epoch(number: u64) -> Epoch {
        Epoch::new(number).unwrap()
    }

    fn v(lsn: u64) -> Version {
        Version::new(epoch(7), Lsn(lsn))
    }

    fn record(from: u64, to: u64) -> Record {
        Record { from: v(from), to: v(to), bumped: Bumped { hard: vec![Arc::from("a")], soft: vec![] } }
    }

    fn look(part: Part, count: usize, applied: u64, records: &[(u64, u64)]) -> Look {
        Look {
            question: Question { part, count },
            epoch: epoch(7),
            floor: v(10),
            soft_floor: None,
            watermark: Some(v(50)),
            applied: v(applied),
            behind: None,
            log_from: v(10),
            log_len: 20,
            max_lag: None,
            source: Arc::from("here"),
            length: 20,
            records: records.iter().map(|(from, to)| record(*from, *to)).collect(),
        }
    }

    fn trail(position: u64) -> Trail {
        Trail { epoch: epoch(7), source: Arc::from("here"), position: v(position) }
    }

    fn after(position: u64, applied: u64, records: &[(u64, u64)]) -> Look {
        look(Part::After(Lsn(position)), 3, applied, records)
    }

    #[test]
    fn a_whole_look_goes_to_what_is_applied() {
        let step = |at: u64, look: Look| trail(at).follow(&look).map(|step| (step.position.lsn.0, step.complete));
        assert_eq!(step(100, after(100, 100, &[])), Ok((100, true)));
        assert_eq!(step(100, after(100, 150, &[])), Ok((150, true)));
        assert_eq!(step(100, after(100, 150, &[(100, 120), (125, 140)])), Ok((150, true)));
        assert_eq!(step(100, after(100, 150, &[(90, 120)])), Ok((150, true)), "replayed in other batches");
    }

    #[test]
    fn a_full_look_goes_to_the_last_record_that_was_read() {
        let step = |look: Look| trail(100).follow(&look).map(|step| (step.position.lsn.0, step.complete));
        assert_eq!(step(after(100, 150, &[(100, 110), (110, 120), (120, 130)])), Ok((130, false)));
        assert_eq!(step(after(100, 130, &[(100, 110), (110, 120), (120, 130)])), Ok((130, true)));
    }

    #[test]
    fn what_is_missing_is_noticed() {
        let lost = |change: fn(&mut Look)| {
            let mut look = after(100, 150, &[(100, 120)]);
            change(&mut look);
            trail(100).follow(&look).unwrap_err()
        };
        assert_eq!(lost(|l| l.epoch = epoch(8)), Lost::Epoch);
        assert_eq!(lost(|l| l.source = Arc::from("there")), Lost::Source);
        assert_eq!(lost(|l| l.log_from = v(101)), Lost::Gap);
        assert_eq!(lost(|l| l.length = 19), Lost::Torn);
        assert_eq!(lost(|l| l.length = 21), Lost::Torn);
        assert_eq!(lost(|l| (l.applied, l.records) = (v(99), vec![])), Lost::Back);
        let unreadable: [fn(&mut Look); 9] = [
            |l| l.applied = Version::new(epoch(8), Lsn(150)),
            |l| l.floor = Version::new(epoch(6), Lsn(10)),
            |l| l.watermark = Some(v(151)),
            |l| l.log_from = Version::new(epoch(6), Lsn(10)),
            |l| l.records = vec![record(100, 160)],
            |l| l.records = vec![record(90, 100)],
            |l| l.records = vec![record(100, 120), record(110, 130)],
            |l| l.question.part = Part::After(Lsn(110)),
            |l| l.question.count = 0,
        ];
        for change in unreadable {
            assert!(matches!(lost(change), Lost::Unreadable(_)));
        }
    }

    #[test]
    fn a_feed_begins_with_the_end_of_the_log() {
        let begin = |length: u64, records: &[(u64, u64)]| {
            let mut look = look(Part::Latest, 2, 150, records);
            (look.length, look.log_len) = (length, length);
            Trail::begin(&look).map(|(trail, from)| (trail.position.lsn.0, from.0))
        };
        assert_eq!(begin(0, &[]), Ok((150, 10)), "an empty log is complete");
        assert_eq!(begin(2, &[(20, 30), (40, 50)]), Ok((150, 10)), "all of it");
        assert_eq!(begin(3, &[(20, 30), (40, 50)]), Ok((150, 20)), "a part of it");
        assert!(begin(3, &[(20, 30)]).is_err());
        assert!(begin(1, &[]).is_err());
        assert!(begin(1, &[(5, 30)]).is_err());
        assert!(begin(2, &[(20, 40), (30, 50)]).is_err());
        let mut torn = look(Part::Latest, 2, 150, &[]);
        torn.length = 0;
        assert_eq!(Trail::begin(&torn), Err(Lost::Torn));
    }
}

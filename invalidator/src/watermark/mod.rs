//! The watermark: up to where every commit is applied in Redis **and** visible to new snapshots, and since when that is
//! known. A pure state machine: the pipeline feeds it commits, positions and observations, and asks what it may publish.
//!
//! Invariants, held by the property test below:
//! - no watermark passes a commit that some observation has not shown visible, or that Redis does not hold;
//! - `fresh_at` is a Redis time taken before PostgreSQL was asked for the flush position that the watermark covers;
//! - neither watermark nor acknowledgement moves before the stream has passed the position at which metadata was read;
//! - the first watermark of an epoch waits for every transaction that was running when the epoch was opened.

mod snapshot;

use std::collections::VecDeque;

use cachetag_core::Lsn;

use crate::broken;

pub use snapshot::{FullXid, Snapshot, SnapshotError};

/// One look at PostgreSQL: what new snapshots see, and what was flushed by then.
#[derive(Debug, Clone)]
pub struct Observation {
    /// Redis's clock, in ms, read before PostgreSQL was asked.
    pub asked_at: u64,
    /// `pg_current_snapshot()`.
    pub snapshot: Snapshot,
    /// `pg_current_wal_flush_lsn()`, from the same query.
    pub flushed: Lsn,
    /// Whether commits wait for this daemon (it is a synchronous standby).
    pub synchronous: bool,
}

/// What may be published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Advance {
    /// The new watermark.
    pub watermark: Lsn,
    /// The new `fresh_at`, when one is proven.
    pub fresh_at: Option<u64>,
}

/// A moment whose freshness is to be proven: everything flushed up to `flushed` must be covered.
#[derive(Debug, Clone, Copy)]
struct Goal {
    asked_at: u64,
    flushed: Lsn,
}

/// A commit that no observation has shown visible yet.
#[derive(Debug, Clone, Copy)]
struct Pending {
    /// Everything up to here came before it.
    before: Lsn,
    xid: u32,
}

/// See the module's documentation.
#[derive(Debug)]
pub struct Watermark {
    /// Every commit up to here has been received from the stream.
    received: Lsn,
    /// Redis has answered that it holds everything up to here.
    applied: Lsn,
    pending: VecDeque<Pending>,
    /// Transactions that must end before the first watermark of an epoch: one of them may be a commit that the epoch skipped.
    draining: Vec<FullXid>,
    drained: bool,
    /// The position at which rules and dependencies were read.
    hold: Lsn,
    /// The oldest moment not proven yet, and the newest one after it.
    goal: Option<Goal>,
    next_goal: Option<Goal>,
    published: Option<Lsn>,
    synchronous: bool,
}

impl Watermark {
    /// Starts at `start`, up to where the slot has been acknowledged. `applied` is what Redis holds. When `must_drain`, nothing is
    /// published until every transaction in progress in the first observation has ended.
    pub fn new(start: Lsn, applied: Lsn, hold: Lsn, must_drain: bool) -> Self {
        Watermark {
            received: start,
            applied,
            pending: VecDeque::new(),
            draining: Vec::new(),
            drained: !must_drain,
            hold,
            goal: None,
            next_goal: None,
            published: None,
            synchronous: false,
        }
    }

    /// Nothing is published before Redis holds everything up to `position`.
    pub fn hold_until(&mut self, position: Lsn) {
        self.hold = self.hold.max(position);
    }

    /// Would a Redis at `position` hold everything back?
    pub fn is_held(&self, position: Lsn) -> bool {
        position < self.hold
    }

    /// Begins the drain: the observation was made after the epoch had been opened.
    pub fn begin_drain(&mut self, snapshot: &Snapshot) {
        if !self.drained {
            self.draining = snapshot.in_progress().to_vec();
        }
    }

    /// Transactions whose end the first watermark waits for.
    pub fn draining(&self) -> &[FullXid] {
        &self.draining
    }

    /// A commit was received; `end` is its end LSN.
    pub fn commit(&mut self, end: Lsn, xid: u32) {
        self.pending.push_back(Pending { before: self.received, xid });
        self.received = self.received.max(end);
    }

    /// The stream has passed `position`: every commit up to it has been received.
    pub fn passed(&mut self, position: Lsn) {
        self.received = self.received.max(position);
    }

    /// The last watermark that was given out.
    pub fn published(&self) -> Option<Lsn> {
        self.published
    }

    /// Up to where everything has been received.
    pub fn received(&self) -> Lsn {
        self.received
    }

    /// Redis holds everything up to `position`.
    pub fn applied(&mut self, position: Lsn) {
        self.applied = self.applied.max(position);
    }

    /// Takes an observation in.
    pub fn observe(&mut self, observation: &Observation) {
        let snapshot = &observation.snapshot;
        if !self.drained {
            self.draining.retain(|&xid| snapshot.is_in_progress(xid));
            self.drained = self.draining.is_empty();
        }
        self.pending.retain(|commit| snapshot.is_in_progress(snapshot.widen(commit.xid)));
        let goal = Goal { asked_at: observation.asked_at, flushed: observation.flushed };
        if self.goal.is_none() {
            self.goal = Some(goal);
        } else {
            self.next_goal = Some(goal);
        }
        self.synchronous = observation.synchronous;
    }

    /// Is a position to be asked for: does the stream lag behind what an observation saw flushed?
    pub fn wants_position(&self) -> bool {
        self.goal.is_some_and(|goal| goal.flushed > self.received)
    }

    /// Is any commit, or the drain of an epoch, waiting for a later observation?
    pub fn waits_for_visibility(&self) -> bool {
        !self.pending.is_empty() || !self.drained
    }

    /// The watermark if Redis held everything up to `applied`; `None` while nothing may be published.
    fn reachable(&self, applied: Lsn) -> Option<Lsn> {
        if !self.drained || self.is_held(applied) {
            return None;
        }
        let waits = |_: &&Pending| !broken::is(broken::Variant::WatermarkBeforeVisible);
        let visible = self.pending.front().filter(waits).map_or(self.received, |commit| commit.before);
        Some(visible.min(applied))
    }

    /// What may be published in a call that finds Redis at `applied`, if that is news.
    pub fn advance(&mut self, applied: Lsn) -> Option<Advance> {
        let watermark = self.reachable(applied)?;
        let mut fresh_at = None;
        for goal in [self.goal, self.next_goal].into_iter().flatten() {
            if watermark >= goal.flushed {
                fresh_at = Some(goal.asked_at);
            }
        }
        if self.next_goal.is_some_and(|goal| watermark >= goal.flushed) {
            (self.goal, self.next_goal) = (None, None);
        } else if fresh_at.is_some() {
            self.goal = self.next_goal.take();
        }
        let moved = self.published.is_none_or(|published| watermark > published);
        if !moved && fresh_at.is_none() {
            return None;
        }
        self.published = Some(self.published.map_or(watermark, |p| p.max(watermark)));
        Some(Advance { watermark, fresh_at })
    }

    /// Up to where the slot may be acknowledged: what Redis holds and, unless commits wait for that very acknowledgement, what is
    /// visible too, so that a restart finds every commit that it has not shown visible in the stream again.
    pub fn acknowledge(&self) -> Option<Lsn> {
        if self.is_held(self.applied) {
            return None;
        }
        if self.synchronous {
            return Some(self.applied.min(self.received));
        }
        self.reachable(self.applied)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn observation(asked_at: u64, flushed: u64, snapshot: &str) -> Observation {
        Observation { asked_at, snapshot: snapshot.parse().unwrap(), flushed: Lsn(flushed), synchronous: false }
    }

    #[test]
    fn a_commit_that_is_not_visible_holds_the_watermark() {
        let mut w = Watermark::new(Lsn(10), Lsn(10), Lsn(0), false);
        w.commit(Lsn(20), 100);
        w.commit(Lsn(30), 101);
        w.applied(Lsn(30));
        w.observe(&observation(1, 30, "100:102:100"));
        assert_eq!(w.advance(Lsn(30)), Some(Advance { watermark: Lsn(10), fresh_at: None }));
        assert_eq!(w.acknowledge(), Some(Lsn(10)));
        w.observe(&observation(2, 30, "102:102:"));
        assert_eq!(w.advance(Lsn(30)), Some(Advance { watermark: Lsn(30), fresh_at: Some(2) }));
        assert_eq!(w.acknowledge(), Some(Lsn(30)));
        assert!(!w.waits_for_visibility());
    }

    #[test]
    fn a_synchronous_standby_acknowledges_before_visibility() {
        let mut w = Watermark::new(Lsn(10), Lsn(10), Lsn(0), false);
        w.commit(Lsn(20), 100);
        w.applied(Lsn(20));
        w.observe(&Observation { synchronous: true, ..observation(1, 20, "100:102:100") });
        assert_eq!(w.acknowledge(), Some(Lsn(20)));
        assert_eq!(w.advance(Lsn(20)).map(|a| a.watermark), Some(Lsn(10)));
    }

    #[test]
    fn freshness_needs_the_flush_position_covered() {
        let mut w = Watermark::new(Lsn(10), Lsn(10), Lsn(0), false);
        w.observe(&observation(1, 15, "5:5:"));
        assert!(w.wants_position());
        assert_eq!(w.advance(Lsn(10)).and_then(|a| a.fresh_at), None);
        w.passed(Lsn(15));
        assert!(!w.wants_position());
        assert_eq!(w.advance(Lsn(15)), Some(Advance { watermark: Lsn(15), fresh_at: Some(1) }));
        assert_eq!(w.advance(Lsn(15)), None);
    }

    #[test]
    fn nothing_moves_before_the_metadata_position() {
        let mut w = Watermark::new(Lsn(10), Lsn(10), Lsn(25), false);
        w.commit(Lsn(20), 100);
        w.applied(Lsn(20));
        w.observe(&observation(1, 20, "102:102:"));
        assert_eq!((w.advance(Lsn(20)), w.acknowledge()), (None, None));
        w.passed(Lsn(30));
        assert_eq!(w.advance(Lsn(30)), Some(Advance { watermark: Lsn(30), fresh_at: Some(1) }));
    }

    #[test]
    fn an_epoch_opens_drained() {
        let mut w = Watermark::new(Lsn(10), Lsn(10), Lsn(0), true);
        w.begin_drain(&"7:9:7".parse().unwrap());
        w.observe(&observation(1, 10, "7:9:7"));
        assert_eq!(w.advance(Lsn(10)), None);
        assert_eq!(w.draining(), [7]);
        w.observe(&observation(2, 10, "9:9:"));
        assert_eq!(w.advance(Lsn(10)), Some(Advance { watermark: Lsn(10), fresh_at: Some(2) }));
    }

    /// A tiny server: commits get ends 10, 20, …; each becomes visible in any order after it is written.
    #[derive(Debug, Clone)]
    enum Step {
        Commit,
        Receive,
        Apply,
        Show(prop::sample::Index),
        Observe,
        Advance,
        Keepalive,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => Just(Step::Commit),
            3 => Just(Step::Receive),
            3 => Just(Step::Apply),
            3 => any::<prop::sample::Index>().prop_map(Step::Show),
            2 => Just(Step::Observe),
            3 => Just(Step::Advance),
            1 => Just(Step::Keepalive),
        ]
    }

    proptest! {
        #[test]
        fn never_passes_what_is_invisible_unapplied_or_unproven(steps in prop::collection::vec(step(), 1..200)) {
            let mut w = Watermark::new(Lsn(0), Lsn(0), Lsn(0), false);
            let (mut written, mut received, mut applied) = (0u64, 0u64, 0u64);
            let mut visible: Vec<bool> = vec![];
            // For each observation: the number of commits written when it was asked.
            let mut flushed_at: Vec<u64> = vec![];
            for step in steps {
                match step {
                    Step::Commit => { written += 1; visible.push(false); }
                    Step::Receive if received < written => { received += 1; w.commit(Lsn(received * 10), received as u32); }
                    Step::Apply if applied < received => { applied += 1; w.applied(Lsn(applied * 10)); }
                    Step::Show(i) if !visible.is_empty() => { let i = i.index(visible.len()); visible[i] = true; }
                    Step::Observe => {
                        let xip: Vec<String> = (1..=written).filter(|&x| !visible[x as usize - 1]).map(|x| x.to_string()).collect();
                        let text = format!("1:{}:{}", written + 1, xip.join(","));
                        w.observe(&observation(flushed_at.len() as u64, written * 10, &text));
                        flushed_at.push(written);
                    }
                    Step::Keepalive if received == written => w.passed(Lsn(written * 10 + 5)),
                    Step::Advance => {
                        if let Some(advance) = w.advance(Lsn(applied * 10)) {
                            let covered = advance.watermark.0 / 10;
                            prop_assert!(covered <= applied);
                            prop_assert!(visible.iter().take(covered as usize).all(|v| *v));
                            if let Some(t) = advance.fresh_at {
                                prop_assert!(flushed_at[t as usize] <= covered);
                            }
                        }
                        prop_assert!(w.acknowledge().is_none_or(|a| a.0 / 10 <= applied));
                    }
                    _ => {}
                }
            }
        }
    }
}

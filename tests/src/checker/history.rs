//! What was true when: the committed states of every row.

use std::collections::VecDeque;
use std::time::Instant;

use crate::Lsn;

/// Nanoseconds since the run began.
pub type Moment = u64;

/// A second.
pub const SECOND: Moment = 1_000_000_000;
/// What ended longer ago than this is forgotten: far more than any `max_lag` and any wait for an answer.
const HORIZON: Moment = 60 * SECOND;
/// Rows with fewer states than this are not worth the pruning.
const PRUNED_AT: usize = 64;
/// A position that nothing reaches.
pub const UNKNOWN: Lsn = Lsn::MAX;

/// A clock that never goes back.
#[derive(Debug, Clone, Copy)]
pub struct Clock(Instant);

impl Clock {
    /// Begins now.
    pub fn start() -> Clock {
        Clock(Instant::now())
    }

    /// The time since.
    pub fn now(&self) -> Moment {
        self.0.elapsed().as_nanos() as Moment
    }
}

/// A row as one commit left it: its group and the counter that this commit gave it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RowState {
    /// Number of the group.
    pub group: usize,
    /// Unique in the run, and growing.
    pub version: u64,
}

/// A state (`None`: there was no such row) and the longest time that it can have been visible: from before its COMMIT was sent to after the
/// COMMIT that ended it had returned.
#[derive(Debug, Clone, Copy)]
pub struct Period {
    /// The row.
    pub state: Option<RowState>,
    /// Before COMMIT was sent.
    pub from: Moment,
    /// After the next COMMIT had returned.
    pub to: Moment,
    /// At or behind the end of the commit that began it; [`UNKNOWN`] until that COMMIT has returned.
    pub lsn: Lsn,
    /// The transaction that made it.
    pub xid: u64,
}

/// All states of all rows of one table, by key.
#[derive(Debug)]
pub struct TableHistory {
    rows: Vec<VecDeque<Period>>,
}

/// The part of a table that a result is made of: the keys that can belong to it, and whether a state does.
pub trait Selection {
    /// Keys in ascending order.
    fn keys(&self) -> impl Iterator<Item = usize>;
    /// Whether a row of one of the keys belongs to it in this state.
    fn has(&self, key: usize, state: &RowState) -> bool;
}

/// Whether a row in this state is consistent with a result that lists `rows` (ascending by key).
fn fits(selection: &impl Selection, rows: &[(usize, RowState)], key: usize, state: &Option<RowState>) -> bool {
    match rows.binary_search_by_key(&key, |(listed, _)| *listed) {
        Ok(place) => *state == Some(rows[place].1) && selection.has(key, &rows[place].1),
        Err(_) => !state.is_some_and(|state| selection.has(key, &state)),
    }
}

impl TableHistory {
    /// A table without rows.
    pub fn new(keys: usize) -> TableHistory {
        let absent = Period { state: None, from: 0, to: Moment::MAX, lsn: 0, xid: 0 };
        TableHistory { rows: vec![VecDeque::from([absent]); keys] }
    }

    /// The states of one row that are remembered, in order.
    pub fn periods(&self, key: usize) -> &VecDeque<Period> {
        &self.rows[key]
    }

    /// Right before COMMIT is sent: from now on it may be so.
    pub fn may_be(&mut self, key: usize, state: Option<RowState>, at: Moment, xid: u64) {
        self.rows[key].push_back(Period { state, from: at, to: Moment::MAX, lsn: UNKNOWN, xid });
    }

    /// COMMIT has returned: it is no longer as it was before the last [`may_be`](Self::may_be). The commit ends at `lsn` or before.
    pub fn is_so(&mut self, key: usize, at: Moment, lsn: Lsn) {
        let periods = &mut self.rows[key];
        let last = periods.len() - 1;
        periods[last].lsn = lsn;
        periods[last - 1].to = at;
        if periods.len() > PRUNED_AT {
            while periods.front().is_some_and(|oldest| oldest.to < at.saturating_sub(HORIZON)) {
                periods.pop_front();
            }
        }
    }

    /// The commit announced by the last [`may_be`](Self::may_be) did not happen, and no longer can.
    pub fn never_was(&mut self, key: usize) {
        self.rows[key].pop_back();
    }

    /// Commits were lost: it may be so since `from`, and whatever it was before, it is no longer.
    pub fn has_become(&mut self, key: usize, state: Option<RowState>, (from, at): (Moment, Moment), lsn: Lsn) {
        let periods = &mut self.rows[key];
        periods.iter_mut().for_each(|period| period.to = period.to.min(at));
        periods.push_back(Period { state, from, to: Moment::MAX, lsn, xid: 0 });
    }

    /// Leaves of `spans` what remains of them where the rows of a selection can have been exactly `rows`.
    pub fn narrow(&self, spans: &mut Vec<(Moment, Moment)>, rows: &[(usize, RowState)], selection: &impl Selection) {
        let mut fitting = Vec::new();
        for key in selection.keys() {
            let Some(&(earliest, _)) = spans.first() else { return };
            fitting.clear();
            for period in self.rows[key].iter().rev().take_while(|period| period.to >= earliest) {
                if fits(selection, rows, key, &period.state) {
                    fitting.push((period.from, period.to));
                }
            }
            fitting.reverse();
            if let ([(from, to)], true) = (&fitting[..], spans.len() == 1) {
                let span = &mut spans[0];
                *span = (span.0.max(*from), span.1.min(*to));
                if span.0 > span.1 {
                    spans.clear();
                }
            } else {
                *spans = intersection(spans, &fitting);
            }
        }
        // A listed row of a key that cannot belong is in no result.
        if rows.iter().any(|(key, state)| !selection.keys().any(|known| known == *key) || !selection.has(*key, state)) {
            spans.clear();
        }
    }

    /// A result that lists `rows` was last true until `until`: the end of the earliest commit that it lacks.
    pub fn lacks(
        &self,
        until: Moment,
        rows: &[(usize, RowState)],
        selection: &impl Selection,
    ) -> Option<(usize, Period)> {
        let mut first: Option<(usize, Period)> = None;
        for key in selection.keys() {
            let mut next: Option<&Period> = None;
            for period in self.rows[key].iter().rev() {
                if !fits(selection, rows, key, &period.state) {
                    next = Some(period);
                } else if period.from <= until {
                    break;
                }
            }
            if let Some(next) = next
                && first.is_none_or(|(_, first)| next.lsn < first.lsn)
            {
                first = Some((key, *next));
            }
        }
        first
    }
}

/// Both lists ascend by their beginnings; the second one's members may overlap.
fn intersection(spans: &[(Moment, Moment)], others: &[(Moment, Moment)]) -> Vec<(Moment, Moment)> {
    let mut both: Vec<(Moment, Moment)> = Vec::new();
    for &(from, to) in spans {
        for &(other_from, other_to) in others {
            let (from, to) = (from.max(other_from), to.min(other_to));
            if from <= to && !both.contains(&(from, to)) {
                both.push((from, to));
            }
        }
    }
    both.sort_unstable();
    both
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All rows.
    struct All;

    impl Selection for All {
        fn keys(&self) -> impl Iterator<Item = usize> {
            0..2
        }

        fn has(&self, _: usize, _: &RowState) -> bool {
            true
        }
    }

    fn right(history: &TableHistory, rows: &[(usize, RowState)], from: Moment, to: Moment) -> bool {
        let mut spans = vec![(from, to)];
        history.narrow(&mut spans, rows, &All);
        !spans.is_empty()
    }

    #[test]
    fn a_value_is_true_from_before_its_commit_until_after_the_next() {
        let mut history = TableHistory::new(2);
        let (one, two) = (RowState { group: 0, version: 1 }, RowState { group: 1, version: 2 });
        history.may_be(0, Some(one), 10, 1);
        history.is_so(0, 12, 100);
        history.may_be(0, Some(two), 20, 2);
        assert!(right(&history, &[(0, one)], 25, 30), "the second COMMIT has not returned");
        assert!(history.lacks(30, &[(0, one)], &All).is_some_and(|(_, next)| next.lsn == UNKNOWN));
        history.is_so(0, 22, 200);
        assert!(right(&history, &[], 5, 9));
        assert!(right(&history, &[], 12, 15));
        assert!(!right(&history, &[], 13, 15));
        assert!(!right(&history, &[(0, one)], 0, 9));
        assert!(right(&history, &[(0, one)], 22, 30));
        assert!(!right(&history, &[(0, one)], 23, 30));
        assert!(right(&history, &[(0, two)], 20, 20));
        assert!(!right(&history, &[(0, two), (1, one)], 0, 30), "the second row was never there");
        assert_eq!(history.lacks(22, &[(0, one)], &All).map(|(key, next)| (key, next.lsn)), Some((0, 200)));
        assert_eq!(history.lacks(12, &[], &All).map(|(key, next)| (key, next.lsn)), Some((0, 100)));
        assert!(history.lacks(30, &[(0, two)], &All).is_none());
    }

    #[test]
    fn a_commit_that_failed_was_never_true() {
        let mut history = TableHistory::new(2);
        let state = RowState { group: 0, version: 1 };
        history.may_be(0, Some(state), 10, 1);
        history.never_was(0);
        assert!(!right(&history, &[(0, state)], 0, 30));
        assert!(right(&history, &[], 20, 30));
    }

    #[test]
    fn rows_have_to_fit_at_the_same_moment() {
        let mut history = TableHistory::new(2);
        let state = |version| RowState { group: 0, version };
        for (key, at) in [(0, 10), (1, 20)] {
            history.may_be(key, Some(state(at)), at, at);
            history.is_so(key, at + 1, at);
        }
        history.may_be(0, None, 15, 15);
        history.is_so(0, 16, 15);
        let together = [(0, state(10)), (1, state(20))];
        assert!(!right(&history, &together, 0, 100));
        assert!(right(&history, &together[..1], 0, 100));
    }
}

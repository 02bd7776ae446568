//! What was true when: the committed states of every row.

use std::time::Instant;

/// Nanoseconds since the run began.
pub type Moment = u64;

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
struct Period {
    state: Option<RowState>,
    from: Moment,
    to: Moment,
}

/// All states of all rows of one table, by key.
#[derive(Debug)]
pub struct TableHistory {
    rows: Vec<Vec<Period>>,
}

impl TableHistory {
    /// A table without rows.
    pub fn new(keys: usize) -> TableHistory {
        let absent = Period { state: None, from: 0, to: Moment::MAX };
        TableHistory { rows: vec![vec![absent]; keys] }
    }

    /// Right before COMMIT is sent: from now on it may be so.
    pub fn may_be(&mut self, key: usize, state: Option<RowState>, at: Moment) {
        self.rows[key].push(Period { state, from: at, to: Moment::MAX });
    }

    /// COMMIT has returned: it is no longer as it was before the last [`may_be`](Self::may_be).
    pub fn is_over(&mut self, key: usize, at: Moment) {
        let before = self.rows[key].len() - 2;
        self.rows[key][before].to = at;
    }

    /// The parts of `spans` in which the rows that belong to a result can have been exactly `rows` (key and state).
    pub fn narrow(
        &self,
        spans: Vec<(Moment, Moment)>,
        rows: &[(usize, RowState)],
        belongs: impl Fn(usize, &RowState) -> bool,
    ) -> Vec<(Moment, Moment)> {
        let mut spans = spans;
        for (key, periods) in self.rows.iter().enumerate() {
            let Some(&(earliest, _)) = spans.first() else { break };
            let listed = rows.iter().find(|(listed, _)| *listed == key).map(|(_, state)| *state);
            let fits = |state: &Option<RowState>| match listed {
                Some(listed) => *state == Some(listed) && belongs(key, &listed),
                None => !state.is_some_and(|state| belongs(key, &state)),
            };
            let recent = periods.iter().rev().take_while(|period| period.to >= earliest);
            let mut fitting: Vec<_> =
                recent.filter(|period| fits(&period.state)).map(|period| (period.from, period.to)).collect();
            fitting.reverse();
            spans = intersection(&spans, &fitting);
        }
        spans
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

    #[test]
    fn a_value_is_true_from_before_its_commit_until_after_the_next() {
        let mut history = TableHistory::new(2);
        let (one, two) = (RowState { group: 0, version: 1 }, RowState { group: 1, version: 2 });
        let all = |_: usize, _: &RowState| true;
        history.may_be(0, Some(one), 10);
        history.is_over(0, 12);
        history.may_be(0, Some(two), 20);
        let right = |history: &TableHistory, rows: &[(usize, RowState)], from, to| {
            !history.narrow(vec![(from, to)], rows, all).is_empty()
        };
        assert!(right(&history, &[(0, one)], 25, 30), "the second COMMIT has not returned");
        history.is_over(0, 22);
        assert!(right(&history, &[], 5, 9));
        assert!(right(&history, &[], 12, 15));
        assert!(!right(&history, &[], 13, 15));
        assert!(!right(&history, &[(0, one)], 0, 9));
        assert!(right(&history, &[(0, one)], 22, 30));
        assert!(!right(&history, &[(0, one)], 23, 30));
        assert!(right(&history, &[(0, two)], 20, 20));
        assert!(!right(&history, &[(0, two), (1, one)], 0, 30), "the second row was never there");
    }

    #[test]
    fn rows_have_to_fit_at_the_same_moment() {
        let mut history = TableHistory::new(2);
        let state = |version| RowState { group: 0, version };
        for (key, at) in [(0, 10), (1, 20)] {
            history.may_be(key, Some(state(at)), at);
            history.is_over(key, at + 1);
        }
        history.may_be(0, None, 15);
        history.is_over(0, 16);
        let together = [(0, state(10)), (1, state(20))];
        assert!(history.narrow(vec![(0, 100)], &together, |_, _| true).is_empty());
        assert!(!history.narrow(vec![(0, 100)], &together[..1], |_, _| true).is_empty());
    }
}

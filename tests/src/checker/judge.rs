//! Whether a hit was true: the history of all tables, and for every object the verdict on the value that was served last.
//!
//! Two questions are asked of a hit. Was its value true at one moment no earlier than `max_lag` before the question and no later than the answer?
//! And does it hold every commit that it must, those that Redis had applied when the call was made and those up to the version that the reader presented?
//! Most hits repeat the last one: the answers are remembered until a row that concerns the object changes.

use super::history::{Moment, Period, RowState, SECOND, TableHistory, UNKNOWN};
use super::schema::{GROUPS, KEYS, Part, Schema};
use crate::Lsn;

/// How far back the moments of truth of a value are looked for; no reader asks for more.
pub const REACH: Moment = 10 * SECOND;

/// What is known of a hit besides its value.
#[derive(Debug, Clone, Copy)]
pub struct Question {
    /// `max_lag` before the question was sent.
    pub from: Moment,
    /// After the answer came.
    pub to: Moment,
    /// Commits that end here or earlier must be in the value.
    pub covers: Lsn,
}

/// What is to be said of a hit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finding {
    /// It was as it must be.
    True,
    /// Nothing is promised of this object now: no rule is about it.
    Unpromised,
    /// At no moment in question was it true.
    Untrue,
    /// It lacks a commit that it must hold.
    Lacks,
}

/// The moments at which a value was true, and the first commit that it lacks.
#[derive(Debug)]
struct Verdict {
    generation: u64,
    value: String,
    since: Moment,
    spans: Vec<(Moment, Moment)>,
    limit: Lsn,
}

#[derive(Debug, Default)]
struct Judged {
    /// Grows whenever a row that is or was in the object changes.
    generation: u64,
    verdict: Option<Verdict>,
    /// Nothing is promised of what is asked up to here; 0 if it always was.
    unpromised_until: Moment,
}

/// Objects by what of a table they are made of.
#[derive(Debug)]
struct Interest {
    rows: Vec<Vec<usize>>,
    groups: Vec<Vec<usize>>,
    whole: Vec<usize>,
}

/// The history and what follows from it for the objects.
#[derive(Debug)]
pub struct Judge {
    tables: Vec<TableHistory>,
    interest: Vec<Interest>,
    objects: Vec<Judged>,
    /// Verdicts that had to be worked out.
    pub worked_out: u64,
}

impl Judge {
    /// Of a schema whose tables are empty.
    pub fn new(schema: &Schema) -> Judge {
        let nobody = || Interest { rows: vec![Vec::new(); KEYS], groups: vec![Vec::new(); GROUPS], whole: Vec::new() };
        let mut interest: Vec<Interest> = schema.tables.iter().map(|_| nobody()).collect();
        for (number, object) in schema.objects.iter().enumerate() {
            for (table, part) in &object.sources {
                match part {
                    Part::Row(key) => interest[*table].rows[*key].push(number),
                    Part::Group(group) | Part::Special(group) => interest[*table].groups[*group].push(number),
                    Part::Whole => interest[*table].whole.push(number),
                }
            }
        }
        Judge {
            tables: schema.tables.iter().map(|_| TableHistory::new(KEYS)).collect(),
            interest,
            objects: schema.objects.iter().map(|_| Judged::default()).collect(),
            worked_out: 0,
        }
    }

    /// Right before COMMIT is sent.
    pub fn may_be(&mut self, table: usize, key: usize, state: Option<RowState>, at: Moment, xid: u64) {
        self.tables[table].may_be(key, state, at, xid);
        self.changed(table, key);
    }

    /// COMMIT has returned.
    pub fn is_so(&mut self, table: usize, key: usize, at: Moment, lsn: Lsn) {
        self.tables[table].is_so(key, at, lsn);
        self.changed(table, key);
    }

    /// The commit did not happen.
    pub fn never_was(&mut self, table: usize, key: usize) {
        self.changed(table, key);
        self.tables[table].never_was(key);
    }

    /// Commits were lost: the row may be so since the first of the two moments, and has been nothing else since the second.
    pub fn has_become(
        &mut self,
        table: usize,
        key: usize,
        state: Option<RowState>,
        between: (Moment, Moment),
        lsn: Lsn,
    ) {
        self.tables[table].has_become(key, state, between, lsn);
        // Any of the states that are remembered may have been lost.
        self.objects.iter_mut().for_each(|object| object.generation += 1);
    }

    /// The states of a row that are remembered.
    pub fn periods(&self, table: usize, key: usize) -> impl Iterator<Item = &Period> {
        self.tables[table].periods(key).iter()
    }

    /// From now on nothing is promised of these objects, until [`promise`](Self::promise).
    pub fn release(&mut self, objects: impl Iterator<Item = usize>) {
        objects.for_each(|object| self.objects[object].unpromised_until = Moment::MAX);
    }

    /// What is asked of these objects, and of states, after `at` must be true again.
    pub fn promise(&mut self, objects: impl Iterator<Item = usize>, at: Moment) {
        objects.for_each(|object| self.objects[object].unpromised_until = at);
    }

    fn changed(&mut self, table: usize, key: usize) {
        let interest = &self.interest[table];
        let recent = self.tables[table].periods(key).iter().rev().take(2);
        let groups = recent.filter_map(|period| period.state).flat_map(|state| &interest.groups[state.group]);
        for object in interest.rows[key].iter().chain(groups).chain(&interest.whole) {
            self.objects[*object].generation += 1;
        }
    }

    /// Judges a hit.
    pub fn judge(&mut self, schema: &Schema, object: usize, value: &str, question: Question) -> Finding {
        let judged = &self.objects[object];
        if judged.unpromised_until > 0 && question.from <= judged.unpromised_until {
            return Finding::Unpromised;
        }
        let known = judged.verdict.as_ref().is_some_and(|verdict| {
            verdict.generation == judged.generation && verdict.since <= question.from && verdict.value == value
        });
        if !known {
            let verdict = self.work_out(schema, object, value, question.from.min(question.to.saturating_sub(REACH)));
            self.objects[object].verdict = Some(verdict);
            self.worked_out += 1;
        }
        let Some(verdict) = &self.objects[object].verdict else { return Finding::Untrue };
        if !verdict.spans.iter().any(|(from, to)| *from <= question.to && *to >= question.from) {
            return Finding::Untrue;
        }
        if verdict.limit <= question.covers { Finding::Lacks } else { Finding::True }
    }

    fn work_out(&self, schema: &Schema, number: usize, value: &str, since: Moment) -> Verdict {
        let generation = self.objects[number].generation;
        let object = &schema.objects[number];
        let mut verdict =
            Verdict { generation, value: value.to_owned(), since, spans: vec![(since, Moment::MAX)], limit: UNKNOWN };
        let Some(parts) = object.rows_of(value) else {
            verdict.spans.clear();
            return verdict;
        };
        for (rows, (table, part)) in parts.iter().zip(&object.sources) {
            self.tables[*table].narrow(&mut verdict.spans, rows, &schema.tables[*table].selection(*part));
        }
        if let Some((_, until)) = verdict.spans.last() {
            for (rows, (table, part)) in parts.iter().zip(&object.sources) {
                let lacking = self.tables[*table].lacks(*until, rows, &schema.tables[*table].selection(*part));
                verdict.limit = verdict.limit.min(lacking.map_or(UNKNOWN, |(_, next)| next.lsn));
            }
        }
        verdict
    }

    /// The first commit that a value lacks: number of the table, key, and the state that it made.
    pub fn lacks(&self, schema: &Schema, number: usize, value: &str) -> Option<(usize, usize, Period)> {
        let object = &schema.objects[number];
        let parts = object.rows_of(value)?;
        let mut spans = vec![(0, Moment::MAX)];
        for (rows, (table, part)) in parts.iter().zip(&object.sources) {
            self.tables[*table].narrow(&mut spans, rows, &schema.tables[*table].selection(*part));
        }
        let (_, until) = *spans.last()?;
        let lacking = parts.iter().zip(&object.sources).filter_map(|(rows, (table, part))| {
            let (key, next) = self.tables[*table].lacks(until, rows, &schema.tables[*table].selection(*part))?;
            Some((*table, key, next))
        });
        lacking.min_by_key(|(_, _, next)| next.lsn)
    }
}

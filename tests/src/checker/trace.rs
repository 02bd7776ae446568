//! The shortest history that shows a violation: the fill, the commits that the value lacks, what was broken meanwhile, and the hit.

use std::time::Duration;

use super::history::{Moment, Period, SECOND, UNKNOWN};
use super::judge::{Finding, Question};
use super::loader;
use super::report::Invariant;
use super::world::World;
use crate::Lsn;

/// What was broken longer ago than this has nothing to do with what the sampler sees.
const LATELY: Moment = 10 * SECOND;

/// A fill, for the history.
#[derive(Debug, Clone)]
pub struct Fill {
    /// Number of the filler.
    pub filler: usize,
    /// On what it was read.
    pub how: &'static str,
    /// Under what it was to be stored.
    pub token: String,
    /// After the token was given.
    pub asked: Moment,
    /// Before and after the query.
    pub snapshot: (Moment, Moment),
    /// After the answer to the put.
    pub put: Moment,
    /// What was read.
    pub value: String,
    /// Its tags.
    pub tags: Vec<String>,
    /// Whether it was stored.
    pub stored: bool,
}

impl Fill {
    /// A fill that has been read and not been put.
    pub fn new(
        filler: usize,
        how: &'static str,
        token: String,
        asked: Moment,
        snapshot: (Moment, Moment),
        value: String,
    ) -> Fill {
        Fill { filler, how, token, asked, snapshot, put: 0, value, tags: Vec::new(), stored: false }
    }
}

/// A hit that is wrong.
#[derive(Debug)]
pub struct Hit {
    /// Number of the reader.
    pub reader: usize,
    /// Number of the object.
    pub object: usize,
    /// What was served.
    pub value: String,
    /// What the judge was asked.
    pub question: Question,
    /// What Redis had applied before the call.
    pub applied: Lsn,
    /// What the reader asked for.
    pub max_lag: Duration,
    /// What the reader presented.
    pub at_least: Option<(Lsn, Invariant)>,
    /// What the client says of it, if it served it.
    pub client: Option<String>,
}

/// Which invariant a wrong hit breaks.
pub fn invariant(world: &World, hit: &Hit, finding: Finding) -> Invariant {
    if finding == Finding::Untrue {
        return Invariant::Staleness;
    }
    let lacking = world.judge.borrow().lacks(&world.schema, hit.object, &hit.value);
    if let (Some((_, _, next)), Some((_, whose))) = (&lacking, hit.at_least)
        && next.lsn > hit.applied
    {
        return whose;
    }
    if hit.client.is_none() && last_fill(world, hit).is_some_and(|fill| fill.how != "primary") {
        return Invariant::VisibleFills;
    }
    let Some((table, key, next)) = lacking else { return Invariant::Together };
    match (before(world, table, key, &next).and_then(|period| period.state), next.state) {
        (None, Some(_)) => Invariant::Insertion,
        (Some(old), Some(new)) if old.group != new.group => Invariant::Move,
        _ => Invariant::Together,
    }
}

/// Tells it.
pub fn history(world: &World, hit: &Hit, finding: Finding) -> String {
    let object = &world.schema.objects[hit.object];
    let mut events: Vec<(Moment, String)> = Vec::new();
    let asked = hit.question.from + hit.max_lag.as_nanos() as Moment;
    let mut since = asked;
    if let Some(fill) = last_fill(world, hit) {
        since = since.min(fill.asked);
        events.push((fill.asked, format!("filler {} has token {} ({})", fill.filler, fill.token, fill.how)));
        let (from, to) = fill.snapshot;
        events.push((from, format!("it reads `{}`, until {}", fill.value, ms(to))));
        events.push((fill.put, format!("its value is stored under {} with tags {:?}", fill.token, fill.tags)));
    }
    let lacking = world.judge.borrow().lacks(&world.schema, hit.object, &hit.value);
    if let Some((table, key, next)) = lacking {
        let name = &world.schema.tables[table].name;
        let old = before(world, table, key, &next).and_then(|period| period.state);
        let state = |state| format!("{state:?}").replace("RowState ", "");
        let made = format!("transaction {} makes row {key} of {name}, {}, {}", next.xid, state(old), state(next.state));
        since = since.min(next.from);
        events.push((next.from, format!("COMMIT is sent: {made}")));
        let returned = before(world, table, key, &next).map_or(next.from, |period| period.to);
        if next.lsn != UNKNOWN && returned != Moment::MAX {
            events.push((returned, format!("COMMIT of {} has returned; it ends at {} or before", next.xid, next.lsn)));
        }
    }
    events.extend(incidents(world, since, hit.question.to));
    let presented = hit.at_least.map(|(position, _)| format!(", covering {position}")).unwrap_or_default();
    let call = format!(
        "reader {} asks with MAXLAG {} ms{presented}; applied: {}",
        hit.reader,
        hit.max_lag.as_millis(),
        hit.applied
    );
    events.push((asked, call));
    let by = hit.client.as_ref().map(|client| format!(", from {client}")).unwrap_or_default();
    events.push((hit.question.to, format!("the answer: hit, `{}`{by}", hit.value)));

    let said = match finding {
        Finding::Untrue => "was true at no moment in question",
        _ => "lacks a commit that it must hold",
    };
    let (key, sources, tags) = (&object.key, &object.sources, &object.tags);
    in_order(format!("{key} ({sources:?}, tags {tags:?}) {said}"), events)
}

/// What was broken in the last seconds, after a sentence.
pub fn lately(world: &World, said: String) -> String {
    let now = world.clock.now();
    let mut events = incidents(world, now.saturating_sub(LATELY), now);
    events.push((now, "this is seen".to_owned()));
    in_order(said, events)
}

fn in_order(said: String, mut events: Vec<(Moment, String)>) -> String {
    events.sort_by_key(|(at, _)| *at);
    events.iter().fold(said, |text, (at, event)| format!("{text}\n  {} {event}", ms(*at)))
}

/// The faults of a time.
fn incidents(world: &World, from: Moment, to: Moment) -> Vec<(Moment, String)> {
    let mut events = Vec::new();
    for incident in world.incidents.borrow().iter().filter(|incident| incident.to >= from && incident.from <= to) {
        events.push((incident.from, format!("fault: {}", incident.kind)));
        if incident.to <= to {
            events.push((incident.to, format!("it ends: {}", incident.kind)));
        }
    }
    events
}

/// The fill that stored the value.
fn last_fill(world: &World, hit: &Hit) -> Option<Fill> {
    let fills = world.fills.borrow();
    let stored = |fill: &&Fill| fill.stored && (fill.how == loader::HOW) == hit.client.is_some();
    fills[hit.object].iter().rev().filter(stored).find(|fill| fill.value == hit.value).cloned()
}

/// The state of a row before another.
fn before(world: &World, table: usize, key: usize, next: &Period) -> Option<Period> {
    let judge = world.judge.borrow();
    let mut before = None;
    for period in judge.periods(table, key) {
        if period.from == next.from && period.xid == next.xid {
            return before;
        }
        before = Some(*period);
    }
    None
}

fn ms(at: Moment) -> String {
    format!("{:>10.3} ms", at as f64 / 1e6)
}

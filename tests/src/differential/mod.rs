//! The differential run: random rules, changes, fills and reads on real servers; every hit is compared with the history of committed values.
//!
//! A cached value lists the rows that its query returned, each with the counter of the change that made it. [`history`] keeps for every row
//! which state can have been visible when. A hit is right if there is one moment, no earlier than `max_lag` before the question and no later
//! than the answer, at which all the rows can have been as the value says, and no others were there.
//!
//! A key of a table is changed by one connection only, so the order of its states is known without asking; rows of other keys, other groups
//! and other tables are changed meanwhile by other connections.

mod history;
mod random;
mod reader;
mod schema;
mod writer;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use redis::cmd;
use tokio::task::LocalSet;

use crate::{DaemonOptions, Stack, StackOptions};
use history::{Clock, Moment, RowState, TableHistory};
pub use random::Random;
use schema::{GROUPS, KEYS, Schema};

/// Connections that change rows.
const WRITERS: usize = 4;
/// Connections that read and fill.
const READERS: usize = 6;
/// Redis tells the time in milliseconds: an age is up to this much more than it says.
const CLOCK_STEP: Moment = 1_000_000;

/// A filler that does what it must not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Queries first and takes the token afterwards.
    LateToken,
    /// Stores without the tags.
    OmitTags,
    /// Stores by the rules, and later raises the entry's `as_of` by hand.
    RaiseAsOf,
}

/// What a run is to do.
#[derive(Debug, Clone)]
pub struct Options {
    /// Calls of `cachetag_get`.
    pub reads: u64,
    /// Determines the schema and what every connection tries; not how they interleave.
    pub seed: u64,
    /// A planted fault.
    pub fault: Option<Fault>,
}

/// What a run has seen.
#[derive(Debug, Default)]
pub struct Report {
    /// Calls of `cachetag_get`.
    pub reads: u64,
    /// Answers by state.
    pub states: BTreeMap<String, u64>,
    /// Values stored.
    pub fills: u64,
    /// Fills refused, by reason.
    pub refusals: BTreeMap<String, u64>,
    /// Transactions committed.
    pub commits: u64,
    /// Tag keys, entries and logs deleted behind the library's back.
    pub evictions: u64,
    /// Daemons frozen and daemons killed.
    pub disturbances: (u64, u64),
    /// Hits that were not true, described.
    pub violations: Vec<String>,
    /// How many of them.
    pub violation_count: u64,
}

impl Report {
    /// Answers that served a value as valid.
    pub fn hits(&self) -> u64 {
        self.states.get("hit").copied().unwrap_or_default() + self.states.get("early").copied().unwrap_or_default()
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "{} reads: {:?}", self.reads, self.states)?;
        writeln!(f, "{} fills, refused: {:?}", self.fills, self.refusals)?;
        let (frozen, killed) = self.disturbances;
        let (commits, evictions) = (self.commits, self.evictions);
        writeln!(f, "{commits} commits, {evictions} evictions, daemon frozen {frozen} times, killed {killed} times")?;
        writeln!(f, "{} violations in {} hits", self.violation_count, self.hits())?;
        if self.violation_count == 0 && self.hits() > 0 {
            let bound = 3.0 / self.hits() as f64;
            writeln!(f, "with 95 % confidence fewer than {bound:.1e} of such hits are wrong (3/N)")?;
        }
        for violation in &self.violations {
            writeln!(f, "- {violation}")?;
        }
        Ok(())
    }
}

/// What all connections share.
struct Shared {
    schema: Schema,
    clock: Clock,
    history: RefCell<Vec<TableHistory>>,
    report: RefCell<Report>,
    options: Options,
    over: Cell<bool>,
    version: Cell<u64>,
    /// Held for reading by whoever changes rows of a table, and for writing by whoever empties it.
    truncation: Vec<tokio::sync::RwLock<()>>,
    /// The rows as they are, for the connection that changes them.
    rows: RefCell<Vec<Vec<Option<RowState>>>>,
}

impl Shared {
    fn next_version(&self) -> u64 {
        self.version.set(self.version.get() + 1);
        self.version.get()
    }

    fn is_over(&self) -> bool {
        let report = self.report.borrow();
        self.over.get()
            || report.reads >= self.options.reads
            || (self.options.fault.is_some() && report.violation_count > 0)
    }

    /// Whether an object can have had this value at some moment between the two.
    fn was_true(&self, object: usize, value: &str, from: Moment, to: Moment) -> bool {
        let object = &self.schema.objects[object];
        let history = self.history.borrow();
        let parts: Vec<&str> = value.split('|').collect();
        let mut spans = vec![(from, to)];
        if parts.len() != object.sources.len() {
            return false;
        }
        for (text, (table, part)) in parts.into_iter().zip(&object.sources) {
            let Some(rows) = rows_of(text) else { return false };
            let belongs = |key: usize, state: &RowState| self.schema.tables[*table].belongs(*part, key, state);
            spans = history[*table].narrow(spans, &rows, belongs);
        }
        !spans.is_empty()
    }

    fn violation(&self, text: String) {
        let mut report = self.report.borrow_mut();
        report.violation_count += 1;
        if report.violations.len() < 5 {
            report.violations.push(text);
        }
    }
}

/// The rows that a value lists: `key/group/version,…`.
fn rows_of(text: &str) -> Option<Vec<(usize, RowState)>> {
    if text.is_empty() {
        return Some(Vec::new());
    }
    let row = |row: &str| {
        let mut numbers = row.split('/').map(str::parse::<u64>);
        let mut next = || numbers.next()?.ok();
        let (key, group, version) = (next()?, next()?, next()?);
        (key < KEYS as u64 && group < GROUPS as u64)
            .then_some((key as usize, RowState { group: group as usize, version }))
    };
    text.split(',').map(row).collect()
}

/// Runs it.
pub async fn run(options: Options) -> Report {
    let mut random = Random::new(options.seed);
    let schema = Schema::random(&mut random);
    let setup = StackOptions::new().schema(&schema.sql).daemon(DaemonOptions::new().max_lag(Duration::from_secs(2)));
    let mut stack = Stack::start(setup).await;
    let tables = schema.tables.len();
    let shared = Rc::new(Shared {
        clock: Clock::start(),
        history: RefCell::new((0..tables).map(|_| TableHistory::new(KEYS)).collect()),
        report: RefCell::default(),
        options,
        over: Cell::new(false),
        version: Cell::new(0),
        truncation: (0..tables).map(|_| tokio::sync::RwLock::new(())).collect(),
        rows: RefCell::new(vec![vec![None; KEYS]; tables]),
        schema,
    });
    let local = LocalSet::new();
    local
        .run_until(async {
            let mut tasks = Vec::new();
            for number in 0..WRITERS {
                let client = stack.connect().await;
                tasks.push(tokio::task::spawn_local(writer::run(shared.clone(), client, number, random.fork())));
            }
            for _ in 0..READERS {
                let (client, cache) = (stack.connect().await, stack.cache().await);
                tasks.push(tokio::task::spawn_local(reader::run(shared.clone(), client, cache, random.fork())));
            }
            tasks.push(tokio::task::spawn_local(evict(shared.clone(), stack.cache().await, random.fork())));
            disturb(&shared, &mut stack, &mut random).await;
            for task in tasks {
                if let Err(error) = task.await {
                    std::panic::resume_unwind(error.into_panic());
                }
            }
        })
        .await;
    if shared.options.fault.is_none() {
        converge(&shared, &stack).await;
    }
    shared.report.take()
}

/// Loses keys, as a Redis whose memory is full does.
async fn evict(shared: Rc<Shared>, mut cache: crate::Cache, mut random: Random) {
    while !shared.is_over() {
        tokio::time::sleep(Duration::from_millis(1 + random.below(8) as u64)).await;
        let tag = random.pick(&shared.schema.tags).clone();
        let family = tag.split(':').next().unwrap_or_default().to_owned();
        let key = match random.below(100) {
            0 => cache.key("log", ""),
            1..10 => cache.key("a", &family),
            10..20 => cache.key("t", &format!("{family}:*")),
            20..40 => cache.key("e", &random.pick(&shared.schema.objects).key),
            _ => cache.key("t", &tag),
        };
        let evicted: u64 = cmd("DEL").arg(key).query_async(cache.connection()).await.expect("DEL");
        shared.report.borrow_mut().evictions += evicted;
    }
}

/// Freezes and kills the daemon now and then.
async fn disturb(shared: &Shared, stack: &mut Stack, random: &mut Random) {
    let mut next = shared.clock.now() + 1_000_000_000;
    while !shared.is_over() {
        tokio::time::sleep(Duration::from_millis(20)).await;
        if shared.clock.now() < next {
            continue;
        }
        if random.percent(70) {
            stack.daemon().pause();
            tokio::time::sleep(Duration::from_millis(20 + random.below(400) as u64)).await;
            stack.daemon().resume();
            shared.report.borrow_mut().disturbances.0 += 1;
        } else {
            stack.daemon().kill9().await;
            stack.daemon().start_again();
            shared.report.borrow_mut().disturbances.1 += 1;
        }
        next = shared.clock.now() + 1_000_000_000 + random.below(2_000) as u64 * 1_000_000;
    }
}

/// When everything is quiet, every hit is what the database says now.
async fn converge(shared: &Shared, stack: &Stack) {
    stack.wait_caught_up_now().await;
    let mut cache = stack.cache().await;
    for (number, object) in shared.schema.objects.iter().enumerate() {
        let got = cache.get(&object.key).await.expect("cachetag_get");
        let now = shared.clock.now();
        if let (true, Some(value)) = (got.is_hit(), got.text()) {
            let truth = stack.value(&object.query).await;
            if value != truth || !shared.was_true(number, value, now, now) {
                shared.violation(format!("at the end {} is `{value}`, in truth `{truth}`", object.key));
            }
        }
    }
}

//! What all connections of a run share.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::time::Duration;

use cachetag_client::AtLeast;
use tokio_postgres::{Client, NoTls};

use super::faults::Kind;
use super::fill::Missed;
use super::history::{Clock, Moment, RowState};
use super::judge::Judge;
use super::options::{Mix, Options};
use super::report::Report;
use super::schema::{KEYS, Schema};
use super::standby::Standby;
use super::trace::Fill;
use crate::{Cache, Stack};

/// A server that is down is tried again after this.
const RETRY: Duration = Duration::from_millis(10);
/// Fills of an object that are remembered for the history of a violation.
const FILLS: usize = 24;
/// Misses that wait to be filled; more would only make their tokens old.
const MISSED: usize = 24;
/// Commits that readers may present.
const RECENT: usize = 64;
/// Within this a server that is up answers a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// A commit that a reader may present, and an object that it changed.
#[derive(Debug, Clone, Copy)]
pub struct Recent {
    /// Number of the object.
    pub object: usize,
    /// At or behind the end of the commit.
    pub commit: AtLeast,
}

/// A fault and when it was.
#[derive(Debug, Clone, Copy)]
pub struct Incident {
    /// What it was.
    pub kind: Kind,
    /// Before it began.
    pub from: Moment,
    /// After it had ended; the far future while it lasts.
    pub to: Moment,
}

/// What all connections share.
pub struct World {
    pub options: Options,
    pub mix: Mix,
    pub schema: Schema,
    pub clock: Clock,
    pub judge: RefCell<Judge>,
    pub report: RefCell<Report>,
    pub postgres_url: String,
    pub redis_url: String,
    pub standby: RefCell<Option<Standby>>,
    /// Held for reading by whoever changes rows of a table, and for writing by whoever empties it.
    pub emptying: Vec<tokio::sync::RwLock<()>>,
    /// The rows as they are, for the connection that changes them.
    pub rows: RefCell<Vec<Vec<Option<RowState>>>>,
    /// Grows before and after whatever makes Redis forget or go back.
    pub redis_generation: Cell<u64>,
    /// For each tag of the schema: grows before and after its key is deleted.
    pub evicted: RefCell<Vec<u64>>,
    /// Commits that have just returned.
    pub recent: RefCell<VecDeque<Recent>>,
    /// The last fills of each object.
    pub fills: RefCell<Vec<VecDeque<Fill>>>,
    /// Misses that wait for somebody to fill them.
    pub missed: RefCell<VecDeque<Missed>>,
    pub incidents: RefCell<Vec<Incident>>,
    /// Held while the schema is not as it was in the beginning, or while it may be lost what is done to it.
    pub changing: tokio::sync::Mutex<()>,
    /// Grows when commits that have returned are lost, before and after.
    pub timeline: Cell<u64>,
    /// What is of this epoch or an earlier one has positions of a history that is no longer true.
    pub void_epoch: RefCell<String>,
    version: Cell<u64>,
    over: Cell<bool>,
}

impl World {
    pub fn new(options: Options, schema: Schema, stack: &Stack, standby: Option<Standby>) -> World {
        let tables = schema.tables.len();
        World {
            mix: options.profile.mix(),
            clock: Clock::start(),
            judge: RefCell::new(Judge::new(&schema)),
            report: RefCell::new(Report { seed: options.seed, ..Report::default() }),
            postgres_url: stack.app_postgres_url(),
            redis_url: stack.app_redis_url(),
            standby: RefCell::new(standby),
            emptying: (0..tables).map(|_| tokio::sync::RwLock::new(())).collect(),
            rows: RefCell::new(vec![vec![None; KEYS]; tables]),
            redis_generation: Cell::new(0),
            evicted: RefCell::new(vec![0; schema.tags.len()]),
            recent: RefCell::default(),
            fills: RefCell::new(schema.objects.iter().map(|_| VecDeque::new()).collect()),
            missed: RefCell::default(),
            incidents: RefCell::default(),
            changing: tokio::sync::Mutex::default(),
            timeline: Cell::new(0),
            void_epoch: RefCell::default(),
            version: Cell::new(0),
            over: Cell::new(false),
            options,
            schema,
        }
    }

    /// A counter for a change.
    pub fn next_version(&self) -> u64 {
        self.version.set(self.version.get() + 1);
        self.version.get()
    }

    /// Redis is about to forget or to go back, or has done so.
    pub fn redis_goes_back(&self) {
        self.redis_generation.set(self.redis_generation.get() + 1);
    }

    /// Commits that have returned are about to be lost, or have been.
    pub fn commits_are_lost(&self) {
        self.timeline.set(self.timeline.get() + 1);
        self.recent.borrow_mut().clear();
    }

    /// Whether the rows may not be what they were when their writers last saw them.
    pub fn is_losing_commits(&self) -> bool {
        !self.timeline.get().is_multiple_of(2)
    }

    /// Whether a position in this epoch is one of the history that is known.
    pub fn vouches(&self, epoch: &str) -> bool {
        !self.is_losing_commits() && *epoch > **self.void_epoch.borrow()
    }

    /// Whether there has been a violation after which the run is to end.
    pub fn has_found(&self) -> bool {
        (self.options.broken.is_some() || self.options.stop_at_violation) && self.report.borrow().violation_count > 0
    }

    /// Whether there is no more to do; looked at between faults.
    pub fn is_done(&self) -> bool {
        let late = |time: Duration| self.clock.now() >= time.as_nanos() as Moment;
        let report = self.report.borrow();
        let enough = report.checked >= self.options.reads
            && (!self.options.every_fault || report.fault_count() >= self.options.faults.len() as u64);
        enough || self.has_found() || self.options.time.is_some_and(late)
    }

    /// All faults are mended: the connections end.
    pub fn end(&self) {
        self.over.set(true);
    }

    pub fn is_over(&self) -> bool {
        self.over.get()
    }

    /// Sleeps, but not beyond the end of the run by much.
    pub async fn pause(&self, time: Duration) {
        let until = tokio::time::Instant::now() + time;
        while !self.is_over() && tokio::time::Instant::now() < until {
            let step = until.duration_since(tokio::time::Instant::now());
            tokio::time::sleep(step.min(Duration::from_millis(100))).await;
        }
    }

    /// A connection to PostgreSQL, however long it takes. After the end of the run too: outcomes may still have to be asked for.
    pub async fn postgres(&self) -> Client {
        loop {
            if let Some(client) = connect(&self.postgres_url).await {
                return client;
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    /// A connection to the standby, if it takes one now.
    pub async fn standby(&self) -> Option<Client> {
        let url = self.standby.borrow().as_ref()?.url();
        connect(&url).await
    }

    /// A connection to Redis, however long it takes; nothing when the run is over.
    pub async fn redis(&self) -> Option<Cache> {
        while !self.is_over() {
            if let Ok(client) = redis::Client::open(&*self.redis_url)
                && let Ok(connection) = client.get_multiplexed_async_connection().await
            {
                return Some(Cache::new(connection));
            }
            tokio::time::sleep(RETRY).await;
        }
        None
    }

    /// Remembers a commit that readers may present. Of one that may be among those that are being lost, a position tells nothing.
    pub fn returned(&self, object: usize, commit: AtLeast) {
        if self.is_losing_commits() {
            return;
        }
        let mut recent = self.recent.borrow_mut();
        if recent.len() == RECENT {
            recent.pop_front();
        }
        recent.push_back(Recent { object, commit });
    }

    /// Somebody is to fill this; if too much waits already, the next reader will miss it again.
    pub fn miss(&self, missed: Missed) {
        let mut waiting = self.missed.borrow_mut();
        if waiting.len() < MISSED && !waiting.iter().any(|other| other.object == missed.object) {
            waiting.push_back(missed);
        }
    }

    /// Remembers a fill.
    pub fn filled(&self, object: usize, fill: Fill) {
        let fills = &mut self.fills.borrow_mut()[object];
        if fills.len() == FILLS {
            fills.pop_front();
        }
        fills.push_back(fill);
    }
}

async fn connect(url: &str) -> Option<Client> {
    let connecting = tokio::time::timeout(CONNECT_TIMEOUT, tokio_postgres::connect(url, NoTls)).await;
    let (client, connection) = connecting.ok()?.ok()?;
    tokio::spawn(connection);
    Some(client)
}

//! Writers and readers at work while a test does harm: every hit is compared with the history of what was committed.

use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;
use tokio_postgres::NoTls;

use crate::cache::{Cache, GetOptions, Put};
use crate::stack::Stack;
use crate::wait::{Lsn, lsn};

/// Rows of the load's table; few, so that fills and commits meet.
const ROWS: usize = 16;
/// One writer owns every second row, so the values of a row rise and their order is known.
const WRITERS: usize = 2;
const READERS: usize = 2;
/// Values of each timeline of the server begin at a multiple of this, so that no value that a failover lost comes again.
const TIMELINE: i64 = 1_000_000_000;
/// A server that is down is tried again after this.
const RETRY: Duration = Duration::from_millis(20);
/// Redis counts whole milliseconds.
const CLOCK_GRAIN: Duration = Duration::from_millis(2);
const TTL: Duration = Duration::from_secs(600);

/// Connections that write, read and fill until they are stopped. Faults of the servers are borne; a wrong hit is not.
#[derive(Debug)]
pub struct Load {
    shared: Arc<Shared>,
    tasks: Vec<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    postgres_url: String,
    redis_url: String,
    max_lag: Duration,
    stop: AtomicBool,
    /// The commits of each row, in order.
    history: Vec<Mutex<Vec<Commit>>>,
    suspects: Mutex<Vec<Suspect>>,
    hits: AtomicU64,
    fills: AtomicU64,
    refused: AtomicU64,
}

/// A commit that has returned.
#[derive(Debug, Clone, Copy)]
struct Commit {
    /// When it returned.
    at: Instant,
    /// What it found. Another value than the last one that was committed, after a failover that lost commits.
    before: i64,
    /// What it wrote.
    value: i64,
    /// Before its end.
    position: Lsn,
}

impl Commit {
    /// The timeline of the server that it was made on.
    fn timeline(&self) -> i64 {
        self.value / TIMELINE
    }
}

/// A hit on a value that had been replaced for too long, unless the commit that replaced it was lost since.
#[derive(Debug, Clone, Copy)]
struct Suspect {
    row: usize,
    asked: Instant,
    value: i64,
    /// The commit that replaced it, by its place in the history.
    replaced_by: usize,
}

impl Load {
    /// The table that the load writes: every price starts at 0 and rises, unless a failover loses commits.
    pub const SCHEMA: &str = "CREATE TABLE products (id int PRIMARY KEY, price bigint NOT NULL DEFAULT 0);
         INSERT INTO products (id) SELECT generate_series(0, 15); SELECT cachetag.track('products', 'product:{id}')";

    /// Starts the connections. `max_lag` is the daemon's: no hit may be older.
    pub fn start(stack: &Stack, max_lag: Duration) -> Load {
        let shared = Arc::new(Shared {
            postgres_url: stack.app_postgres_url(),
            redis_url: stack.app_redis_url(),
            max_lag,
            stop: AtomicBool::new(false),
            history: (0..ROWS).map(|_| Mutex::default()).collect(),
            suspects: Mutex::default(),
            hits: AtomicU64::new(0),
            fills: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        });
        let writers = (0..WRITERS).map(|first| tokio::spawn(shared.clone().write(first)));
        let readers = (0..READERS).map(|first| tokio::spawn(shared.clone().read(first)));
        Load { tasks: writers.chain(readers).collect(), shared }
    }

    /// Hits so far.
    pub fn hits(&self) -> u64 {
        self.shared.hits.load(Relaxed)
    }

    /// Stored fills so far.
    pub fn fills(&self) -> u64 {
        self.shared.fills.load(Relaxed)
    }

    /// Commits so far whose COMMIT has returned.
    pub fn commits(&self) -> u64 {
        self.shared.history.iter().map(|row| row.lock().expect("history").len() as u64).sum()
    }

    /// Waits until this many more of each have happened.
    pub async fn progress(&self, commits: u64, hits: u64) {
        let (commits, hits) = (self.commits() + commits, self.hits() + hits);
        crate::eventually("the load's progress", Duration::from_secs(60), async || {
            self.check();
            (self.commits() >= commits && self.hits() >= hits).then_some(())
        })
        .await;
    }

    /// Panics if any hit was wrong.
    pub fn check(&self) {
        let suspects = self.shared.suspects.lock().expect("suspects");
        let wrong = suspects.iter().find(|&suspect| self.shared.is_wrong(suspect) == Some(true));
        assert!(
            wrong.is_none(),
            "{}, one of {} of the kind",
            self.shared.describe(wrong.expect("one")),
            suspects.len()
        );
    }

    /// Ends the connections, lets the cache catch up and compares every entry with its row. Returns for each row a position
    /// before the end of its last commit.
    pub async fn finish(mut self, stack: &Stack) -> Vec<Lsn> {
        self.shared.stop.store(true, Relaxed);
        for task in std::mem::take(&mut self.tasks) {
            task.await.expect("a connection of the load");
        }
        stack.wait_caught_up_now().await;
        self.check();
        let shared = self.shared.clone();
        let suspects = shared.suspects.lock().expect("suspects").clone();
        for suspect in suspects.iter().filter(|suspect| shared.is_wrong(suspect).is_none()) {
            // Nobody has written the row since: what is there tells what a failover has left.
            let price = stack.value(&format!("SELECT price FROM products WHERE id = {}", suspect.row)).await;
            assert_eq!(price, suspect.value.to_string(), "{}", shared.describe(suspect));
        }
        for row in 0..ROWS {
            let price = stack.value(&format!("SELECT price FROM products WHERE id = {row}")).await;
            let got = stack.get(&entry(row)).await;
            assert!(
                !got.is_hit() || got.text() == Some(&*price),
                "row {row} is {price} in the end, the cache has {got:?}"
            );
        }
        let counts = [&shared.hits, &shared.fills, &shared.refused].map(|count| count.load(Relaxed));
        println!("load: {} hits, {} fills, {} refused", counts[0], counts[1], counts[2]);
        shared.history.iter().map(|row| row.lock().expect("history").last().map_or(0, |last| last.position)).collect()
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        self.shared.stop.store(true, Relaxed);
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Shared {
    fn stopped(&self) -> bool {
        self.stop.load(Relaxed)
    }

    async fn write(self: Arc<Self>, first: usize) {
        while !self.stopped() {
            let _ = self.write_until_error(first).await;
            tokio::time::sleep(RETRY).await;
        }
    }

    async fn write_until_error(&self, first: usize) -> Result<(), tokio_postgres::Error> {
        let (client, connection) = tokio_postgres::connect(&self.postgres_url, NoTls).await?;
        tokio::spawn(connection);
        let update = format!(
            "UPDATE products SET price = greatest(price, {TIMELINE} * ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::bigint) + 1
             FROM (SELECT id AS found, price AS before FROM products WHERE id = $1 FOR UPDATE) AS old
             WHERE id = found RETURNING before, price, pg_current_wal_insert_lsn()::text"
        );
        let update = client.prepare(&update).await?;
        for row in (first..ROWS).step_by(WRITERS).cycle() {
            if self.stopped() {
                break;
            }
            let changed = client.query_one(&update, &[&(row as i32)]).await?;
            let position = lsn(changed.get(2));
            let commit = Commit { at: Instant::now(), before: changed.get(0), value: changed.get(1), position };
            self.history[row].lock().expect("history").push(commit);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(())
    }

    async fn read(self: Arc<Self>, first: usize) {
        while !self.stopped() {
            let _ = self.read_until_error(first).await;
            tokio::time::sleep(RETRY).await;
        }
    }

    async fn read_until_error(&self, first: usize) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let (client, connection) = tokio_postgres::connect(&self.postgres_url, NoTls).await?;
        tokio::spawn(connection);
        let select = client.prepare("SELECT price FROM products WHERE id = $1").await?;
        let redis = redis::Client::open(&*self.redis_url)?;
        let mut cache = Cache::new(redis.get_multiplexed_async_connection().await?);
        let no_lease = GetOptions { no_lease: true, ..GetOptions::default() };
        for row in (0..ROWS).cycle().skip(first) {
            if self.stopped() {
                break;
            }
            let asked = Instant::now();
            let got = cache.get_with(&entry(row), &no_lease).await?;
            if got.is_hit() {
                self.judge(row, asked, got.text().and_then(|text| text.parse().ok()).unwrap_or(-1));
            } else if got.is_miss() {
                let price: i64 = client.query_one(&select, &[&(row as i32)]).await?.get(0);
                let tags = [format!("product:{row}")];
                match cache.put(&entry(row), &price.to_string(), &got.token, TTL, &tags).await? {
                    Put::Stored(_) => self.fills.fetch_add(1, Relaxed),
                    Put::Refused { .. } => self.refused.fetch_add(1, Relaxed),
                };
            }
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    /// A hit must have been true at some moment within `max_lag` before it was asked for.
    fn judge(&self, row: usize, asked: Instant, value: i64) {
        self.hits.fetch_add(1, Relaxed);
        let history = self.history[row].lock().expect("history");
        let Some(bound) = asked.checked_sub(self.max_lag + CLOCK_GRAIN) else { return };
        let settled = history.partition_point(|commit| commit.at <= bound);
        if let Some(replaced_by) = settled.checked_sub(1)
            && value < history[replaced_by].value
        {
            self.suspects.lock().expect("suspects").push(Suspect { row, asked, value, replaced_by });
        }
    }

    /// Whether the hit was wrong; unknown until the row has been written once more.
    fn is_wrong(&self, suspect: &Suspect) -> Option<bool> {
        let history = self.history[suspect.row].lock().expect("history");
        let replaced = history[suspect.replaced_by];
        let later = &history[suspect.replaced_by + 1..];
        // The first commit on a promoted server has seen what the failover left of the row.
        match later.iter().find(|commit| commit.timeline() > replaced.timeline()) {
            Some(first) => Some(suspect.value != first.before),
            None => later.iter().any(|commit| commit.at > suspect.asked).then_some(true),
        }
    }

    fn describe(&self, suspect: &Suspect) -> String {
        let replaced = self.history[suspect.row].lock().expect("history")[suspect.replaced_by];
        let age = suspect.asked.duration_since(replaced.at);
        let (row, value, newer) = (suspect.row, suspect.value, replaced.value);
        format!(
            "row {row}: hit {value}, but {newer} was committed {age:?} before it was asked for (allowed: {:?})",
            self.max_lag
        )
    }
}

fn entry(row: usize) -> String {
    format!("load:{row}")
}

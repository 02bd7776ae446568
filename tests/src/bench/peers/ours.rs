//! cachetag's side of what the peers are asked for, through the public interface in Redis.

use std::ops::Range;
use std::thread;
use std::time::{Duration, Instant};

use redis::{cmd, pipe};
use tokio::task::spawn_blocking;
use tokio_postgres::Client;

use super::{Race, value};
use crate::bench::latency::patient;
use crate::{Cache, GetOptions, PutOptions, Random, Stack, eventually};

/// The row that belongs to a group of entries; far from those that are raced for.
pub(super) const GROUP_ROWS: i32 = 2_000_000_000;
/// Longer than a run.
const TTL: Duration = Duration::from_secs(3600);
/// Entries that one pipeline fills.
const FILLED_AT_ONCE: u32 = 500;
/// What a reader needs after its query, and a writer before its own, at most.
const DELAY: Duration = Duration::from_millis(2);
/// A bump that takes this long is none.
const PATIENCE: Duration = Duration::from_secs(30);

/// Connections of a reader and of a writer.
pub(super) struct Ours {
    cache: Cache,
    reader: Client,
    writer: Client,
    random: Random,
}

/// What came of cachetag's race, and that its fills are no empty motions.
pub(super) struct OurRace {
    pub(super) race: Race,
    /// Fills that were not refused during the race.
    pub(super) stored: u32,
    /// Entries that were there after another fill, without a race.
    pub(super) refilled: u32,
}

/// What one invalidation took.
pub(super) struct Invalidated {
    /// From the acknowledged COMMIT to the first answer that is no hit, in milliseconds.
    pub(super) ms: f64,
    /// Of `cachetag_apply` in Redis, in microseconds.
    pub(super) apply: f64,
}

impl Ours {
    pub(super) async fn connect(stack: &Stack) -> Ours {
        let cache = Cache::new(patient(&stack.redis_url()).await);
        let (reader, writer) = (stack.connect().await, stack.connect().await);
        Ours { cache, reader, writer, random: Random::new(1) }
    }

    /// Entries with the tags that the peers' have.
    pub(super) async fn fill(&mut self, group: u32, entries: u32) {
        for from in (0..entries).step_by(FILLED_AT_ONCE as usize) {
            let some = from..entries.min(from + FILLED_AT_ONCE);
            // Refused until the watermark has passed the last bump.
            eventually("the fill", PATIENCE, async || self.try_fill(group, some.clone()).await.then_some(())).await;
        }
    }

    async fn try_fill(&mut self, group: u32, entries: Range<u32>) -> bool {
        let options = GetOptions { no_lease: true, ..GetOptions::default() };
        let token = self.cache.get_with(&key(group, entries.start), &options).await.expect("Redis answers").token;
        let mut puts = pipe();
        for i in entries {
            let put = puts.cmd("FCALL").arg("cachetag_put").arg(1).arg(self.cache.key("e", &key(group, i)));
            put.arg(value(0)).arg(&token).arg(TTL.as_millis() as u64).arg("TAGS").arg(4);
            put.arg(format!("product:{}", 1_000_000 + i)).arg(format!("category:{group}"));
            put.arg(format!("brand:{group}")).arg("homepage");
        }
        let answers: Vec<Vec<String>> = puts.query_async(self.cache.connection()).await.expect("Redis answers");
        answers.iter().all(|answer| answer[0] == "stored")
    }

    /// Commits a change of the group's row and waits until an entry of the group is no longer a hit.
    pub(super) async fn invalidate(&mut self, group: u32) -> Invalidated {
        let key = key(group, 0);
        let options = GetOptions::default();
        assert!(self.cache.peek(&key, &options).await.expect("Redis answers").is_hit(), "the entry is there");
        watch_commands(&mut self.cache, 0).await;
        let row = GROUP_ROWS + group as i32;
        self.writer.execute("UPDATE products SET price = price + 1 WHERE id = $1", &[&row]).await.expect("UPDATE");
        let committed = Instant::now();
        while self.cache.peek(&key, &options).await.expect("Redis answers").is_hit() {
            assert!(committed.elapsed() < PATIENCE, "the commit invalidates nothing");
        }
        let ms = committed.elapsed().as_secs_f64() * 1e3;
        Invalidated { ms, apply: slowest(&mut self.cache, Some("cachetag_apply")).await }
    }

    /// Fill against commit, as `tests/peers/README.md` says; the writer only commits.
    pub(super) async fn race(&mut self, rounds: u32, max_lag: Duration) -> OurRace {
        let mut stored = 0;
        for product in 1..=rounds as i32 {
            let (reads, writes) = (self.random.up_to(DELAY), self.random.up_to(DELAY));
            let write = async {
                delay(writes).await;
                let update = "UPDATE products SET price = price + 1 WHERE id = $1";
                self.writer.execute(update, &[&product]).await.expect("UPDATE");
            };
            let (put, ()) = tokio::join!(self.miss_and_fill(product, reads), write);
            stored += u32::from(put);
        }
        tokio::time::sleep(max_lag).await;
        let mut race = Race { rounds, kept: 0, stale: 0 };
        for product in 1..=rounds as i32 {
            if let Some(is_true) = self.look(product, max_lag).await {
                race.kept += 1;
                race.stale += u32::from(!is_true);
            }
        }
        let mut refilled = 0;
        for product in 1..=rounds as i32 {
            self.miss_and_fill(product, Duration::ZERO).await;
            refilled += u32::from(self.look(product, max_lag).await == Some(true));
        }
        OurRace { race, stored, refilled }
    }

    /// Whether the value was stored.
    async fn miss_and_fill(&self, product: i32, after_query: Duration) -> bool {
        let (mut cache, name) = (self.cache.clone(), raced(product));
        let missed = cache.get(&name).await.expect("Redis answers");
        let value = value(self.price(product).await);
        delay(after_query).await;
        if missed.token.is_empty() {
            return false;
        }
        let options = PutOptions { lease: Some(missed.lease), ..PutOptions::default() };
        let tags = [format!("product:{product}")];
        let put = cache.put_with(&name, &value, &missed.token, TTL, &tags, &options).await;
        put.expect("Redis answers").is_stored()
    }

    /// Whether what a hit serves is true; none if there is no hit.
    async fn look(&self, product: i32, max_lag: Duration) -> Option<bool> {
        let options = GetOptions { max_lag: Some(max_lag), no_lease: true, ..GetOptions::default() };
        let found = self.cache.clone().get_with(&raced(product), &options).await.expect("Redis answers");
        let price = self.price(product).await;
        found.is_hit().then(|| found.text() == Some(&value(price)))
    }

    async fn price(&self, product: i32) -> i32 {
        let row = self.reader.query_one("SELECT price FROM products WHERE id = $1", &[&product]).await;
        row.expect("the row").get(0)
    }

    /// Redis remembers the commands from now on that take at least so many microseconds.
    pub(super) async fn watch_commands(&mut self, microseconds: u32) {
        watch_commands(&mut self.cache, microseconds).await;
    }

    /// The longest command since then, in microseconds; 0 if none was long enough.
    pub(super) async fn longest_command(&mut self) -> f64 {
        slowest(&mut self.cache, None).await
    }
}

fn raced(product: i32) -> String {
    format!("race:{product}")
}

fn key(group: u32, entry: u32) -> String {
    format!("page:{group}:{entry}")
}

/// In a thread: the runtime's timer is no finer than a millisecond, and a busy wait would keep the servers from their processor.
async fn delay(time: Duration) {
    spawn_blocking(move || thread::sleep(time)).await.expect("a thread sleeps");
}

/// Redis remembers the commands from now on that take at least so many microseconds.
pub(in crate::bench) async fn watch_commands(cache: &mut Cache, microseconds: u32) {
    let mut calls = pipe();
    calls.cmd("CONFIG").arg("SET").arg("slowlog-max-len").arg(100_000).ignore();
    calls.cmd("CONFIG").arg("SET").arg("slowlog-log-slower-than").arg(microseconds).ignore();
    calls.cmd("SLOWLOG").arg("RESET").ignore();
    calls.exec_async(cache.connection()).await.expect("Redis answers");
}

/// The longest remembered command, or call of a function, in microseconds. Redis then forgets.
pub(in crate::bench) async fn slowest(cache: &mut Cache, function: Option<&str>) -> f64 {
    cmd("CONFIG")
        .arg("SET")
        .arg("slowlog-log-slower-than")
        .arg(-1)
        .exec_async(cache.connection())
        .await
        .expect("CONFIG");
    type Entry = (u64, u64, u64, Vec<String>, String, String);
    let mut read = cmd("SLOWLOG");
    let entries: Vec<Entry> = read.arg("GET").arg(-1).query_async(cache.connection()).await.expect("SLOWLOG");
    let of_function = |entry: &&Entry| function.is_none_or(|name| entry.3.get(1).is_some_and(|word| word == name));
    entries.iter().filter(of_function).map(|entry| entry.2).max().unwrap_or(0) as f64
}

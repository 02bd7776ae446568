//! Latency under an open-loop load: how long after the acknowledged commit its tag is bumped, and how long after it the watermark covers it,
//! beside the moment at which a bare replication client has received the same commit.
//!
//! Every transaction updates another product, so that its id names the commit. The bump is seen by a subscriber that is blocked in XREAD on the
//! log: no polling, one wake-up a batch. The watermark can only be polled, so it is measured in a run of its own.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use cachetag_invalidator::source::pgoutput::{Message, Parser, Value};
use cachetag_invalidator::source::{ConnectOptions, Frame, ReplicationConnection, StartOptions};
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, cmd};
use tokio::time::{sleep, timeout};

use super::{Plan, Table, quantile, runtime, shop};
use crate::{Lsn, Stack, lsn_of_version};

/// Connections that share the load.
const WRITERS: u32 = 8;
/// Before anything counts.
const WARM_UP: Duration = Duration::from_secs(2);
/// The slot of the bare client.
const BARE_SLOT: &str = "bare";
/// How often the watermark is looked at where it is measured.
const WATERMARK_POLL: Duration = Duration::from_micros(500);
/// Between two PINGs.
const PING_INTERVAL: Duration = Duration::from_millis(10);
/// More than the last commit takes to arrive anywhere.
const PATIENCE: Duration = Duration::from_secs(20);

/// A record of the log: its id, and its fields with their values.
type Record = (String, Vec<String>);

/// When something was first seen, by product.
type Times = Vec<Option<Instant>>;

/// A change as the bare client received it.
#[derive(Clone, Copy)]
struct Received {
    at: Instant,
    end: Lsn,
}

/// Everything that was seen in one run.
struct Seen {
    acknowledged: Times,
    bumped: Times,
    received: Vec<Option<Received>>,
    /// Each new watermark.
    watermarks: Vec<(Instant, Lsn)>,
    pings: Vec<f64>,
    first_counted: u32,
}

/// Runs the load twice: bumps, then the watermark.
pub(super) async fn measure(plan: &Plan, table: &mut Table) {
    let stack = Stack::start(shop::stack()).await;
    stack.sql(&format!("SELECT pg_create_logical_replication_slot('{BARE_SLOT}', 'pgoutput')")).await;
    let mut seen = run(plan, &stack, false);
    let mut bumped = seen.latencies(|id| seen.bumped[id]);
    let mut received = seen.latencies(|id| seen.received[id].map(|received| received.at));
    let ping = quantile(&mut seen.pings, 0.5);
    for (name, share) in [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999)] {
        let (ours, bare) = (quantile(&mut bumped, share), quantile(&mut received, share));
        let ratio = match name {
            "p99" => format!("{:.2} (<= 1)", ours / (1.5 * bare + ping)),
            _ => String::new(),
        };
        let what = format!("latency: commit to bump, {name}");
        table.row(&what, format!("{ours:.2} ms"), format!("bare client {bare:.2} ms"), ratio);
    }
    table.row("  Redis PING, p50", format!("{ping:.2} ms"), String::new(), String::new());

    let seen = run(plan, &stack, true);
    let mut covered = seen.latencies(|id| {
        let end = seen.received[id]?.end;
        let first = seen.watermarks.partition_point(|(_, watermark)| *watermark < end);
        seen.watermarks.get(first).map(|(at, _)| *at)
    });
    let [p50, p99, p999] = [0.5, 0.99, 0.999].map(|share| quantile(&mut covered, share));
    table.row(
        "latency: commit to watermark",
        format!("p50 {p50:.2}, p99 {p99:.2}, p99.9 {p999:.2} ms"),
        String::new(),
        String::new(),
    );
    table.note(format!(
        "latency: {} transactions/s for {} s, open loop on {WRITERS} connections, from the acknowledged COMMIT; the p99's ratio is bump / (1.5 x bare client + PING)",
        plan.rate, plan.seconds
    ));
    table.note("latency: bumps are seen by a client blocked in XREAD on the log; the watermark is polled every 0.5 ms, in a run of its own");
}

impl Seen {
    /// Milliseconds from the acknowledgement, of the commits that count.
    fn latencies(&self, at: impl Fn(usize) -> Option<Instant>) -> Vec<f64> {
        let mut missing = 0;
        let mut latencies = Vec::new();
        for (id, acknowledged) in self.acknowledged.iter().enumerate().skip(self.first_counted as usize) {
            match (acknowledged, at(id)) {
                (Some(acknowledged), Some(at)) => latencies.push(milliseconds(*acknowledged, at)),
                (Some(_), None) => missing += 1,
                (None, _) => {}
            }
        }
        assert_eq!(missing, 0, "commits that nobody saw");
        latencies
    }
}

/// From one moment to another, negative if that came first: the stream may be quicker than the answer to COMMIT.
fn milliseconds(from: Instant, to: Instant) -> f64 {
    match to.checked_duration_since(from) {
        Some(later) => later.as_secs_f64() * 1e3,
        None => -(from - to).as_secs_f64() * 1e3,
    }
}

/// One run: load, subscriber, bare client and pings have a thread each.
fn run(plan: &Plan, stack: &Stack, watch_watermark: bool) -> Seen {
    let commits = (plan.rate * (plan.seconds + WARM_UP.as_secs() as u32)).min(shop::PRODUCTS);
    let done = Arc::new(AtomicBool::new(false));
    let (postgres, redis) = (stack.postgres_url(), stack.redis_url());
    thread::scope(|scope| {
        let bumped = scope.spawn(|| runtime().block_on(subscriber(&redis, commits, watch_watermark)));
        let received = scope.spawn(|| runtime().block_on(bare_client(&postgres, commits)));
        let watched = scope.spawn(|| runtime().block_on(watcher(&redis, watch_watermark, &done)));
        // Everybody is connected by the time that counts.
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let postgres = &postgres;
                scope.spawn(move || runtime().block_on(load(postgres, writer, commits, plan.rate)))
            })
            .collect();
        let mut acknowledged = vec![None; commits as usize + 1];
        for writer in writers {
            for (id, at) in writer.join().expect("a writer") {
                acknowledged[id as usize] = Some(at);
            }
        }
        let (bumped, received) = (bumped.join().expect("the subscriber"), received.join().expect("the bare client"));
        done.store(true, Ordering::Relaxed);
        let (watermarks, pings) = watched.join().expect("the watcher");
        let first_counted = plan.rate * WARM_UP.as_secs() as u32;
        Seen { acknowledged, bumped, received, watermarks, pings, first_counted }
    })
}

/// One connection's share of the load, each transaction at its own time whatever became of those before.
async fn load(postgres: &str, writer: u32, commits: u32, rate: u32) -> Vec<(u32, Instant)> {
    let (client, connection) =
        tokio_postgres::connect(postgres, tokio_postgres::NoTls).await.expect("PostgreSQL answers");
    tokio::spawn(connection);
    let update = client.prepare("UPDATE products SET price = price + 1 WHERE id = $1").await.expect("prepared");
    let started = Instant::now();
    let mut acknowledged = Vec::new();
    for id in (1..=commits).filter(|id| id % WRITERS == writer) {
        let due = started + Duration::from_secs_f64(f64::from(id) / f64::from(rate));
        // The runtime's timer counts in milliseconds: what is left of one is waited for by the thread.
        thread::sleep(due.saturating_duration_since(Instant::now()));
        client.execute(&update, &[&(id as i32)]).await.expect("the update");
        acknowledged.push((id, Instant::now()));
    }
    acknowledged
}

/// Reads the log as it grows, until every commit has come, and in the watermark's run no more than that.
async fn subscriber(redis: &str, commits: u32, idle: bool) -> Times {
    let mut bumped = vec![None; commits as usize + 1];
    if idle {
        return bumped;
    }
    let mut connection = patient(redis).await;
    let mut last = "0-0".to_owned();
    let mut missing = commits;
    while missing > 0 {
        let mut read = cmd("XREAD");
        read.arg("COUNT").arg(1000).arg("BLOCK").arg(PATIENCE.as_millis() as u64);
        read.arg("STREAMS").arg("{ct}:log").arg(&last);
        let reply: Option<Vec<(String, Vec<Record>)>> =
            read.query_async(&mut connection).await.expect("the log can be read");
        let at = Instant::now();
        let Some(streams) = reply else { panic!("{missing} commits were not bumped") };
        for (id, fields) in streams.into_iter().flat_map(|(_, records)| records) {
            let tags = fields.iter().flat_map(|field| field.lines());
            for id in tags.filter_map(|tag| tag.strip_prefix("product:")?.parse::<usize>().ok()) {
                if bumped[id].replace(at).is_none() {
                    missing -= 1;
                }
            }
            last = id;
        }
    }
    bumped
}

/// A connection to Redis that waits for answers as long as they take.
pub(super) async fn patient(redis: &str) -> MultiplexedConnection {
    let client = redis::Client::open(redis).expect("the address of Redis");
    let options = AsyncConnectionConfig::new().set_response_timeout(None);
    client.get_multiplexed_async_connection_with_config(&options).await.expect("Redis answers")
}

/// What a client does that only receives.
async fn bare_client(postgres: &str, commits: u32) -> Vec<Option<Received>> {
    let options = ConnectOptions::parse(postgres).expect("the address of PostgreSQL");
    let mut connection = ReplicationConnection::connect(&options).await.expect("PostgreSQL answers");
    connection.start_replication(&StartOptions::new(BARE_SLOT)).await.expect("the stream begins");
    let mut parser = Parser::new();
    let mut received = vec![None; commits as usize + 1];
    let (mut missing, mut position, mut told) = (commits, Lsn::default(), Instant::now());
    let mut changed = Vec::new();
    while missing > 0 {
        timeout(PATIENCE, connection.ready()).await.expect("the stream goes on").expect("the stream goes on");
        while let Some(frame) = connection.try_next_frame().expect("a frame") {
            let Frame::XLogData(data) = frame else { continue };
            match parser.parse(&data.data).expect("a message") {
                Message::Update(update) => {
                    if let Some(Value::Text(id)) = update.new.get(0) {
                        changed.push(std::str::from_utf8(id).expect("text").parse::<usize>().expect("a number"));
                    }
                }
                Message::Commit(commit) => {
                    position = commit.end_lsn.0;
                    for id in changed.drain(..) {
                        if received[id].replace(Received { at: Instant::now(), end: position }).is_none() {
                            missing -= 1;
                        }
                    }
                }
                _ => {}
            }
        }
        if told.elapsed() > Duration::from_secs(1) {
            let at = cachetag_core::Lsn(position);
            connection.send_status(at, at, at, false).await.expect("the status is sent");
            told = Instant::now();
        }
    }
    let at = cachetag_core::Lsn(position);
    connection.send_status(at, at, at, false).await.expect("the status is sent");
    connection.finish().await.expect("the stream ends");
    received
}

/// Round trips to Redis all along, and the watermark if it is wanted.
async fn watcher(redis: &str, watermark: bool, done: &AtomicBool) -> (Vec<(Instant, Lsn)>, Vec<f64>) {
    let mut connection = patient(redis).await;
    let (mut watermarks, mut pings) = (Vec::<(Instant, Lsn)>::new(), Vec::new());
    while !done.load(Ordering::Relaxed) {
        if watermark {
            let version: Option<String> =
                cmd("HGET").arg("{ct}:w").arg("watermark").query_async(&mut connection).await.expect("Redis answers");
            let position = version.map_or(0, |version| lsn_of_version(&version));
            if watermarks.last().is_none_or(|(_, last)| *last < position) {
                watermarks.push((Instant::now(), position));
            }
            thread::sleep(WATERMARK_POLL);
        } else {
            let asked = Instant::now();
            cmd("PING").exec_async(&mut connection).await.expect("Redis answers");
            pings.push(milliseconds(asked, Instant::now()));
            sleep(PING_INTERVAL).await;
        }
    }
    // What is on the way at the end.
    let deadline = Instant::now() + Duration::from_millis(500);
    while watermark && Instant::now() < deadline {
        let version: Option<String> =
            cmd("HGET").arg("{ct}:w").arg("watermark").query_async(&mut connection).await.expect("Redis answers");
        let position = version.map_or(0, |version| lsn_of_version(&version));
        if watermarks.last().is_none_or(|(_, last)| *last < position) {
            watermarks.push((Instant::now(), position));
        }
        sleep(Duration::from_millis(1)).await;
    }
    (watermarks, pings)
}

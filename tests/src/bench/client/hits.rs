//! Hits in memory beside moka's, and hits from Redis beside GET.

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::AtomicU32;
use std::time::{Duration, Instant};

use cachetag_client::feed::{Feed, FeedOptions, Key, Touch};
use cachetag_client::l2::{Check, RawEntry, Shard, Terms, Timeouts, Verdict};
use cachetag_client::observe::Layer;
use cachetag_client::{Cache, Cached, Load};
use redis::aio::MultiplexedConnection;
use redis::{cmd, pipe};

use super::super::{Plan, Table, latency::patient};
use super::{MAX_LAG, PATIENCE, PAYLOAD, cache, median, page};
use crate::Stack;

/// Values that are read from Redis in turn.
const PAGES: u32 = 1_000;
/// Reads in one pipeline.
const PIPELINED: u32 = 100;
/// How often the sides take turns.
const TURNS: u32 = 15;
/// Between turns the feed has its own.
const BREATH: Duration = Duration::from_millis(5);

fn keys(pages: u32) -> Vec<String> {
    (0..pages).map(|i| format!("page:{i}")).collect()
}

/// `get_or_load` of what is in memory, beside moka's `get` and `get_with` of the same values.
pub(super) async fn in_memory(plan: &Plan, table: &mut Table, stack: &Stack, pages: u32) {
    let ours = cache(Cache::builder().redis(stack.redis_url())).await;
    let (loads, keys) = (Arc::new(AtomicU32::new(0)), keys(pages));
    let plain = moka::sync::Cache::<String, Arc<String>>::new(u64::from(pages) * 2);
    let coalescing = moka::future::Cache::<String, Arc<String>>::new(u64::from(pages) * 2);
    for key in &keys {
        page(&ours, key, &loads).await;
        plain.insert(key.clone(), Arc::new("x".repeat(PAYLOAD)));
        coalescing.insert(key.clone(), Arc::new("x".repeat(PAYLOAD))).await;
    }
    let reads = plan.hits / TURNS;
    let turn = || keys.iter().cycle().take(reads as usize);
    let (before, mut times) = (ours.snapshot().layer(Layer::L1).hits, [const { Vec::new() }; 3]);
    for _ in 0..TURNS {
        let started = Instant::now();
        for key in turn() {
            let none = |_: Load| async { Err::<String, _>(std::io::Error::other("not a hit")) };
            black_box(ours.get_or_load(key, none).await.expect("a hit"));
        }
        times[0].push(started.elapsed().as_nanos() as f64);
        let started = Instant::now();
        for key in turn() {
            black_box(plain.get(key.as_str()));
        }
        times[1].push(started.elapsed().as_nanos() as f64);
        let started = Instant::now();
        for key in turn() {
            black_box(coalescing.get_with_by_ref(key.as_str(), async { Arc::new("x".repeat(PAYLOAD)) }).await);
        }
        times[2].push(started.elapsed().as_nanos() as f64);
        tokio::time::sleep(BREATH).await;
    }
    let hits = ours.snapshot().layer(Layer::L1).hits - before;
    let missed = u64::from(TURNS * reads).saturating_sub(hits);
    if missed > 0 {
        table.note(format!("client: {missed} of {} reads of memory came from Redis", TURNS * reads));
    }
    let [ours, get, get_with] = times.map(|times| median(times) / f64::from(reads));
    let measured = || format!("{ours:.0} ns");
    let what = format!("client: a hit in memory, of {pages}");
    table.row(&what, measured(), format!("moka get {get:.0} ns"), format!("{:.2} (at most 2)", ours / get));
    let beside = format!("moka get_with, async {get_with:.0} ns");
    table.row("  beside", measured(), beside, format!("{:.2}", ours / get_with));
}

/// Hits right after a bump, each copy once: of a tag that only another process holds, which costs a hit nothing, and of one that a copy of this process holds,
/// after which each copy's tags are looked at again.
pub(super) async fn after_bumps(table: &mut Table, stack: &Stack, pages: u32) {
    let ours = cache(Cache::builder().redis(stack.redis_url())).await;
    let theirs = cache(Cache::builder().redis(stack.redis_url())).await;
    let (loads, keys) = (Arc::new(AtomicU32::new(0)), keys(pages));
    let plain = moka::sync::Cache::<String, Arc<String>>::new(u64::from(pages) * 2);
    for key in &keys {
        page(&ours, key, &loads).await;
        plain.insert(key.clone(), Arc::new("x".repeat(PAYLOAD)));
    }
    let writer = stack.connect().await;
    for (name, holder) in [("another process holds", &theirs), ("this process holds", &ours)] {
        let mut times = [const { Vec::new() }; 2];
        for _ in 0..TURNS {
            page(holder, "page:bumped", &loads).await;
            writer.batch_execute("SELECT cachetag.invalidate('product:bumped')").await.expect("a commit");
            let committed = Instant::now();
            while holder.get::<String>("page:bumped").await.is_some() {
                assert!(committed.elapsed() < PATIENCE, "the commit invalidates nothing");
                tokio::task::yield_now().await;
            }
            // The other feed hears of it now.
            tokio::time::sleep(BREATH).await;
            let started = Instant::now();
            for key in &keys {
                let none = |_: Load| async { Err::<String, _>(std::io::Error::other("not a hit")) };
                black_box(ours.get_or_load(key, none).await.expect("a hit"));
            }
            times[0].push(started.elapsed().as_nanos() as f64);
            let started = Instant::now();
            for key in &keys {
                black_box(plain.get(key.as_str()));
            }
            times[1].push(started.elapsed().as_nanos() as f64);
        }
        let [ours, get] = times.map(|times| median(times) / f64::from(pages));
        let what = format!("  of {pages}, after a bump of what {name}");
        table.row(&what, format!("{ours:.0} ns"), format!("moka get {get:.0} ns"), format!("{:.2}", ours / get));
    }
}

/// `get_many` without memory beside GET of the same bytes, both by a hundred.
pub(super) async fn from_redis(plan: &Plan, table: &mut Table, stack: &Stack) {
    let redis = stack.redis_url();
    let ours = cache(Cache::builder().redis(redis.as_str()).memory(0)).await;
    let shard = Shard::connect(&redis, "ct", Timeouts { connect: PATIENCE, response: PATIENCE }).await.expect("Redis");
    let feed = Feed::follow(&redis, FeedOptions::new()).expect("the address of Redis");
    assert!(feed.wait_live(PATIENCE).await, "the feed is not live");
    let (loads, keys) = (Arc::new(AtomicU32::new(0)), keys(PAGES));
    let mut plain = patient(&redis).await;
    for key in &keys {
        let page = page(&ours, key, &loads).await;
        let stored = serde_json::to_string(&*page).expect("JSON");
        cmd("SET").arg(format!("plain:{key}")).arg(stored).exec_async(&mut plain).await.expect("SET");
    }
    let pages: Vec<&[String]> = keys.chunks(PIPELINED as usize).collect();
    let rounds = (plan.reads / TURNS / PAGES).max(1) as usize * pages.len();
    let before = ours.snapshot().layer(Layer::L2).hits;
    let mut times = [const { Vec::new() }; 4];
    for _ in 0..TURNS {
        let started = Instant::now();
        for keys in pages.iter().cycle().take(rounds) {
            let load = |_| async { Err::<Vec<Option<String>>, _>(std::io::Error::other("not a hit")) };
            let found: Vec<Option<Cached<String>>> = ours.get_many(keys, load).await.expect("hits");
            black_box(found);
        }
        times[0].push(started.elapsed().as_secs_f64());
        let started = Instant::now();
        for keys in pages.iter().cycle().take(rounds) {
            black_box(get(&mut plain, keys).await);
        }
        times[1].push(started.elapsed().as_secs_f64());
        let started = Instant::now();
        for keys in pages.iter().cycle().take(rounds) {
            let decode = |bytes: &Vec<u8>| serde_json::from_slice(bytes).expect("JSON");
            black_box::<Vec<String>>(get(&mut plain, keys).await.iter().map(decode).collect());
        }
        times[2].push(started.elapsed().as_secs_f64());
        let started = Instant::now();
        for keys in pages.iter().cycle().take(rounds) {
            let terms = Terms { max_lag: Some(MAX_LAG), at_least: None };
            let found = shard.fast_many(keys, &terms, |_, entry| known(&feed, entry)).await.expect("Redis answers");
            assert!(found.iter().all(|found| found.verdict == Verdict::Hit), "hits");
            black_box(found);
        }
        times[3].push(started.elapsed().as_secs_f64());
    }
    let hits = ours.snapshot().layer(Layer::L2).hits - before;
    let reads = rounds * PIPELINED as usize;
    if hits < (reads * TURNS as usize) as u64 {
        table.note(format!("client: {hits} of {} reads of Redis were hits", reads * TURNS as usize));
    }
    let [ours, get, decoded, bytes] = times.map(|times| reads as f64 / median(times));
    let beside = || format!("GET {get:.0}/s");
    let bar = |rate: f64| format!("{:.2} (at least 0.5)", rate / get);
    table.row("client: hits from Redis as bytes, 100 pipelined", format!("{bytes:.0}/s"), beside(), bar(bytes));
    table.row("client: hits from Redis as values, 100 pipelined", format!("{ours:.0}/s"), beside(), bar(ours));
    let what = format!("GET, then JSON {decoded:.0}/s");
    table.row("  beside", format!("{ours:.0}/s"), what, format!("{:.2}", ours / decoded));
}

async fn get(plain: &mut MultiplexedConnection, keys: &[String]) -> Vec<Vec<u8>> {
    let mut calls = pipe();
    for key in keys {
        calls.cmd("GET").arg(format!("plain:{key}"));
    }
    calls.query_async(plain).await.expect("GET")
}

/// The verdict of the feed on an entry of Redis.
fn known(feed: &Feed, entry: &RawEntry) -> Option<Verdict> {
    let keys = entry.checks().map(|check| match check {
        Check::Tag(tag) => Key::Tag(tag),
        Check::Members(family) => Key::Members(family),
    });
    let (touch, view) = feed.since(keys, entry.as_of, None).ok()?;
    let live = view.staleness(Instant::now()).is_some_and(|staleness| staleness <= MAX_LAG);
    (live && touch == Touch::Clean && view.soft_floor.is_none()).then_some(Verdict::Hit)
}

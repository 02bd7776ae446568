//! Hits in memory beside moka's, and hits from Redis beside GET.

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use cachetag_client::l2::{Shard, Timeouts};
use cachetag_client::observe::Layer;
use cachetag_client::{Cache, Cached};
use redis::{cmd, pipe};

use super::super::{Plan, Table, latency::patient};
use super::{MAX_LAG, PATIENCE, PAYLOAD, cache, median, page};
use crate::Stack;

/// Values that are read in turn.
const PAGES: u32 = 1_000;
/// Reads in one pipeline.
const PIPELINED: u32 = 100;
/// How often the sides take turns.
const TURNS: u32 = 15;
/// Between turns the feed has its own.
const BREATH: Duration = Duration::from_millis(5);

fn keys() -> Vec<String> {
    (0..PAGES).map(|i| format!("page:{i}")).collect()
}

/// `get_or_load` of what is in memory, beside moka's `get` and `get_with` of the same values.
pub(super) async fn in_memory(plan: &Plan, table: &mut Table, stack: &Stack) {
    let ours = cache(Cache::builder().redis(stack.redis_url())).await;
    let (loads, keys) = (Arc::new(AtomicU32::new(0)), keys());
    let plain = moka::sync::Cache::<String, Arc<String>>::new(u64::from(PAGES) * 2);
    let coalescing = moka::future::Cache::<String, Arc<String>>::new(u64::from(PAGES) * 2);
    for key in &keys {
        page(&ours, key, &loads).await;
        plain.insert(key.clone(), Arc::new("x".repeat(PAYLOAD)));
        coalescing.insert(key.clone(), Arc::new("x".repeat(PAYLOAD))).await;
    }
    let rounds = (plan.hits / TURNS / PAGES).max(1);
    let (before, mut times) = (ours.snapshot().layer(Layer::L1).hits, [const { Vec::new() }; 3]);
    for _ in 0..TURNS {
        let started = Instant::now();
        for key in keys.iter().cycle().take((rounds * PAGES) as usize) {
            black_box(page(&ours, key, &loads).await);
        }
        times[0].push(started.elapsed().as_nanos() as f64);
        let started = Instant::now();
        for key in keys.iter().cycle().take((rounds * PAGES) as usize) {
            black_box(plain.get(key.as_str()));
        }
        times[1].push(started.elapsed().as_nanos() as f64);
        let started = Instant::now();
        for key in keys.iter().cycle().take((rounds * PAGES) as usize) {
            black_box(coalescing.get_with_by_ref(key.as_str(), async { Arc::new("x".repeat(PAYLOAD)) }).await);
        }
        times[2].push(started.elapsed().as_nanos() as f64);
        tokio::time::sleep(BREATH).await;
    }
    let reads = u64::from(TURNS * rounds * PAGES);
    let hits = ours.snapshot().layer(Layer::L1).hits - before;
    if hits < reads || loads.load(Ordering::Relaxed) > PAGES {
        table.note(format!("client: {} of {reads} reads of memory were no hits", reads - hits));
    }
    let [ours, get, get_with] = times.map(|times| median(times) / f64::from(rounds * PAGES));
    let measured = || format!("{ours:.0} ns");
    table.row(
        "client: a hit in memory",
        measured(),
        format!("moka get {get:.0} ns"),
        format!("{:.2} (at most 2)", ours / get),
    );
    table.row(
        "  beside",
        measured(),
        format!("moka get_with, async {get_with:.0} ns"),
        format!("{:.2}", ours / get_with),
    );
}

/// `get_many` without memory beside GET of the same bytes, both by a hundred.
pub(super) async fn from_redis(plan: &Plan, table: &mut Table, stack: &Stack) {
    let redis = stack.redis_url();
    let ours = cache(Cache::builder().redis(redis.as_str()).memory(0)).await;
    let shard = Shard::connect(&redis, "ct", Timeouts { connect: PATIENCE, response: PATIENCE }).await.expect("Redis");
    let (loads, keys) = (Arc::new(AtomicU32::new(0)), keys());
    let mut plain = patient(&redis).await;
    for key in &keys {
        let page = page(&ours, key, &loads).await;
        let stored = serde_json::to_string(&*page).expect("JSON");
        cmd("SET").arg(format!("plain:{key}")).arg(stored).exec_async(&mut plain).await.expect("SET");
    }
    let pages: Vec<&[String]> = keys.chunks(PIPELINED as usize).collect();
    let rounds = (plan.reads / TURNS / PAGES).max(1) as usize * pages.len();
    let before = ours.snapshot().layer(Layer::L2).hits;
    let mut times = [const { Vec::new() }; 3];
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
            let mut calls = pipe();
            for key in *keys {
                calls.cmd("GET").arg(format!("plain:{key}"));
            }
            black_box::<Vec<Vec<u8>>>(calls.query_async(&mut plain).await.expect("GET"));
        }
        times[1].push(started.elapsed().as_secs_f64());
        let started = Instant::now();
        for keys in pages.iter().cycle().take(rounds) {
            black_box(shard.reading(keys).await.expect("Redis answers"));
        }
        times[2].push(started.elapsed().as_secs_f64());
    }
    let hits = ours.snapshot().layer(Layer::L2).hits - before;
    let reads = rounds * PIPELINED as usize;
    if hits < (reads * TURNS as usize) as u64 {
        table.note(format!("client: {hits} of {} reads of Redis were hits", reads * TURNS as usize));
    }
    let [ours, get, entries] = times.map(|times| reads as f64 / median(times));
    let beside = || format!("GET {get:.0}/s");
    let what = "client: hits from Redis, 100 pipelined";
    table.row(what, format!("{ours:.0}/s"), beside(), format!("{:.2} (at least 0.5)", ours / get));
    table.row(
        "  of which not yet judged, nor decoded",
        format!("{entries:.0}/s"),
        beside(),
        format!("{:.2}", entries / get),
    );
    table.note(format!(
        "client: max_lag {} s; hits from Redis are judged by the feed and decoded from JSON, GET's bytes are not",
        MAX_LAG.as_secs()
    ));
}

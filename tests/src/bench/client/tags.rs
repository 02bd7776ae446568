//! Invalidating a tag of one entry and one of many.

use std::time::{Duration, Instant};

use cachetag_client::Cache;
use cachetag_client::core::Tag;
use cachetag_client::l2::{Put, Shard, Stored, Timeouts};
use tokio::task::yield_now;

use super::super::peers::{slowest, watch_commands};
use super::super::{Plan, Table};
use super::{PATIENCE, cache, median};
use crate::Stack;

/// Longer than a run.
const TTL: Duration = Duration::from_secs(3600);
/// Entries that one pipeline stores.
const STORED_AT_ONCE: u32 = 500;
/// How often either tag is invalidated.
const TURNS: u32 = 20;
/// The rows that are changed, and their categories: of one entry, and of many.
const GROUPS: [u32; 2] = [1, 2];

/// From the acknowledged commit until the client no longer serves an entry, and Redis' own time.
pub(super) async fn measure(plan: &Plan, table: &mut Table, stack: &Stack) {
    let redis_url = stack.redis_url();
    let timeouts = Timeouts { connect: PATIENCE, response: PATIENCE };
    let shard = Shard::connect(&redis_url, "ct", timeouts).await.expect("Redis answers");
    let cache = cache(Cache::builder().redis(redis_url)).await;
    let mut redis = stack.cache().await;
    let writer = stack.connect().await;
    for (group, entries) in GROUPS.into_iter().zip([1, plan.entries]) {
        store(&shard, group, 0..entries).await;
    }
    let mut times = [const { Vec::new() }; 2];
    let mut applies = [const { Vec::new() }; 2];
    for turn in 0..TURNS {
        // Either goes first as often: what comes second meets a daemon that is still at work on the first.
        let sides = if turn % 2 == 0 { [0, 1] } else { [1, 0] };
        for side in sides {
            let group = GROUPS[side];
            // The entry that is looked at. The others are there as they were.
            store(&shard, group, 0..1).await;
            let key = key(group, 0);
            assert!(cache.get::<u32>(&key).await.is_some(), "the entry is there");
            watch_commands(&mut redis, 0).await;
            let update = format!("UPDATE products SET price = price + 1 WHERE id = {group}");
            writer.batch_execute(&update).await.expect("UPDATE");
            let committed = Instant::now();
            while cache.get::<u32>(&key).await.is_some() {
                assert!(committed.elapsed() < PATIENCE, "the commit invalidates nothing");
                // Hits in memory would leave the feed no time.
                yield_now().await;
            }
            times[side].push(committed.elapsed().as_secs_f64() * 1e3);
            applies[side].push(slowest(&mut redis, Some("cachetag_apply")).await);
        }
    }
    let [one, many] = times.map(median);
    let [apply_one, apply_many] = applies.map(median);
    let what = format!("client: a tag of {} entries", plan.entries);
    table.row(
        &format!("{what}, commit → miss"),
        format!("{many:.2} ms"),
        format!("of one {one:.2} ms"),
        format!("{:.2} (1)", many / one),
    );
    table.row(
        "  in Redis",
        format!("{apply_many:.0} µs"),
        format!("of one {apply_one:.0} µs"),
        format!("{:.2} (1)", apply_many / apply_one),
    );
}

fn key(group: u32, entry: u32) -> String {
    format!("list:{group}:{entry}")
}

async fn store(shard: &Shard, group: u32, entries: std::ops::Range<u32>) {
    let tag = Tag::new("category", &[&group.to_string()]).expect("a tag");
    let mut from = entries.start;
    while from < entries.end {
        let to = entries.end.min(from + STORED_AT_ONCE);
        let token = shard.state().await.expect("Redis answers").watermark.expect("a watermark");
        let put = |i| {
            let mut put = Put::new("7", token, TTL);
            put.tags = [tag.clone()].into();
            (key(group, i), put)
        };
        let puts: Vec<_> = (from..to).map(put).collect();
        let answers = shard.put_many(&puts).await.expect("Redis answers");
        // Right after a bump of the tag the watermark is not yet above it.
        if answers.iter().all(|answer| matches!(answer, Ok(Stored::Stored(_)))) {
            from = to;
        } else {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

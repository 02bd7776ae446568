//! Rules 5 and 6: whatever breaks continuity is found out by the next call, and opens a new epoch.

use std::time::Duration;

use cachetag_tests::fault::{Fault, PostgresFault};
use cachetag_tests::{Cache, DaemonOptions, Load, Random, Stack, StackOptions, eventually};

const PATIENCE: Duration = Duration::from_secs(30);
const MAX_LAG: Duration = Duration::from_secs(2);
const SCHEMA: &str = "CREATE TABLE items (id int PRIMARY KEY, price int NOT NULL); INSERT INTO items VALUES (1, 10);
    SELECT cachetag.track('items', 'item:{id}')";
const CHANGE: &str = "UPDATE items SET price = price + 1";

async fn stack() -> Stack {
    Stack::start(StackOptions::new().schema(SCHEMA)).await
}

async fn loaded() -> Stack {
    let options = StackOptions::new().schema(Load::SCHEMA).schema(SCHEMA);
    Stack::start(options.daemon(DaemonOptions::new().max_lag(MAX_LAG))).await
}

async fn epoch(stack: &Stack) -> Option<String> {
    stack.cache().await.state().await.ok()?.remove("epoch")
}

/// Waits for a watermark of an epoch after `old`.
async fn newer_epoch(stack: &Stack, old: &str) -> String {
    eventually("a new epoch", PATIENCE, async || {
        let mut state = stack.cache().await.state().await.ok()?;
        state.remove("watermark").and(state.remove("epoch")).filter(|epoch| epoch.as_str() > old)
    })
    .await
}

async fn run(cache: &mut Cache, command: &[&str]) {
    let mut call = redis::cmd(command[0]);
    call.arg(&command[1..]).exec_async(cache.connection()).await.unwrap_or_else(|error| panic!("{command:?}: {error}"));
}

/// All keys of Redis as they are now.
async fn dump(cache: &mut Cache) -> Vec<(String, i64, Vec<u8>)> {
    let keys: Vec<String> = redis::cmd("KEYS").arg("*").query_async(cache.connection()).await.expect("KEYS");
    let mut pipe = redis::pipe();
    pipe.atomic();
    for key in &keys {
        pipe.cmd("PTTL").arg(key).cmd("DUMP").arg(key);
    }
    let values: Vec<redis::Value> = pipe.query_async(cache.connection()).await.expect("DUMP");
    let pairs = keys.into_iter().zip(values.chunks(2));
    let read = |(key, pair): (String, &[redis::Value])| match pair {
        // A lease may expire in between.
        [redis::Value::Int(ttl), redis::Value::BulkString(bytes)] => Some((key, (*ttl).max(0), bytes.clone())),
        _ => None,
    };
    pairs.filter_map(read).collect()
}

/// Puts Redis back to how it was, in one step, as a failover to a replica that lagged would.
async fn restore(cache: &mut Cache, dumped: &[(String, i64, Vec<u8>)]) {
    let mut pipe = redis::pipe();
    pipe.atomic().cmd("FLUSHALL").arg("SYNC").ignore();
    for (key, ttl, bytes) in dumped {
        pipe.cmd("RESTORE").arg(key).arg(ttl).arg(bytes).ignore();
    }
    pipe.exec_async(cache.connection()).await.expect("RESTORE");
}

#[tokio::test]
async fn rule_06_a_flushed_redis_opens_an_epoch_and_no_old_entry_hits() {
    let stack = stack().await;
    stack.fill("i1", "10", &["item:1"]).await;
    let mut cache = stack.cache().await;
    let old = epoch(&stack).await.expect("an epoch");
    let entry = dump(&mut cache).await.into_iter().find(|(key, ..)| key.ends_with("e:i1")).expect("the entry");
    let token = stack.get("missing").await.token;
    run(&mut cache, &["FLUSHALL"]).await;
    newer_epoch(&stack, &old).await;
    assert!(stack.get("i1").await.is_miss());
    // An entry that comes back from the dead, and a fill that was under way.
    let (key, ttl, bytes) = entry;
    redis::cmd("RESTORE").arg(key).arg(ttl).arg(bytes).exec_async(cache.connection()).await.expect("RESTORE");
    assert!(stack.get("i1").await.is_miss());
    stack.fill("other", "10", &["item:1"]).await;
    assert!(stack.get("i1").await.is_miss(), "its tag is there again, but it is of the old epoch");
    assert_eq!(stack.put("i2", "10", &token, &["item:1"]).await.reason(), Some("epoch"));
}

#[tokio::test]
async fn rule_06_a_redis_flushed_under_load_never_lies() {
    let stack = loaded().await;
    let load = Load::start(&stack, MAX_LAG);
    load.progress(100, 100).await;
    for _ in 0..3 {
        let old = epoch(&stack).await.expect("an epoch");
        run(&mut stack.cache().await, &["FLUSHALL"]).await;
        newer_epoch(&stack, &old).await;
        load.progress(50, 50).await;
    }
    load.finish(&stack).await;
}

#[tokio::test]
async fn rule_06_a_redis_restarted_empty_under_load_never_lies() {
    let mut stack = loaded().await;
    let load = Load::start(&stack, MAX_LAG);
    load.progress(100, 100).await;
    for _ in 0..3 {
        let old = epoch(&stack).await.expect("an epoch");
        stack.redis.kill().await;
        stack.redis.start_again().await.expect("an empty Redis");
        newer_epoch(&stack, &old).await;
        load.progress(50, 50).await;
    }
    load.finish(&stack).await;
}

#[tokio::test]
async fn rule_05_a_redis_restored_to_an_older_state_is_found_out_by_the_next_call() {
    let stack = stack().await;
    stack.fill("i1", "10", &["item:1"]).await;
    let mut cache = stack.cache().await;
    let old = epoch(&stack).await.expect("an epoch");
    let dumped = dump(&mut cache).await;
    let commit = stack.commit(CHANGE).await;
    stack.wait_caught_up(commit).await;
    assert!(stack.get("i1").await.is_miss());
    restore(&mut cache, &dumped).await;
    newer_epoch(&stack, &old).await;
    assert!(stack.get("i1").await.is_miss(), "the restored entry hits");
    stack.fill("i1", "11", &["item:1"]).await;
    assert_eq!(stack.get("i1").await.text(), Some("11"));
}

#[tokio::test]
async fn rule_05_a_redis_restored_while_the_daemon_was_away_is_found_out_at_its_start() {
    let mut stack = stack().await;
    stack.fill("i1", "10", &["item:1"]).await;
    let mut cache = stack.cache().await;
    let old = epoch(&stack).await.expect("an epoch");
    let dumped = dump(&mut cache).await;
    let commit = stack.commit(CHANGE).await;
    stack.wait_caught_up(commit).await;
    // A clean end acknowledges the commit, which nobody will send again.
    stack.daemon().stop().await;
    restore(&mut cache, &dumped).await;
    stack.daemon().start_again();
    newer_epoch(&stack, &old).await;
    assert!(stack.daemon().log_contains("Redis is older"));
    assert!(stack.get("i1").await.is_miss(), "the restored entry hits");
}

#[tokio::test]
async fn rule_05_a_redis_restored_under_load_never_lies() {
    let stack = loaded().await;
    let load = Load::start(&stack, MAX_LAG);
    let mut cache = stack.cache().await;
    load.progress(100, 100).await;
    for _ in 0..3 {
        let old = epoch(&stack).await.expect("an epoch");
        let dumped = dump(&mut cache).await;
        load.progress(50, 50).await;
        // A state that nothing has been applied to since would be continued from.
        let commit = stack.commit("SELECT cachetag.invalidate('rule_05')").await;
        stack.wait_caught_up(commit).await;
        restore(&mut cache, &dumped).await;
        newer_epoch(&stack, &old).await;
        load.progress(50, 50).await;
    }
    load.finish(&stack).await;
}

/// A restored older epoch under a running daemon of a newer one: never taken for continuity.
#[tokio::test]
async fn rule_06_an_epoch_is_never_opened_twice() {
    let mut stack = stack().await;
    let mut cache = stack.cache().await;
    let mut last = epoch(&stack).await.expect("an epoch");
    let first = dump(&mut cache).await;
    for _ in 0..2 {
        stack.redis.restart().await.expect("an empty Redis");
        last = newer_epoch(&stack, &last).await;
    }
    stack.daemon().stop().await;
    restore(&mut stack.cache().await, &first).await;
    stack.daemon().start_again();
    newer_epoch(&stack, &last).await;
}

#[tokio::test]
async fn rule_06_a_lost_slot_is_replaced_in_a_new_epoch() {
    let options =
        StackOptions::new().schema(SCHEMA).setting("max_slot_wal_keep_size", "1MB").setting("wal_keep_size", "0");
    let mut stack = Stack::start(options.setting("min_wal_size", "32MB").setting("max_wal_size", "32MB")).await;
    stack.fill("i1", "10", &["item:1"]).await;
    let old = epoch(&stack).await.expect("an epoch");
    stack.daemon().kill9().await;
    stack.sql(CHANGE).await;
    eventually("the slot's loss", PATIENCE, async || {
        stack.sql("SELECT pg_switch_wal()").await;
        stack.sql("CHECKPOINT").await;
        (stack.value("SELECT wal_status FROM pg_replication_slots").await == "lost").then_some(())
    })
    .await;
    let doctor = "SELECT detail || ' ' || remedy FROM cachetag.doctor() WHERE \"check\" = 'slot'";
    let row = stack.value(doctor).await;
    assert!((row.contains("lost") || row.contains("gone")) && row.contains("new epoch"), "{row}");
    stack.daemon().start_again();
    newer_epoch(&stack, &old).await;
    assert!(stack.get("i1").await.is_miss());
    assert!(stack.daemon().log_contains("max_slot_wal_keep_size"));
    assert_ne!(stack.value("SELECT wal_status FROM pg_replication_slots").await, "lost");
    stack.fill("i1", "11", &["item:1"]).await;
    let commit = stack.commit(CHANGE).await;
    stack.wait_caught_up(commit).await;
    assert!(stack.get("i1").await.is_miss());
}

#[tokio::test]
async fn rule_06_a_slot_that_was_dropped_is_made_again_in_a_new_epoch() {
    let mut stack = stack().await;
    stack.fill("i1", "10", &["item:1"]).await;
    let old = epoch(&stack).await.expect("an epoch");
    stack.daemon().stop().await;
    stack.sql("SELECT pg_drop_replication_slot('cachetag')").await;
    stack.sql(CHANGE).await;
    stack.daemon().start_again();
    let new = newer_epoch(&stack, &old).await;
    assert!(stack.get("i1").await.is_miss(), "its commit is in nobody's stream");

    // And under a running daemon: its process is ended and the slot dropped before it is back.
    stack.fill("i1", "11", &["item:1"]).await;
    Fault::Postgres(PostgresFault::SlotDropped).inject(&mut stack, &mut Random::new(1)).await.end(&mut stack).await;
    newer_epoch(&stack, &new).await;
    assert!(!stack.get("i1").await.is_hit());
}

#[tokio::test]
async fn rule_06_a_reinstalled_extension_opens_an_epoch() {
    let mut stack = stack().await;
    stack.fill("i1", "10", &["item:1"]).await;
    let old = epoch(&stack).await.expect("an epoch");
    stack.daemon().stop().await;
    // Rules, the last report and the slot are gone; Redis alone remembers.
    let reinstall = "DROP EXTENSION cachetag CASCADE; SELECT pg_drop_replication_slot('cachetag')";
    stack.sql(reinstall).await;
    stack.sql("CREATE EXTENSION cachetag; SELECT cachetag.track('items', 'item:{id}')").await;
    stack.sql(CHANGE).await;
    stack.daemon().start_again();
    newer_epoch(&stack, &old).await;
    assert!(stack.get("i1").await.is_miss());
}

//! Rules 1 and 13: a commit that Redis has and nobody can see yet holds the watermark, in a running epoch and in a new one.

use std::time::Duration;

use cachetag_tests::{Lsn, Stack, StackOptions, State, eventually, lsn, lsn_of_version};
use tokio::task::JoinHandle;

const PATIENCE: Duration = Duration::from_secs(30);
const SCHEMA: &str = "CREATE TABLE products (id int PRIMARY KEY, price int NOT NULL);
    INSERT INTO products SELECT i, 10 FROM generate_series(1, 9) i; SELECT cachetag.track('products', 'product:{id}')";

/// From here on commits wait for a standby that does not exist; those that others make for the test do not.
async fn hold_commits(stack: &Stack) {
    stack.sql("ALTER SYSTEM SET synchronous_standby_names = 'nobody'").await;
    reload(stack, "nobody").await;
}

async fn release_commits(stack: &Stack) {
    stack.sql("ALTER SYSTEM RESET synchronous_standby_names").await;
    reload(stack, "").await;
}

async fn reload(stack: &Stack, expected: &str) {
    stack.sql("SELECT pg_reload_conf()").await;
    eventually("the reload", PATIENCE, async || {
        (stack.value("SHOW synchronous_standby_names").await == expected).then_some(())
    })
    .await;
}

/// A commit that hangs in the wait for its standby, and a position behind it.
async fn held_commit(stack: &Stack, sql: &'static str) -> (JoinHandle<()>, Lsn) {
    let client = stack.connect().await;
    let held = tokio::spawn(async move { client.batch_execute(sql).await.expect("the held commit") });
    eventually("the wait for the standby", PATIENCE, async || {
        let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
        (stack.value(waiting).await != "0").then_some(())
    })
    .await;
    let position = stack.flushed().await;
    (held, position)
}

async fn price(stack: &Stack, id: u32) -> String {
    stack.value(&format!("SELECT price FROM products WHERE id = {id}")).await
}

async fn tag_version(stack: &Stack, tag: &str) -> Option<String> {
    let mut cache = stack.cache().await;
    let key = cache.key("t", tag);
    redis::cmd("GET").arg(key).query_async(cache.connection()).await.expect("Redis answers")
}

async fn watermark(stack: &Stack) -> Option<String> {
    stack.cache().await.state().await.expect("Redis answers").remove("watermark")
}

async fn bumped_and_not_visible(options: StackOptions) {
    let stack = Stack::start(options.schema(SCHEMA)).await;
    stack.fill("p1", "10", &["product:1"]).await;
    let before = tag_version(&stack, "product:1").await.expect("registered");

    hold_commits(&stack).await;
    let (held, position) = held_commit(&stack, "UPDATE products SET price = 11 WHERE id = 1").await;
    let bumped = eventually("the bump", PATIENCE, async || {
        tag_version(&stack, "product:1").await.filter(|version| *version > before)
    })
    .await;
    assert!(lsn_of_version(&bumped) <= position);
    assert_eq!(price(&stack, 1).await, "10", "the commit must not be visible yet, or this test proves nothing");
    assert!(lsn_of_version(&watermark(&stack).await.expect("published")) < lsn_of_version(&bumped));

    // A fill made now reads the old row. One whose tags are registered is refused; so is one with a tag that nobody knew.
    let token = stack.get("p1").await.token;
    assert!(token < bumped, "the token {token} covers a commit that nobody can see");
    assert_eq!(stack.put("p1", "10", &token, &["product:1"]).await.reason(), Some("bumped"));
    let refused = stack.put("other", "10", &token, &["product:1"]).await;
    assert!(!refused.is_stored(), "{refused:?}");
    // A later commit that is visible at once does not carry the watermark over the held one.
    let later = stack.commit("SET synchronous_commit = local; UPDATE products SET price = 20 WHERE id = 2").await;
    eventually("the later commit's apply", PATIENCE, async || {
        let applied = stack.cache().await.state().await.ok()?.remove("applied")?;
        (lsn_of_version(&applied) >= later).then_some(())
    })
    .await;
    let held_back = watermark(&stack).await.expect("published");
    assert!(held_back < bumped, "{held_back} covers {bumped}, which nobody can see");
    assert!(!stack.get("p1").await.is_hit());

    release_commits(&stack).await;
    held.await.expect("the held session");
    stack.wait_caught_up(later).await;
    assert_eq!(price(&stack, 1).await, "11");
    assert!(stack.get("p1").await.is_miss());
    stack.fill("p1", "11", &["product:1"]).await;
    assert_eq!(stack.get("p1").await.text(), Some("11"));
}

#[tokio::test]
async fn rule_01_decoded_is_not_visible_and_the_watermark_waits() {
    bumped_and_not_visible(StackOptions::new()).await;
}

#[tokio::test]
async fn rule_01_holds_without_preload() {
    bumped_and_not_visible(StackOptions::new().without_preload()).await;
}

#[tokio::test]
async fn rule_01_a_restarted_daemon_does_not_forget_an_invisible_commit() {
    let mut stack = Stack::start(StackOptions::new().schema(SCHEMA)).await;
    stack.fill("p1", "10", &["product:1"]).await;
    let before = tag_version(&stack, "product:1").await.expect("registered");
    hold_commits(&stack).await;
    let (held, position) = held_commit(&stack, "UPDATE products SET price = 11 WHERE id = 1").await;
    let bumped = eventually("the bump", PATIENCE, async || {
        tag_version(&stack, "product:1").await.filter(|version| *version > before)
    })
    .await;
    let daemon = stack.daemon();
    daemon.kill9().await;
    daemon.start_again();
    eventually("the second start", PATIENCE, async || {
        (stack.daemon().log().matches("streaming").count() >= 2).then_some(())
    })
    .await;
    // It has time to do it wrong: other commits come and are applied.
    for _ in 0..5 {
        let later =
            stack.commit("SET synchronous_commit = local; UPDATE products SET price = price + 1 WHERE id = 2").await;
        eventually("the apply", PATIENCE, async || {
            let applied = stack.cache().await.state().await.ok()?.remove("applied")?;
            (lsn_of_version(&applied) >= later).then_some(())
        })
        .await;
    }
    assert_eq!(price(&stack, 1).await, "10");
    let held_back = watermark(&stack).await;
    assert!(held_back.as_ref().is_none_or(|held_back| *held_back < bumped), "{held_back:?} covers {bumped}");
    let token = stack.get("p1").await.token;
    if !token.is_empty() {
        assert!(!stack.put("p1", "10", &token, &["product:1"]).await.is_stored());
    }
    release_commits(&stack).await;
    held.await.expect("the held session");
    stack.wait_caught_up(position).await;
    assert!(stack.get("p1").await.is_miss());
}

#[tokio::test]
async fn rule_13_an_epoch_opens_drained_of_the_commits_that_it_skips() {
    let mut stack = Stack::start(StackOptions::new().schema(SCHEMA)).await;
    stack.fill("p1", "10", &["product:1"]).await;
    stack.daemon().stop().await;
    hold_commits(&stack).await;
    let (held, position) = held_commit(&stack, "UPDATE products SET price = 11 WHERE id = 1").await;
    // The new slot begins behind the held commit: no daemon will ever see it.
    stack.sql("SET synchronous_commit = local; SELECT pg_drop_replication_slot('cachetag')").await;
    let mut cache = stack.cache().await;
    let old = cache.state().await.expect("Redis answers").remove("epoch").expect("an epoch");
    stack.daemon().start_again();
    // A slot's creation waits for the transactions that are running, of which the held one still is one.
    eventually("the slot's creation", PATIENCE, async || {
        stack.daemon().log_contains("creating the replication slot").then_some(())
    })
    .await;
    eventually("the old epoch's end", PATIENCE, async || {
        let got = cache.get("p1").await.expect("Redis answers");
        assert_eq!(price(&stack, 1).await, "10");
        assert!(!got.is_hit() || got.text() == Some("10"), "{got:?}");
        (got.state == State::Bypass).then_some(())
    })
    .await;
    release_commits(&stack).await;
    held.await.expect("the held session");
    let new = eventually("the new epoch's watermark", PATIENCE, async || {
        let got = cache.get("p1").await.expect("Redis answers");
        assert!(!got.is_hit(), "{got:?}");
        let mut state = cache.state().await.expect("Redis answers");
        state.remove("watermark").and(state.remove("epoch")).filter(|epoch| *epoch != old)
    })
    .await;
    assert!(new > old);
    stack.wait_caught_up(position).await;
    stack.fill("p1", &price(&stack, 1).await, &["product:1"]).await;
    assert_eq!(stack.get("p1").await.text(), Some("11"));
}

/// The slot stays and stands behind a held commit; Redis comes back empty, so the epoch opens at the slot's position.
#[tokio::test]
async fn rule_13_an_emptied_redis_gives_no_token_while_a_skipped_commit_is_invisible() {
    let mut stack = Stack::start(StackOptions::new().schema(SCHEMA)).await;
    hold_commits(&stack).await;
    let (held, position) = held_commit(&stack, "UPDATE products SET price = 11 WHERE id = 1").await;
    // The slot is moved on by hand: the commit is skipped for ever, and the epoch begins behind it.
    stack.daemon().stop().await;
    let slot = "SELECT (pg_replication_slot_advance('cachetag', pg_current_wal_flush_lsn())).end_lsn";
    let moved = lsn(&stack.value(&format!("SET synchronous_commit = local; {slot}")).await);
    assert!(moved >= position, "the slot must pass the held commit, or this test proves nothing");
    stack.redis.restart().await.expect("an empty Redis");
    stack.daemon().start_again();
    eventually("the new epoch", PATIENCE, async || {
        stack.daemon().log_contains("the first watermark waits").then_some(())
    })
    .await;
    let mut cache = stack.cache().await;
    for _ in 0..100 {
        let got = cache.get("p1").await.expect("Redis answers");
        assert_eq!((got.token.as_str(), got.is_hit()), ("", false), "a token before the skipped commit is visible");
        assert_eq!(price(&stack, 1).await, "10");
    }
    release_commits(&stack).await;
    held.await.expect("the held session");
    stack.wait_ready().await;
    stack.fill("p1", &price(&stack, 1).await, &["product:1"]).await;
    assert_eq!(stack.get("p1").await.text(), Some("11"));
}

//! Rules 7 and 8: what nobody can vouch for is bypassed, and a writer reads what it wrote.

use std::time::Duration;

use cachetag_tests::{DaemonOptions, Get, GetOptions, Stack, StackOptions, State, eventually};

const PATIENCE: Duration = Duration::from_secs(40);
const MAX_LAG: Duration = Duration::from_millis(500);
const SCHEMA: &str =
    "CREATE TABLE products (id int PRIMARY KEY, price int NOT NULL); INSERT INTO products VALUES (1, 10), (2, 10);
    SELECT cachetag.track('products', 'product:{id}')";

async fn stack() -> Stack {
    let stack = Stack::start(StackOptions::new().schema(SCHEMA).daemon(DaemonOptions::new().max_lag(MAX_LAG))).await;
    stack.fill("p1", "10", &["product:1"]).await;
    stack
}

async fn state_becomes(stack: &Stack, wanted: &str, is: impl Fn(&Get) -> bool) -> Get {
    let mut cache = stack.cache().await;
    eventually(wanted, PATIENCE, async || Some(cache.get("p1").await.expect("Redis answers")).filter(&is)).await
}

/// A bypass says nothing and lets nothing in.
async fn bypasses(stack: &Stack) {
    let got = state_becomes(stack, "the bypass", |got| got.state == State::Bypass).await;
    assert_eq!((got.payload, got.token.as_str(), got.lease.as_str()), (None, "", ""));
    let generous = GetOptions { max_lag: Some(Duration::from_secs(3600)), ..GetOptions::default() };
    assert_eq!(stack.get_with("p1", &generous).await.text(), Some("10"), "who bears an hour is still served");
}

async fn hits_again(stack: &Stack) {
    state_becomes(stack, "the return", Get::is_hit).await;
}

#[tokio::test]
async fn rule_07_a_frozen_daemon_is_bypassed() {
    let mut stack = stack().await;
    stack.daemon().pause();
    bypasses(&stack).await;
    stack.daemon().resume();
    hits_again(&stack).await;
}

#[tokio::test]
async fn rule_07_a_dead_daemon_is_bypassed() {
    let mut stack = stack().await;
    stack.daemon().kill9().await;
    bypasses(&stack).await;
    stack.daemon().start_again();
    hits_again(&stack).await;
}

#[tokio::test]
async fn rule_07_a_frozen_or_stopped_postgresql_is_bypassed() {
    let mut stack = stack().await;
    stack.postgres.stop().await;
    bypasses(&stack).await;
    stack.postgres.start_again().await.expect("starts");
    hits_again(&stack).await;
    stack.postgres.kill().await;
    bypasses(&stack).await;
    stack.postgres.start_again().await.expect("recovers");
    hits_again(&stack).await;
    let commit = stack.commit("UPDATE products SET price = 11 WHERE id = 1").await;
    stack.wait_caught_up(commit).await;
    assert!(stack.get("p1").await.is_miss());
}

#[tokio::test]
async fn rule_07_a_frozen_replication_connection_is_bypassed() {
    let stack = stack().await;
    let pid = stack.value("SELECT active_pid FROM pg_replication_slots").await.parse().expect("a process id");
    // SAFETY: a signal to a process of this test's own server.
    let signal = |signal| assert_eq!(unsafe { libc::kill(pid, signal) }, 0);
    signal(libc::SIGSTOP);
    let got = state_becomes(&stack, "the bypass", |got| got.state == State::Bypass).await;
    assert_eq!(got.payload, None);
    signal(libc::SIGCONT);
    hits_again(&stack).await;
}

#[tokio::test]
async fn rule_07_a_redis_that_was_frozen_bypasses_until_it_has_heard_again() {
    let mut stack = stack().await;
    let commit = {
        stack.redis.signal(libc::SIGSTOP);
        let commit = stack.commit("UPDATE products SET price = 11 WHERE id = 1").await;
        tokio::time::sleep(MAX_LAG).await;
        stack.redis.signal(libc::SIGCONT);
        commit
    };
    let got = stack.get("p1").await;
    assert!(!got.is_hit(), "the first answer after the thaw: {got:?}");
    stack.wait_caught_up(commit).await;
    state_becomes(&stack, "the return", Get::is_miss).await;
    stack.fill("p1", "11", &["product:1"]).await;
}

#[tokio::test]
async fn rule_07_a_redis_that_was_gone_is_back_by_itself() {
    let mut stack = stack().await;
    stack.redis.stop().await;
    let commit = stack.commit("UPDATE products SET price = 11 WHERE id = 1").await;
    stack.redis.start_again().await.expect("starts");
    stack.wait_caught_up(commit).await;
    state_becomes(&stack, "the return", Get::is_miss).await;
    stack.fill("p1", "11", &["product:1"]).await;
    assert_eq!(stack.get("p1").await.text(), Some("11"));
}

/// What an open transaction, a pruned page or a hint bit writes is flushed in whole pages, and the rest when somebody next commits: the flush
/// position then lies within a record, where no walsender ever gets to.
#[tokio::test]
async fn rule_07_a_log_that_nobody_flushes_to_its_end_stays_fresh() {
    let stack = Stack::start(StackOptions::new().schema(SCHEMA)).await;
    stack.fill("p1", "10", &["product:1"]).await;
    let mut cache = stack.cache().await;
    let open = stack.connect().await;
    open.batch_execute("BEGIN").await.expect("begins");
    // Half a page and a little: three of the four ends lie within another page than the last.
    for round in 0..4 {
        let rows = format!("INSERT INTO products SELECT i, 0 FROM generate_series({0}, {0} + 69) i", 10 + round * 70);
        open.batch_execute(&rows).await.expect("inserts");
        for _ in 0..30 {
            tokio::time::sleep(Duration::from_millis(100)).await;
            let got = cache.get("p1").await.expect("Redis answers");
            assert!(got.is_hit(), "{got:?} after {round} rounds; {:?}", cache.state().await);
        }
    }
    // A session that was somewhere on this server asks for its position.
    let end: String = stack.value("SELECT pg_current_wal_insert_lsn()").await;
    let at_least = GetOptions { at_least: Some(end.clone()), ..GetOptions::default() };
    eventually("a hit at the end of the log", PATIENCE, async || {
        cache.get_with("p1", &at_least).await.expect("Redis answers").is_hit().then_some(())
    })
    .await;
    open.batch_execute("ROLLBACK").await.expect("ends");
}

#[tokio::test]
async fn rule_07_an_idle_stream_stays_fresh() {
    let stack = stack().await;
    let mut cache = stack.cache().await;
    let before = cache.state().await.expect("state").remove("fresh_at");
    eventually("a later proof of freshness", PATIENCE, async || {
        (cache.state().await.ok()?.remove("fresh_at") > before).then_some(())
    })
    .await;
    assert!(stack.get("p1").await.is_hit());
}

#[tokio::test]
async fn rule_07_fresh_at_in_the_future_is_not_believed() {
    let mut stack = stack().await;
    stack.daemon().stop().await;
    let mut cache = stack.cache().await;
    let key = cache.key("w", "");
    redis::cmd("HINCRBY")
        .arg(key)
        .arg("fresh_at")
        .arg(3_600_000)
        .exec_async(cache.connection())
        .await
        .expect("HINCRBY");
    assert_eq!(cache.get("p1").await.expect("Redis answers").state, State::Bypass);
}

fn at_least(position: &str) -> GetOptions {
    GetOptions {
        at_least: Some(position.to_owned()),
        max_lag: Some(Duration::from_secs(3600)),
        no_lease: true,
        ..GetOptions::default()
    }
}

/// The writer's LSN is ahead of the watermark while the daemon is frozen; its own old entry must not hit.
#[tokio::test]
async fn rule_08_a_writer_reads_what_it_wrote_by_lsn() {
    let mut stack = stack().await;
    stack.fill("p2", "10", &["product:2"]).await;
    stack.daemon().pause();
    stack.sql("UPDATE products SET price = 11 WHERE id = 1").await;
    let position = stack.value("SELECT pg_current_wal_insert_lsn()").await;
    let anybody = GetOptions { max_lag: Some(Duration::from_secs(3600)), ..GetOptions::default() };
    assert!(stack.get_with("p1", &anybody).await.is_hit(), "the entry is there, or this test proves nothing");
    assert!(!stack.get_with("p1", &at_least(&position)).await.is_hit());
    stack.daemon().resume();
    stack.wait_caught_up_now().await;
    assert!(stack.get_with("p1", &at_least(&position)).await.is_miss());
    stack.fill("p1", "11", &["product:1"]).await;
    assert_eq!(stack.get_with("p1", &at_least(&position)).await.text(), Some("11"));
    assert!(stack.get_with("p2", &at_least(&position)).await.is_hit(), "an older entry that the watermark covers");
}

#[tokio::test]
async fn rule_08_a_writer_reads_what_it_wrote_by_version() {
    let mut stack = stack().await;
    let mut cache = stack.cache().await;
    let state = cache.state().await.expect("state");
    assert!(stack.get_with("p1", &at_least(&state["watermark"])).await.is_hit());
    stack.daemon().pause();
    let commit = stack.commit("UPDATE products SET price = 11 WHERE id = 1").await;
    let version = format!("{}.{commit:020}", state["epoch"]);
    assert!(!stack.get_with("p1", &at_least(&version)).await.is_hit());
    stack.daemon().resume();
    stack.wait_caught_up(commit).await;
    stack.fill("p1", "11", &["product:1"]).await;
    assert_eq!(stack.get_with("p1", &at_least(&version)).await.text(), Some("11"));
    let later_epoch = format!("9999999999.{commit:020}");
    assert!(!stack.get_with("p1", &at_least(&later_epoch)).await.is_hit());
}

#[tokio::test]
async fn rule_08_wait_for_returns_when_the_cache_has_caught_up() {
    let mut stack = stack().await;
    stack.daemon().pause();
    stack.sql("UPDATE products SET price = 11 WHERE id = 1").await;
    let position = stack.value("SELECT pg_current_wal_insert_lsn()").await;
    let wait = |timeout: &str| format!("SELECT cachetag.wait_for('{position}', '{timeout}')");
    assert_eq!(stack.value(&wait("10ms")).await, "f");
    stack.daemon().resume();
    assert_eq!(stack.value(&wait("30s")).await, "t");
    assert!(stack.get("p1").await.is_miss());
}

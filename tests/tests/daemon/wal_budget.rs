//! A cache never fills the primary's disk: what the slot may hold back is limited, in bytes and in time, whatever Redis, the daemon, other
//! transactions or PostgreSQL's own limits do; and whatever is given up opens a new epoch.

use std::time::Duration;

use cachetag_tests::{DaemonOptions, Stack, StackOptions, eventually, lsn, lsn_of_version};

const PATIENCE: Duration = Duration::from_secs(60);
const SCHEMA: &str = "
    CREATE TABLE items (id int PRIMARY KEY, price int);
    INSERT INTO items SELECT i, 10 FROM generate_series(1, 10) i;
    SELECT cachetag.track('items', 'item:{id}');
    CREATE TABLE ballast (id bigserial PRIMARY KEY, filler text);
";
const CHANGE: &str = "UPDATE items SET price = price + 1 WHERE id = 1";
/// Some 3 MB of WAL that no rule asks for.
const BALLAST: &str =
    "INSERT INTO ballast (filler) SELECT repeat(md5(i::text), 30) FROM generate_series(1, 3000) i; DELETE FROM ballast";
const MIB: u64 = 1 << 20;

fn daemon(budget: &str) -> DaemonOptions {
    DaemonOptions::new().args(["--wal-budget", budget])
}

async fn stack(daemon: DaemonOptions) -> Stack {
    Stack::start(StackOptions::new().schema(SCHEMA).setting("max_wal_size", "256MB").daemon(daemon)).await
}

async fn epoch(stack: &Stack) -> Option<String> {
    stack.cache().await.state().await.ok()?.remove("epoch")
}

async fn newer_epoch(stack: &Stack, old: &str) -> String {
    let epoch = eventually("a new epoch", PATIENCE, async || epoch(stack).await.filter(|e| e.as_str() > old)).await;
    stack.wait_caught_up_now().await;
    epoch
}

/// Bytes of WAL that the slot holds back, and that are not acknowledged.
async fn held(stack: &Stack) -> Option<(u64, u64)> {
    let rows = stack
        .rows(
            "SELECT pg_current_wal_lsn() - restart_lsn, pg_current_wal_lsn() - confirmed_flush_lsn
               FROM pg_replication_slots WHERE slot_name = 'cachetag'",
        )
        .await;
    let row = rows.into_iter().next()?;
    let number = |i: usize| row[i].as_ref().and_then(|text: &String| text.parse().ok());
    Some((number(0)?, number(1)?))
}

/// Writes WAL until the daemon has moved the slot.
async fn write_until_moved(stack: &mut Stack, moves: usize) {
    eventually("the slot's move", PATIENCE, async || {
        stack.sql(BALLAST).await;
        stack.sql("CHECKPOINT").await;
        (stack.daemon().log().matches("the slot was moved to the present, and").count() >= moves).then_some(())
    })
    .await;
}

async fn serves_again(stack: &mut Stack) {
    stack.wait_caught_up_now().await;
    stack.fill("again", "1", &["item:1"]).await;
    let commit = stack.commit(CHANGE).await;
    stack.wait_caught_up(commit).await;
    assert!(stack.get("again").await.is_miss());
}

#[tokio::test]
async fn with_redis_down_the_slot_moves_and_an_epoch_opens_later() {
    let mut stack = stack(daemon("32MiB")).await;
    stack.fill("i1", "10", &["item:1"]).await;
    let state = stack.cache().await.state().await.expect("state");
    let old = state["epoch"].clone();
    // Redis comes back with everything that it had: only the position tells that something is missing.
    stack.redis.signal(libc::SIGSTOP);
    stack.sql(CHANGE).await;
    write_until_moved(&mut stack, 1).await;
    write_until_moved(&mut stack, 2).await;
    let (retained, unconfirmed) = held(&stack).await.expect("the slot");
    assert!(retained < 40 * MIB && unconfirmed < 40 * MIB, "{retained} {unconfirmed}");
    // What happened is told while Redis is still away.
    let told = stack.value("SELECT report -> 'slot_moved' ->> 'reason' FROM cachetag.status()").await;
    assert!(told.contains("wal_budget"), "{told}");

    stack.redis.signal(libc::SIGCONT);
    newer_epoch(&stack, &old).await;
    assert!(stack.get("i1").await.is_miss(), "its commit was given up");
    let told = stack.value("SELECT report -> 'slot_moved' ->> 'reason' FROM cachetag.status()").await;
    assert!(told.contains("wal_budget"), "{told}");
    serves_again(&mut stack).await;
}

/// The daemon ends between the move of the slot and the new epoch; the next one knows nothing but what it finds.
#[tokio::test]
async fn a_daemon_killed_after_the_move_still_opens_the_epoch() {
    let mut stack = stack(daemon("16MiB")).await;
    stack.fill("i1", "10", &["item:1"]).await;
    let old = epoch(&stack).await.expect("an epoch");
    stack.redis.signal(libc::SIGSTOP);
    stack.sql(CHANGE).await;
    write_until_moved(&mut stack, 1).await;
    stack.daemon().kill9().await;
    stack.redis.signal(libc::SIGCONT);
    assert_eq!(epoch(&stack).await.as_ref(), Some(&old), "nobody has opened one yet");
    // Without a budget it has no reason of its own.
    stack.start_daemon(daemon("none"));
    newer_epoch(&stack, &old).await;
    assert!(stack.get("i1").await.is_miss());
    assert!(stack.daemon().log_contains("than what was acknowledged to PostgreSQL"));
}

/// A Redis that holds all that the moved slot leaves out has missed nothing.
#[tokio::test]
async fn a_move_that_leaves_nothing_out_costs_nothing() {
    let mut stack = stack(daemon("none")).await;
    stack.fill("i1", "10", &["item:1"]).await;
    stack.wait_caught_up_now().await;
    let old = epoch(&stack).await.expect("an epoch");
    stack.daemon().kill9().await;
    let applied = stack.cache().await.state().await.expect("state")["applied"].clone();
    let target = cachetag_core::Lsn(lsn_of_version(&applied));
    stack.sql(&format!("SELECT pg_replication_slot_advance('cachetag', '{target}')")).await;
    stack.daemon().start_again();
    stack.wait_caught_up_now().await;
    assert_eq!(epoch(&stack).await, Some(old));
    assert!(stack.get("i1").await.is_hit());
}

#[tokio::test]
async fn a_change_that_waits_too_long_is_given_up() {
    let mut stack = stack(daemon("none").args(["--wal-budget-age", "2s"])).await;
    stack.fill("i1", "10", &["item:1"]).await;
    let old = epoch(&stack).await.expect("an epoch");
    stack.redis.stop().await;
    stack.sql(CHANGE).await;
    let before = held(&stack).await.expect("a slot").1;
    eventually("the slot's move", PATIENCE, async || {
        stack.daemon().log_contains("the slot was moved to the present, and").then_some(())
    })
    .await;
    assert!(held(&stack).await.expect("a slot").1 < before + MIB);
    assert!(stack.daemon().log_contains("wal_budget_age is 2 s"));
    stack.redis.start_again().await.expect("starts");
    newer_epoch(&stack, &old).await;
    serves_again(&mut stack).await;
}

/// In strict mode the slot cannot be made anew while commits wait for the daemon; it can be moved, and the commits go on waiting.
#[tokio::test]
async fn in_strict_mode_the_slot_moves_under_commits_that_wait() {
    let mut stack = stack(daemon("32MiB")).await;
    stack.make_strict().await;
    stack.fill("i1", "10", &["item:1"]).await;
    let old = epoch(&stack).await.expect("an epoch");
    stack.redis.signal(libc::SIGSTOP);
    let client = stack.connect().await;
    let commit = tokio::spawn(async move { client.batch_execute(CHANGE).await });
    eventually("the commit waits", PATIENCE, async || {
        let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
        (stack.value(waiting).await == "1").then_some(())
    })
    .await;
    eventually("the slot's move", PATIENCE, async || {
        stack.sql(&format!("SET synchronous_commit = local; {BALLAST}")).await;
        stack.sql("CHECKPOINT").await;
        stack.daemon().log_contains("the slot was moved to the present, and").then_some(())
    })
    .await;
    assert!(!commit.is_finished(), "a hit on the old value is still possible when Redis comes back");
    stack.redis.signal(libc::SIGCONT);
    tokio::time::timeout(PATIENCE, commit).await.expect("the commit still waits").expect("runs").expect("commits");
    newer_epoch(&stack, &old).await;
    assert!(!stack.get("i1").await.is_hit());
}

/// Redis is well and everything is acknowledged; a transaction alone holds the log back. The daemon says so, by its process id.
#[tokio::test]
async fn an_old_transaction_is_named_and_does_not_fill_the_disk() {
    let mut stack = stack(daemon("32MiB")).await;
    let old = epoch(&stack).await.expect("an epoch");
    let client = stack.connect().await;
    client.batch_execute("BEGIN; INSERT INTO ballast (filler) VALUES ('old')").await.expect("begins");
    let pid: i32 = client.query_one("SELECT pg_backend_pid()", &[]).await.expect("a row").get(0);
    eventually("the slot's end", PATIENCE, async || {
        stack.sql(BALLAST).await;
        stack.sql("CHECKPOINT").await;
        stack.daemon().log_contains("and not because of Redis: the slot was dropped").then_some(())
    })
    .await;
    // The next slot waits for it, visibly, and is given up again and again before it fills the disk.
    let waits = format!("pid {pid} (xid ");
    eventually("the slot's creation waits", PATIENCE, async || {
        let log = stack.daemon().log();
        log.lines().any(|l| l.contains("creating the slot waits for") && l.contains(&waits)).then_some(())
    })
    .await;
    eventually("the slot's creation is given up", PATIENCE, async || {
        stack.sql(BALLAST).await;
        stack.daemon().log_contains("creating the slot is given up for now").then_some(())
    })
    .await;
    client.batch_execute("COMMIT").await.expect("commits");
    newer_epoch(&stack, &old).await;
    serves_again(&mut stack).await;
}

/// PostgreSQL's own limit strikes while the daemon streams into a Redis that does not answer.
#[tokio::test]
async fn max_slot_wal_keep_size_under_load() {
    let options = StackOptions::new().schema(SCHEMA).setting("max_slot_wal_keep_size", "16MB");
    let options = options.setting("wal_keep_size", "0").setting("min_wal_size", "32MB").setting("max_wal_size", "32MB");
    let mut stack = Stack::start(options.daemon(daemon("none"))).await;
    stack.fill("i1", "10", &["item:1"]).await;
    let old = epoch(&stack).await.expect("an epoch");
    stack.redis.signal(libc::SIGSTOP);
    stack.sql(CHANGE).await;
    eventually("the slot's loss", PATIENCE, async || {
        stack.sql(BALLAST).await;
        stack.sql("CHECKPOINT").await;
        (stack.value("SELECT wal_status FROM pg_replication_slots").await == "lost").then_some(())
    })
    .await;
    stack.redis.signal(libc::SIGCONT);
    newer_epoch(&stack, &old).await;
    assert!(stack.get("i1").await.is_miss());
    serves_again(&mut stack).await;
}

/// Only PostgreSQL 18 and newer give up a slot that nobody uses; older servers have nothing to show here.
#[tokio::test]
async fn a_slot_that_was_idle_for_too_long_is_replaced() {
    let mut stack = stack(daemon("none")).await;
    let version: u32 = stack.value("SHOW server_version_num").await.parse().expect("a number");
    if version < 180_000 {
        return;
    }
    stack.sql("ALTER SYSTEM SET idle_replication_slot_timeout = '1s'").await;
    stack.sql("SELECT pg_reload_conf()").await;
    stack.fill("i1", "10", &["item:1"]).await;
    let old = epoch(&stack).await.expect("an epoch");
    stack.daemon().kill9().await;
    stack.sql(CHANGE).await;
    eventually("the slot's end", PATIENCE, async || {
        tokio::time::sleep(Duration::from_millis(200)).await;
        stack.sql("CHECKPOINT").await;
        let reason = "SELECT coalesce(invalidation_reason, '') FROM pg_replication_slots";
        (stack.value(reason).await == "idle_timeout").then_some(())
    })
    .await;
    stack.daemon().start_again();
    newer_epoch(&stack, &old).await;
    assert!(stack.get("i1").await.is_miss());
    assert!(stack.daemon().log_contains("idle_replication_slot_timeout"));
    serves_again(&mut stack).await;
}

/// Keepalives are answered whatever Redis does, however full the batch is.
#[tokio::test]
async fn wal_sender_timeout_is_kept_while_redis_hangs() {
    let options = StackOptions::new().schema(SCHEMA).setting("wal_sender_timeout", "1s");
    // One commit fills the batch: from then on nothing is read from the stream.
    let daemon = DaemonOptions::new().args(["--max-tags-per-batch", "1"]);
    let mut stack = Stack::start(options.daemon(daemon)).await;
    stack.fill("i1", "10", &["item:1"]).await;
    let old = epoch(&stack).await.expect("an epoch");
    let walsender = "SELECT active_pid FROM pg_replication_slots";
    let pid = stack.value(walsender).await;
    stack.redis.signal(libc::SIGSTOP);
    for _ in 0..20 {
        stack.sql(CHANGE).await;
    }
    // Twice the timeout, and less than the daemon's own patience with Redis, which is three seconds.
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(stack.value(walsender).await, pid, "the server has ended the connection");
    stack.redis.signal(libc::SIGCONT);
    stack.wait_caught_up_now().await;
    assert_eq!(epoch(&stack).await, Some(old));
    assert!(stack.get("i1").await.is_miss());
}

#[tokio::test]
async fn a_frozen_daemon_whose_connection_was_ended_comes_back() {
    let mut stack = Stack::start(StackOptions::new().schema(SCHEMA).setting("wal_sender_timeout", "1s")).await;
    stack.fill("i1", "10", &["item:1"]).await;
    let old = epoch(&stack).await.expect("an epoch");
    stack.daemon().pause();
    stack.sql(CHANGE).await;
    eventually("the connection's end", PATIENCE, async || {
        (stack.value("SELECT count(*) FROM pg_replication_slots WHERE active").await == "0").then_some(())
    })
    .await;
    stack.daemon().resume();
    stack.wait_caught_up_now().await;
    assert_eq!(epoch(&stack).await, Some(old));
    assert!(stack.get("i1").await.is_miss());
}

/// No rule, not even a table: the slot follows what other databases of the server write.
#[tokio::test]
async fn an_untracked_database_holds_nothing_back() {
    let mut stack = Stack::start(StackOptions::new()).await;
    stack.sql("CREATE DATABASE busy").await;
    let client = stack.postgres.connect("busy").await.expect("connects");
    client.batch_execute("CREATE TABLE ballast (id bigserial PRIMARY KEY, filler text)").await.expect("creates");
    let start = lsn(&stack.value("SELECT pg_current_wal_lsn()").await);
    for _ in 0..4 {
        client.batch_execute(BALLAST).await.expect("writes");
        stack.sql("SELECT pg_switch_wal()").await;
        stack.sql("CHECKPOINT").await;
    }
    let written = lsn(&stack.value("SELECT pg_current_wal_lsn()").await) - start;
    assert!(written > 40 * MIB, "{written}");
    let (retained, unconfirmed) = eventually("the slot follows", PATIENCE, async || {
        stack.sql("CHECKPOINT").await;
        held(&stack).await.filter(|(retained, _)| *retained < MIB)
    })
    .await;
    assert!(retained < MIB && unconfirmed < MIB, "{retained} {unconfirmed}");
    assert!(stack.daemon().is_running());
}

/// Commits wait for a daemon whose slot is gone, and the slot's creation waits for them: said at once, with the remedy.
#[tokio::test]
async fn strict_mode_without_a_slot_is_said() {
    let mut stack = Stack::start(StackOptions::new().schema(SCHEMA).without_daemon()).await;
    stack.sql("ALTER SYSTEM SET synchronous_standby_names = 'cachetag'").await;
    stack.sql("SELECT pg_reload_conf()").await;
    let client = stack.connect().await;
    let commit = tokio::spawn(async move { client.batch_execute(CHANGE).await });
    eventually("the commit waits", PATIENCE, async || {
        let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
        (stack.value(waiting).await == "1").then_some(())
    })
    .await;
    stack.start_daemon(DaemonOptions::new());
    eventually("the words", PATIENCE, async || {
        stack.daemon().log_contains("waits for commits that wait for this very daemon").then_some(())
    })
    .await;
    assert!(!commit.is_finished());
    // The remedy that it names.
    stack.sql("ALTER SYSTEM SET synchronous_standby_names = ''").await;
    stack.sql("SELECT pg_reload_conf()").await;
    tokio::time::timeout(PATIENCE, commit).await.expect("still waits").expect("runs").expect("commits");
    stack.wait_caught_up_now().await;
}

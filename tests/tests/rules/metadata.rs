//! Rules 10, 11 and 12: coarser rather than nothing, rules and edges in commit order, and tables that join while they are written.

use std::time::Duration;

use cachetag_tests::{DaemonOptions, Lsn, Stack, StackOptions, State, eventually};

const PATIENCE: Duration = Duration::from_secs(30);
const MAX_LAG: Duration = Duration::from_millis(500);
const SCHEMA: &str = "CREATE TABLE products (id int PRIMARY KEY, price int NOT NULL);
    INSERT INTO products SELECT i, 10 FROM generate_series(1, 9) i; SELECT cachetag.track('products', 'product:{id}');
    CREATE TABLE items (id int PRIMARY KEY, price int NOT NULL); INSERT INTO items SELECT i, 10 FROM generate_series(1, 9) i";

async fn stack() -> Stack {
    Stack::start(StackOptions::new().schema(SCHEMA).daemon(DaemonOptions::new().max_lag(MAX_LAG))).await
}

async fn fill_all(stack: &Stack, tags: &[&str]) {
    for tag in tags {
        stack.fill(tag, "old", &[tag]).await;
    }
}

/// Exactly these of the entries have fallen.
async fn fallen(stack: &Stack, position: Lsn, tags: &[(&str, bool)]) {
    stack.wait_caught_up(position).await;
    for (tag, expected) in tags {
        let got = stack.get(tag).await;
        assert_eq!(got.is_miss(), *expected, "{tag}: {got:?}");
    }
}

/// What happens while the daemon is stopped, and then: from the start on none of the entries ever hits.
async fn while_stopped(stack: &mut Stack, sql: &[&str], lost: &[&str], kept: &[&str]) {
    stack.daemon().stop().await;
    for statement in sql {
        stack.sql(statement).await;
    }
    let position = stack.flushed().await;
    let mut cache = stack.cache().await;
    let probe = lost[0];
    eventually("the bypass", PATIENCE, async || {
        (cache.get(probe).await.expect("Redis answers").state == State::Bypass).then_some(())
    })
    .await;
    stack.daemon().start_again();
    eventually("the end of the bypass", PATIENCE, async || {
        for entry in lost {
            let got = cache.get(entry).await.expect("Redis answers");
            assert!(!got.is_hit(), "{entry} hits though the daemon is not through: {got:?}");
        }
        (cache.get(probe).await.expect("Redis answers").state != State::Bypass).then_some(())
    })
    .await;
    stack.wait_caught_up(position).await;
    for (entries, missed) in [(lost, true), (kept, false)] {
        for entry in entries {
            let got = stack.get(entry).await;
            assert_eq!(got.is_miss(), missed, "{entry}: {got:?}");
        }
    }
}

#[tokio::test]
async fn rule_10_an_old_row_that_is_not_in_the_wal_bumps_the_family() {
    let schema = "CREATE TABLE books (id int PRIMARY KEY, shelf int); INSERT INTO books VALUES (1, 1), (2, 2);
                  SELECT cachetag.track('books', ARRAY['shelf:{shelf}'], identity => 'family')";
    let stack = Stack::start(StackOptions::new().schema(schema)).await;
    fill_all(&stack, &["shelf:1", "shelf:2", "shelf:3", "other:1"]).await;
    // An insert has no old row: precise.
    let commit = stack.commit("INSERT INTO books VALUES (3, 3)").await;
    fallen(&stack, commit, &[("shelf:1", false), ("shelf:2", false), ("shelf:3", true), ("other:1", false)]).await;
    // From shelf 1 to 2: the old shelf is not in the WAL.
    let commit = stack.commit("UPDATE books SET shelf = 2 WHERE id = 1").await;
    fallen(&stack, commit, &[("shelf:1", true), ("shelf:2", true), ("other:1", false)]).await;
    fill_all(&stack, &["shelf:2"]).await;
    let commit = stack.commit("DELETE FROM books WHERE id = 1").await;
    fallen(&stack, commit, &[("shelf:2", true), ("other:1", false)]).await;
}

#[tokio::test]
async fn rule_10_truncate_bumps_the_family() {
    let stack = stack().await;
    fill_all(&stack, &["product:1", "product:999", "item:1"]).await;
    let commit = stack.commit("TRUNCATE products").await;
    fallen(&stack, commit, &[("product:1", true), ("product:999", true), ("item:1", false)]).await;
}

#[tokio::test]
async fn rule_10_a_transaction_with_too_many_tags_bumps_the_family() {
    let options = DaemonOptions::new().args(["--max-tags-per-transaction", "100"]);
    let stack = Stack::start(StackOptions::new().schema(SCHEMA).daemon(options)).await;
    fill_all(&stack, &["product:1", "product:150", "product:999999", "item:1"]).await;
    let commit = stack.commit("INSERT INTO products SELECT i, 1 FROM generate_series(100, 400) i").await;
    fallen(&stack, commit, &[("product:150", true), ("item:1", false)]).await;
    assert!(stack.get("product:999999").await.is_miss(), "the family was bumped as a whole");
}

#[tokio::test]
async fn rule_10_a_column_with_a_default_bumps_the_family() {
    let stack = stack().await;
    fill_all(&stack, &["product:1", "item:1"]).await;
    let commit = stack.commit("ALTER TABLE products ADD COLUMN name text DEFAULT 'x'").await;
    fallen(&stack, commit, &[("product:1", true), ("item:1", false)]).await;
}

#[tokio::test]
async fn rule_11_an_edge_bumps_its_child_when_added_when_followed_and_when_removed() {
    let stack = stack().await;
    fill_all(&stack, &["home", "other"]).await;
    let commit = stack.commit("SELECT cachetag.depend('home', 'product:1')").await;
    fallen(&stack, commit, &[("home", true), ("other", false)]).await;
    fill_all(&stack, &["home"]).await;
    let commit = stack.commit("UPDATE products SET price = 11 WHERE id = 2").await;
    fallen(&stack, commit, &[("home", false)]).await;
    let commit = stack.commit("UPDATE products SET price = 11 WHERE id = 1").await;
    fallen(&stack, commit, &[("home", true), ("other", false)]).await;
    fill_all(&stack, &["home"]).await;
    let commit = stack.commit("SELECT cachetag.undepend('home', 'product:1')").await;
    fallen(&stack, commit, &[("home", true), ("other", false)]).await;
    fill_all(&stack, &["home"]).await;
    let commit = stack.commit("UPDATE products SET price = 12 WHERE id = 1").await;
    fallen(&stack, commit, &[("home", false), ("other", false)]).await;
}

/// An edge and a change in one transaction, and an edge that is rolled back.
#[tokio::test]
async fn rule_11_metadata_takes_effect_with_its_transaction() {
    let stack = stack().await;
    fill_all(&stack, &["home"]).await;
    stack.sql("BEGIN; SELECT cachetag.depend('home', 'product:1'); ROLLBACK").await;
    let commit = stack.commit("UPDATE products SET price = 11 WHERE id = 1").await;
    fallen(&stack, commit, &[("home", false)]).await;
    let both =
        "BEGIN; UPDATE products SET price = 12 WHERE id = 1; SELECT cachetag.depend('home', 'product:1'); COMMIT";
    let commit = stack.commit(both).await;
    fallen(&stack, commit, &[("home", true)]).await;
    fill_all(&stack, &["home"]).await;
    let commit = stack.commit("UPDATE products SET price = 13 WHERE id = 1").await;
    fallen(&stack, commit, &[("home", true)]).await;
}

#[tokio::test]
async fn rule_11_an_edge_removed_behind_a_stopped_daemon_misses_no_cascade() {
    let mut stack = stack().await;
    stack.sql("SELECT cachetag.depend('home', 'product:1'); SELECT cachetag.depend('all', 'home')").await;
    stack.wait_caught_up_now().await;
    fill_all(&stack, &["home", "all", "product:1", "other"]).await;
    // The change happened under the edge; the daemon reads the rules when it is gone.
    let sql = ["UPDATE products SET price = 11 WHERE id = 1", "SELECT cachetag.undepend('home')"];
    while_stopped(&mut stack, &sql, &["home", "all", "product:1"], &["other"]).await;
}

#[tokio::test]
async fn rule_11_an_edge_added_behind_a_stopped_daemon_misses_no_cascade() {
    let mut stack = stack().await;
    fill_all(&stack, &["home", "product:1", "other"]).await;
    let sql = ["SELECT cachetag.depend('home', 'product:1')", "UPDATE products SET price = 11 WHERE id = 1"];
    while_stopped(&mut stack, &sql, &["home", "product:1"], &["other"]).await;
    fill_all(&stack, &["home"]).await;
    let commit = stack.commit("UPDATE products SET price = 12 WHERE id = 1").await;
    fallen(&stack, commit, &[("home", true), ("other", false)]).await;
}

/// The way to the child leads over a middle that is there only for a while.
#[tokio::test]
async fn rule_11_edges_moved_behind_a_stopped_daemon_miss_no_cascade() {
    let mut stack = stack().await;
    stack.sql("SELECT cachetag.depend('middle', 'product:1'); SELECT cachetag.depend('home', 'middle')").await;
    stack.wait_caught_up_now().await;
    fill_all(&stack, &["home", "middle", "side", "other"]).await;
    let sql = [
        "UPDATE products SET price = 11 WHERE id = 1",
        "SELECT cachetag.undepend('home', 'middle')",
        "SELECT cachetag.depend('side', 'product:2')",
        "UPDATE products SET price = 11 WHERE id = 2",
        "SELECT cachetag.undepend('side', 'product:2')",
        "SELECT cachetag.depend('middle', 'home')",
    ];
    while_stopped(&mut stack, &sql, &["home", "middle", "side"], &["other"]).await;
}

#[tokio::test]
async fn rule_11_a_rule_removed_behind_a_stopped_daemon_misses_nothing() {
    let mut stack = stack().await;
    fill_all(&stack, &["product:1", "other"]).await;
    let sql = ["UPDATE products SET price = 11 WHERE id = 1", "SELECT cachetag.untrack('products')"];
    while_stopped(&mut stack, &sql, &["product:1"], &["other"]).await;
}

#[tokio::test]
async fn rule_11_a_rule_added_behind_a_stopped_daemon_misses_nothing() {
    let mut stack = stack().await;
    fill_all(&stack, &["item:1", "product:1", "other"]).await;
    let sql = ["SELECT cachetag.track('items', 'item:{id}')", "UPDATE items SET price = 11 WHERE id = 1"];
    while_stopped(&mut stack, &sql, &["item:1"], &["other", "product:1"]).await;
}

#[tokio::test]
async fn rule_11_a_table_dropped_behind_a_stopped_daemon_misses_nothing() {
    let mut stack = stack().await;
    fill_all(&stack, &["product:1", "other"]).await;
    let sql = ["UPDATE products SET price = 11 WHERE id = 1", "DROP TABLE products"];
    while_stopped(&mut stack, &sql, &["product:1"], &["other"]).await;
}

#[tokio::test]
async fn rule_11_a_killed_daemon_and_changing_edges_miss_no_cascade() {
    let mut stack = stack().await;
    for round in 0..6 {
        let removed = round % 2 == 1;
        stack.sql("SELECT cachetag.depend('home', 'product:1')").await;
        stack.wait_caught_up_now().await;
        fill_all(&stack, &["home"]).await;
        stack.daemon().kill9().await;
        stack.sql("UPDATE products SET price = price + 1 WHERE id = 1").await;
        stack.daemon().start_again();
        // In the middle of its start, at another moment each time.
        tokio::time::sleep(Duration::from_millis(round * 25)).await;
        if removed {
            stack.sql("SELECT cachetag.undepend('home')").await;
        }
        stack.wait_caught_up_now().await;
        assert!(stack.get("home").await.is_miss(), "round {round}");
    }
}

async fn waits_for_lock(stack: &Stack) {
    let waiting =
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE '%cachetag.track(%'";
    eventually("track's wait", PATIENCE, async || (stack.value(waiting).await == "1").then_some(())).await;
}

#[tokio::test]
async fn rule_12_a_writer_in_flight_while_track_runs_is_not_lost() {
    let stack = stack().await;
    fill_all(&stack, &["item:1", "item:2", "product:1"]).await;
    let writer = stack.connect().await;
    writer.batch_execute("BEGIN; UPDATE items SET price = 11 WHERE id = 1").await.expect("the writer in flight");
    let tracker = stack.connect().await;
    let track = tokio::spawn(async move { tracker.batch_execute("SELECT cachetag.track('items', 'item:{id}')").await });
    waits_for_lock(&stack).await;
    assert!(!track.is_finished());
    writer.batch_execute("COMMIT").await.expect("the writer is not disturbed");
    track.await.expect("the session").expect("track");
    let position = stack.flushed().await;
    fallen(&stack, position, &[("item:1", true), ("product:1", false)]).await;
    fill_all(&stack, &["item:1", "item:2"]).await;
    let commit = stack.commit("UPDATE items SET price = 12 WHERE id = 1").await;
    fallen(&stack, commit, &[("item:1", true), ("item:2", false)]).await;
}

/// It began, and has its snapshot, before the table was tracked; it writes the table after.
#[tokio::test]
async fn rule_12_an_older_transaction_that_writes_after_track_is_not_lost() {
    let stack = stack().await;
    let writer = stack.connect().await;
    let begin =
        "BEGIN ISOLATION LEVEL REPEATABLE READ; UPDATE products SET price = 11 WHERE id = 9; SELECT * FROM items";
    writer.simple_query(begin).await.expect("the older transaction");
    let commit = stack.commit("SELECT cachetag.track('items', 'item:{id}')").await;
    writer.batch_execute("UPDATE items SET price = 11 WHERE id = 1").await.expect("a write");
    stack.wait_caught_up(commit).await;
    fill_all(&stack, &["item:1", "item:2"]).await;
    writer.batch_execute("COMMIT").await.expect("the older transaction's commit");
    let position = stack.flushed().await;
    fallen(&stack, position, &[("item:1", true), ("item:2", false)]).await;
}

/// A writer whose table joins never waits behind a `track` that is itself waiting without bound.
#[tokio::test]
async fn rule_12_track_respects_lock_timeout() {
    let stack = stack().await;
    let writer = stack.connect().await;
    writer.batch_execute("BEGIN; UPDATE items SET price = 11 WHERE id = 1").await.expect("the writer in flight");
    let tracker = stack.connect().await;
    tracker.batch_execute("SET lock_timeout = '50ms'").await.expect("SET");
    let error =
        tracker.batch_execute("SELECT cachetag.track('items', 'item:{id}')").await.expect_err("it must give up");
    assert!(error.as_db_error().is_some_and(|error| error.message().contains("lock timeout")), "{error:?}");
    writer.batch_execute("COMMIT").await.expect("the writer is not disturbed");
    stack.sql("SELECT cachetag.track('items', 'item:{id}')").await;
    stack.wait_caught_up_now().await;
    fill_all(&stack, &["item:1"]).await;
    let commit = stack.commit("UPDATE items SET price = 12 WHERE id = 1").await;
    fallen(&stack, commit, &[("item:1", true)]).await;
}

//! Transactions that are larger than `logical_decoding_work_mem`: they are streamed before their commit, in pieces.

use std::time::Duration;

use cachetag_tests::{Stack, StackOptions, eventually};
use tokio_postgres::Client;

use crate::bumps::{Tags, bumped_since, bumps, log_end, tags};

const TABLES: &str = "
    CREATE TABLE t (id int PRIMARY KEY, n int, filler text);
    INSERT INTO t SELECT g, 0, repeat('x', 100) FROM generate_series(1, 5000) g;
    CREATE TABLE small (id int PRIMARY KEY, n int); INSERT INTO small SELECT g, 0 FROM generate_series(1, 100) g;
    CREATE TABLE ballast (id int PRIMARY KEY, filler text);
    SELECT cachetag.track('t', 't:{id}'); SELECT cachetag.track('small', 'small:{id}');
    SELECT cachetag.track('ballast', 'ballast');";

async fn stack() -> Stack {
    Stack::start(StackOptions::new().setting("logical_decoding_work_mem", "64kB").schema(TABLES)).await
}

/// Makes a transaction large enough to be streamed.
fn ballast(first: u32) -> String {
    format!("INSERT INTO ballast SELECT g, repeat('x', 200) FROM generate_series({first}, {first} + 999) g;")
}

async fn streamed(stack: &Stack) -> u64 {
    // The walsender reports its statistics now and then only; the daemon's farewell makes it do so.
    stack.value("SELECT coalesce(sum(stream_txns), 0) FROM pg_stat_replication_slots").await.parse().expect("a number")
}

/// Sees to it that the server has streamed something in this test, or it would prove nothing.
async fn was_streamed(stack: &mut Stack) {
    stack.daemon().stop().await;
    eventually("streamed transactions", Duration::from_secs(30), async || (streamed(stack).await > 0).then_some(()))
        .await;
}

async fn run(client: &Client, sql: &str) {
    client.batch_execute(sql).await.unwrap_or_else(|error| panic!("{error:?}, in: {sql}"));
}

#[tokio::test]
async fn what_is_rolled_back_bumps_nothing() {
    let mut stack = stack().await;
    let sql = format!(
        "BEGIN; UPDATE small SET n = 1 WHERE id = 1; {} SAVEPOINT a; UPDATE small SET n = 1 WHERE id = 2; {}
         SAVEPOINT b; UPDATE small SET n = 1 WHERE id = 3; {} ROLLBACK TO b; UPDATE small SET n = 1 WHERE id = 4; {}
         ROLLBACK TO a; UPDATE small SET n = 1 WHERE id = 5; {} RELEASE a; COMMIT",
        ballast(0),
        ballast(10_000),
        ballast(20_000),
        ballast(30_000),
        ballast(40_000)
    );
    assert_eq!(bumps(&stack, &sql).await, tags(["ballast", "small:1", "small:5"]));
    let sql = format!("BEGIN; UPDATE small SET n = 2; {} ROLLBACK", ballast(50_000));
    assert_eq!(bumps(&stack, &sql).await, tags([]));
    // A rolled back subtransaction takes along those that were committed into it.
    let sql = format!(
        "BEGIN; {} SAVEPOINT a; SAVEPOINT b; UPDATE small SET n = 3 WHERE id = 6; {} RELEASE b; ROLLBACK TO a;
         SELECT cachetag.invalidate('by hand'::text); COMMIT",
        ballast(60_000),
        ballast(70_000)
    )
    .replace("by hand", "hand:made");
    assert_eq!(bumps(&stack, &sql).await, tags(["ballast", "hand:made"]));
    was_streamed(&mut stack).await;
}

#[tokio::test]
async fn entries_stay_until_the_commit_and_others_commit_meanwhile() {
    let mut stack = stack().await;
    for key in ["t:7", "small:7", "small:8"] {
        stack.fill(key, "0", &[key]).await;
    }
    let large = stack.connect().await;
    run(
        &large,
        &format!("BEGIN; UPDATE t SET n = n + 1 WHERE id = 7; UPDATE small SET n = 1 WHERE id = 7; {}", ballast(0)),
    )
    .await;
    let commit = stack.commit("UPDATE small SET n = 1 WHERE id = 8").await;
    stack.wait_caught_up(commit).await;
    assert!(stack.get("small:8").await.is_miss());
    assert!(stack.get("t:7").await.is_hit() && stack.get("small:7").await.is_hit(), "not committed yet");
    stack.fill("small:8", "1", &["small:8"]).await;
    run(&large, "COMMIT").await;
    stack.wait_caught_up_now().await;
    assert!(stack.get("t:7").await.is_miss() && stack.get("small:7").await.is_miss());
    assert!(stack.get("small:8").await.is_hit());
    was_streamed(&mut stack).await;
}

#[tokio::test]
async fn a_rule_made_in_the_transaction_or_beside_it_loses_nothing() {
    let mut stack = stack().await;
    stack.sql("CREATE TABLE late (id int PRIMARY KEY, n int); INSERT INTO late VALUES (1, 0)").await;
    let sql = format!(
        "BEGIN; {} SELECT cachetag.track('late', 'late:{{id}}'); UPDATE late SET n = 1 WHERE id = 1; {} COMMIT",
        ballast(0),
        ballast(10_000)
    );
    let found = bumps(&stack, &sql).await;
    assert!(found.contains("late:1") || found.contains("late:*") || found.contains("*"), "{found:?}");
    assert_eq!(bumps(&stack, "UPDATE late SET n = 2").await, tags(["late:1"]));

    let large = stack.connect().await;
    run(&large, &format!("BEGIN; UPDATE small SET n = 9 WHERE id = 9; {}", ballast(20_000))).await;
    stack.sql("SELECT cachetag.depend('homepage', 'small:9')").await;
    stack.wait_caught_up_now().await;
    let place = log_end(&stack).await;
    run(&large, "COMMIT").await;
    stack.wait_caught_up_now().await;
    let found = bumped_since(&stack, &place).await;
    assert!(found.contains("homepage") || found.contains("*"), "{found:?}");
    was_streamed(&mut stack).await;
}

#[tokio::test]
async fn a_table_altered_in_the_transaction_is_read_as_it_is() {
    let mut stack = stack().await;
    let sql = format!(
        "BEGIN; {} ALTER TABLE small ADD COLUMN extra text; ALTER TABLE small DROP COLUMN n;
         UPDATE small SET extra = 'x' WHERE id = 3; {} COMMIT",
        ballast(0),
        ballast(10_000)
    );
    let found = bumps(&stack, &sql).await;
    assert!(found.contains("small:3") || found.contains("small:*"), "{found:?}");
    assert_eq!(bumps(&stack, "UPDATE small SET extra = 'y' WHERE id = 4").await, tags(["small:4"]));
    let sql = format!(
        "BEGIN; {} SAVEPOINT s; ALTER TABLE small ADD COLUMN first int; UPDATE small SET first = 1 WHERE id = 5; {}
         ROLLBACK TO s; UPDATE small SET extra = 'z' WHERE id = 6; {} COMMIT",
        ballast(20_000),
        ballast(30_000),
        ballast(40_000)
    );
    let found = bumps(&stack, &sql).await;
    assert!(found.contains("small:6") || found.contains("small:*"), "{found:?}");
    was_streamed(&mut stack).await;
}

#[tokio::test]
async fn a_daemon_killed_in_the_middle_bumps_at_the_commit() {
    let mut stack = stack().await;
    stack.fill("small:1", "0", &["small:1"]).await;
    let large = stack.connect().await;
    run(&large, &format!("BEGIN; UPDATE small SET n = 1 WHERE id = 1; {}", ballast(0))).await;
    // The stream is idle only when what there is has been sent.
    stack.wait_caught_up_now().await;
    stack.daemon().kill9().await;
    run(&large, &ballast(10_000)).await;
    stack.daemon().start_again();
    stack.wait_caught_up_now().await;
    assert!(stack.get("small:1").await.is_hit(), "not committed yet");
    let place = log_end(&stack).await;
    run(&large, "COMMIT").await;
    stack.wait_caught_up_now().await;
    assert!(stack.get("small:1").await.is_miss());
    assert_eq!(bumped_since(&stack, &place).await, tags(["ballast", "small:1"]));
    was_streamed(&mut stack).await;
}

/// PREPARE, then a disturbance, then the end: by COMMIT PREPARED or ROLLBACK PREPARED, of a small and of a streamed transaction.
async fn prepared(disturb: impl AsyncFn(&mut Stack)) {
    let mut stack = stack().await;
    let prepare = async |stack: &Stack, id: u32, more: &str| {
        let sql = format!("BEGIN; UPDATE small SET n = n + 1 WHERE id = {id}; {more} PREPARE TRANSACTION 'p{id}'");
        assert_eq!(bumps(stack, &sql).await, tags([]), "PREPARE of {id}");
    };
    for key in ["small:1", "small:2", "small:3", "small:4"] {
        stack.fill(key, "0", &[key]).await;
    }
    prepare(&stack, 1, "").await;
    prepare(&stack, 2, &ballast(0)).await;
    prepare(&stack, 3, "").await;
    prepare(&stack, 4, &ballast(10_000)).await;
    disturb(&mut stack).await;
    stack.wait_caught_up_now().await;
    let expected: [(&str, Tags); 4] = [
        ("COMMIT PREPARED 'p1'", tags(["small:1"])),
        ("COMMIT PREPARED 'p2'", tags(["ballast", "small:2"])),
        ("ROLLBACK PREPARED 'p3'", tags([])),
        ("ROLLBACK PREPARED 'p4'", tags([])),
    ];
    for (sql, bumped) in expected {
        assert_eq!(bumps(&stack, sql).await, bumped, "{sql}");
    }
    assert!(stack.get("small:1").await.is_miss() && stack.get("small:2").await.is_miss());
}

#[tokio::test]
async fn prepared_transactions_bump_when_they_commit() {
    prepared(async |_| {}).await;
}

#[tokio::test]
async fn prepared_transactions_outlive_the_daemon() {
    prepared(async |stack| stack.daemon().restart().await).await;
    prepared(async |stack| {
        stack.daemon().kill9().await;
        stack.daemon().start_again();
    })
    .await;
}

#[tokio::test]
async fn prepared_transactions_end_while_the_daemon_is_down() {
    let mut stack = stack().await;
    for key in ["small:1", "small:2", "small:3"] {
        stack.fill(key, "0", &[key]).await;
    }
    stack.sql(&format!("BEGIN; UPDATE small SET n = 1 WHERE id = 1; {} PREPARE TRANSACTION 'a'", ballast(0))).await;
    stack.wait_caught_up_now().await;
    stack.daemon().kill9().await;
    stack.sql("BEGIN; UPDATE small SET n = 1 WHERE id = 2; PREPARE TRANSACTION 'b'").await;
    stack.sql("BEGIN; UPDATE small SET n = 1 WHERE id = 3; PREPARE TRANSACTION 'c'").await;
    stack.sql("COMMIT PREPARED 'a'").await;
    stack.sql("COMMIT PREPARED 'b'").await;
    stack.sql("ROLLBACK PREPARED 'c'").await;
    stack.daemon().start_again();
    stack.wait_caught_up_now().await;
    assert!(stack.get("small:1").await.is_miss() && stack.get("small:2").await.is_miss());
    assert!(stack.get("small:3").await.is_hit());
}

//! Commands that take several transactions: what others see in between.

use std::time::Duration;

use cachetag_tests::{DaemonOptions, Stack, StackOptions, eventually};

use crate::situations::shop;

const PATIENCE: Duration = Duration::from_secs(30);

#[tokio::test]
async fn a_partition_being_detached_concurrently_is_gone_for_readers_before_the_command_ends() {
    let stack = shop().await;
    stack.sql("CREATE SCHEMA shop").await;
    stack
        .sql(
            "CREATE TABLE e (id int, region int, PRIMARY KEY (id, region)) PARTITION BY LIST (region);
             CREATE TABLE e1 PARTITION OF e FOR VALUES IN (1); CREATE TABLE e2 PARTITION OF e FOR VALUES IN (2);
             INSERT INTO e VALUES (1, 1), (2, 2); SELECT cachetag.track('e', 'e:{id}');",
        )
        .await;
    stack.wait_caught_up_now().await;
    stack.fill("e1", "1", &["e:1"]).await;
    // The command waits for this reader.
    let reader = stack.connect().await;
    reader.simple_query("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT * FROM e").await.expect("the old reader");
    let detacher = stack.connect().await;
    let detach =
        tokio::spawn(async move { detacher.batch_execute("ALTER TABLE e DETACH PARTITION e1 CONCURRENTLY").await });
    eventually("the partition to be gone for new readers", PATIENCE, async || {
        (stack.value("SELECT count(*) FROM e").await == "1").then_some(())
    })
    .await;
    assert!(!detach.is_finished());
    stack.wait_caught_up_now().await;
    assert!(stack.get("e1").await.is_miss());
    reader.batch_execute("COMMIT").await.expect("the old reader's end");
    detach.await.expect("the session").expect("the command");
}

#[tokio::test]
async fn no_writer_fails_while_an_index_is_dropped_concurrently() {
    let stack = shop().await;
    stack.sql("CREATE SCHEMA shop").await;
    stack
        .sql(
            "CREATE TABLE t (id int NOT NULL, n int); CREATE UNIQUE INDEX t_id ON t (id); ALTER TABLE t REPLICA IDENTITY USING INDEX t_id;
             INSERT INTO t VALUES (1, 1); SELECT cachetag.track('t', 't:{id}');",
        )
        .await;
    let reader = stack.connect().await;
    reader.simple_query("BEGIN; SELECT * FROM t").await.expect("the old reader");
    let dropper = stack.connect().await;
    let drop = tokio::spawn(async move { dropper.batch_execute("DROP INDEX CONCURRENTLY t_id").await });
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE 'DROP INDEX%'";
    eventually("the command's wait or its end", PATIENCE, async || {
        (drop.is_finished() || stack.value(waits).await == "1").then_some(())
    })
    .await;
    stack.sql("UPDATE t SET n = 2").await;
    reader.batch_execute("COMMIT").await.expect("the old reader's end");
    let refused = drop.await.expect("the session").expect_err("it would make writers fail");
    assert!(refused.as_db_error().is_some_and(|error| error.hint().is_some()), "{refused:?}");
    stack.sql("ALTER TABLE t REPLICA IDENTITY FULL").await;
    stack.sql("DROP INDEX CONCURRENTLY t_id").await;
    stack.sql("UPDATE t SET n = 3").await;
}

const MADE_MEANWHILE: &str = "CREATE TABLE t (id int PRIMARY KEY, n int); INSERT INTO t VALUES (1, 1), (2, 2); SELECT cachetag.track('t', 't:{id}');
    CREATE TABLE late (id int PRIMARY KEY, n int); INSERT INTO late VALUES (1, 1), (2, 2)";

#[tokio::test]
async fn a_table_tracked_while_the_slot_is_being_made_is_published() {
    let stack = with_a_slot_made_while("SELECT cachetag.track('late', 'late:{id}')").await;
    stack.fill("late", "1", &["late:1"]).await;
    let commit = stack.commit("UPDATE late SET n = n + 1 WHERE id = 1").await;
    stack.wait_caught_up(commit).await;
    assert!(stack.get("late").await.is_miss());
}

#[tokio::test]
async fn a_table_emptied_while_the_slot_is_being_made_can_be_decoded() {
    let mut stack = with_a_slot_made_while("TRUNCATE late; INSERT INTO late VALUES (1, 1), (2, 2)").await;
    let log = stack.daemon().log();
    assert!(!log.contains("not streaming"), "{log}");
}

/// PostgreSQL takes no note of what commits while the creation of a slot waits for the transactions that were running at first, and decodes
/// what begins before the creation's end with the catalog as it was.
async fn with_a_slot_made_while(sql: &str) -> Stack {
    let mut stack = Stack::start(StackOptions::new().schema(MADE_MEANWHILE).without_daemon()).await;
    let (first, second, third) = (stack.connect().await, stack.connect().await, stack.connect().await);
    let begin = "BEGIN; SELECT pg_current_xact_id()";
    first.batch_execute(begin).await.expect("a transaction that is running at first");
    stack.start_daemon(DaemonOptions::new());
    creation_waits(&stack, &first).await;
    second.batch_execute(begin).await.expect("a transaction that is running when the first has ended");
    stack.sql(sql).await;
    first.batch_execute("COMMIT").await.expect("the end of the first");
    creation_waits(&stack, &second).await;
    let changes = "BEGIN; UPDATE t SET n = n + 1 WHERE id = 2; UPDATE late SET n = n + 1 WHERE id = 2";
    third.batch_execute(changes).await.expect("a transaction that has changed rows when the second has ended");
    second.batch_execute("COMMIT").await.expect("the end of the second");
    let made = "SELECT slot_name FROM pg_replication_slots WHERE confirmed_flush_lsn IS NOT NULL";
    eventually("the slot", PATIENCE, async || (!stack.rows(made).await.is_empty()).then_some(())).await;
    third.batch_execute("COMMIT").await.expect("the end of the third");
    stack.wait_ready().await;
    stack
}

/// Waits until a walsender waits for the transaction of this session.
async fn creation_waits(stack: &Stack, session: &tokio_postgres::Client) {
    let xid = session.query_one("SELECT pg_current_xact_id()::xid::text", &[]).await.expect("an id");
    let waits = format!(
        "SELECT pid FROM pg_locks WHERE locktype = 'transactionid' AND NOT granted AND transactionid = '{}'::xid",
        xid.get::<_, &str>(0)
    );
    let waiting = async || (!stack.rows(&waits).await.is_empty()).then_some(());
    eventually("the creation of the slot to wait", PATIENCE, waiting).await;
}

//! Commands that take several transactions: what others see in between.

use std::time::Duration;

use cachetag_tests::eventually;

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

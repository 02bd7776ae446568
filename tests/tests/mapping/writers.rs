//! No UPDATE of any table ever fails because of us.

use crate::bumps::{bumps, stack, tags};

const WRITE: &str = "INSERT INTO t VALUES (1, 1); UPDATE t SET n = 2; DELETE FROM t;";

#[tokio::test]
async fn a_table_without_a_primary_key_is_refused_or_tracked_as_a_whole() {
    let stack = stack("CREATE TABLE t (id int, n int)").await;
    let refused = stack.connect().await.simple_query("SELECT cachetag.track('t', 't:{id}')").await;
    assert!(refused.is_err_and(|error| error.as_db_error().is_some_and(|error| error.hint().is_some())));
    stack.sql(WRITE).await;
    stack.sql("SELECT cachetag.track('t', ARRAY['t:{id}'], identity => 'full')").await;
    assert_eq!(bumps(&stack, WRITE).await, tags(["t:1"]));
}

#[tokio::test]
async fn a_primary_key_dropped_later_stops_no_writer() {
    let stack = stack("CREATE TABLE t (id int PRIMARY KEY, n int); SELECT cachetag.track('t', 't:{id}');").await;
    stack.sql("ALTER TABLE t DROP CONSTRAINT t_pkey").await;
    assert_eq!(bumps(&stack, WRITE).await, tags(["t:1"]));
    // And within the transaction that drops it.
    stack
        .sql(
            "CREATE TABLE u (id int, n int); CREATE UNIQUE INDEX u_id ON u (id); ALTER TABLE u ALTER id SET NOT NULL;
               ALTER TABLE u REPLICA IDENTITY USING INDEX u_id; SELECT cachetag.track('u', 'u:{id}');",
        )
        .await;
    let found = bumps(&stack, "DROP INDEX u_id; INSERT INTO u VALUES (1, 1); UPDATE u SET n = 2; DELETE FROM u").await;
    assert!(found.contains("u:1") || found.contains("u:*"), "{found:?}");
}

#[tokio::test]
async fn replica_identity_nothing_set_later_stops_no_writer() {
    let stack = stack("CREATE TABLE t (id int PRIMARY KEY, n int); SELECT cachetag.track('t', 't:{id}');").await;
    stack.sql("ALTER TABLE t REPLICA IDENTITY NOTHING").await;
    let found = bumps(&stack, WRITE).await;
    assert!(found.contains("t:1") || found.contains("t:*"), "{found:?}");
    stack.sql("ALTER TABLE t REPLICA IDENTITY DEFAULT").await;
    assert_eq!(bumps(&stack, WRITE).await, tags(["t:1"]));
}

#[tokio::test]
async fn a_narrower_identity_set_later_falls_back_to_families() {
    let stack = stack(
        "CREATE TABLE t (id int PRIMARY KEY, n int);
         ALTER TABLE t REPLICA IDENTITY FULL;
         SELECT cachetag.track('t', ARRAY['t:{id}', 'n:{n}']);",
    )
    .await;
    assert_eq!(bumps(&stack, WRITE).await, tags(["t:1", "n:1", "n:2"]));
    stack.sql("ALTER TABLE t REPLICA IDENTITY DEFAULT").await;
    assert_eq!(bumps(&stack, WRITE).await, tags(["t:1", "n:*"]));
}

#[tokio::test]
async fn a_narrower_identity_does_not_last_where_a_rule_asked_for_full() {
    let stack = stack(
        "CREATE TABLE t (id int PRIMARY KEY, n int);
         SELECT cachetag.track('t', ARRAY['t:{id}', 'n:{n}'], identity => 'full');",
    )
    .await;
    stack.sql("ALTER TABLE t REPLICA IDENTITY DEFAULT").await;
    assert_eq!(bumps(&stack, WRITE).await, tags(["t:1", "n:1", "n:2"]));
}

#[tokio::test]
async fn a_partition_attached_without_a_primary_key_stops_no_writer() {
    let stack = stack(
        "CREATE TABLE t (id int, n int) PARTITION BY LIST (n);
         CREATE TABLE t1 PARTITION OF t FOR VALUES IN (1);
         SELECT cachetag.track('t', ARRAY['t:{id}'], identity => 'full');
         CREATE TABLE t2 (id int, n int);",
    )
    .await;
    stack.sql("ALTER TABLE t ATTACH PARTITION t2 FOR VALUES IN (2)").await;
    assert_eq!(bumps(&stack, WRITE).await, tags(["t:1"]));
    assert_eq!(bumps(&stack, "INSERT INTO t2 VALUES (3, 2); UPDATE t2 SET id = 4").await, tags(["t:3", "t:4"]));
    stack.sql("CREATE TABLE t3 PARTITION OF t FOR VALUES IN (3); INSERT INTO t VALUES (5, 3)").await;
    assert_eq!(bumps(&stack, "UPDATE t SET id = 6 WHERE id = 5").await, tags(["t:5", "t:6"]));
    stack.sql("ALTER TABLE t3 REPLICA IDENTITY NOTHING").await;
    assert_eq!(bumps(&stack, "UPDATE t SET id = 7 WHERE id = 6").await, tags(["t:6", "t:7"]));
    stack.sql("ALTER TABLE t DETACH PARTITION t3; UPDATE t3 SET id = 8; DELETE FROM t3").await;
}

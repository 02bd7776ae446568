//! The daemon under a role of its own, as the README says: LOGIN and REPLICATION, nothing else.

use std::time::Duration;

use cachetag_tests::{Daemon, DaemonOptions, Stack, StackOptions, eventually};

const SCHEMA: &str = "
    CREATE TABLE products (id int PRIMARY KEY, price int);
    SELECT cachetag.track('products', 'product:{id}');
    INSERT INTO products SELECT g, g FROM generate_series(1, 10) g;
    CREATE ROLE cachetag_daemon LOGIN REPLICATION;
";

/// The stack's daemon, started as that role.
async fn start() -> (Stack, Daemon) {
    let stack = Stack::start(StackOptions::new().without_daemon().schema(SCHEMA)).await;
    let url = stack.postgres_url().replacen("postgres@", "cachetag_daemon@", 1);
    let log = stack.folder().join("daemon-of-role.log");
    let daemon = Daemon::start(&url, &stack.redis_url(), &log, DaemonOptions::new());
    stack.wait_ready().await;
    (stack, daemon)
}

#[tokio::test(flavor = "current_thread")]
async fn a_role_that_may_replicate_and_nothing_else_is_enough() {
    let (stack, _daemon) = start().await;
    stack.fill("p1", "1", &["product:1"]).await;
    assert!(stack.get("p1").await.is_hit());
    let commit = stack.commit("UPDATE products SET price = 2 WHERE id = 1").await;
    stack.wait_caught_up(commit).await;
    assert!(stack.get("p1").await.is_miss());
    assert_eq!(stack.value("SELECT active FROM cachetag.status()").await, "t");
}

/// Such a role does not see in pg_stat_replication that commits wait for it; waiting for their visibility first would never end.
#[tokio::test(flavor = "current_thread")]
async fn strict_mode_works_for_a_role_that_sees_no_statistics() {
    let (stack, _daemon) = start().await;
    stack.make_strict().await;
    for price in 0..50 {
        stack.fill("p1", "old", &["product:1"]).await;
        stack.sql(&format!("UPDATE products SET price = {price} WHERE id = 1")).await;
        assert!(!stack.get("p1").await.is_hit(), "a hit after COMMIT had returned");
        stack.wait_caught_up_now().await;
    }
}

/// On an idle server somebody has to flush what an open transaction has written; a role that may not says so, and not three times a second.
#[tokio::test(flavor = "current_thread")]
async fn a_role_that_may_not_have_the_log_flushed_says_so_and_goes_on() {
    let (stack, _daemon) = start().await;
    stack.sql("REVOKE EXECUTE ON FUNCTION pg_logical_emit_message(boolean, text, text) FROM PUBLIC").await;
    let told = || {
        let log = std::fs::read_to_string(stack.folder().join("daemon-of-role.log")).expect("a log");
        log.matches("let this role call pg_logical_emit_message").count()
    };
    let open = stack.connect().await;
    open.batch_execute("BEGIN; INSERT INTO products SELECT g, g FROM generate_series(100, 120) g")
        .await
        .expect("inserts");
    eventually("the warning", Duration::from_secs(20), async || (told() == 1).then_some(())).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    open.batch_execute("COMMIT").await.expect("commits");
    stack.wait_caught_up_now().await;
    assert_eq!(told(), 1);
}

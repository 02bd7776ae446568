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
    stack.sql("ALTER SYSTEM SET synchronous_standby_names = 'cachetag'").await;
    stack.sql("SELECT pg_reload_conf()").await;
    eventually("a synchronous standby", Duration::from_secs(10), async || {
        let state = "SELECT coalesce(max(sync_state), '') FROM pg_stat_replication WHERE application_name = 'cachetag'";
        (stack.value(state).await == "sync").then_some(())
    })
    .await;
    for price in 0..50 {
        stack.fill("p1", "old", &["product:1"]).await;
        stack.sql(&format!("UPDATE products SET price = {price} WHERE id = 1")).await;
        assert!(!stack.get("p1").await.is_hit(), "a hit after COMMIT had returned");
        stack.wait_caught_up_now().await;
    }
}

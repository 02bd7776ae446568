//! Strict mode when things fail: a commit that waits for the daemon is released as soon as the daemon is back, whatever it has to do first.

use std::time::Duration;

use cachetag_tests::{Stack, StackOptions, eventually};

async fn strict() -> Stack {
    let schema = "
        CREATE TABLE products (id int PRIMARY KEY, price int);
        SELECT cachetag.track('products', 'product:{id}');
        INSERT INTO products SELECT g, g FROM generate_series(1, 10) g;
    ";
    let stack = Stack::start(StackOptions::new().schema(schema)).await;
    stack.make_strict().await;
    stack
}

/// The first watermark of the new epoch waits for the transaction that was running, which waits for the daemon's acknowledgement,
/// which must not wait for the watermark.
#[tokio::test(flavor = "current_thread")]
async fn a_new_epoch_releases_the_commit_that_waits_for_it() {
    let mut stack = strict().await;
    stack.fill("p1", "1", &["product:1"]).await;
    stack.daemon().pause();
    let client = stack.connect().await;
    let commit = tokio::spawn(async move { client.batch_execute("UPDATE products SET price = 2 WHERE id = 1").await });
    eventually("the commit waits", Duration::from_secs(10), async || {
        let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
        (stack.value(waiting).await == "1").then_some(())
    })
    .await;
    let _: () = redis::cmd("FLUSHALL").query_async(stack.cache().await.connection()).await.unwrap();
    stack.daemon().resume();
    tokio::time::timeout(Duration::from_secs(30), commit).await.expect("the commit still waits").unwrap().unwrap();
    assert!(!stack.get("p1").await.is_hit());
    stack.wait_caught_up_now().await;
    stack.fill("p1", "2", &["product:1"]).await;
    assert!(stack.get("p1").await.is_hit());
}

/// The same when the daemon was killed and finds Redis as it was.
#[tokio::test(flavor = "current_thread")]
async fn a_restart_releases_the_commit_that_waits_for_it() {
    let mut stack = strict().await;
    stack.fill("p1", "1", &["product:1"]).await;
    stack.daemon().kill9().await;
    let client = stack.connect().await;
    let commit = tokio::spawn(async move { client.batch_execute("UPDATE products SET price = 2 WHERE id = 1").await });
    eventually("the commit waits", Duration::from_secs(10), async || {
        let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
        (stack.value(waiting).await == "1").then_some(())
    })
    .await;
    stack.daemon().start_again();
    tokio::time::timeout(Duration::from_secs(30), commit).await.expect("the commit still waits").unwrap().unwrap();
    assert!(!stack.get("p1").await.is_hit());
    stack.wait_caught_up_now().await;
}

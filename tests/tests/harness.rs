//! The harness itself: what the other tests stand on.

use std::time::Instant;

use cachetag_tests::{Stack, StackOptions};

#[tokio::test]
async fn a_stack_starts_and_leaves_nothing() {
    // The first one on a machine makes the template.
    drop(Stack::start(StackOptions::servers_only()).await);
    let started = Instant::now();
    let stack = Stack::start(StackOptions::servers_only().schema("CREATE TABLE t AS SELECT 1 AS i")).await;
    println!("up in {} ms", started.elapsed().as_millis());
    assert_eq!(stack.rows("SELECT i, NULL FROM t").await, [[Some("1".to_owned()), None]]);
    assert_eq!(stack.value("SHOW max_prepared_transactions").await, "20");
    let before = stack.flushed().await;
    assert!(stack.commit("INSERT INTO t VALUES (2)").await > before);
    assert!(stack.cache().await.state().await.expect("Redis answers").is_empty());

    let (folder, ports) = (stack.folder().to_path_buf(), [stack.postgres.port(), stack.redis.port()]);
    drop(stack);
    assert!(!folder.exists());
    for port in ports {
        assert!(std::net::TcpStream::connect(("127.0.0.1", port)).is_err(), "somebody listens on {port}");
    }
}

#[tokio::test]
async fn servers_survive_what_tests_do_to_them() {
    let mut stack = Stack::start(StackOptions::servers_only().setting("work_mem", "5MB")).await;
    stack.sql("CREATE TABLE t (i int)").await;
    stack.postgres.kill().await;
    stack.postgres.start_again().await.expect("recovers");
    assert_eq!(stack.value("SELECT count(*) FROM t").await, "0");
    assert_eq!(stack.value("SHOW work_mem").await, "5MB");
    let url = stack.redis_url();
    stack.redis.kill().await;
    stack.redis.start_again().await.expect("starts");
    assert_eq!(stack.redis_url(), url);
    assert!(stack.cache().await.state().await.expect("Redis answers").is_empty());
}

#[tokio::test]
async fn the_daemon_can_be_paused_killed_and_restarted() {
    let schema = "CREATE TABLE products (id int PRIMARY KEY, price int); INSERT INTO products VALUES (1, 10);
                  SELECT cachetag.track('products', 'product:{id}')";
    let mut stack = Stack::start(StackOptions::new().schema(schema)).await;
    let change = "UPDATE products SET price = price + 1";
    stack.fill("p1", "10", &["product:1"]).await;
    assert_eq!(stack.get("p1").await.text(), Some("10"));
    assert_eq!(stack.explain("p1").await["verdict"], "hit");

    stack.daemon().pause();
    let commit = stack.commit(change).await;
    assert!(!stack.get("p1").await.is_miss(), "nobody has told Redis");
    stack.daemon().resume();
    stack.wait_caught_up(commit).await;
    assert!(stack.get("p1").await.is_miss());

    stack.daemon().kill9().await;
    assert!(!stack.daemon().is_running());
    let commit = stack.commit(change).await;
    stack.daemon().start_again();
    stack.wait_caught_up(commit).await;
    assert!(stack.daemon().stop().await.is_some_and(|status| status.success()));
    assert!(stack.daemon().log_contains("starting"));
}

//! Write through: the outcome is never told wrong.

use std::time::Duration;

use cachetag_client::write::{CatchUp, Fate, Watermarks, WriteError, write_through};
use cachetag_tests::{Stack, StackOptions, eventually};

use super::pool;

const SCHEMA: &str = "CREATE TABLE products (id int PRIMARY KEY, price int NOT NULL);
    INSERT INTO products SELECT i, 0 FROM generate_series(1, 9) i; SELECT cachetag.track('products', 'product:{id}');
    CREATE TABLE parents (id int PRIMARY KEY);
    CREATE TABLE children (parent int REFERENCES parents DEFERRABLE INITIALLY DEFERRED)";
const RAISE: &str = "UPDATE products SET price = price + 1 WHERE id = 1";
const LONG: Duration = Duration::from_secs(20);

async fn stack() -> Stack {
    Stack::start(StackOptions::new().schema(SCHEMA)).await
}

fn watermarks(stack: &Stack) -> Watermarks {
    Watermarks::at(&stack.redis_url(), "ct").expect("a URL")
}

#[tokio::test]
async fn when_it_returns_nobody_hits_the_old_value() {
    let stack = stack().await;
    let (pool, watermarks) = (pool(&stack.postgres_url()), watermarks(&stack));
    for round in 0..30 {
        stack.fill("p1", "old", &["product:1"]).await;
        let (pool, watermarks) = (pool.clone(), watermarks.clone());
        // In a task of its own: the future can be sent.
        let write = async move {
            let mut client = pool.get().await.expect("a client");
            let asynchronous = if round % 2 == 0 { "on" } else { "off" };
            write_through(&mut client, &watermarks, LONG, async |tx| {
                tx.batch_execute(&format!("SET LOCAL synchronous_commit = {asynchronous}")).await?;
                tx.execute(RAISE, &[]).await
            })
            .await
        };
        let done = tokio::spawn(write).await.expect("no panic").expect("a commit");
        assert_eq!(done.value, 1);
        assert!(done.cache.is_done() && done.commit.is_some(), "{done:?}");
        assert!(stack.get("p1").await.is_miss());
    }
    assert_eq!(stack.value("SELECT price FROM products WHERE id = 1").await, "30");
}

#[tokio::test]
async fn a_cache_that_is_late_is_told_apart_from_a_commit_that_failed() {
    let mut stack = stack().await;
    let (pool, watermarks) = (pool(&stack.postgres_url()), watermarks(&stack));
    let mut client = pool.get().await.expect("a client");
    stack.daemon().pause();
    let done =
        write_through(&mut client, &watermarks, Duration::from_millis(200), async |tx| tx.execute(RAISE, &[]).await);
    let done = done.await.expect("it is committed");
    let commit = done.commit.expect("a position");
    let CatchUp::Late { slowest: Some(slowest), trouble: None } = done.cache else { panic!("{:?}", done.cache) };
    assert!(slowest.lsn < commit.lsn());
    assert_eq!(stack.value("SELECT price FROM products WHERE id = 1").await, "1");
    stack.daemon().resume();
    assert!(watermarks.reach(commit, LONG).await.is_done());

    // Redis is gone: the commit is not.
    stack.redis.kill().await;
    let done =
        write_through(&mut client, &watermarks, Duration::from_millis(200), async |tx| tx.execute(RAISE, &[]).await);
    let done = done.await.expect("it is committed");
    assert!(matches!(done.cache, CatchUp::Late { trouble: Some(_), .. }), "{:?}", done.cache);
    assert_eq!(stack.value("SELECT price FROM products WHERE id = 1").await, "2");
}

#[tokio::test]
async fn what_is_not_committed_is_said_to_be() {
    let stack = stack().await;
    let (pool, watermarks) = (pool(&stack.postgres_url()), watermarks(&stack));
    let mut client = pool.get().await.expect("a client");

    let own = write_through(&mut client, &watermarks, LONG, async |tx| {
        tx.execute(RAISE, &[]).await.expect("update");
        Err::<(), _>("no".to_owned())
    });
    assert!(matches!(own.await, Err(WriteError::Application(text)) if text == "no"));

    // PostgreSQL answers this COMMIT with ROLLBACK, which is no error.
    let swallowed = write_through(&mut client, &watermarks, LONG, async |tx| {
        tx.execute(RAISE, &[]).await?;
        let _ = tx.execute("SELECT 1 / 0", &[]).await;
        Ok::<_, tokio_postgres::Error>(())
    });
    assert!(matches!(swallowed.await, Err(WriteError::Aborted(_))));

    let deferred = write_through(&mut client, &watermarks, LONG, async |tx| {
        tx.execute(RAISE, &[]).await?;
        tx.execute("INSERT INTO children VALUES (1)", &[]).await
    });
    let error = deferred.await.expect_err("no parent");
    assert!(matches!(error, WriteError::Refused(_)), "{error}");
    assert!(error.to_string().contains("children_parent_fkey"), "{error}");

    let ended = write_through(&mut client, &watermarks, LONG, async |tx| {
        let _ = tx.execute("SELECT pg_terminate_backend(pg_backend_pid())", &[]).await;
        Ok::<_, tokio_postgres::Error>(())
    });
    assert!(matches!(ended.await, Err(WriteError::Aborted(_))));
    assert_eq!(stack.value("SELECT price FROM products WHERE id = 1").await, "0");
}

/// COMMIT waits for a synchronous standby that does not exist; then its session is ended: it is committed, and nobody has said so.
#[tokio::test]
async fn a_commit_whose_answer_is_lost_is_unknown_and_its_fate_can_be_asked() {
    let mut stack = stack().await;
    let (pool, watermarks) = (pool(&stack.postgres_url()), watermarks(&stack));
    stack.postgres.configure(&[("synchronous_standby_names", "nobody")]).expect("a setting");
    stack.postgres.reload().await.expect("reloaded");
    let mut client = pool.get().await.expect("a client");
    let write = write_through(&mut client, &watermarks, LONG, async |tx| tx.execute(RAISE, &[]).await);
    let end = async {
        let sql = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
        eventually("a commit that waits", LONG, async || (!stack.values(sql).await.is_empty()).then_some(())).await;
    };
    let (done, ()) = tokio::join!(write, end);
    let error = done.expect_err("its answer is lost");
    let WriteError::Unknown(doubt) = error else { panic!("{error}") };
    let other = pool.get().await.expect("a client");
    assert_eq!(doubt.fate(&other).await.expect("an answer"), Fate::Committed);
    assert_eq!(stack.value("SELECT price FROM products WHERE id = 1").await, "1");
}

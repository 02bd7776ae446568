//! Write behind: in order, once, bounded.

use std::time::Duration;

use cachetag_client::write::behind::{Acks, EnqueueError, OpenError, Operation, WorkerError, WriteBehind};
use cachetag_tests::fault::Replica;
use cachetag_tests::{Stack, StackOptions, eventually};

use super::{EVENTS, PATIENCE, drained, events, queue, run, worker};

async fn stack() -> Stack {
    Stack::start(StackOptions::servers_only().schema(EVENTS)).await
}

#[tokio::test]
async fn operations_are_applied_in_order_with_parameters_of_any_type() {
    let stack = stack().await;
    stack
        .sql(
            "CREATE TABLE things (id int, price numeric, at timestamptz, raw bytea, doc jsonb, tags text[], gone text)",
        )
        .await;
    let queue = queue(&stack).await;
    let every = "INSERT INTO things VALUES ($1, $2, $3, $4, $5, $6, $7)";
    let operation = Operation::sql(every).param(7).param("9.90").param("2026-01-02 03:04:05+00").param("\\x00ff");
    let operation = operation.json(&serde_json::json!({"a": [1, null]})).param("{a,\"b c\"}").null();
    queue.enqueue(&operation).await.expect("acknowledged");
    let operations: Vec<_> = (0..250).map(|i| Operation::statement("insert").param(i)).collect();
    assert_eq!(queue.enqueue_all(&operations).await.expect("acknowledged").len(), 250);
    assert_eq!(queue.len().await.expect("a length"), 251);
    let running = run(worker(&stack, &queue).allow_sql());
    drained(&queue).await;
    assert_eq!(events(&stack).await, (0..250).map(|i| i.to_string()).collect::<Vec<_>>());
    let row = stack.rows("SELECT id, price, at AT TIME ZONE 'UTC', raw, doc, tags, gone FROM things").await.remove(0);
    let row: Vec<_> = row.iter().map(|value| value.as_deref().unwrap_or("NULL")).collect();
    assert_eq!(row, ["7", "9.90", "2026-01-02 03:04:05", "\\x00ff", "{\"a\": [1, null]}", "{a,\"b c\"}", "NULL"]);
    assert_eq!((running.numbers.applied(), running.numbers.skipped(), running.numbers.dead()), (251, 0, 0));
}

#[tokio::test]
async fn a_key_is_applied_once_however_often_it_comes() {
    let stack = stack().await;
    let queue = queue(&stack).await;
    let operation = Operation::statement("insert").param("x");
    for _ in 0..3 {
        queue.enqueue(&operation).await.expect("acknowledged");
    }
    let running = run(worker(&stack, &queue));
    drained(&queue).await;
    queue.enqueue(&operation).await.expect("acknowledged");
    queue
        .enqueue(&Operation::statement("insert").param("y").key(operation.idempotency_key()))
        .await
        .expect("acknowledged");
    queue.enqueue(&Operation::statement("insert").param("z")).await.expect("acknowledged");
    drained(&queue).await;
    assert_eq!(events(&stack).await, ["x", "z"]);
    eventually("the count", PATIENCE, async || (running.numbers.skipped() == 4).then_some(())).await;
}

#[tokio::test]
async fn keys_are_forgotten_after_their_time() {
    let stack = stack().await;
    let queue = queue(&stack).await;
    let _running = run(worker(&stack, &queue).remember(Duration::from_millis(500)));
    queue.enqueue(&Operation::statement("insert").param("x")).await.expect("acknowledged");
    drained(&queue).await;
    let none = async || (stack.value("SELECT count(*) FROM cachetag_applied").await == "0").then_some(());
    eventually("no keys", PATIENCE, none).await;
    assert_eq!(events(&stack).await, ["x"]);
}

#[tokio::test]
async fn a_full_queue_refuses_and_says_so() {
    let stack = stack().await;
    let queue = WriteBehind::builder(stack.redis_url()).limit(10).max_bytes(1000).open().await.expect("a queue");
    let operations: Vec<_> = (0..8).map(|i| Operation::statement("insert").param(i)).collect();
    queue.enqueue_all(&operations).await.expect("acknowledged");
    let error = queue.enqueue_all(&operations[..3]).await.expect_err("eleven");
    assert!(matches!(error, EnqueueError::Full { length: 8, limit: 10, .. }), "{error}");
    assert!(!error.may_be_enqueued());
    assert_eq!(queue.len().await.expect("a length"), 8, "all or none");
    queue.enqueue_all(&operations[..2]).await.expect("ten");
    let error = queue.enqueue(&Operation::statement("insert").param("x".repeat(1000))).await.expect_err("large");
    assert!(matches!(error, EnqueueError::TooLarge { limit: 1000, .. }), "{error}");
    let error = queue.enqueue(&Operation::statement("insert").key("k".repeat(1025))).await.expect_err("long");
    assert!(matches!(error, EnqueueError::KeyTooLong { bytes: 1025, limit: 1024 }), "{error}");
    let _running = run(worker(&stack, &queue));
    drained(&queue).await;
    queue.enqueue(&operations[3]).await.expect("there is room again");
}

#[tokio::test]
async fn a_redis_that_cannot_keep_its_word_is_refused() {
    let stack = Stack::start(StackOptions::servers_only().redis_args(["--maxmemory-policy", "allkeys-lru"])).await;
    let error = WriteBehind::builder(stack.redis_url()).open().await.expect_err("it may evict");
    assert!(matches!(&error, OpenError::Evicting { policy } if policy == "allkeys-lru"), "{error}");

    let stack = Stack::start(StackOptions::servers_only()).await;
    let timeout = Duration::from_millis(100);
    let disk = WriteBehind::builder(stack.redis_url()).acks(Acks::Disk { replicas: 0, timeout }).open().await;
    assert!(matches!(disk, Err(OpenError::NoDiskAcks { aof: "no", .. })), "{disk:?}");
    let replicas = Acks::Replicas { count: 1, timeout };
    let queue = WriteBehind::builder(stack.redis_url()).acks(replicas).open().await.expect("a queue");
    let error = queue.enqueue(&Operation::statement("insert")).await.expect_err("no replica");
    assert!(matches!(error, EnqueueError::NotHeld { got: 0, wanted: 1, holders: "replicas" }), "{error}");
    assert!(error.may_be_enqueued());

    // Another Redis takes its place, or it another configuration: what is connected anew is looked at anew.
    let queue = WriteBehind::builder(stack.redis_url()).open().await.expect("a queue");
    queue.enqueue(&Operation::statement("insert")).await.expect("it is as it was");
    let mut redis = stack.cache().await;
    let policy = async |redis: &mut cachetag_tests::Cache, policy: &str| {
        redis::cmd("CONFIG")
            .arg(&["SET", "maxmemory-policy", policy])
            .exec_async(redis.connection())
            .await
            .expect("CONFIG");
        redis::cmd("CLIENT")
            .arg(&["KILL", "TYPE", "normal", "SKIPME", "yes"])
            .exec_async(redis.connection())
            .await
            .expect("KILL");
    };
    policy(&mut redis, "allkeys-random").await;
    let before =
        redis::cmd("XLEN").arg("cachetag:{default}:writes").query_async::<u64>(redis.connection()).await.expect("XLEN");
    let error = eventually("the new connection is looked at", PATIENCE, async || {
        // The connection that was cut tells so first.
        queue
            .enqueue(&Operation::statement("insert"))
            .await
            .err()
            .filter(|error| matches!(error, EnqueueError::Unfit(_)))
    })
    .await;
    assert!(error.to_string().contains("maxmemory-policy is allkeys-random") && !error.may_be_enqueued(), "{error}");
    let after =
        redis::cmd("XLEN").arg("cachetag:{default}:writes").query_async::<u64>(redis.connection()).await.expect("XLEN");
    assert_eq!(before, after);
    policy(&mut redis, "noeviction").await;
    eventually("it is taken back", PATIENCE, async || queue.enqueue(&Operation::statement("insert")).await.ok()).await;
}

#[tokio::test]
async fn an_acknowledgement_waits_for_a_replica() {
    let mut stack = stack().await;
    let replica = Replica::start(&mut stack).await;
    let acks = Acks::Replicas { count: 1, timeout: Duration::from_secs(10) };
    let queue = WriteBehind::builder(stack.redis_url()).acks(acks).open().await.expect("a queue");
    for i in 0..10 {
        queue.enqueue(&Operation::statement("insert").param(i)).await.expect("acknowledged");
        let of_replica = WriteBehind::builder(replica.redis().url()).open().await.expect("a queue");
        assert_eq!(of_replica.len().await.expect("a length"), i + 1, "the replica has what is acknowledged");
    }
    replica.cut();
    let acks = Acks::Replicas { count: 1, timeout: Duration::from_millis(50) };
    let queue = WriteBehind::builder(stack.redis_url()).acks(acks).open().await.expect("a queue");
    let operation = Operation::statement("insert").param(10);
    let error = queue.enqueue(&operation).await.expect_err("no replica hears");
    assert!(matches!(error, EnqueueError::NotHeld { got: 0, .. }), "{error}");
    replica.mend();
    eventually("an acknowledgement", PATIENCE, async || queue.enqueue(&operation).await.ok()).await;
    let _running = run(worker(&stack, &queue));
    drained(&queue).await;
    assert_eq!(events(&stack).await.len(), 11, "once, however often it was enqueued");
}

/// Where the server can: Redis and Valkey from 7.2 on.
#[tokio::test]
async fn an_acknowledgement_waits_for_the_disk() {
    let args = ["--appendonly", "yes", "--appendfsync", "everysec"];
    let stack = Stack::start(StackOptions::servers_only().redis_args(args).schema(EVENTS)).await;
    let acks = Acks::Disk { replicas: 0, timeout: Duration::from_secs(10) };
    match WriteBehind::builder(stack.redis_url()).acks(acks).open().await {
        Err(error) => {
            assert!(
                matches!(&error, OpenError::NoDiskAcks { aof: "yes", version } if version.starts_with("7.0")),
                "{error}"
            );
        }
        Ok(queue) => {
            queue.enqueue(&Operation::statement("insert").param("x")).await.expect("acknowledged");
            let _running = run(worker(&stack, &queue));
            drained(&queue).await;
            assert_eq!(events(&stack).await, ["x"]);
        }
    }
}

#[tokio::test]
async fn one_worker_works_and_another_takes_over() {
    let stack = stack().await;
    let queue = queue(&stack).await;
    let first = run(worker(&stack, &queue));
    queue.enqueue(&Operation::statement("insert").param("a")).await.expect("acknowledged");
    drained(&queue).await;
    let second = run(worker(&stack, &queue));
    for i in 0..20 {
        queue.enqueue(&Operation::statement("insert").param(i)).await.expect("acknowledged");
    }
    drained(&queue).await;
    assert_eq!(second.numbers.applied(), 0, "the first has the lock");
    drop(first);
    queue.enqueue(&Operation::statement("insert").param("b")).await.expect("acknowledged");
    drained(&queue).await;
    eventually("the count", PATIENCE, async || (second.numbers.applied() == 1).then_some(())).await;
    assert_eq!(events(&stack).await.len(), 22);
}

#[tokio::test]
async fn a_worker_without_its_table_says_what_to_run() {
    let stack = stack().await;
    let queue = queue(&stack).await;
    let worker = worker(&stack, &queue).without_creating_the_table().build();
    let error = worker.run(std::future::pending()).await.expect_err("no table");
    assert!(matches!(error, WorkerError::NoTable), "{error}");
    let text = error.to_string();
    stack.sql(text.split_once('\n').expect("SQL on the next lines").1).await;
    stack.sql("SELECT * FROM cachetag_applied").await;
}

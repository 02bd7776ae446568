//! Servers that crash under the queue: nothing acknowledged is lost, nothing is applied twice, order stays.

use std::time::Duration;

use cachetag_client::write::behind::{Operation, WriteBehind};
use cachetag_tests::{Stack, StackOptions, eventually};

use super::{DURABLE, EVENTS, PATIENCE, drained, events, queue, run, worker};

const OPERATIONS: u32 = 600;
const CRASHES: u32 = 4;

async fn stack() -> Stack {
    let options = StackOptions::servers_only().redis_args(DURABLE).schema(EVENTS);
    // Commits that are not flushed when they return would be lost with the server: the worker must not settle those.
    Stack::start(options.setting("synchronous_commit", "off")).await
}

/// Enqueues one by one, each until it is acknowledged; order is that of the acknowledgements.
async fn enqueue(queue: WriteBehind) {
    for i in 0..OPERATIONS {
        let operation = Operation::statement("insert").param(i);
        while queue.enqueue(&operation).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

async fn settled(stack: &Stack, queue: &WriteBehind) {
    drained(queue).await;
    let found = eventually("PostgreSQL", PATIENCE, async || Some(events(stack).await)).await;
    assert_eq!(found, (0..OPERATIONS).map(|i| i.to_string()).collect::<Vec<_>>());
    assert!(queue.dead_letters(9).await.expect("dead letters").is_empty());
}

#[tokio::test]
async fn redis_crashes() {
    let mut stack = stack().await;
    let queue = queue(&stack).await;
    let _running = run(worker(&stack, &queue).batch(20));
    let producer = tokio::spawn(enqueue(queue.clone()));
    for _ in 0..CRASHES {
        tokio::time::sleep(Duration::from_millis(200)).await;
        stack.redis.kill().await;
        stack.redis.start_again().await.expect("Redis starts");
    }
    producer.await.expect("no panic");
    settled(&stack, &queue).await;
}

#[tokio::test]
async fn postgres_crashes() {
    let mut stack = stack().await;
    let queue = queue(&stack).await;
    let running = run(worker(&stack, &queue).batch(20));
    let producer = tokio::spawn(enqueue(queue.clone()));
    for crash in 0..CRASHES {
        tokio::time::sleep(Duration::from_millis(200)).await;
        if crash % 2 == 0 {
            stack.postgres.kill().await
        } else {
            stack.postgres.stop().await
        };
        stack.postgres.start_again().await.expect("PostgreSQL starts");
    }
    producer.await.expect("no panic");
    settled(&stack, &queue).await;
    assert_eq!(running.numbers.dead(), 0);
}

/// The moment between the commit and its settlement in Redis, hit on purpose: Redis dies while the operation runs, then the worker does.
#[tokio::test]
async fn a_worker_dies_after_the_commit_and_before_it_is_settled() {
    let mut stack = stack().await;
    let queue = queue(&stack).await;
    let slow = "INSERT INTO events (op) SELECT $1 FROM pg_sleep(0.5)";
    queue.enqueue(&Operation::statement("slow").param("x")).await.expect("acknowledged");
    let first = run(worker(&stack, &queue).statement("slow", slow));
    let runs = "SELECT pid FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%pg_sleep(0.5)' AND pid <> pg_backend_pid()";
    eventually("the operation", PATIENCE, async || (!stack.values(runs).await.is_empty()).then_some(())).await;
    stack.redis.kill().await;
    eventually("the commit", PATIENCE, async || (!events(&stack).await.is_empty()).then_some(())).await;
    drop(first);
    stack.redis.start_again().await.expect("Redis starts");
    eventually("Redis", PATIENCE, async || (queue.len().await.ok()? == 1).then_some(())).await;
    let second = run(worker(&stack, &queue).statement("slow", slow));
    drained(&queue).await;
    assert_eq!((events(&stack).await, second.numbers.applied()), (vec!["x".to_owned()], 0));
    eventually("the count", PATIENCE, async || (second.numbers.skipped() == 1).then_some(())).await;
}

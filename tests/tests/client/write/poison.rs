//! Operations that cannot be applied go to the dead letters, alone; those around them are applied in order.

use std::time::Duration;

use cachetag_client::write::behind::Operation;
use cachetag_tests::{Stack, StackOptions, eventually};

use super::{EVENTS, PATIENCE, drained, events, queue, run, worker};

const SCHEMA: &str = "CREATE TABLE parents (id int PRIMARY KEY);
    CREATE TABLE children (parent int REFERENCES parents DEFERRABLE INITIALLY DEFERRED);
    CREATE SEQUENCE tries;
    CREATE FUNCTION flaky(failures int) RETURNS void LANGUAGE plpgsql AS $$
    BEGIN
        IF nextval('tries') <= failures THEN RAISE EXCEPTION 'try again' USING ERRCODE = '40001'; END IF;
    END $$";

async fn stack() -> Stack {
    Stack::start(StackOptions::servers_only().schema(EVENTS).schema(SCHEMA)).await
}

fn good(i: u32) -> Operation {
    Operation::statement("insert").param(i)
}

#[tokio::test]
async fn poison_is_isolated() {
    let stack = stack().await;
    let queue = queue(&stack).await;
    let poison = [
        Operation::sql("INSERT INTO events (op) SELECT 1 / $1::int").param(0),
        Operation::sql("INSERT INTO nowhere VALUES (1)"),
        Operation::statement("unheard of"),
        Operation::statement("insert"),
        Operation::sql("INSERT INTO children VALUES ($1)").param(1),
        Operation::sql("/* hidden */ COMMIT"),
        Operation::sql("commit"),
        Operation::sql("SELECT $1::int").param("x\0y"),
        Operation::sql("VACUUM events"),
    ];
    let mut expected = Vec::new();
    for (i, poison) in (0..).zip(&poison) {
        queue.enqueue_all(&[good(2 * i), poison.clone(), good(2 * i + 1)]).await.expect("acknowledged");
        expected.extend([(2 * i).to_string(), (2 * i + 1).to_string()]);
    }
    let running = run(worker(&stack, &queue).allow_sql());
    drained(&queue).await;
    assert_eq!(events(&stack).await, expected);
    let dead = queue.dead_letters(100).await.expect("dead letters");
    for letter in &dead {
        println!("{} {} {}", letter.sqlstate, letter.attempts, letter.error);
    }
    assert_eq!(
        dead.iter().map(|letter| letter.key.as_str()).collect::<Vec<_>>(),
        poison.iter().map(|p| p.idempotency_key()).collect::<Vec<_>>()
    );
    let states: Vec<_> = dead.iter().map(|letter| letter.sqlstate.as_str()).collect();
    assert_eq!(states[..5], ["22012", "42P01", "", "", "23503"]);
    assert!(dead[0].error.contains("division by zero") && dead[3].error.contains("1 parameters, the operation 0"));
    assert_eq!(running.numbers.dead(), poison.len() as u64);

    // The cause is gone: it is replayed.
    stack.sql("INSERT INTO parents VALUES (1)").await;
    assert!(queue.replay(&dead[4].id).await.expect("replayed"));
    assert!(!queue.replay(&dead[4].id).await.expect("answered"));
    drained(&queue).await;
    assert_eq!(stack.values("SELECT parent FROM children").await, ["1"]);
    assert!(queue.discard(&dead[0].id).await.expect("discarded"));
    assert_eq!(queue.dead_letters(100).await.expect("dead letters").len(), poison.len() - 2);
}

#[tokio::test]
async fn what_is_transient_is_tried_again_for_a_while() {
    let stack = stack().await;
    let queue = queue(&stack).await;
    let flaky = |failures: u32| Operation::sql("SELECT flaky($1)").param(failures);
    let _running = run(worker(&stack, &queue).allow_sql().attempts(4));
    queue.enqueue_all(&[good(0), flaky(5), good(1)]).await.expect("acknowledged");
    drained(&queue).await;
    assert_eq!(
        (events(&stack).await, queue.dead_letters(9).await.expect("none").len()),
        (vec!["0".into(), "1".into()], 0)
    );
    queue.enqueue_all(&[good(2), flaky(1_000_000), good(3)]).await.expect("acknowledged");
    drained(&queue).await;
    assert_eq!(events(&stack).await, ["0", "1", "2", "3"]);
    let dead = queue.dead_letters(9).await.expect("one").remove(0);
    assert_eq!((dead.sqlstate.as_str(), dead.attempts, dead.error.as_str()), ("40001", 4, "try again (40001)"));
}

#[tokio::test]
async fn an_operation_that_costs_the_connection_each_time_is_found() {
    let stack = stack().await;
    let queue = queue(&stack).await;
    let mut operations: Vec<_> = (0..30).map(good).collect();
    operations.insert(17, Operation::sql("SELECT pg_terminate_backend(pg_backend_pid())"));
    queue.enqueue_all(&operations).await.expect("acknowledged");
    let _running = run(worker(&stack, &queue).allow_sql().attempts(3).batch(16));
    drained(&queue).await;
    assert_eq!(events(&stack).await, (0..30).map(|i| i.to_string()).collect::<Vec<_>>());
    assert_eq!(queue.dead_letters(9).await.expect("one").len(), 1);
}

#[tokio::test]
async fn too_many_dead_letters_stop_the_queue_until_somebody_looks() {
    let stack = stack().await;
    let builder = cachetag_client::write::behind::WriteBehind::builder(stack.redis_url());
    let queue = builder.dead_limit(1).open().await.expect("a queue");
    let running = run(worker(&stack, &queue));
    queue
        .enqueue_all(&[Operation::statement("a"), good(0), Operation::statement("b"), good(1)])
        .await
        .expect("acknowledged");
    eventually("the first", PATIENCE, async || (running.numbers.dead() == 1).then_some(())).await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!(events(&stack).await, ["0"]);
    let dead = queue.dead_letters(9).await.expect("one");
    assert!(queue.discard(&dead[0].id).await.expect("discarded"));
    drained(&queue).await;
    assert_eq!(events(&stack).await, ["0", "1"]);
}

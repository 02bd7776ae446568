//! The client's write side: through and behind.

mod behind;
mod faults;
mod killed;
mod poison;
mod through;

use cachetag_client::write::behind::{Numbers, Worker, WorkerBuilder, WriteBehind};
use cachetag_tests::Stack;
use deadpool_postgres::{Manager, Pool};
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio_postgres::NoTls;

/// One row for each time that an operation was applied.
const EVENTS: &str = "CREATE TABLE events (id bigserial, op text NOT NULL)";
const INSERT: &str = "INSERT INTO events (op) VALUES ($1)";
/// Redis as a queue deserves it.
const DURABLE: [&str; 4] = ["--appendonly", "yes", "--appendfsync", "always"];
const PATIENCE: Duration = Duration::from_secs(60);

fn pool(postgres_url: &str) -> Pool {
    let config = postgres_url.parse().expect("a URL");
    Pool::builder(Manager::new(config, NoTls)).max_size(4).build().expect("a pool")
}

async fn queue(stack: &Stack) -> WriteBehind {
    WriteBehind::builder(stack.redis_url()).name("test").open().await.expect("a queue")
}

fn worker(stack: &Stack, queue: &WriteBehind) -> WorkerBuilder {
    Worker::builder(queue, pool(&stack.postgres_url()))
        .statement("insert", INSERT)
        .pauses(Duration::from_millis(5), Duration::from_millis(100))
}

/// A worker that runs until it is dropped.
struct Running {
    task: JoinHandle<()>,
    numbers: Numbers,
}

fn run(worker: WorkerBuilder) -> Running {
    let worker = worker.build();
    let numbers = worker.numbers();
    let task = tokio::spawn(async move { worker.run(std::future::pending()).await.expect("a worker that works") });
    Running { task, numbers }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn drained(queue: &WriteBehind) {
    cachetag_tests::eventually("an empty queue", PATIENCE, async || queue.is_empty().await.ok()?.then_some(())).await;
}

async fn events(stack: &Stack) -> Vec<String> {
    stack.values("SELECT op FROM events ORDER BY id").await
}

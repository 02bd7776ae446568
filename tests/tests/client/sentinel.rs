//! The client behind sentinels, on both its sides: the primary is lost, and everything goes on with the one that is promoted.

use std::sync::Arc;
use std::time::Duration;

use cachetag_client::write::behind::{Acks, Operation, Worker, WriteBehind};
use cachetag_client::write::{Watermarks, write_through};
use cachetag_client::{Cache, Load, Source};
use cachetag_tests::fault::Sentinel;
use cachetag_tests::{Daemon, DaemonOptions, Redis, Stack, StackOptions, eventually};
use deadpool_postgres::{Manager, Pool};
use tokio_postgres::{Client, NoTls};

const PATIENCE: Duration = Duration::from_secs(120);
const SCHEMA: &str = "CREATE TABLE items (id int PRIMARY KEY, price int NOT NULL);
    INSERT INTO items SELECT i, 10 FROM generate_series(1, 9) i; SELECT cachetag.track('items', 'item:{id}');
    CREATE TABLE events (id bigserial, op text NOT NULL)";
const OPERATIONS: u32 = 400;

/// How a primary is lost.
#[derive(Debug, Clone, Copy)]
enum Loss {
    Killed,
    /// It does not answer, and closes nothing.
    Frozen,
    /// By a command to the sentinel: it is well, and becomes the replica.
    Planned,
}

const LOSSES: [Loss; 3] = [Loss::Killed, Loss::Frozen, Loss::Planned];

/// A primary (the stack's), a replica, and a sentinel that watches both.
struct Watched {
    stack: Stack,
    replica: Redis,
    sentinel: Sentinel,
    _daemon: Option<Daemon>,
}

impl Watched {
    async fn start(daemon: bool) -> Watched {
        let mut stack = Stack::start(StackOptions::new().without_daemon().schema(SCHEMA)).await;
        let replicaof = ["--replicaof".to_owned(), format!("127.0.0.1 {}", stack.redis.port())];
        let home = stack.new_home();
        let replica = Redis::builder(home).args(stack.redis.args()).args(replicaof).start().await.expect("a replica");
        in_step(&stack.redis).await;
        let sentinel = Sentinel::start(stack.folder(), &stack.redis).await;
        let log = stack.folder().join("sentinel.log");
        let daemon = daemon.then(|| Daemon::start(&stack.postgres_url(), &sentinel.url(), &log, DaemonOptions::new()));
        if daemon.is_some() {
            stack.wait_ready().await;
        }
        Watched { stack, replica, sentinel, _daemon: daemon }
    }

    /// Loses the primary, and waits until the sentinel names the other.
    async fn lose(&mut self, loss: Loss) {
        match loss {
            Loss::Killed => drop(self.stack.redis.kill().await),
            Loss::Frozen => self.stack.redis.signal(libc::SIGSTOP),
            Loss::Planned => self.sentinel.fail_over().await,
        }
        self.promoted(self.replica.port()).await;
    }

    async fn promoted(&self, port: u16) {
        eventually("the promotion", PATIENCE, async || (self.sentinel.primary().await == port).then_some(())).await;
    }

    fn pool(&self) -> Pool {
        let config = self.stack.postgres_url().parse().expect("a URL");
        Pool::builder(Manager::new(config, NoTls)).max_size(4).build().expect("a pool")
    }
}

/// Waits until a replica has confirmed a write.
async fn in_step(primary: &Redis) {
    eventually("a replica in step", PATIENCE, async || {
        let mut connection = primary.connect().await.ok()?;
        redis::cmd("SET").arg("in-step").arg(1).exec_async(&mut connection).await.ok()?;
        let replicas: u64 = redis::cmd("WAIT").arg(1).arg(100).query_async(&mut connection).await.ok()?;
        (replicas == 1).then_some(())
    })
    .await;
}

async fn price(cache: &Cache, database: &Arc<Client>, id: i32) -> Option<(i32, Source)> {
    let database = database.clone();
    let load = move |load: Load| async move {
        load.tag(format!("item:{id}"));
        let row = database.query_one("SELECT price FROM items WHERE id = $1", &[&id]).await?;
        Ok::<i32, tokio_postgres::Error>(row.get(0))
    };
    let read = cache.get_or_load(&format!("price:{id}"), load).await.ok()?;
    Some((*read, read.metadata().source()))
}

/// No read fails, whatever becomes of Redis; and both layers are back by themselves, on the new primary.
#[tokio::test]
async fn reads_go_on_and_the_feed_follows_the_new_primary() {
    for loss in LOSSES {
        let mut watched = Watched::start(true).await;
        let (client, connection) =
            tokio_postgres::connect(&watched.stack.postgres_url(), NoTls).await.expect("connects");
        tokio::spawn(connection);
        let database = Arc::new(client);
        let build =
            |memory| Cache::builder().redis(watched.sentinel.url()).memory(memory).beta(0.0).build().expect("a cache");
        let (cache, without_memory) = (build(1 << 20), build(0));
        assert!(cache.ready(PATIENCE).await && without_memory.ready(PATIENCE).await, "the feeds are not live");
        eventually("hits of both layers", PATIENCE, async || {
            let found = (price(&cache, &database, 1).await?.1, price(&without_memory, &database, 1).await?.1);
            (found == (Source::Memory, Source::Redis)).then_some(())
        })
        .await;
        let reading = {
            let (caches, database) = ([cache.clone(), without_memory.clone()], database.clone());
            tokio::spawn(async move {
                for _ in 0.. {
                    for cache in &caches {
                        let (price, _) =
                            price(cache, &database, 2).await.expect("a read goes to the database at worst");
                        assert_eq!(price, 10);
                    }
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            })
        };
        watched.lose(loss).await;
        watched.stack.sql("UPDATE items SET price = 11 WHERE id = 1").await;
        eventually("hits of both layers with the new price", PATIENCE, async || {
            let found = [price(&cache, &database, 1).await?, price(&without_memory, &database, 1).await?];
            (found == [(11, Source::Memory), (11, Source::Redis)]).then_some(())
        })
        .await;
        // On the new primary itself.
        let mut connection = watched.replica.connect().await.expect("it answers");
        let got = cachetag_tests::Cache::new(connection.clone()).get("price:1").await;
        if !got.as_ref().is_ok_and(|got| got.is_hit()) {
            let info: String = redis::cmd("INFO").query_async(&mut connection).await.expect("INFO");
            panic!(
                "{loss:?}: {got:?} from the new primary, with the sentinel at port {}; {info}",
                watched.sentinel.primary().await
            );
        }
        reading.abort();
        let ended = reading.await.expect_err("it reads until it is ended");
        assert!(ended.is_cancelled(), "{loss:?}: {ended}");
    }
}

/// A writer waits for the watermark of the primary that there is.
#[tokio::test]
async fn a_write_through_is_seen_on_the_new_primary() {
    for loss in LOSSES {
        let mut watched = Watched::start(true).await;
        let watermarks = Watermarks::at(&watched.sentinel.url(), "ct").expect("a URL");
        let mut client = watched.pool().get().await.expect("a client");
        let mut write = async || {
            let update = async |tx: &deadpool_postgres::Transaction<'_>| {
                tx.execute("UPDATE items SET price = price + 1 WHERE id = 1", &[]).await
            };
            write_through(&mut client, &watermarks, Duration::from_secs(5), update).await.expect("a commit")
        };
        eventually("the watermark", PATIENCE, async || write().await.cache.is_done().then_some(())).await;
        watched.lose(loss).await;
        eventually("the new primary's watermark", PATIENCE, async || write().await.cache.is_done().then_some(())).await;
        let mut replica = cachetag_tests::Cache::new(watched.replica.connect().await.expect("it answers"));
        let state = replica.state().await.expect("a state");
        assert!(state.contains_key("watermark"), "{loss:?}: {state:?}");
    }
}

/// The primary dies, comes back as the replica, and is promoted again: what a replica had confirmed is applied, once and in order.
#[tokio::test]
async fn a_failover_loses_nothing_that_a_replica_had_confirmed() {
    let mut watched = Watched::start(false).await;
    let acks = Acks::Replicas { count: 1, timeout: Duration::from_millis(200) };
    let queue = WriteBehind::builder(watched.sentinel.url()).name("test").acks(acks).open().await.expect("a queue");
    let worker = Worker::builder(&queue, watched.pool())
        .statement("insert", "INSERT INTO events (op) VALUES ($1)")
        .pauses(Duration::from_millis(5), Duration::from_millis(100))
        .build();
    let numbers = worker.numbers();
    let working = tokio::spawn(worker.run(std::future::pending()));
    let (acknowledged, told) = tokio::sync::watch::channel(0);
    let producing = {
        let queue = queue.clone();
        tokio::spawn(async move {
            let mut refused = 0;
            for i in 0..OPERATIONS {
                let operation = Operation::statement("insert").param(i);
                while queue.enqueue(&operation).await.is_err() {
                    refused += 1;
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                acknowledged.send_replace(i + 1);
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            refused
        })
    };
    let reached = async |count: u32| {
        let mut told = told.clone();
        let waited = tokio::time::timeout(PATIENCE, told.wait_for(|acknowledged| *acknowledged >= count)).await;
        waited.expect("in time").expect("the producer lives");
    };
    reached(OPERATIONS / 4).await;
    watched.lose(Loss::Killed).await;
    // Until there is a replica again nothing is acknowledged.
    watched.stack.redis.start_again().await.expect("Redis starts");
    in_step(&watched.replica).await;
    reached(OPERATIONS / 2).await;
    let first = watched.stack.redis.port();
    eventually("the way back", PATIENCE, async || {
        // Refused for some time after a failover.
        if watched.sentinel.primary().await != first {
            watched.sentinel.try_fail_over().await;
        }
        (watched.sentinel.primary().await == first).then_some(())
    })
    .await;
    reached(OPERATIONS).await;
    let refused: u32 = producing.await.expect("no panic");
    eventually("an empty queue", PATIENCE, async || queue.is_empty().await.ok()?.then_some(())).await;
    let applied = watched.stack.values("SELECT op FROM events ORDER BY id").await;
    assert_eq!(applied, (0..OPERATIONS).map(|i| i.to_string()).collect::<Vec<_>>());
    println!(
        "{OPERATIONS} acknowledged, {} applied, {} delivered again, {refused} attempts without an acknowledgement",
        numbers.applied(),
        numbers.skipped()
    );
    assert!(refused > 0, "the failovers were noticed");
    working.abort();
}

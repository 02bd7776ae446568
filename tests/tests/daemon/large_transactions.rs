//! Transactions of any size, and any number of them open at a time, in bounded memory.

use std::time::Duration;

use cachetag_tests::{DaemonOptions, Stack, StackOptions, eventually, memory};
use tokio_postgres::Client;

/// What the daemon may have resident, in MiB.
const RESIDENT: f64 = 128.0;
/// For the server to do what it is told, on a loaded machine.
const LONG: Duration = Duration::from_secs(500);

/// The most that the daemon has had resident so far, in MiB.
fn peak(stack: &mut Stack) -> f64 {
    memory::mebibytes(stack.daemon().id().expect("a daemon that runs"), "VmHWM")
}

/// A loaded machine may be late: these tests are not about lag.
fn options() -> StackOptions {
    StackOptions::new().daemon(DaemonOptions::new().max_lag(Duration::from_secs(60)))
}

async fn run(client: &Client, sql: &str) {
    client.batch_execute(sql).await.unwrap_or_else(|error| panic!("{error:?}, in: {sql}"));
}

/// Waits until the watermark has passed everything that is flushed now, however long that takes.
async fn caught_up(stack: &Stack) {
    let flushed = stack.flushed().await;
    let mut cache = stack.cache().await;
    eventually("the watermark's advance", LONG, async || {
        let watermark = cache.state().await.ok()?.remove("watermark")?;
        (cachetag_tests::lsn_of_version(&watermark) >= flushed).then_some(())
    })
    .await;
}

#[tokio::test]
async fn ten_million_updates_in_one_transaction() {
    let options = options().setting("max_wal_size", "4GB").setting("shared_buffers", "256MB").schema(
        "CREATE TABLE t (id int PRIMARY KEY, n int) WITH (fillfactor = 45);
         INSERT INTO t SELECT g, 0 FROM generate_series(1, 500000) g;
         CREATE TABLE other (id int PRIMARY KEY, n int); INSERT INTO other VALUES (1, 0);
         SELECT cachetag.track('t', 't:{id}'); SELECT cachetag.track('other', 'other:{id}')",
    );
    let mut stack = Stack::start(options).await;
    stack.fill("one", "0", &["t:1"]).await;
    stack.fill("last", "0", &["t:500000"]).await;
    stack.fill("other", "0", &["other:1"]).await;
    let client = stack.connect().await;
    run(&client, "BEGIN").await;
    for round in 0..20 {
        run(&client, "UPDATE t SET n = n + 1").await;
        if round == 10 {
            // Others commit meanwhile, and are not held up.
            let commit = stack.commit("UPDATE other SET n = 1").await;
            stack.wait_caught_up(commit).await;
            assert!(stack.get("other").await.is_miss());
            assert!(stack.get("one").await.is_hit(), "not committed yet");
        }
    }
    run(&client, "COMMIT").await;
    caught_up(&stack).await;
    assert!(stack.get("one").await.is_miss() && stack.get("last").await.is_miss());
    let peak = peak(&mut stack);
    println!("10,000,000 updates in one transaction: the daemon had {peak:.1} MiB resident at most");
    assert!(peak <= RESIDENT, "{peak} MiB");
}

#[tokio::test]
async fn a_thousand_open_transactions() {
    const OPEN: usize = 1000;
    let options = options().setting("max_connections", "1100").setting("logical_decoding_work_mem", "64kB").schema(
        "CREATE TABLE t (id int PRIMARY KEY, filler text); SELECT cachetag.track('t', 't:{id}');
             CREATE TABLE many (id int PRIMARY KEY, filler text); SELECT cachetag.track('many', 'many:{id}')",
    );
    let mut stack = Stack::start(options).await;
    let mut clients = Vec::new();
    for number in 0..OPEN {
        stack.fill(&format!("t{number}"), "absent", &[&format!("t:{number}")]).await;
        let client = stack.connect().await;
        run(&client, &format!("BEGIN; INSERT INTO t VALUES ({number}, 'x'); SAVEPOINT s")).await;
        clients.push(client);
    }
    for (number, client) in clients.iter().enumerate() {
        let first = number * 1000;
        let rows = "repeat('x', 100) FROM generate_series";
        run(client, &format!("INSERT INTO many SELECT g, {rows}({first}, {first} + 299) g")).await;
        if number % 3 == 0 {
            run(client, &format!("ROLLBACK TO s; INSERT INTO many SELECT g, {rows}({first} + 300, {first} + 599) g"))
                .await;
        }
    }
    stack.fill("many", "absent", &["many:1000"]).await;
    stack.fill("never", "absent", &["many:3000"]).await;
    for (number, client) in clients.iter().enumerate() {
        run(client, if number % 2 == 0 { "COMMIT" } else { "ROLLBACK" }).await;
    }
    caught_up(&stack).await;
    for number in 0..OPEN {
        let get = stack.get(&format!("t{number}")).await;
        assert_eq!(get.is_miss(), number % 2 == 0, "{number}: {get:?}");
    }
    let streamed = "SELECT coalesce(sum(stream_txns), 0) FROM pg_stat_replication_slots";
    let peak = peak(&mut stack);
    stack.daemon().stop().await;
    let streamed = eventually("statistics of the slot", LONG, async || {
        stack.value(streamed).await.parse::<usize>().ok().filter(|streamed| *streamed > OPEN / 2)
    })
    .await;
    println!("{OPEN} open transactions, {streamed} streamed: the daemon had {peak:.1} MiB resident at most");
    assert!(peak <= RESIDENT, "{peak} MiB");
}

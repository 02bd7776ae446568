//! Rule 9, strict mode: with `synchronous_standby_names = 'cachetag'` a COMMIT returns when its bumps are in Redis.
//!
//! `CACHETAG_STRICT_COMMITS` is the number of commits [default: 10000].

use std::time::Duration;

use cachetag_tests::{Cache, DaemonOptions, GetOptions, Stack, StackOptions, eventually};
use tokio_postgres::NoTls;

const PATIENCE: Duration = Duration::from_secs(30);
const TTL: Duration = Duration::from_secs(600);
const CONNECTIONS: usize = 8;
const COMMITS_VARIABLE: &str = "CACHETAG_STRICT_COMMITS";
const DEFAULT_COMMITS: usize = 10_000;
const SCHEMA: &str = "CREATE TABLE products (id int PRIMARY KEY, price bigint NOT NULL);
    INSERT INTO products SELECT i, 0 FROM generate_series(0, 15) i; SELECT cachetag.track('products', 'product:{id}')";

async fn strict() -> Stack {
    let daemon = DaemonOptions::new().max_lag(Duration::from_secs(60));
    let stack = Stack::start(StackOptions::new().schema(SCHEMA).daemon(daemon)).await;
    stack.make_strict().await;
    stack
}

async fn waits(stack: &Stack) {
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
    eventually("a commit that waits", PATIENCE, async || (stack.value(waiting).await != "0").then_some(())).await;
}

/// Fills until the row hits, commits, and reads at once from another connection. Returns the number of commits.
async fn commit_and_read(postgres: String, redis: String, row: usize, commits: usize) {
    let (client, connection) = tokio_postgres::connect(&postgres, NoTls).await.expect("a connection");
    tokio::spawn(connection);
    let redis = redis::Client::open(redis).expect("an address");
    let connect = async || Cache::new(redis.get_multiplexed_async_connection().await.expect("a connection"));
    let (mut filler, mut reader) = (connect().await, connect().await);
    let no_lease = GetOptions { no_lease: true, ..GetOptions::default() };
    let select = client.prepare("SELECT price FROM products WHERE id = $1").await.expect("prepare");
    let update = client.prepare("UPDATE products SET price = $2 WHERE id = $1").await.expect("prepare");
    let (id, key, tags) = (row as i32, format!("p{row}"), [format!("product:{row}")]);
    for new in 1..=commits as i64 {
        // Only an entry that hits right before the commit proves anything.
        eventually("a hit before the commit", PATIENCE, async || {
            let got = filler.get_with(&key, &no_lease).await.expect("Redis answers");
            if got.is_hit() {
                assert_eq!(got.text(), Some(&*(new - 1).to_string()));
                return Some(());
            }
            let price: i64 = client.query_one(&select, &[&id]).await.expect("a row").get(0);
            filler.put(&key, &price.to_string(), &got.token, TTL, &tags).await.expect("Redis answers");
            None
        })
        .await;
        client.execute(&update, &[&id, &new]).await.expect("a commit");
        let got = reader.get_with(&key, &no_lease).await.expect("Redis answers");
        assert!(!got.is_hit() || got.text() == Some(&*new.to_string()), "COMMIT of {new} had returned: {got:?}");
    }
}

#[tokio::test]
async fn rule_09_after_commit_no_connection_hits_the_old_value() {
    let commits = std::env::var(COMMITS_VARIABLE).map_or(DEFAULT_COMMITS, |text| {
        text.parse().unwrap_or_else(|error| panic!("{COMMITS_VARIABLE}={text}: {error}"))
    });
    let stack = strict().await;
    let each = commits.div_ceil(CONNECTIONS);
    let start = |row| tokio::task::spawn_local(commit_and_read(stack.postgres_url(), stack.redis_url(), row, each));
    let work = async {
        let tasks: Vec<_> = (0..CONNECTIONS).map(start).collect();
        for task in tasks {
            task.await.expect("a connection's part");
        }
    };
    tokio::task::LocalSet::new().run_until(work).await;
    let sum = stack.value("SELECT sum(price) FROM products").await;
    assert_eq!(sum, (each * CONNECTIONS).to_string());
}

#[tokio::test]
async fn rule_09_a_commit_waits_for_the_daemon_unless_it_chooses_not_to() {
    let mut stack = strict().await;
    stack.fill("p1", "0", &["product:1"]).await;
    stack.daemon().pause();
    let client = stack.connect().await;
    let held = tokio::spawn(async move { client.batch_execute("UPDATE products SET price = 1 WHERE id = 1").await });
    waits(&stack).await;
    assert!(!held.is_finished());
    stack.sql("SET synchronous_commit = local; UPDATE products SET price = 1 WHERE id = 2").await;
    assert!(!held.is_finished());
    stack.daemon().resume();
    held.await.expect("the session").expect("the commit");
    assert!(!stack.get("p1").await.is_hit());
}

#[tokio::test]
async fn rule_09_a_commit_waits_for_redis() {
    let mut stack = strict().await;
    stack.fill("p1", "0", &["product:1"]).await;
    stack.redis.signal(libc::SIGSTOP);
    let client = stack.connect().await;
    let held = tokio::spawn(async move { client.batch_execute("UPDATE products SET price = 1 WHERE id = 1").await });
    waits(&stack).await;
    assert!(!held.is_finished());
    stack.redis.signal(libc::SIGCONT);
    held.await.expect("the session").expect("the commit");
    assert!(!stack.get("p1").await.is_hit());
}

/// The daemon's own statements must not wait for the daemon.
#[tokio::test]
async fn rule_09_a_daemon_that_comes_back_releases_the_commits_that_waited() {
    let mut stack = strict().await;
    stack.fill("p1", "0", &["product:1"]).await;
    for (price, killed) in [(1, true), (2, false)] {
        if killed {
            stack.daemon().kill9().await;
        } else {
            assert!(stack.daemon().stop().await.is_some_and(|status| status.success()));
        }
        let client = stack.connect().await;
        let update = format!("UPDATE products SET price = {price} WHERE id = 1");
        let held = tokio::spawn(async move { client.batch_execute(&update).await });
        waits(&stack).await;
        stack.daemon().start_again();
        held.await.expect("the session").expect("the commit");
        let got = stack.get("p1").await;
        assert!(!got.is_hit(), "{got:?}");
        stack.wait_caught_up_now().await;
        stack.fill("p1", &price.to_string(), &["product:1"]).await;
    }
}

/// A Redis that comes back empty: the new epoch must not wait for commits that wait for this very daemon.
#[tokio::test]
async fn rule_09_an_epoch_opens_while_commits_wait_for_it() {
    let mut stack = strict().await;
    stack.fill("p1", "0", &["product:1"]).await;
    stack.redis.stop().await;
    let client = stack.connect().await;
    let held = tokio::spawn(async move { client.batch_execute("UPDATE products SET price = 1 WHERE id = 1").await });
    waits(&stack).await;
    // What lies behind the commit in the log is no commit, and the rules are read behind it.
    stack.value("SELECT pg_create_restore_point('behind')").await;
    stack.redis.start_again().await.expect("starts");
    held.await.expect("the session").expect("the commit");
    assert!(!stack.get("p1").await.is_hit());
    stack.wait_caught_up_now().await;
    stack.fill("p1", "1", &["product:1"]).await;
}

//! Redis with replicas: what is acknowledged to PostgreSQL survives a failover when the daemon is told to wait for them, and where something
//! is lost all the same, a new epoch says so. Sentinels lead to the primary.

use std::time::Duration;

use cachetag_tests::fault::Sentinel;
use cachetag_tests::{Cache, Daemon, DaemonOptions, Redis, Stack, StackOptions, User, eventually, lsn, lsn_of_version};

const PATIENCE: Duration = Duration::from_secs(60);
const SCHEMA: &str = "CREATE TABLE items (id int PRIMARY KEY, price int);
    INSERT INTO items SELECT i, 10 FROM generate_series(1, 10) i; SELECT cachetag.track('items', 'item:{id}')";
const CHANGE: &str = "UPDATE items SET price = price + 1 WHERE id = 1";

/// A primary (that of the stack), a replica in step with it, and a daemon that writes to the primary.
struct Pair {
    stack: Stack,
    replica: Redis,
}

/// Waits until the replica has confirmed a write. That it calls its link up is too early: the primary sends it what follows the snapshot
/// only after its first confirmation.
async fn in_step(stack: &Stack) {
    let mut primary = stack.cache().await;
    eventually("a replica in step", PATIENCE, async || {
        redis::cmd("SET").arg("in-step").arg(1).exec_async(primary.connection()).await.ok()?;
        let replicas: u64 = redis::cmd("WAIT").arg(1).arg(100).query_async(primary.connection()).await.ok()?;
        (replicas == 1).then_some(())
    })
    .await;
}

async fn pair(daemon: DaemonOptions) -> Pair {
    let mut stack = Stack::start(StackOptions::new().schema(SCHEMA).without_daemon()).await;
    let home = stack.folder().join("replica");
    std::fs::create_dir(&home).expect("a folder");
    let user = User::for_servers().expect("the servers' user");
    if user.is_some() {
        let owner = std::fs::metadata(stack.folder().join("redis")).expect("the primary's folder");
        use std::os::unix::fs::MetadataExt;
        std::os::unix::fs::chown(&home, Some(owner.uid()), Some(owner.gid())).expect("chown");
    }
    let of = stack.redis.port().to_string();
    let args = ["--replicaof".to_owned(), format!("127.0.0.1 {of}"), "--repl-diskless-sync-delay".into(), "0".into()];
    let replica = Redis::builder(home).args(args).start().await.expect("a replica");
    in_step(&stack).await;
    stack.start_daemon(daemon);
    stack.wait_ready().await;
    Pair { stack, replica }
}

impl Pair {
    async fn replica(&self) -> Cache {
        self.try_replica().await.expect("connects")
    }

    /// While it is being promoted, every connection to it may end at any moment.
    async fn try_replica(&self) -> Option<Cache> {
        Some(Cache::new(self.replica.connect().await.ok()?))
    }

    async fn promote(&self) {
        let mut cache = self.replica().await;
        redis::cmd("REPLICAOF").arg("NO").arg("ONE").exec_async(cache.connection()).await.expect("promotes");
    }

    async fn confirmed(&self) -> u64 {
        lsn(&self.stack.value("SELECT confirmed_flush_lsn FROM pg_replication_slots").await)
    }

    /// A daemon on the replica, which has been promoted.
    fn daemon_on_replica(&self, options: DaemonOptions) -> Daemon {
        let log = self.stack.folder().join("second.log");
        Daemon::start(&self.stack.postgres_url(), &self.replica.url(), &log, options)
    }
}

async fn applied(cache: &mut Cache) -> u64 {
    cache.state().await.expect("state").get("applied").map_or(0, |v| lsn_of_version(v))
}

async fn epoch(cache: &mut Cache) -> String {
    cache.state().await.expect("state").remove("epoch").unwrap_or_default()
}

async fn caught_up(stack: &Stack, cache: &mut Cache) {
    let flushed = stack.flushed().await;
    eventually("the watermark's advance", PATIENCE, async || {
        let watermark = cache.state().await.ok()?.remove("watermark")?;
        (lsn_of_version(&watermark) >= flushed).then_some(())
    })
    .await;
}

fn waiting() -> DaemonOptions {
    DaemonOptions::new().args(["--redis-replicas", "1", "--redis-replicas-timeout", "200ms"])
}

async fn fill_on(cache: &mut Cache, key: &str, tag: &str) {
    let missed = cache.get(key).await.expect("answers");
    assert!(missed.is_miss(), "{missed:?}");
    let put = cache.put(key, "old", &missed.token, Duration::from_secs(600), &[tag]).await.expect("answers");
    assert!(put.is_stored(), "{put:?}");
}

/// The primary dies under load; what the slot has forgotten, the replica holds, so nothing has to be given up.
#[tokio::test]
async fn with_wait_a_failover_loses_nothing_that_was_acknowledged() {
    let mut pair = pair(waiting()).await;
    pair.stack.fill("i1", "old", &["item:1"]).await;
    let mut primary = pair.stack.cache().await;
    let old = epoch(&mut primary).await;
    for round in 0..300 {
        pair.stack.sql(CHANGE).await;
        if round == 200 {
            pair.stack.redis.kill().await;
        }
    }
    pair.stack.daemon().kill9().await;
    pair.promote().await;
    let mut replica = pair.replica().await;
    let (held, confirmed) = (applied(&mut replica).await, pair.confirmed().await);
    assert!(held >= confirmed, "acknowledged up to {confirmed}, the replica holds {held}");
    let _daemon = pair.daemon_on_replica(DaemonOptions::new());
    caught_up(&pair.stack, &mut replica).await;
    assert_eq!(epoch(&mut replica).await, old, "nothing was lost, nothing is given up");
    assert!(!replica.get("i1").await.expect("answers").is_hit());
}

/// A replica that hangs holds acknowledgements back, says so, and does not hold back the cache.
#[tokio::test]
async fn a_missing_replica_is_said_and_holds_only_acknowledgements_back() {
    let mut pair = pair(waiting()).await;
    pair.stack.fill("i1", "old", &["item:1"]).await;
    pair.replica.signal(libc::SIGSTOP);
    let commit = pair.stack.commit(CHANGE).await;
    pair.stack.wait_caught_up(commit).await;
    assert!(pair.stack.get("i1").await.is_miss(), "the feed goes on");
    eventually("the words", PATIENCE, async || {
        pair.stack.daemon().log_contains("replicas of Redis are missing").then_some(())
    })
    .await;
    assert!(pair.confirmed().await < commit, "acknowledged what no replica holds");
    pair.replica.signal(libc::SIGCONT);
    eventually("the acknowledgement", PATIENCE, async || (pair.confirmed().await >= commit).then_some(())).await;
    assert!(pair.stack.daemon().log_contains("the replicas of Redis are back"));
    assert!(applied(&mut pair.replica().await).await >= commit);
}

/// Waits until the replica holds entry `i1`.
async fn entry_arrives(replica: &mut Cache) {
    eventually("the entry on the replica", PATIENCE, async || {
        let keys: u64 = redis::cmd("EXISTS").arg("{ct}:e:i1").query_async(replica.connection()).await.ok()?;
        (keys == 1).then_some(())
    })
    .await;
}

/// The replica was cut off from the last writes. Without WAIT they are acknowledged, and lost: a new epoch.
#[tokio::test]
async fn without_wait_a_replica_that_lacks_writes_opens_an_epoch() {
    let mut pair = pair(DaemonOptions::new()).await;
    pair.stack.fill("i1", "old", &["item:1"]).await;
    let mut replica = pair.replica().await;
    entry_arrives(&mut replica).await;
    pair.promote().await;
    let old = epoch(&mut replica).await;
    let commit = pair.stack.commit(CHANGE).await;
    eventually("the acknowledgement", PATIENCE, async || (pair.confirmed().await >= commit).then_some(())).await;
    pair.stack.redis.kill().await;
    pair.stack.daemon().kill9().await;
    assert!(applied(&mut replica).await < commit);
    let _daemon = pair.daemon_on_replica(DaemonOptions::new());
    caught_up(&pair.stack, &mut replica).await;
    assert!(epoch(&mut replica).await > old);
    assert!(!replica.get("i1").await.expect("answers").is_hit(), "its change was lost with the primary");
}

/// The same with WAIT: not acknowledged, so PostgreSQL sends them again, and no epoch is lost.
#[tokio::test]
async fn with_wait_a_replica_that_lacks_writes_gets_them_again() {
    let mut pair = pair(waiting()).await;
    pair.stack.fill("i1", "old", &["item:1"]).await;
    let mut replica = pair.replica().await;
    entry_arrives(&mut replica).await;
    pair.promote().await;
    let old = epoch(&mut replica).await;
    let commit = pair.stack.commit(CHANGE).await;
    pair.stack.wait_caught_up(commit).await;
    eventually("the words", PATIENCE, async || {
        pair.stack.daemon().log_contains("replicas of Redis are missing").then_some(())
    })
    .await;
    pair.stack.redis.kill().await;
    pair.stack.daemon().kill9().await;
    assert!(pair.confirmed().await < commit);
    let _daemon = pair.daemon_on_replica(DaemonOptions::new());
    caught_up(&pair.stack, &mut replica).await;
    assert_eq!(epoch(&mut replica).await, old);
    assert!(replica.get("i1").await.expect("answers").is_miss());
}

/// A daemon that is given a replica's address says so and waits for a person.
#[tokio::test]
async fn a_replica_is_refused_by_name() {
    let mut pair = pair(DaemonOptions::new()).await;
    pair.stack.daemon().stop().await;
    let second = pair.daemon_on_replica(DaemonOptions::new());
    eventually("the words", PATIENCE, async || {
        second.log_contains("is a replica, which cannot be written to").then_some(())
    })
    .await;
}

/// Once the replica works as a primary and the watermark has caught up. A promotion ends every connection of a client, this one's too.
async fn caught_up_after_promotion(pair: &Pair) -> Cache {
    let flushed = pair.stack.flushed().await;
    eventually("the watermark's advance on the new primary", PATIENCE, async || {
        let mut replica = pair.try_replica().await?;
        let info: String = redis::cmd("INFO").arg("replication").query_async(replica.connection()).await.ok()?;
        let watermark = replica.state().await.ok()?.remove("watermark")?;
        (info.contains("role:master") && lsn_of_version(&watermark) >= flushed).then_some(replica)
    })
    .await
}

async fn behind_sentinel(options: DaemonOptions) -> (Pair, Sentinel, Daemon) {
    let mut pair = pair(DaemonOptions::new()).await;
    pair.stack.daemon().stop().await;
    let sentinel = Sentinel::start(pair.stack.folder(), &pair.stack.redis).await;
    let log = pair.stack.folder().join("sentinel.log");
    let daemon = Daemon::start(&pair.stack.postgres_url(), &sentinel.url(), &log, options);
    caught_up(&pair.stack, &mut pair.stack.cache().await).await;
    (pair, sentinel, daemon)
}

/// The primary dies; the same daemon goes on with the new one, and what it had bumped stays bumped.
#[tokio::test]
async fn sentinels_lead_to_the_new_primary() {
    let (mut pair, _sentinel, daemon) = behind_sentinel(waiting()).await;
    let mut primary = pair.stack.cache().await;
    let old = epoch(&mut primary).await;
    fill_on(&mut primary, "i1", "item:1").await;
    let commit = pair.stack.commit(CHANGE).await;
    eventually("the acknowledgement", PATIENCE, async || (pair.confirmed().await >= commit).then_some(())).await;
    // Nothing waits for a replica of the new primary: there is none.
    pair.stack.redis.kill().await;
    pair.stack.sql(CHANGE).await;
    let mut replica = caught_up_after_promotion(&pair).await;
    assert_eq!(epoch(&mut replica).await, old);
    assert!(!replica.get("i1").await.expect("answers").is_hit());
    assert!(daemon.is_running());
}

/// The primary is told to step down while it works: it answers READONLY from then on.
#[tokio::test]
async fn a_demoted_primary_ends_the_session() {
    let (pair, sentinel, daemon) = behind_sentinel(DaemonOptions::new()).await;
    let mut primary = pair.stack.cache().await;
    let old = epoch(&mut primary).await;
    fill_on(&mut primary, "i1", "item:1").await;
    sentinel.fail_over().await;
    pair.stack.sql(CHANGE).await;
    let mut replica = caught_up_after_promotion(&pair).await;
    assert!(epoch(&mut replica).await >= old);
    assert!(!replica.get("i1").await.expect("answers").is_hit());
    assert!(daemon.is_running());
}

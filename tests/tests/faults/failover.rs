//! Another server takes the place and the address of one that died.

use std::time::Duration;

use cachetag_client::{Cache, Load, ReadOptions, Reader, Session, Source};
use cachetag_tests::fault::{
    Fault, PostgresFault, RedisFault, Replica, kill9, promote, proxy, standby_of, standby_with, wait_replayed,
};
use cachetag_tests::{
    DATABASE, DaemonOptions, GetOptions, Installation, Lsn, Stack, StackOptions, eventually, lsn, lsn_of_version,
};
use deadpool_postgres::{Manager, Pool};
use tokio_postgres::NoTls;

use crate::trial::{ITEMS, MAX_LAG, PATIENCE, Trial, WHILE};

const TIMELINE: &str = "SELECT ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::int";

#[tokio::test]
async fn a_promoted_standby_costs_an_epoch() {
    let mut trial = Trial::start().await;
    for timeline in ["2", "3"] {
        let epoch = trial.epoch().await;
        trial.stack.fill("i1", "10", &["item:1"]).await;
        trial.suffers(Fault::Postgres(PostgresFault::Promotion), WHILE).await;
        assert_eq!(trial.stack.value(TIMELINE).await, timeline);
        assert!(trial.epoch().await > epoch);
        assert!(!trial.stack.get("i1").await.is_hit());
    }
    trial.finish().await;
}

#[tokio::test]
async fn a_standby_that_lost_the_last_commits_is_believed() {
    let mut trial = Trial::start().await;
    for _ in 0..2 {
        let epoch = trial.epoch().await;
        trial.suffers(Fault::Postgres(PostgresFault::PromotionLosingCommits), WHILE).await;
        assert!(trial.epoch().await > epoch);
    }
    trial.finish().await;
}

/// What was lost was in the cache, under a version that the new server may reach again.
#[tokio::test]
async fn a_value_that_a_failover_lost_is_not_hit() {
    let mut trial = Trial::start().await;
    let stack = &mut trial.stack;
    let data = stack.new_home().join("data");
    let link = proxy::Proxy::start(stack.postgres.port());
    let standby = standby_of(&stack.postgres, &data, link.port()).await;
    wait_replayed(stack, &standby).await;
    link.set(proxy::Traffic::Blackhole);

    // The load's own writes are lost too; it knows.
    let lost = stack.commit("UPDATE items SET price = 666 WHERE id = 1").await;
    stack.wait_caught_up(lost).await;
    stack.fill("i1", "666", &["item:1"]).await;
    let token = stack.get("i2").await.token;
    kill9(&mut stack.postgres).await;
    promote(&standby).await;
    drop(stack.replace_postgres(standby));

    trial.recovers("a failover that lost commits").await;
    let stack = &trial.stack;
    assert_eq!(stack.value("SELECT price FROM items WHERE id = 1").await, "10");
    assert!(!stack.get("i1").await.is_hit(), "a value that was never committed on this server");
    assert_eq!(stack.put("i2", "666", &token, &["item:2"]).await.reason(), Some("epoch"));
    // Past the position at which the old server ended, nothing of it comes back.
    eventually("the old end of the log", PATIENCE, async || {
        stack.sql("SELECT pg_switch_wal()").await;
        (stack.flushed().await > lost).then_some(())
    })
    .await;
    stack.wait_caught_up_now().await;
    assert!(!stack.get("i1").await.is_hit());
    trial.finish().await;
}

/// A server that has taken the place of one that was far ahead of it, and that the daemon has not met yet; and the last position of the former. `before`
/// is done before that.
async fn promoted_behind_the_daemon<T>(before: impl AsyncFnOnce(&mut Stack) -> T) -> (Stack, Lsn, T) {
    let options = StackOptions::new().proxied().schema(ITEMS);
    let mut stack = Stack::start(options.daemon(DaemonOptions::new().max_lag(MAX_LAG))).await;
    let data = stack.new_home().join("data");
    let link = proxy::Proxy::start(stack.postgres.port());
    let standby = standby_of(&stack.postgres, &data, link.port()).await;
    wait_replayed(&stack, &standby).await;
    link.set(proxy::Traffic::Blackhole);
    // Far past the place at which the promoted one will begin.
    for price in 0..4 {
        stack.sql(&format!("UPDATE items SET price = {price} WHERE id = 2")).await;
        stack.sql("SELECT pg_switch_wal()").await;
    }
    let lost = stack.commit("UPDATE items SET price = 666 WHERE id = 2").await;
    stack.wait_caught_up(lost).await;
    let done = before(&mut stack).await;
    stack.daemon().pause();
    kill9(&mut stack.postgres).await;
    promote(&standby).await;
    drop(stack.replace_postgres(standby));
    stack.sql("UPDATE items SET price = 11 WHERE id = 1").await;
    (stack, lost, done)
}

/// Until the daemon has met the promoted server, that one's positions lie before the watermark of the old one. An LSN alone seems covered then; a position
/// says of which history it is.
#[tokio::test]
async fn a_position_of_the_promoted_server_is_not_covered_by_the_old_one() {
    let (mut stack, lost, ()) =
        promoted_behind_the_daemon(async |stack: &mut Stack| stack.fill("i1", "10", &["item:1"]).await).await;
    let position = stack.value("SELECT cachetag.position()").await;
    let (timeline, place) = position.split_once('@').expect("a timeline");
    assert_eq!(timeline, stack.value(TIMELINE).await);
    assert!(lsn(place) < lost, "{place}");
    let at_least = |position: &str| GetOptions {
        at_least: Some(position.to_owned()),
        max_lag: Some(PATIENCE * 10),
        no_lease: true,
        ..GetOptions::default()
    };
    let mut cache = stack.cache().await;
    assert_eq!(
        cache.get_with("i1", &at_least(place)).await.expect("an answer").text(),
        Some("10"),
        "what an LSN alone cannot tell"
    );
    assert!(cache.get_with("i1", &at_least(&position)).await.expect("an answer").is_miss());
    let former = "1@0/1000000";
    assert!(
        cache.get_with("i1", &at_least(former)).await.expect("an answer").is_hit(),
        "{former} is of the old one's history"
    );

    stack.daemon().resume();
    let truth = eventually("a hit that covers it", PATIENCE, async || {
        let got = stack.cache().await.get_with("i1", &at_least(&position)).await.ok()?;
        if got.is_miss() {
            stack.put("i1", "11", &got.token, &["item:1"]).await;
        }
        got.is_hit().then(|| got.text().map(str::to_owned))
    });
    assert_eq!(truth.await.as_deref(), Some("11"));
}

/// Nor does a session go back that has read from the promoted server: what it was shown is of the newer history.
#[tokio::test]
async fn a_session_that_has_read_from_the_promoted_server_stays_in_its_history() {
    async fn price(reader: Reader<'_>, key: &str, url: String) -> (i32, Source) {
        let load = move |load: Load| async move {
            let pool = Pool::builder(Manager::new(url.parse().expect("a URL"), NoTls)).build().expect("a pool");
            let client = pool.get().await.expect("a connection");
            let row = load.query(&client, "SELECT price FROM items WHERE id = 1", &[]).await.expect("a row").remove(0);
            load.tag("item:1");
            Ok::<i32, std::convert::Infallible>(row.get(0))
        };
        let read = reader.get_or_load(key, load).await.expect("a price");
        (*read, read.metadata().source())
    }
    let (mut stack, _, cache) = promoted_behind_the_daemon(async |stack: &mut Stack| {
        let cache =
            Cache::builder().redis(stack.app_redis_url()).max_lag(PATIENCE * 10).beta(0.0).build().expect("a cache");
        assert!(cache.ready(PATIENCE).await, "the feed is not live");
        eventually("a hit in memory", PATIENCE, async || {
            let (price, source) = price(cache.with(ReadOptions::new()), "page", stack.app_postgres_url()).await;
            assert_eq!(price, 10);
            (source == Source::Memory).then_some(())
        })
        .await;
        cache
    })
    .await;
    let url = stack.app_postgres_url();
    let session = Session::new();
    let read = async |key: &str| price(cache.session(&session), key, url.clone()).await;
    assert_eq!(read("other").await.0, 11);
    assert_eq!(
        price(cache.with(ReadOptions::new()), "page", url.clone()).await,
        (10, Source::Memory),
        "who knows of nothing else"
    );
    assert_eq!(read("page").await.0, 11);
    assert!(session.position().expect("a position").to_string().contains('@'));
    stack.daemon().resume();
}

/// Another standby has what the failover lost, and is ahead of the promoted server: whatever it shows is of a history that is over.
#[tokio::test]
async fn a_standby_that_a_failover_left_behind_covers_no_token() {
    let (mut stack, lost, (behind, former)) = promoted_behind_the_daemon(async |stack: &mut Stack| {
        let data = stack.new_home().join("data");
        let standby = standby_of(&stack.postgres, &data, stack.postgres.port()).await;
        wait_replayed(stack, &standby).await;
        (standby, stack.get("i1").await.token)
    })
    .await;
    let client = behind.connect(DATABASE).await.expect("a standby answers");
    let covers = async |token: &str| -> bool {
        client.query_one("SELECT cachetag.covers($1)", &[&token]).await.expect("an answer").get(0)
    };
    assert!(covers(&former).await, "{former} is of its own history");
    stack.daemon().resume();
    let token = eventually("a token of the promoted server", PATIENCE, async || {
        let token = stack.cache().await.get("i1").await.ok()?.token;
        (token > former && !token.is_empty() && token[..10] > former[..10]).then_some(token)
    })
    .await;
    assert!(lsn_of_version(&token) < lost, "{token} lies before {lost}, which that standby has replayed");
    assert!(!covers(&token).await);
}

/// From version 17 on the slot comes along; it is on another timeline all the same.
#[tokio::test]
async fn a_failover_slot_is_kept_by_a_promotion() {
    let major = Installation::find().expect("a server").major().expect("its version");
    if major.parse::<u32>().expect("a number") < 17 {
        println!(
            "skipped: PostgreSQL {major} has no failover slots; CACHETAG_PG_BIN may name the programs of 17 or later"
        );
        return;
    }
    let mut trial =
        Trial::with(StackOptions::new().schema("SELECT pg_create_physical_replication_slot('standby', true)")).await;
    let stack = &mut trial.stack;
    let data = stack.new_home().join("data");
    let settings = [("sync_replication_slots", "on"), ("hot_standby_feedback", "on"), ("primary_slot_name", "standby")];
    let standby = standby_with(&stack.postgres, &data, stack.postgres.port(), &settings).await;
    // The daemon gets to see nothing that the standby does not have.
    stack.postgres.configure(&[("synchronized_standby_slots", "standby")]).expect("a setting");
    stack.postgres.reload().await.expect("it is read");
    let client = standby.connect("postgres").await.expect("a standby answers");
    let kept =
        "SELECT FROM pg_replication_slots WHERE slot_name = 'cachetag' AND synced AND failover AND NOT temporary";
    eventually("the slot's copy", PATIENCE, async || {
        // Its copy waits for a point at which no old transaction runs; a checkpoint writes one.
        stack.sql("CHECKPOINT").await;
        tokio::time::sleep(Duration::from_millis(100)).await;
        client.query_opt(kept, &[]).await.expect("an answer")
    })
    .await;
    let epoch = trial.epoch().await;
    trial.stack.fill("i1", "10", &["item:1"]).await;
    let created = trial.stack.daemon().log().matches("creating the replication slot").count();
    trial.load.progress(20, 0).await;
    kill9(&mut trial.stack.postgres).await;
    promote(&standby).await;
    drop(trial.stack.replace_postgres(standby));
    trial.recovers("promotion with a failover slot").await;
    assert_eq!(trial.stack.daemon().log().matches("creating the replication slot").count(), created);
    assert!(trial.epoch().await > epoch, "another timeline is another source");
    assert!(!trial.stack.get("i1").await.is_hit());
    trial.finish().await;
}

#[tokio::test]
async fn a_redis_replica_that_lost_the_last_writes_is_found_out() {
    let mut trial = Trial::start().await;
    for _ in 0..3 {
        let epoch = trial.epoch().await;
        trial.suffers(Fault::Redis(RedisFault::PromotionLosingWrites), WHILE).await;
        assert!(trial.epoch().await > epoch);
    }
    trial.finish().await;
}

/// The lost write is the bump; the entry that it had invalidated is back with the replica.
#[tokio::test]
async fn an_entry_whose_bump_a_replica_lost_is_not_hit() {
    let mut trial = Trial::start().await;
    trial.stack.fill("i1", "10", &["item:1"]).await;
    let replica = Replica::start(&mut trial.stack).await;
    replica.cut();
    let commit = trial.stack.commit("UPDATE items SET price = 11 WHERE id = 1").await;
    trial.stack.wait_caught_up(commit).await;
    assert!(!trial.stack.get("i1").await.is_hit());
    replica.promote(&mut trial.stack).await;
    trial.recovers("a replica that lost a bump").await;
    assert!(!trial.stack.get("i1").await.is_hit());
    trial.finish().await;
}

/// With everything that the primary had, a promoted replica just goes on.
#[tokio::test]
async fn a_redis_replica_that_has_everything_goes_on() {
    let mut trial = Trial::start().await;
    let replica = Replica::start(&mut trial.stack).await;
    let epoch = trial.epoch().await;
    trial.stack.daemon().pause();
    replica.wait_synced(&trial.stack).await;
    replica.promote(&mut trial.stack).await;
    tokio::time::sleep(Duration::from_millis(100)).await;
    trial.stack.daemon().resume();
    trial.recovers("a replica that has everything").await;
    assert_eq!(trial.epoch().await, epoch);
    trial.finish().await;
}

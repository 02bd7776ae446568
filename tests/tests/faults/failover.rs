//! Another server takes the place and the address of one that died.

use std::time::Duration;

use cachetag_tests::eventually;
use cachetag_tests::fault::{
    Fault, PostgresFault, RedisFault, Replica, kill9, promote, proxy, standby_of, wait_replayed,
};

use crate::trial::{PATIENCE, Trial, WHILE};

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

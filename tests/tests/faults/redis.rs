//! Redis frozen, paused, killed, flushed, emptied in part, and put back to an older state.

use std::time::Duration;

use cachetag_tests::fault::{Fault, Keys, RedisFault};
use cachetag_tests::{State, eventually};
use redis::cmd;

use crate::trial::{MAX_LAG, PATIENCE, Trial, WHILE};

#[tokio::test]
async fn pauses_cost_no_epoch() {
    let mut trial = Trial::start().await;
    let epoch = trial.epoch().await;
    for fault in [RedisFault::Frozen, RedisFault::WritesPaused, RedisFault::Paused, RedisFault::Asleep] {
        trial.suffers(Fault::Redis(fault), WHILE).await;
        assert_eq!(trial.epoch().await, epoch, "{fault}");
    }
    trial.finish().await;
}

#[tokio::test]
async fn a_redis_frozen_beyond_the_timeout_costs_no_epoch() {
    let mut trial = Trial::start().await;
    let epoch = trial.epoch().await;
    trial.suffers(Fault::Redis(RedisFault::Frozen), Duration::from_secs(12)).await;
    assert_eq!(trial.epoch().await, epoch);
    trial.finish().await;
}

/// `CLIENT PAUSE … WRITE` holds every write, the daemon's calls too, while readers that use `peek` are answered: nothing is fresh any more.
#[tokio::test]
async fn readers_of_a_redis_whose_writes_are_paused_bypass() {
    let trial = Trial::start().await;
    trial.stack.fill("i1", "10", &["item:1"]).await;
    let mut cache = trial.stack.cache().await;
    let pause = cmd("CLIENT").arg("PAUSE").arg(60_000).arg("WRITE").exec_async(cache.connection()).await;
    pause.expect("CLIENT PAUSE");
    let commit = trial.stack.commit("UPDATE items SET price = 11 WHERE id = 1").await;
    let since = std::time::Instant::now();
    eventually("the bypass", PATIENCE, async || {
        let got = cache.peek("i1", &Default::default()).await.expect("Redis answers");
        assert!(!got.is_hit() || since.elapsed() < MAX_LAG * 2, "{got:?}");
        (got.state == State::Bypass).then_some(())
    })
    .await;
    cmd("CLIENT").arg("UNPAUSE").exec_async(cache.connection()).await.expect("CLIENT UNPAUSE");
    trial.recovers("writes paused").await;
    trial.stack.wait_caught_up(commit).await;
    assert!(!trial.stack.get("i1").await.is_hit());
    trial.finish().await;
}

#[tokio::test]
async fn what_loses_the_state_costs_an_epoch() {
    let mut trial = Trial::start().await;
    for fault in [
        RedisFault::Killed,
        RedisFault::OlderSnapshot,
        RedisFault::FlushAll,
        RedisFault::Evicted(Keys::State),
        RedisFault::PromotionLosingWrites,
        RedisFault::OlderSnapshot,
    ] {
        let epoch = trial.epoch().await;
        trial.stack.fill("i1", "10", &["item:1"]).await;
        trial.suffers(Fault::Redis(fault), WHILE).await;
        assert!(trial.epoch().await > epoch, "{fault}");
        assert!(!trial.stack.get("i1").await.is_hit(), "{fault}: an entry of the old epoch");
    }
    trial.finish().await;
}

#[tokio::test]
async fn keys_that_vanish_cost_misses() {
    let mut trial = Trial::start().await;
    let epoch = trial.epoch().await;
    for keys in [Keys::Entries, Keys::Tags, Keys::Log] {
        for _ in 0..3 {
            trial.suffers(Fault::Redis(RedisFault::Evicted(keys)), Duration::from_millis(200)).await;
        }
    }
    assert_eq!(trial.epoch().await, epoch);
    trial.finish().await;
}

/// The library is gone: whoever calls is told so, and the daemon brings it back without being restarted.
#[tokio::test]
async fn a_flushed_library_is_loaded_again_by_the_daemon() {
    let mut trial = Trial::start().await;
    let epoch = trial.epoch().await;
    let process = trial.stack.daemon().id();
    trial.suffers(Fault::Redis(RedisFault::FunctionFlush), Duration::ZERO).await;
    trial.suffers(Fault::Redis(RedisFault::ScriptFlush), Duration::ZERO).await;
    for _ in 0..3 {
        trial.suffers(Fault::Redis(RedisFault::FunctionFlush), Duration::ZERO).await;
    }
    assert_eq!(trial.epoch().await, epoch, "the state was not touched");
    assert_eq!(trial.stack.daemon().id(), process);
    trial.finish().await;
}

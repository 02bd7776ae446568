//! PostgreSQL killed, frozen in whole or in part, its stream ended, its slot gone.

use cachetag_tests::Random;
use cachetag_tests::fault::{Fault, PostgresFault};

use crate::trial::{Trial, WHILE};

#[tokio::test]
async fn what_leaves_the_slot_as_it_is_costs_no_epoch() {
    let mut trial = Trial::start().await;
    let epoch = trial.epoch().await;
    for fault in [
        PostgresFault::Killed,
        PostgresFault::Frozen,
        PostgresFault::WalsenderFrozen,
        PostgresFault::WalsenderTerminated,
        PostgresFault::Checkpoint,
        PostgresFault::Killed,
    ] {
        trial.suffers(Fault::Postgres(fault), WHILE).await;
        assert_eq!(trial.epoch().await, epoch, "{fault}");
    }
    trial.finish().await;
}

#[tokio::test]
async fn a_slot_dropped_under_the_daemon_costs_an_epoch() {
    let mut trial = Trial::start().await;
    let epoch = trial.epoch().await;
    for _ in 0..3 {
        trial.suffers(Fault::Postgres(PostgresFault::SlotDropped), WHILE).await;
    }
    assert!(trial.epoch().await > epoch);
    trial.finish().await;
}

#[tokio::test]
async fn a_change_that_cannot_be_decoded_costs_an_epoch() {
    let mut trial = Trial::start().await;
    for _ in 0..2 {
        let epoch = trial.epoch().await;
        trial.stack.fill("drawing", "none", &["drawing:1"]).await;
        trial.suffers(Fault::Postgres(PostgresFault::Undecodable), WHILE).await;
        assert!(trial.stack.get("drawing").await.is_miss());
        assert!(trial.epoch().await > epoch);
    }
    trial.finish().await;
}

#[tokio::test]
async fn in_strict_mode_commits_go_on_behind_a_change_that_cannot_be_decoded() {
    let mut trial = Trial::start().await;
    let epoch = trial.epoch().await;
    trial.stack.make_strict().await;
    trial.stack.fill("drawing", "none", &["drawing:1"]).await;
    let undecodable = Fault::Postgres(PostgresFault::Undecodable);
    let injected = undecodable.inject(&mut trial.stack, &mut Random::new(1)).await;
    assert!(!trial.stack.get("drawing").await.is_hit(), "COMMIT has returned");
    injected.end(&mut trial.stack).await;
    trial.recovers("a change that cannot be decoded").await;
    assert!(trial.epoch().await > epoch);
    trial.finish().await;
}

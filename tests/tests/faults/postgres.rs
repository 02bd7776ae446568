//! PostgreSQL killed, frozen in whole or in part, its stream ended, its slot gone.

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

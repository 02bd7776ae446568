//! PostgreSQL killed, frozen in whole or in part, its stream ended, its slot gone.

use cachetag_tests::fault::{Fault, PostgresFault};
use cachetag_tests::{StackOptions, eventually};

use crate::trial::{PATIENCE, Trial, WHILE};

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

/// 2^30 bits take 128 MiB in the table, and a byte more as text than PostgreSQL allocates: each try to decode the row fails.
const UNDECODABLE: &str = "DO $$DECLARE b varbit := '1'; BEGIN
        FOR i IN 1..30 LOOP b := b || b; END LOOP;
        UPDATE drawings SET bits = b WHERE id = 1;
    END$$";
const DRAWINGS: &str = "CREATE TABLE drawings (id int PRIMARY KEY, bits varbit COMPRESSION lz4); INSERT INTO drawings VALUES (1, '1'), (2, '0');
    SELECT cachetag.track('drawings', 'drawing:{id}')";

#[tokio::test]
async fn a_change_that_cannot_be_decoded_costs_an_epoch() {
    let trial = Trial::with(StackOptions::new().schema(DRAWINGS)).await;
    let epoch = trial.epoch().await;
    for id in ["drawing:1", "drawing:2"] {
        trial.stack.fill(id, "drawn", &[id]).await;
    }
    trial.stack.sql(UNDECODABLE).await;
    trial.recovers("a change that cannot be decoded").await;
    assert!(trial.epoch().await > epoch);
    assert!(trial.stack.get("drawing:1").await.is_miss());
    // What comes behind it is mapped as ever.
    trial.stack.fill("drawing:2", "drawn again", &["drawing:2"]).await;
    let commit = trial.stack.commit("UPDATE drawings SET bits = '11' WHERE id = 2").await;
    trial.stack.wait_caught_up(commit).await;
    assert!(trial.stack.get("drawing:2").await.is_miss());
    trial.finish().await;
}

#[tokio::test]
async fn in_strict_mode_commits_go_on_behind_a_change_that_cannot_be_decoded() {
    let trial = Trial::with(StackOptions::new().schema(DRAWINGS)).await;
    let epoch = trial.epoch().await;
    trial.stack.sql("ALTER SYSTEM SET synchronous_standby_names = 'cachetag'").await;
    trial.stack.sql("SELECT pg_reload_conf()").await;
    let synchronous = "SELECT 1 FROM pg_stat_replication WHERE sync_state = 'sync'";
    eventually("strict mode", PATIENCE, async || (!trial.stack.rows(synchronous).await.is_empty()).then_some(())).await;
    trial.stack.fill("drawing:1", "drawn", &["drawing:1"]).await;
    trial.stack.sql(UNDECODABLE).await;
    assert!(!trial.stack.get("drawing:1").await.is_hit(), "COMMIT has returned");
    trial.recovers("a change that cannot be decoded").await;
    assert!(trial.epoch().await > epoch);
    trial.finish().await;
}

//! A hit is a value that was true no longer ago than the caller's `max_lag`: random rules, changes, fills and reads under faults, and the
//! checker that compares every hit with the history. `make checker` runs it for longer.
//!
//! | variable | meaning |
//! | --- | --- |
//! | `CACHETAG_READS` | how many hits are checked (3,000,000) |
//! | `CACHETAG_SEED` | repeats a schema, the faults and what the connections try (by default the time) |

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cachetag_tests::checker::{Invariant, Options, Profile, Report, Variant, run};

/// A planted defect that is not caught after this never will be.
const PATIENCE: Duration = Duration::from_secs(120);

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.replace('_', "").parse().unwrap_or_else(|error| panic!("{variable}={text}: {error}")))
}

fn seed() -> u64 {
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| since.as_millis() as u64);
    let seed = number("CACHETAG_SEED").unwrap_or_else(now);
    println!("CACHETAG_SEED={seed}");
    seed
}

#[tokio::test]
async fn no_hit_is_wrong_under_any_fault() {
    let reads = number("CACHETAG_READS").unwrap_or(3_000_000);
    let report = run(Options { reads, every_fault: true, client: true, ..Options::new(Profile::Mixed, seed()) }).await;
    println!("{report}");
    assert_eq!(report.violation_count, 0, "{report}");
    // A run in which nothing changes and nothing breaks proves nothing.
    assert!(report.commits() > 50, "too few changes: {report}");
    assert!(report.fault_count() > 3, "too few faults: {report}");
    let from_memory = report.client.checked.get("memory").copied().unwrap_or_default();
    assert!(from_memory >= reads / 40, "too few reads from the client's memory: {report}");
    for invariant in [
        Invariant::Convergence,
        Invariant::Staleness,
        Invariant::MonotonicReads,
        Invariant::ReadYourWrites,
        Invariant::VisibleFills,
        Invariant::Together,
        Invariant::NeverUndone,
        Invariant::Eviction,
        Invariant::Acknowledged,
        Invariant::Insertion,
        Invariant::Move,
    ] {
        assert!(report.looked_at.contains_key(&invariant), "{invariant:?} was never looked at: {report}");
    }
}

async fn is_caught(variant: Variant, profile: Profile) {
    let report = caught(variant, profile, false).await;
    assert!(report.violation_count > 0, "{variant:?} was not noticed: {report}");
}

async fn is_caught_through_the_client(variant: Variant) {
    let report = caught(variant, Profile::Mixed, true).await;
    assert!(report.client.violations > 0, "{variant:?} was not noticed: {report}");
}

async fn caught(variant: Variant, profile: Profile, client: bool) -> Report {
    let options = Options {
        reads: u64::MAX,
        time: Some(PATIENCE),
        broken: Some(variant),
        faults: Vec::new(),
        standby: false,
        client,
        ..Options::new(profile, seed())
    };
    let report = run(options).await;
    println!("{report}");
    report
}

#[tokio::test]
async fn a_token_taken_after_the_query_is_caught() {
    is_caught(Variant::LateToken, Profile::Mixed).await;
}

#[tokio::test]
async fn tags_that_were_left_out_are_caught() {
    is_caught(Variant::OmitTags, Profile::Mixed).await;
}

#[tokio::test]
async fn an_entry_that_claims_to_be_newer_than_it_is_is_caught() {
    is_caught(Variant::RaiseAsOf, Profile::Mixed).await;
}

#[tokio::test]
async fn an_older_snapshot_that_is_stored_unasked_is_caught() {
    is_caught(Variant::Uncovered, Profile::Mixed).await;
}

#[tokio::test]
async fn a_layer_in_the_process_that_ignores_its_feed_is_caught() {
    is_caught_through_the_client(Variant::ClientHoards).await;
}

#[tokio::test]
async fn a_loader_without_tags_is_caught() {
    is_caught_through_the_client(Variant::ClientOmitsTags).await;
}

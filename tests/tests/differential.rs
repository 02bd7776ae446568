//! A hit is a value that was true no longer ago than the caller's `max_lag`: random rules, changes, fills and reads, and the checker that
//! compares every hit with the history.
//!
//! | variable | meaning |
//! | --- | --- |
//! | `CACHETAG_READS` | how many reads (200,000) |
//! | `CACHETAG_SEED` | repeats a schema and what the connections try (by default the time) |

use std::time::{SystemTime, UNIX_EPOCH};

use cachetag_tests::differential::{Fault, Options, run};

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
async fn every_hit_was_true_within_max_lag() {
    let reads = number("CACHETAG_READS").unwrap_or(200_000);
    let report = run(Options { reads, seed: seed(), fault: None }).await;
    println!("{report}");
    assert_eq!(report.violation_count, 0, "{report}");
    // A run that hardly ever hits, or in which nothing changes, proves nothing.
    assert!(report.hits() * 20 >= report.reads, "too few hits: {report}");
    assert!(report.commits > 50, "too few changes: {report}");
}

async fn is_caught(fault: Fault) {
    let report = run(Options { reads: 400_000, seed: seed(), fault: Some(fault) }).await;
    println!("{report}");
    assert!(report.violation_count > 0, "{fault:?} was not noticed: {report}");
}

#[tokio::test]
async fn the_checker_catches_a_token_taken_after_the_query() {
    is_caught(Fault::LateToken).await;
}

#[tokio::test]
async fn the_checker_catches_tags_that_were_left_out() {
    is_caught(Fault::OmitTags).await;
}

#[tokio::test]
async fn the_checker_catches_an_entry_that_claims_to_be_newer_than_it_is() {
    is_caught(Fault::RaiseAsOf).await;
}

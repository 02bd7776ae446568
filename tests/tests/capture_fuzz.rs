//! Random queries, worlds and transactions: whatever changes a captured result bumps one of its tags. And capture that forgets a source of tags
//! on purpose is noticed.
//!
//! `cargo test --release -p cachetag-tests --test capture_fuzz -- --nocapture --test-threads=1` prints what was covered. `CACHETAG_SEED` makes other worlds.

use cachetag_tests::capture::{Options, Report, broken, notice, run};

/// Changes of cached results to see.
const CHANGES: u64 = 20_000;
/// Changes after which a forgotten source counts as unnoticed: each is noticed within hundreds.
const UNNOTICED: u64 = 30_000;

/// The same worlds each time, so that a failure is of what was changed: more of them are tried with other seeds, and by the program `capture`.
fn seed() -> u64 {
    std::env::var("CACHETAG_SEED").map_or(1, |text| text.parse().expect("CACHETAG_SEED is a number"))
}

#[test]
fn what_changes_a_result_bumps_a_tag_of_it() {
    let seed = seed();
    let report: Report = run(&Options::new(seed, CHANGES));
    println!("seed {seed}\n{report}");
    assert_eq!(report.miss_count, 0, "see above");
    assert!(report.changes >= CHANGES);
    // Beside writers: tokens were raised, and writers did overtake what was read.
    assert!(report.raised > 0 && report.overtaken > 0, "no race was one");
    // A capture that refuses everything, or names families only, would be sound and of no use.
    assert!(
        report.cacheable * 2 > report.queries && report.finer * 2 > report.captures,
        "too little is cacheable, or too little finely"
    );
}

#[test]
fn every_source_of_tags_that_is_forgotten_is_noticed() {
    let mut unnoticed = Vec::new();
    for (guard, report) in notice(&Options::new(seed(), UNNOTICED), broken::GUARDS) {
        let seconds = report.lasted.as_secs_f64();
        match report.misses.first() {
            Some(miss) => println!(
                "{guard:16} noticed after {:5} transactions, {:5} changes, {seconds:5.1} s: {} (seed {})",
                report.mutations, report.changes, miss.what, miss.seed
            ),
            None => unnoticed.push(guard),
        }
    }
    assert_eq!(unnoticed, Vec::<&str>::new(), "forgotten, and not noticed");
}

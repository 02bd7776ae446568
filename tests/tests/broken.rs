//! Every guard of the consistency rule is taken out once, on real servers, and the checker must notice; under the same profile and with all guards
//! in place it must find nothing, so that it is the variant that is caught and not the profile.
//!
//! `cargo test --release -p cachetag-tests --test broken -- --nocapture` prints a line for each. `CACHETAG_SEED` repeats a run.

use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cachetag_tests::broken::{broken, place, program, sound};
use cachetag_tests::checker::{Options, run};
use cachetag_tests::{Folder, Variant};

/// Runs after which a variant counts as unnoticed.
const RUNS: usize = 3;
/// How long each lasts.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long a sound run lasts: longer than most variants live.
const CONTROL: Duration = Duration::from_secs(20);

fn seed() -> u64 {
    let given = std::env::var("CACHETAG_SEED").ok().map(|text| text.parse().expect("CACHETAG_SEED is a number"));
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| since.as_millis() as u64);
    given.unwrap_or_else(now)
}

/// What a variant gets wrong is a matter of interleavings: a run that has not met one within `PATIENCE` is followed by another.
async fn is_caught(variant: Variant) {
    for attempt in 1..=RUNS {
        let folder = Folder::temporary("cachetag-broken").expect("a folder");
        let seed = seed();
        let options = broken(variant, seed, folder.path());
        let options = Options { reads: u64::MAX, time: Some(PATIENCE), ..options };
        // A daemon without a guard may never come to rest, which is what the end of a run waits for.
        let Ok(report) = tokio::time::timeout(PATIENCE + PATIENCE / 3, run(options)).await else {
            println!("{variant}: run {attempt} has met nothing and does not come to rest (seed {seed})");
            continue;
        };
        let seconds = report.lasted.as_secs_f64();
        if let Some(first) = report.violations.first() {
            println!(
                "{variant:24} in the {:18} caught by {:15?} after {:7} reads, {seconds:5.1} s of run {attempt} (seed {seed})",
                place(variant),
                first.invariant,
                report.checked
            );
            return;
        }
        println!("{variant}: run {attempt} has met nothing in {seconds:.0} s (seed {seed})");
    }
    panic!("{variant} was not noticed in {RUNS} runs");
}

async fn is_clean(variant: Variant) {
    let seed = seed();
    let report = run(Options { reads: u64::MAX, time: Some(CONTROL), ..sound(variant, seed) }).await;
    assert_eq!(report.violation_count, 0, "nothing is broken (CACHETAG_SEED={seed}): {report}");
    let (reads, faults) = (report.checked, report.fault_count());
    println!("nothing broken, profile of {variant}: clean after {reads} reads, {faults} faults");
    assert!(reads > 1000, "too few reads: {report}");
}

/// A test for each variant.
macro_rules! caught {
    ($($test:ident: $variant:ident),* $(,)?) => {
        $(#[tokio::test]
        async fn $test() {
            is_caught(Variant::$variant).await;
        })*

        #[test]
        fn no_variant_is_left_out() {
            let tested = [$(Variant::$variant),*];
            assert!(Variant::on_servers().eq(tested), "every variant of the servers has a test, in order");
        }
    };
}

caught! {
    a_watermark_before_visibility_is_caught: WatermarkBeforeVisible,
    a_fill_without_log_check_is_caught: NoLogCheck,
    a_missing_tag_that_counts_as_valid_is_caught: MissingTagIsValid,
    a_replay_that_lowers_is_caught: ReplayLowers,
    a_missing_fence_is_caught: NoFence,
    no_epoch_after_a_loss_is_caught: NoEpochAfterLoss,
    missing_continuity_is_caught: NoContinuity,
    a_token_after_the_snapshot_is_caught: TokenAfterSnapshot,
    registration_at_the_watermark_is_caught: RegisterAtWatermark,
    a_token_of_another_epoch_is_caught: ForeignEpoch,
    an_epoch_that_opens_undrained_is_caught: EpochNotDrained,
    a_bump_without_the_old_row_is_caught: NoOldRow,
    a_table_that_joins_without_the_lock_is_caught: JoinUnlocked,
}

#[tokio::test]
async fn held_commits_alone_are_harmless() {
    is_clean(Variant::WatermarkBeforeVisible).await;
}

#[tokio::test]
async fn forgetting_alone_is_harmless() {
    is_clean(Variant::NoLogCheck).await;
}

#[tokio::test]
async fn replays_alone_are_harmless() {
    is_clean(Variant::ReplayLowers).await;
}

#[tokio::test]
async fn rivals_alone_are_harmless() {
    is_clean(Variant::NoFence).await;
}

#[tokio::test]
async fn a_redis_that_goes_back_alone_is_harmless() {
    is_clean(Variant::NoContinuity).await;
}

#[tokio::test]
async fn new_epochs_alone_are_harmless() {
    is_clean(Variant::EpochNotDrained).await;
}

#[tokio::test]
async fn joining_alone_is_harmless() {
    is_clean(Variant::JoinUnlocked).await;
}

#[test]
fn the_broken_daemon_says_so() {
    let version = Command::new(program()).arg("--version").output().expect("the broken daemon");
    let version = String::from_utf8_lossy(&version.stdout);
    assert!(version.contains("BROKEN ON PURPOSE"), "{version}");
}

#[test]
fn the_sound_daemon_refuses_to_be_broken() {
    let servers = ["--postgres", "postgres://nobody@localhost:1/none", "--redis", "redis://localhost:1"];
    let refused = Command::new(cachetag_tests::program())
        .arg("run")
        .args(servers)
        .env("CACHETAG_BROKEN", "no-fence")
        .output()
        .expect("the daemon");
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && said.contains("CACHETAG_BROKEN"), "{said}");
}

//! The proof of capture: random queries over random worlds are captured, random transactions change the data, the real daemon maps them, and
//! whenever a result has changed, one of its tags must have been bumped.
//!
//! A pool of captured queries stands for the cache. After each transaction, what a bump reaches is captured anew, as a cache would fill it again,
//! and what no bump reaches is run again and must be what it was. So one transaction is held against every cached result.

pub mod broken;
mod bumps;
mod definition;
mod kind;
mod mutation;
mod query;
mod race;
mod report;
mod session;
mod theme;
mod trial;
mod world;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

pub use report::{Miss, Report};

use trial::Trial;

/// What a run is to do.
#[derive(Debug, Clone)]
pub struct Options {
    /// Of the first world; the next has the next one.
    pub seed: u64,
    /// Ends when so many cached results have changed.
    pub changes: u64,
    /// Ends after so many worlds.
    pub worlds: u64,
    /// Worlds at a time, each with servers of its own.
    pub workers: usize,
    /// Ends at the first miss.
    pub stop_at_miss: bool,
    /// Prints a line after each world.
    pub progress: bool,
    /// What capture is made to forget, one of [`broken::GUARDS`].
    pub forgets: Option<&'static str>,
}

impl Options {
    /// Until this many results have changed.
    pub fn new(seed: u64, changes: u64) -> Options {
        let workers = std::thread::available_parallelism().map_or(1, usize::from).min(4);
        Options { seed, changes, worlds: u64::MAX, workers, stop_at_miss: false, progress: false, forgets: None }
    }
}

/// Runs the worlds.
pub fn run(options: &Options) -> Report {
    let began = Instant::now();
    let (next, changes, stopped) = (AtomicU64::new(0), AtomicU64::new(0), Arc::new(AtomicBool::new(false)));
    let whole = Mutex::new(Report::default());
    let worker = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let mut trial = Trial::start(options, Arc::clone(&stopped)).await;
            loop {
                let world = next.fetch_add(1, Ordering::Relaxed);
                let enough = changes.load(Ordering::Relaxed) >= options.changes || stopped.load(Ordering::Relaxed);
                if world >= options.worlds || enough {
                    return;
                }
                let mut report = trial.world(options.seed.wrapping_add(world)).await;
                report.lasted = began.elapsed();
                changes.fetch_add(report.changes, Ordering::Relaxed);
                if options.stop_at_miss && report.miss_count > 0 {
                    stopped.store(true, Ordering::Relaxed);
                }
                let mut whole = whole.lock().expect("no worker has failed");
                whole.add(report);
                if options.progress {
                    println!(
                        "{} worlds, {} transactions, {} changes, {} misses",
                        whole.worlds, whole.mutations, whole.changes, whole.miss_count
                    );
                }
            }
        });
    };
    std::thread::scope(|scope| {
        (0..options.workers).for_each(|_| {
            scope.spawn(worker);
        });
    });
    whole.into_inner().expect("no worker has failed")
}

/// Has capture forget one guard after the other until a miss shows that it does, or `options.changes` cached results have changed. The workers take the guards in
/// turn, on servers that they keep. What each guard took to be noticed, in their order.
pub fn notice(options: &Options, guards: &[&'static str]) -> Vec<(&'static str, Report)> {
    let next = AtomicU64::new(0);
    let reports = Mutex::new(Vec::with_capacity(guards.len()));
    let options = Options { stop_at_miss: true, forgets: guards.first().copied(), ..options.clone() };
    let worker = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let mut trial = Trial::start(&options, Arc::default()).await;
            loop {
                let place = next.fetch_add(1, Ordering::Relaxed) as usize;
                let Some(guard) = guards.get(place) else { return };
                let began = Instant::now();
                trial.forget(guard);
                let mut report = Report::default();
                while report.miss_count == 0 && report.changes < options.changes {
                    let mut world = trial.world(options.seed.wrapping_add(report.worlds)).await;
                    world.lasted = began.elapsed();
                    report.add(world);
                }
                if options.progress {
                    let seconds = report.lasted.as_secs_f64();
                    println!("{guard}: {} misses, {} changes, {seconds:.1} s", report.miss_count, report.changes);
                }
                reports.lock().expect("no worker has failed").push((place, *guard, report));
            }
        });
    };
    std::thread::scope(|scope| {
        (0..options.workers).for_each(|_| {
            scope.spawn(worker);
        });
    });
    let mut reports = reports.into_inner().expect("no worker has failed");
    reports.sort_by_key(|(place, ..)| *place);
    reports.into_iter().map(|(_, guard, report)| (guard, report)).collect()
}

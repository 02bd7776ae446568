//! Random queries are captured, random transactions change the data, and whatever changed must have been bumped.

use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use cachetag_tests::capture::{Options, broken, run};
use clap::Parser;

/// Holds the tags that capture names against what the daemon bumps, on private servers
#[derive(Debug, Parser)]
#[command(name = "capture")]
struct Arguments {
    /// Changes of cached results to see
    #[arg(long, default_value = "20000")]
    changes: u64,
    /// Worlds to make, at most
    #[arg(long)]
    worlds: Option<u64>,
    /// Of the first world (by default the time)
    #[arg(long)]
    seed: Option<u64>,
    /// Worlds at a time
    #[arg(long)]
    workers: Option<usize>,
    /// End with the first miss
    #[arg(long)]
    stop: bool,
    /// What capture is made to forget, on purpose
    #[arg(long, value_parser = clap::builder::PossibleValuesParser::new(broken::GUARDS))]
    forgets: Option<String>,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| since.as_millis() as u64);
    let seed = arguments.seed.unwrap_or_else(now);
    println!("seed {seed}");
    let defaults = Options::new(seed, arguments.changes);
    let report = run(&Options {
        worlds: arguments.worlds.unwrap_or(u64::MAX),
        workers: arguments.workers.unwrap_or(defaults.workers),
        stop_at_miss: arguments.stop,
        progress: true,
        forgets: broken::GUARDS.iter().find(|guard| arguments.forgets.as_deref() == Some(**guard)).copied(),
        ..defaults
    });
    print!("{report}");
    if report.miss_count == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

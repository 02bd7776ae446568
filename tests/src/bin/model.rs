//! Explores the consistency rule, or a variant of it that is broken on purpose, within bounds of your choice:
//!
//! ```text
//! cargo run --release -p cachetag-tests --bin model -- --commits 3 --readers 1
//! cargo run --release -p cachetag-tests --bin model -- --variant foreign-epoch --commits 2 --kinds fail-over,flush
//! ```

use std::process::ExitCode;

use cachetag_tests::Variant;
use cachetag_tests::model::{Bounds, World, check};
use clap::Parser;

#[derive(Debug, Parser)]
#[command(
    name = "model",
    about = "Explores the consistency rule exhaustively; exits with 1 when a property does not hold"
)]
struct Options {
    /// Take this guard out
    #[arg(long, value_enum)]
    variant: Option<Variant>,
    /// Threads; with more than one a counterexample need not be a shortest one
    #[arg(long, default_value_t = 1)]
    threads: usize,
    #[command(flatten)]
    bounds: Bounds,
}

fn main() -> ExitCode {
    let Options { variant, threads, bounds } = Options::parse();
    println!("{bounds:?}");
    let outcome = check(World { bounds, broken: variant }, threads);
    println!("{}: {outcome}", variant.map_or("the rule".into(), |v| v.to_string()));
    println!("peak memory: {}", peak_memory());
    if outcome.counterexamples.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

fn peak_memory() -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    peak.map_or("unknown".into(), |text| text.trim().to_owned())
}

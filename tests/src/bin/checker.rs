//! `make checker`: hurts the system in every way that its users report, and prints a measured bound on wrong hits.

use std::process::ExitCode;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cachetag_tests::checker::{Kind, Options, Profile, Variant, run};
use clap::Parser;

/// Writers, readers and fillers on private servers, faults, and a history that every hit is compared with
#[derive(Debug, Parser)]
#[command(name = "checker")]
struct Arguments {
    /// Hits to check
    #[arg(long, default_value = "3000000", value_parser = count)]
    reads: u64,
    /// Stop after this many seconds
    #[arg(long)]
    seconds: Option<u64>,
    /// Repeats a schema, the faults and what the connections try (by default the time)
    #[arg(long)]
    seed: Option<u64>,
    /// `all`, `none`, or names or beginnings of names separated by commas; by default those of the profile. `list` prints them
    #[arg(long)]
    faults: Option<String>,
    /// The longest that most faults last, in milliseconds; one of twenty lasts up to twenty times as long
    #[arg(long, default_value_t = 600)]
    outage: u64,
    /// The daemon's bound of staleness and the largest that readers ask for, in milliseconds
    #[arg(long, default_value_t = 2_000)]
    max_lag: u64,
    /// Which interleavings are made frequent
    #[arg(long, value_enum, default_value_t)]
    profile: Profile,
    /// Some readers read through the client, with its layer in this process
    #[arg(long)]
    client: bool,
    /// End with the first violation
    #[arg(long)]
    stop: bool,
    /// Plants a defect in the readers, and ends with the first violation
    #[arg(long, value_enum)]
    broken: Option<Variant>,
}

fn count(text: &str) -> Result<u64, std::num::ParseIntError> {
    text.replace('_', "").parse()
}

fn kinds(text: &str) -> Result<Vec<Kind>, String> {
    match text {
        "all" => return Ok(Kind::all()),
        "none" => return Ok(Vec::new()),
        _ => {}
    }
    let names: Vec<&str> = text.split(',').map(str::trim).collect();
    match names.iter().find(|name| Kind::named(&[name]).is_empty()) {
        Some(name) => Err(format!("there is no fault `{name}`")),
        None => Ok(Kind::named(&names)),
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if arguments.faults.as_deref() == Some("list") {
        Kind::all().iter().for_each(|kind| println!("{kind}"));
        return ExitCode::SUCCESS;
    }
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(1, |since| since.as_millis() as u64);
    let seed = arguments.seed.unwrap_or_else(now);
    let mut options = Options {
        reads: arguments.reads,
        time: arguments.seconds.map(Duration::from_secs),
        max_lag: Duration::from_millis(arguments.max_lag),
        outage: Duration::from_millis(arguments.outage),
        broken: arguments.broken,
        stop_at_violation: arguments.stop,
        client: arguments.client,
        progress: true,
        ..Options::new(arguments.profile, seed)
    };
    if let Some(text) = &arguments.faults {
        match kinds(text) {
            Ok(kinds) => options.faults = kinds,
            Err(error) => {
                eprintln!("--faults: {error}; `--faults list` prints the kinds");
                return ExitCode::from(2);
            }
        }
    }
    println!("seed {seed}");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let report = runtime.block_on(run(options));
    print!("{report}");
    if report.violation_count == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

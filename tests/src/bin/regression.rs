//! Puts what pg_regress's psql sends to a server between captures, and holds what was captured against what changes. `scripts/regression.sh` runs it.

use std::process::ExitCode;

use cachetag_tests::regression::{Options, run};
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

/// Relays sessions on 127.0.0.1, every statement of them inside a capture, until SIGTERM; then it prints what it found, and ends with 1 after a miss
#[derive(Debug, Parser)]
#[command(name = "regression")]
struct Arguments {
    /// The port to listen on
    #[arg(long)]
    listen: u16,
    /// The port of PostgreSQL
    #[arg(long)]
    postgres: u16,
    /// The port of the daemon's Redis
    #[arg(long)]
    redis: u16,
    /// Sessions of other databases are passed on as they are
    #[arg(long, default_value = "regression")]
    database: String,
}

fn main() -> ExitCode {
    let Arguments { listen, postgres, redis, database } = Arguments::parse();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let report = runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).expect("signals");
        run(Options { listen, postgres, redis, database }, async move {
            terminate.recv().await;
        })
        .await
    });
    print!("{report}");
    if report.misses.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

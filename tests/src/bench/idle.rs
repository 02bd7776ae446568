//! What the library costs a server that has it preloaded and captures nothing.
//!
//! Three servers that are the same but for the library take turns under pgbench; each round gives a ratio of transactions a second, and one of the
//! processor time that a server spent on a transaction, which what else goes on in the machine disturbs less. The median is told with the interval that
//! holds it in 95 of 100 such measurements, and beside it the same of the two servers without the library: what it does not exceed is not resolved.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::Table;
use crate::memory::{children, processor_seconds_of_children};
use crate::{DATABASE, Installation, Stack, StackOptions, eventually};

/// Rounds, each with one turn of every server.
const ROUNDS: usize = 45;

/// What a server did in one turn.
#[derive(Debug, Clone, Copy, Default)]
struct Turn {
    /// Transactions a second.
    rate: f64,
    /// Seconds of processor time a transaction.
    processor: f64,
}

/// Measures reads and writes.
pub(super) async fn measure(table: &mut Table) {
    let Some(pgbench) = pgbench() else {
        table.note("capture: pgbench is not installed, so what an idle library costs was not measured");
        return;
    };
    let plain = || StackOptions::servers_only().setting("shared_buffers", "256MB").setting("autovacuum", "off");
    let with = Stack::start(plain().setting("shared_preload_libraries", "libcachetag")).await;
    let servers = [with, Stack::start(plain()).await, Stack::start(plain()).await];
    for stack in &servers {
        run(&pgbench, stack, &["-i", "-q", "-s", "5"]);
    }
    for (what, script) in [("reads", "select-only"), ("writes", "simple-update")] {
        // Many turns of a second: what disturbs a machine lasts longer.
        let arguments = ["-n", "-c", "2", "-T", "1", "-b", script];
        let mut rounds = Vec::new();
        for round in 0..ROUNDS {
            // Each server is the first as often as the last.
            let mut turns = [Turn::default(); 3];
            for place in 0..3 {
                let server = (place + round) % 3;
                turns[server] = turn(&pgbench, &servers[server], &arguments).await;
            }
            rounds.push(turns);
        }
        let mut row = |unit: &str, cost: fn(&Turn) -> f64| {
            let against =
                |server: usize| Median::of(rounds.iter().map(|turns| cost(&turns[server]) / cost(&turns[1])).collect());
            let (with, again) = (against(0), against(2));
            let what = format!("capture: idle, pgbench {what}, {unit}, preloaded ÷ not");
            table.row(&what, with.to_string(), format!("the same {again}"), format!("{:.3} (≤ 1.01)", with.median));
        };
        row("time", |turn| 1.0 / turn.rate);
        row("processor time", |turn| turn.processor);
    }
}

/// One run of pgbench.
async fn turn(pgbench: &Path, stack: &Stack, arguments: &[&str]) -> Turn {
    let server = stack.postgres.id().expect("the server runs");
    let (before, spent) = (children(server).len(), processor_seconds_of_children(server));
    let report = run(pgbench, stack, arguments);
    // Its backends have ended and been waited for: until then their time is not the server's.
    let ended = async || (children(server).len() <= before).then_some(());
    eventually("the end of the backends", Duration::from_secs(10), ended).await;
    let transactions = number(&report, "number of transactions actually processed: ");
    Turn { rate: number(&report, "tps = "), processor: (processor_seconds_of_children(server) - spent) / transactions }
}

/// The median of some ratios, and between which of them it lies with 95 % confidence (the binomial distribution's, by its normal approximation).
#[derive(Debug, PartialEq)]
struct Median {
    median: f64,
    least: f64,
    most: f64,
}

impl Median {
    fn of(mut ratios: Vec<f64>) -> Median {
        ratios.sort_unstable_by(f64::total_cmp);
        let count = ratios.len();
        let reach = (1.96 * (count as f64).sqrt() / 2.0).ceil() as usize;
        let middle = count / 2;
        let at = |place: usize| ratios.get(place.min(count.saturating_sub(1))).copied().unwrap_or(f64::NAN);
        Median { median: at(middle), least: at(middle.saturating_sub(reach)), most: at(middle + reach) }
    }
}

impl std::fmt::Display for Median {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.3} [{:.3} .. {:.3}]", self.median, self.least, self.most)
    }
}

/// The server's own, or the one on the path.
fn pgbench() -> Option<PathBuf> {
    let own = Installation::find().ok()?.program("pgbench");
    let program = if own.is_file() { own } else { "pgbench".into() };
    Command::new(&program).arg("--version").output().is_ok_and(|told| told.status.success()).then_some(program)
}

fn run(pgbench: &Path, stack: &Stack, arguments: &[&str]) -> String {
    let mut command = Command::new(pgbench);
    command.args(["-h", "127.0.0.1", "-U", "postgres", "-p", &stack.postgres.port().to_string()]);
    let told = command.args(arguments).arg(DATABASE).output().expect("pgbench");
    assert!(told.status.success(), "pgbench: {}", String::from_utf8_lossy(&told.stderr));
    String::from_utf8_lossy(&told.stdout).into_owned()
}

/// The number that follows a text in what pgbench reports.
fn number(report: &str, text: &str) -> f64 {
    let line = report.lines().find_map(|line| line.strip_prefix(text)).expect("a line of the report");
    let digits = line.split([' ', '/']).next().expect("a word");
    digits.parse().expect("a number")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_is_read() {
        let report =
            "a\nnumber of transactions actually processed: 300\ntps = 1234.5 (without initial connection time)\n";
        assert_eq!(number(report, "tps = "), 1234.5);
        assert_eq!(number(report, "number of transactions actually processed: "), 300.0);
    }

    #[test]
    fn the_median_lies_within_its_interval() {
        let ratios = (0..45).rev().map(f64::from).collect();
        assert_eq!(Median::of(ratios), Median { median: 22.0, least: 15.0, most: 29.0 });
        assert_eq!(Median::of(vec![1.0]), Median { median: 1.0, least: 1.0, most: 1.0 });
    }
}

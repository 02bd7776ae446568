//! What the library costs a server that has it preloaded and captures nothing.
//!
//! One server is started again and again, in turn with the library and twice without it: two servers, however alike, differ by more than what is looked for,
//! since their pages lie elsewhere in memory. Under pgbench each round gives ratios of transactions a second, and of the processor time that the server spent
//! on a transaction, which what else goes on in the machine disturbs less. The median is told with the interval that holds it in 95 of 100 such measurements,
//! and beside it the same of the two turns without the library: what it does not exceed is not resolved.

use std::time::Duration;

use super::Table;
use super::pgbench::{Pgbench, number};
use crate::memory::{children, processor_seconds_of_children};
use crate::{Stack, StackOptions, eventually};

/// Rounds, each with one turn of every side.
const ROUNDS: usize = 41;
/// The settings of the sides: with the library, without it, and once more without.
const SIDES: [&str; 3] = ["libcachetag", "", ""];
/// After a start, brings all that is read into the server's memory, table and index.
const WARM: &str = "SELECT count(filler) FROM pgbench_accounts; SET enable_seqscan = off; SET enable_bitmapscan = off;
    SELECT count(filler) FROM pgbench_accounts WHERE aid > 0";

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
    let Some(pgbench) = Pgbench::find() else {
        table.note("capture: pgbench is not installed, so what an idle library costs was not measured");
        return;
    };
    let options = StackOptions::servers_only().setting("shared_buffers", "256MB").setting("autovacuum", "off");
    let mut stack = Stack::start(options).await;
    pgbench.run(stack.postgres.port(), &["-i", "-q", "-s", "2"]);
    let scripts = [("reads", "select-only"), ("writes", "simple-update")];
    let mut rounds = Vec::new();
    for round in 0..ROUNDS {
        let mut turns = [[Turn::default(); 3]; 2];
        for place in 0..SIDES.len() {
            // Each side is the first as often as the last.
            let side = (place + round) % SIDES.len();
            let configured = stack.postgres.configure(&[("shared_preload_libraries", SIDES[side])]);
            configured.and(stack.postgres.restart().await).unwrap_or_else(|error| panic!("{error}"));
            let server = stack.postgres.id().expect("the server runs");
            // The server's own processes are all there a moment after it takes connections.
            tokio::time::sleep(Duration::from_millis(100)).await;
            let before = children(server).len();
            stack.connect().await.batch_execute(WARM).await.expect("the table is read");
            ended(server, before).await;
            for (turns, (_, script)) in turns.iter_mut().zip(scripts) {
                // Many turns of a second: what disturbs a machine lasts longer.
                turns[side] = turn(&pgbench, &stack, &["-n", "-c", "2", "-T", "1", "-b", script]).await;
            }
        }
        rounds.push(turns);
    }
    for (script, (what, _)) in scripts.into_iter().enumerate() {
        let mut row = |unit: &str, cost: fn(&Turn) -> f64| {
            let against = |side: usize| {
                let ratio = |turns: &[[Turn; 3]; 2]| cost(&turns[script][side]) / cost(&turns[script][1]);
                Median::of(rounds.iter().map(ratio).collect())
            };
            let (with, again) = (against(0), against(2));
            let what = format!("capture: idle, pgbench {what}, {unit}, preloaded ÷ not");
            table.row(&what, with.to_string(), format!("the same {again}"), format!("{:.3} (≤ 1.01)", with.median));
        };
        row("time", |turn| 1.0 / turn.rate);
        row("processor time", |turn| turn.processor);
    }
}

/// One run of pgbench.
async fn turn(pgbench: &Pgbench, stack: &Stack, arguments: &[&str]) -> Turn {
    let server = stack.postgres.id().expect("the server runs");
    let (before, spent) = (children(server).len(), processor_seconds_of_children(server));
    let report = pgbench.run(stack.postgres.port(), arguments);
    ended(server, before).await;
    let transactions = number(&report, "number of transactions actually processed: ");
    Turn { rate: number(&report, "tps = "), processor: (processor_seconds_of_children(server) - spent) / transactions }
}

/// Waits until a server has no more children than before: until backends have ended and been waited for, their time is not the server's.
async fn ended(server: u32, before: usize) {
    let ended = async || (children(server).len() <= before).then_some(());
    eventually("the end of the backends", Duration::from_secs(10), ended).await;
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_lies_within_its_interval() {
        let ratios = (0..45).rev().map(f64::from).collect();
        assert_eq!(Median::of(ratios), Median { median: 22.0, least: 15.0, most: 29.0 });
        assert_eq!(Median::of(vec![1.0]), Median { median: 1.0, least: 1.0, most: 1.0 });
    }
}

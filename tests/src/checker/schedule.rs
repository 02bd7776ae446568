//! One fault after the other, chosen by the seed, and the time until the system is back after each.

use std::time::Duration;

use super::faults::Faults;
use super::history::Moment;
use super::probe;
use super::world::{Incident, World};
use crate::random::Random;
use crate::{DaemonOptions, Stack};

/// How often the end of the run is looked for.
const POLL: Duration = Duration::from_millis(20);

/// Hurts the system until the run is done, mends it and ends the run.
pub async fn run(world: &World, stack: &mut Stack, daemon: &DaemonOptions, random: &mut Random) {
    let mut faults = Faults::new(world, stack, daemon);
    // Every kind has its turn before one comes again.
    let mut deck = Vec::new();
    while !world.is_done() {
        quiet(world, random.up_to(world.mix.quiet)).await;
        if world.options.faults.is_empty() || world.is_done() {
            tokio::time::sleep(POLL).await;
            continue;
        }
        if deck.is_empty() {
            deck.clone_from(&world.options.faults);
        }
        let kind = deck.swap_remove(random.below(deck.len()));
        let from = world.clock.now();
        world.incidents.borrow_mut().push(Incident { kind, from, to: Moment::MAX });
        faults.happen(kind, random).await;
        let to = world.clock.now();
        if let Some(incident) = world.incidents.borrow_mut().last_mut() {
            incident.to = to;
        }
        let took = probe::recovered(world, to).await;
        let mut report = world.report.borrow_mut();
        let recovery = report.faults.entry(kind.to_string()).or_default();
        recovery.count += 1;
        recovery.total += took;
        recovery.longest = recovery.longest.max(took);
    }
    world.end();
}

/// No fault for a while.
async fn quiet(world: &World, time: Duration) {
    let until = tokio::time::Instant::now() + time;
    while !world.is_done() && tokio::time::Instant::now() < until {
        tokio::time::sleep(POLL.min(time)).await;
    }
}

//! Exploring a world, and what came of it.

use std::fmt;
use std::time::{Duration, Instant};

use stateright::{Checker, Model};

use super::world::World;

/// What an exploration found.
#[derive(Debug)]
pub struct Outcome {
    /// Different states met.
    pub states: usize,
    /// Steps taken, to states new or known.
    pub steps: usize,
    /// Steps to the state that is farthest from the beginning.
    pub depth: usize,
    /// How long it took.
    pub took: Duration,
    /// For each property that does not hold, the actions that lead there.
    pub counterexamples: Vec<Counterexample>,
}

/// A way from the beginning to a state that must not be.
#[derive(Debug)]
pub struct Counterexample {
    /// The property that does not hold.
    pub property: &'static str,
    /// One line an action.
    pub actions: Vec<String>,
    /// Where they lead.
    pub state: String,
}

/// Explores breadth first. With one thread a counterexample is a shortest one.
pub fn check(world: World, threads: usize) -> Outcome {
    let began = Instant::now();
    let checker = world.checker().threads(threads).spawn_bfs().join();
    let mut counterexamples: Vec<Counterexample> = checker
        .discoveries()
        .into_iter()
        .map(|(property, path)| Counterexample {
            property,
            state: format!("{:?}", path.last_state()),
            actions: path.into_actions().iter().map(|action| format!("{action:?}")).collect(),
        })
        .collect();
    counterexamples.sort_by_key(|found| found.property);
    Outcome {
        states: checker.unique_state_count(),
        steps: checker.state_count(),
        depth: checker.max_depth(),
        took: began.elapsed(),
        counterexamples,
    }
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Outcome { states, steps, depth, took, .. } = self;
        write!(f, "{states} states, {steps} steps, depth {depth}, {:.1} s", took.as_secs_f64())?;
        for found in &self.counterexamples {
            write!(f, "\n  VIOLATED after {} actions: {}", found.actions.len(), found.property)?;
            write!(f, "\n    {}\n    {}", found.actions.join("\n    "), found.state)?;
        }
        Ok(())
    }
}

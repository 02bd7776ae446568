//! What a run has seen, and how sure that makes us.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// Violations that are told in full; of the others only the number is kept.
const TOLD: usize = 5;
/// How sure the bound on the rate of violations is to be.
const CONFIDENCE: f64 = 0.95;

/// What must hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Invariant {
    /// 1: when all is quiet, every hit is what the database says.
    Convergence,
    /// 2: a hit was true within `max_lag`.
    Staleness,
    /// 3: a session that presents its last version does not go back behind it.
    MonotonicReads,
    /// 4: a hit holds the commit that the reader presented.
    ReadYourWrites,
    /// 5: what was read in an older snapshot is not stored as newer.
    VisibleFills,
    /// 6: whatever Redis has applied, it has applied to all tags of the commit.
    Together,
    /// 7: the version of a tag never falls.
    NeverUndone,
    /// 8: what was evicted is a miss.
    Eviction,
    /// 9: what is acknowledged is in Redis.
    Acknowledged,
    /// 10: an insertion ends negative and list entries.
    Insertion,
    /// 11: a row that moves ends entries of where it was and of where it is.
    Move,
}

/// One of them broken.
#[derive(Debug, Clone)]
pub struct Violation {
    /// Which.
    pub invariant: Invariant,
    /// The shortest history that shows it.
    pub history: String,
}

/// How long the system took to be back after a kind of fault.
#[derive(Debug, Clone, Copy, Default)]
pub struct Recovery {
    /// How often there was such a fault.
    pub count: u64,
    /// The longest.
    pub longest: Duration,
    /// All together.
    pub total: Duration,
}

/// What the readers through the client have seen. They are not among the other reads.
#[derive(Debug, Default)]
pub struct Through {
    /// Answers that were compared with the history, by where they came from.
    pub checked: BTreeMap<&'static str, u64>,
    /// Those of them that had to cover a position, by whose it was.
    pub presented: BTreeMap<Invariant, u64>,
    /// Answers that say of themselves that they are stale: not judged.
    pub stale: u64,
    /// Answers across a loss of commits: not judged.
    pub void: u64,
    /// Answers on objects that no rule was about at the time.
    pub unpromised: u64,
    /// How many were wrong.
    pub violations: u64,
}

impl Through {
    /// Reads checked.
    pub fn sum(&self) -> u64 {
        self.checked.values().sum()
    }
}

/// What a run has seen.
#[derive(Debug, Default)]
pub struct Report {
    /// The seed that repeats it.
    pub seed: u64,
    /// Calls of `cachetag_get` that were answered.
    pub answers: u64,
    /// Answers by state.
    pub states: BTreeMap<&'static str, u64>,
    /// Hits that were compared with the history: reads checked.
    pub checked: u64,
    /// Hits of objects that no rule was about at the time.
    pub unpromised: u64,
    /// Reads through the client.
    pub client: Through,
    /// How often each invariant was looked at.
    pub looked_at: BTreeMap<Invariant, u64>,
    /// Values stored, by the way they were read.
    pub fills: BTreeMap<&'static str, u64>,
    /// Fills refused or given up, by reason.
    pub refusals: BTreeMap<String, u64>,
    /// Transactions by kind.
    pub transactions: BTreeMap<&'static str, u64>,
    /// Changes of the schema by kind.
    pub ddl: BTreeMap<&'static str, u64>,
    /// Keys deleted behind the library's back.
    pub evictions: u64,
    /// Calls and statements that failed, by whose they were.
    pub errors: BTreeMap<&'static str, u64>,
    /// Faults by kind, with the time it took until the system was back.
    pub faults: BTreeMap<String, Recovery>,
    /// How long the connections were at work.
    pub lasted: Duration,
    /// Violations, the first of them told in full.
    pub violations: Vec<Violation>,
    /// How many there were.
    pub violation_count: u64,
}

impl Report {
    pub(super) fn looked_at(&mut self, invariant: Invariant) {
        *self.looked_at.entry(invariant).or_default() += 1;
    }

    pub(super) fn error(&mut self, of: &'static str) {
        *self.errors.entry(of).or_default() += 1;
    }

    pub(super) fn violation(&mut self, invariant: Invariant, history: impl FnOnce() -> String) {
        self.violation_count += 1;
        if self.violations.len() < TOLD {
            self.violations.push(Violation { invariant, history: history() });
        }
    }

    /// The longest that the system took to be back after a fault.
    pub fn longest_recovery(&self) -> Duration {
        self.faults.values().map(|recovery| recovery.longest).max().unwrap_or_default()
    }

    /// How many faults there were.
    pub fn fault_count(&self) -> u64 {
        self.faults.values().map(|recovery| recovery.count).sum()
    }

    /// Transactions committed.
    pub fn commits(&self) -> u64 {
        let ended = |(kind, count): (&&str, &u64)| (*kind != "rolled back" && *kind != "failed").then_some(*count);
        self.transactions.iter().filter_map(ended).sum()
    }

    /// The share of wrong hits is below this with 95 % confidence.
    pub fn bound(&self) -> f64 {
        upper_bound(self.violation_count, self.checked)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.lasted.as_secs_f64().max(0.001);
        writeln!(
            f,
            "{} reads checked in {seconds:.1} s ({:.0}/s) of {} answers: {:?}",
            self.checked,
            self.checked as f64 / seconds,
            self.answers,
            self.states
        )?;
        writeln!(f, "looked at: {:?}; hits of what had no rule: {}", self.looked_at, self.unpromised)?;
        if self.client.sum() > 0 {
            let Through { checked, presented, stale, void, unpromised, .. } = &self.client;
            writeln!(
                f,
                "{} reads through the client checked: {checked:?}, covering {presented:?}; \
                 not judged: {stale} stale, {void} while commits were lost, {unpromised} without a rule",
                self.client.sum()
            )?;
        }
        writeln!(f, "fills: {:?}, refused: {:?}", self.fills, self.refusals)?;
        writeln!(f, "transactions: {:?}; schema: {:?}; evictions: {}", self.transactions, self.ddl, self.evictions)?;
        writeln!(f, "failed calls: {:?}", self.errors)?;
        writeln!(f, "{} faults, back after at most {} ms:", self.fault_count(), self.longest_recovery().as_millis())?;
        for (kind, recovery) in &self.faults {
            let mean = recovery.total.as_millis() as u64 / recovery.count.max(1);
            let longest = recovery.longest.as_millis();
            writeln!(f, "  {kind}: {} times, back after {mean} ms, at most {longest} ms", recovery.count)?;
        }
        writeln!(f, "{} violations", self.violation_count)?;
        if self.checked > 0 {
            let how = if self.violation_count == 0 { "3/N" } else { "Clopper-Pearson" };
            writeln!(f, "with 95 % confidence fewer than {:.2e} of such hits are wrong ({how})", self.bound())?;
        }
        for violation in &self.violations {
            writeln!(f, "\n- {:?}: {}", violation.invariant, violation.history)?;
        }
        if self.violation_count > 0 {
            writeln!(f, "\nrepeat with seed {}", self.seed)?;
        }
        Ok(())
    }
}

/// The upper end of the one-sided Clopper-Pearson interval for `wrong` of `checked`: the rate at which seeing so few has a chance of 5 %.
pub fn upper_bound(wrong: u64, checked: u64) -> f64 {
    if wrong >= checked {
        return 1.0;
    }
    if wrong == 0 {
        return (3.0 / checked as f64).min(1.0);
    }
    let (mut low, mut high) = (0.0_f64, 1.0_f64);
    // Halved until neighbouring numbers are met.
    for _ in 0..200 {
        let middle = f64::midpoint(low, high);
        if chance_of_at_most(wrong, checked, middle) > 1.0 - CONFIDENCE { low = middle } else { high = middle }
    }
    high
}

/// The binomial distribution, summed from 0 to `wrong`.
fn chance_of_at_most(wrong: u64, checked: u64, rate: f64) -> f64 {
    let (n, mut sum) = (checked as f64, 0.0);
    let mut term = n * (-rate).ln_1p();
    for k in 0..=wrong {
        sum += term.exp();
        term += ((n - k as f64) / (k as f64 + 1.0)).ln() + rate.ln() - (-rate).ln_1p();
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bound_is_that_of_the_tables() {
        let near = |wrong, checked, expected: f64| {
            let bound = upper_bound(wrong, checked);
            assert!((bound - expected).abs() < expected * 1e-3, "{wrong}/{checked}: {bound}, not {expected}");
        };
        near(0, 3_000_000, 1e-6);
        // One-sided 95 %: 1 of 10, 5 of 100.
        near(1, 10, 0.394_163);
        near(5, 100, 0.102_253);
        near(1, 1_000_000, 4.743_86e-6);
        near(10, 10, 1.0);
    }
}

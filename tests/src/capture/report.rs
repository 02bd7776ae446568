//! What a run has found.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// A result that changed although none of its tags was bumped, or that capturing has changed.
#[derive(Debug, Clone)]
pub struct Miss {
    /// What went wrong.
    pub what: &'static str,
    /// Repeats the world: `capture --seed <seed> --worlds 1`.
    pub seed: u64,
    /// What is needed to understand it: titles and texts.
    pub details: Vec<(&'static str, String)>,
}

/// Counts and findings.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Worlds made.
    pub worlds: u64,
    /// Different queries.
    pub queries: u64,
    /// Of these, cacheable at their first capture.
    pub cacheable: u64,
    /// Captures.
    pub captures: u64,
    /// Captures of cacheable results with a tag finer than a family.
    pub finer: u64,
    /// Transactions that committed.
    pub mutations: u64,
    /// Of these, changes of definitions and rules.
    pub definitions: u64,
    /// Pairs of a cached result and a transaction that changed it.
    pub changes: u64,
    /// Pairs of a cached result and a transaction that bumped one of its tags.
    pub hits: u64,
    /// Pairs of a cached result and a transaction that did neither.
    pub spared: u64,
    /// Cacheable results that were captured with a token, beside a writer.
    pub raced: u64,
    /// Of these, those with an `as_of` above the token.
    pub raised: u64,
    /// Of these, those that were not true any more when the writer had committed.
    pub overtaken: u64,
    /// Why results were not cacheable, and how often.
    pub reasons: BTreeMap<String, u64>,
    /// Changes by the kind of the query's first relation, to see what is covered.
    pub modes: BTreeMap<String, u64>,
    /// The first of them; see `miss_count`.
    pub misses: Vec<Miss>,
    /// All of them.
    pub miss_count: u64,
    /// From the first world to the last.
    pub lasted: Duration,
}

/// Misses that are told in detail.
const TOLD: usize = 10;

impl Report {
    /// Adds what another worker has found.
    pub fn add(&mut self, other: Report) {
        self.worlds += other.worlds;
        self.queries += other.queries;
        self.cacheable += other.cacheable;
        self.captures += other.captures;
        self.finer += other.finer;
        self.mutations += other.mutations;
        self.definitions += other.definitions;
        self.changes += other.changes;
        self.hits += other.hits;
        self.spared += other.spared;
        self.raced += other.raced;
        self.raised += other.raised;
        self.overtaken += other.overtaken;
        other.reasons.into_iter().for_each(|(reason, times)| *self.reasons.entry(reason).or_default() += times);
        other.modes.into_iter().for_each(|(mode, times)| *self.modes.entry(mode).or_default() += times);
        self.miss_count += other.miss_count;
        self.misses.extend(other.misses);
        self.misses.truncate(TOLD);
        self.lasted = self.lasted.max(other.lasted);
    }

    /// Notes a miss.
    pub fn miss(&mut self, miss: Miss) {
        self.miss_count += 1;
        if self.misses.len() < TOLD {
            self.misses.push(miss);
        }
    }
}

impl fmt::Display for Miss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "MISS: {} (repeat: --seed {} --worlds 1)", self.what, self.seed)?;
        for (title, text) in &self.details {
            writeln!(f, "  {title}: {}", text.replace('\n', "\n    "))?;
        }
        Ok(())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let share = |part: u64, whole: u64| part as f64 * 100.0 / whole.max(1) as f64;
        self.misses.iter().try_for_each(|miss| writeln!(f, "{miss}"))?;
        writeln!(f, "worlds                {:>9}   in {:.0} s", self.worlds, self.lasted.as_secs_f64())?;
        writeln!(
            f,
            "queries               {:>9}   {:.1} % cacheable",
            self.queries,
            share(self.cacheable, self.queries)
        )?;
        writeln!(
            f,
            "captures              {:>9}   {:.1} % with a tag finer than a family",
            self.captures,
            share(self.finer, self.captures)
        )?;
        writeln!(
            f,
            "transactions          {:>9}   {} of them definitions and rules",
            self.mutations, self.definitions
        )?;
        writeln!(f, "results changed       {:>9}", self.changes)?;
        writeln!(
            f,
            "results bumped        {:>9}   {:.1} % of them for nothing",
            self.hits,
            share(self.hits.saturating_sub(self.changes), self.hits)
        )?;
        writeln!(f, "results left alone    {:>9}", self.spared)?;
        writeln!(
            f,
            "beside a writer       {:>9}   {:.1} % as of more than the token, {:.1} % overtaken",
            self.raced,
            share(self.raised, self.raced),
            share(self.overtaken, self.raced)
        )?;
        for (reason, times) in &self.reasons {
            writeln!(f, "  not cacheable {times:>7}   {reason}")?;
        }
        for (mode, times) in &self.modes {
            writeln!(f, "  changed       {times:>7}   {mode}")?;
        }
        writeln!(f, "misses                {:>9}", self.miss_count)
    }
}

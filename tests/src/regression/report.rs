//! What was captured, and what was found.

use std::collections::BTreeMap;
use std::fmt;

/// Counts and findings of all sessions.
#[derive(Debug, Default)]
pub struct Report {
    /// Sessions that were captured.
    pub sessions: u64,
    /// Messages that ran inside a capture.
    pub statements: u64,
    /// Captures: a statement by itself, or a transaction.
    pub captures: u64,
    /// Queries by themselves that did not fail.
    pub queries: u64,
    /// Of these, cacheable.
    pub cacheable: u64,
    /// Of these, with a tag finer than a family.
    pub finer: u64,
    /// Why queries are not cacheable, and how often.
    pub reasons: BTreeMap<String, u64>,
    /// Changes after which results were looked at.
    pub changes: u64,
    /// Results that were asked for again.
    pub asked: u64,
    /// Of these, changed.
    pub changed: u64,
    /// Cached results that a bump reached.
    pub bumped: u64,
    /// Results that changed although none of their tags was bumped, in words.
    pub misses: Vec<String>,
    /// Captures that could not be begun or ended, and why.
    pub failures: BTreeMap<String, u64>,
}

/// Kinds of reasons that are printed.
const TOLD: usize = 25;

impl Report {
    /// Counts a reason, without the names in it.
    pub(super) fn reason(&mut self, reason: &str) {
        *self.reasons.entry(kind_of(reason)).or_default() += 1;
    }

    /// Counts a capture that failed.
    pub(super) fn failure(&mut self, error: &str) {
        *self.failures.entry(error.to_owned()).or_default() += 1;
    }
}

/// Without the name of what it is about.
fn kind_of(reason: &str) -> String {
    if let Some((_, why)) = reason.strip_prefix("table ").and_then(|rest| rest.split_once(": ")) {
        return format!("a table: {why}");
    }
    if let Some((before, after)) = reason.split_once("()") {
        let words: Vec<&str> = before.split(' ').collect();
        return format!(
            "{}…(){}",
            before.trim_end_matches(words[words.len() - 1]),
            after.split(": ").next().unwrap_or(after)
        );
    }
    match reason.split_once(" is ") {
        Some((name, rest)) if !name.contains(' ') && name != "a" => format!("… is {rest}"),
        _ => reason.split_once('(').map_or_else(|| reason.to_owned(), |(before, _)| format!("{before}(…")),
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let share = |part: u64, whole: u64| part as f64 * 100.0 / whole.max(1) as f64;
        for miss in &self.misses {
            writeln!(f, "MISS: {miss}")?;
        }
        writeln!(
            f,
            "captured: {} statements of {} sessions in {} captures",
            self.statements, self.sessions, self.captures
        )?;
        writeln!(
            f,
            "queries by themselves: {}; cacheable: {} ({:.1} %), {} of them by a tag finer than a family",
            self.queries,
            self.cacheable,
            share(self.cacheable, self.queries),
            self.finer
        )?;
        let mut reasons: Vec<_> = self.reasons.iter().collect();
        reasons.sort_by_key(|(_, times)| std::cmp::Reverse(**times));
        for (reason, times) in reasons.iter().take(TOLD) {
            writeln!(f, "  not cacheable {times:>6}  {reason}")?;
        }
        if reasons.len() > TOLD {
            let rest: u64 = reasons[TOLD..].iter().map(|(_, times)| **times).sum();
            writeln!(f, "  not cacheable {rest:>6}  for {} more reasons", reasons.len() - TOLD)?;
        }
        for (error, times) in &self.failures {
            writeln!(f, "  no capture    {times:>6}  {error}")?;
        }
        writeln!(
            f,
            "changes: {}; results bumped by them: {}; asked for again: {}, of which {} had changed; misses: {}",
            self.changes,
            self.bumped,
            self.asked,
            self.changed,
            self.misses.len()
        )
    }
}

#[cfg(test)]
mod tests {
    use super::kind_of;

    #[test]
    fn names_are_left_out_of_reasons() {
        assert_eq!(kind_of("table t1: no rule tracks it"), "a table: no rule tracks it");
        assert_eq!(
            kind_of("function f() is volatile: if it only reads, declare it STABLE"),
            "function …() is volatile"
        );
        assert_eq!(kind_of("now() depends on the time"), "…() depends on the time");
        assert_eq!(kind_of("pg_class is a system catalog"), "… is a system catalog");
        assert_eq!(kind_of("an error was caught"), "an error was caught");
    }
}

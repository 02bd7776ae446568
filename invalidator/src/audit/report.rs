//! What an audit found, for people and as JSON.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

use super::entry::EntryTag;
use super::suspect::{Cause, Suspect};

/// Mismatches that are told in full; the others are counted.
pub const DETAILED: usize = 50;
/// Characters of a value that a difference shows.
const SHOWN: usize = 60;

/// Why an entry was not checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Skipped {
    /// Nobody is served it.
    Invalid,
    /// The cache did not vouch for anything: the daemon is down or behind.
    Bypass,
    /// It was replaced again and again while it was compared.
    Replaced,
    /// It expired, or was dropped or evicted, while it was compared.
    Gone,
    /// The watermark did not pass the comparison in time.
    Unsettled,
    /// The key holds no entry.
    Unreadable,
    /// Its recipe failed.
    Failed,
}

impl Skipped {
    fn words(self) -> &'static str {
        match self {
            Skipped::Invalid => "not valid, so served to nobody",
            Skipped::Bypass => "bypassed: the cache vouched for nothing",
            Skipped::Replaced => "replaced while they were compared",
            Skipped::Gone => "expired or dropped while they were compared",
            Skipped::Unsettled => "undecided: the watermark did not pass the comparison in time",
            Skipped::Unreadable => "no entries",
            Skipped::Failed => "without a value: the recipe failed",
        }
    }
}

/// A measured distribution, in ms.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Percentiles {
    /// Half of all are at most this.
    pub p50: u64,
    /// 95 % are.
    pub p95: u64,
    /// 99 % are.
    pub p99: u64,
    /// All are.
    pub max: u64,
}

impl Percentiles {
    /// Of these values; by the nearest rank.
    pub fn of(mut values: Vec<u64>) -> Percentiles {
        values.sort_unstable();
        let at = |percent: usize| values.get((values.len() * percent).div_ceil(100).max(1) - 1).copied().unwrap_or(0);
        Percentiles { p50: at(50), p95: at(95), p99: at(99), max: at(100) }
    }
}

impl fmt::Display for Percentiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "p50 {} ms, p95 {} ms, p99 {} ms, max {} ms", self.p50, self.p95, self.p99, self.max)
    }
}

/// How an entry is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// It is served, another value is in the database, and everything that made the difference has been applied.
    Differs,
    /// Its `as_of` is ahead of the database's log: no bump to come can invalidate it, up to there.
    AheadOfLog,
}

/// A tag of an entry with its versions, as text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TagVersions {
    /// The tag.
    pub tag: String,
    /// Its hard version.
    pub hard: Option<String>,
    /// Its soft version.
    pub soft: Option<String>,
}

impl From<&EntryTag> for TagVersions {
    fn from(tag: &EntryTag) -> Self {
        let text = |version: Option<cachetag_core::Version>| version.map(|version| version.to_string());
        TagVersions { tag: tag.name.clone(), hard: text(tag.hard), soft: text(tag.soft) }
    }
}

/// A wrong entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Mismatch {
    /// Its key.
    pub key: String,
    /// The recipe that it was compared by.
    pub recipe: String,
    /// How it is wrong.
    pub kind: Kind,
    /// Its version.
    pub as_of: String,
    /// What it checks.
    pub tags: Vec<TagVersions>,
    /// The cached value, around the first difference; none: a cached absence.
    pub cached: Option<String>,
    /// The value in the database, likewise.
    pub database: Option<String>,
    /// The commit that should have bumped ends behind the position of `as_of`, and not behind this one.
    pub commit_at_most: String,
    /// Which commit that may be.
    pub suspects: Vec<Suspect>,
}

/// A recipe that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Failure {
    /// Its key template.
    pub recipe: String,
    /// What the server said.
    pub problem: String,
    /// For how many entries.
    pub times: u64,
}

/// What an audit found.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Report {
    /// The seed of the sample: the same one chooses the same entries.
    pub seed: u64,
    /// Recipes.
    pub recipes: usize,
    /// Entries that SCAN brought.
    pub seen: u64,
    /// Of these, those with a recipe.
    pub matched: u64,
    /// Of these, those that were looked at: the sample, or all.
    pub selected: u64,
    /// Of these, those that were compared with the database: the next four together.
    pub checked: u64,
    /// Entries with the value that is in the database.
    pub true_now: u64,
    /// Entries with another value, which fell when what made the difference was applied: what `max_lag` allows.
    pub late: u64,
    /// Entries with another value that are served as stale, after a soft bump.
    pub softly_stale: u64,
    /// Wrong entries.
    pub wrong: u64,
    /// With 95 % confidence no more than this part of the entries is wrong; only when none was found.
    pub bound: Option<f64>,
    /// Entries that were looked at and not checked.
    pub skipped: BTreeMap<Skipped, u64>,
    /// How long ago, at most, a value had ceased to be true when it was read; 0 if it still was. Of what was checked and not wrong.
    pub staleness_ms: Percentiles,
    /// How long ago the cache had been proven to be caught up when an entry was read: the bound that each hit keeps.
    pub lag_ms: Percentiles,
    /// Recipes that failed.
    pub failures: Vec<Failure>,
    /// The first wrong entries.
    pub mismatches: Vec<Mismatch>,
}

impl Report {
    /// The whole of it as one JSON object.
    pub fn to_json(&self) -> String {
        // Every map has names for keys: there is always a JSON form.
        serde_json::to_string_pretty(self).unwrap_or_default()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{} entries seen, {} with one of {} recipes, {} looked at (seed {}), {} checked",
            self.seen, self.matched, self.recipes, self.selected, self.seed, self.checked
        )?;
        writeln!(f, "  true           {}", self.true_now)?;
        writeln!(f, "  late           {} (fell once what made the difference was applied)", self.late)?;
        writeln!(f, "  softly stale   {}", self.softly_stale)?;
        write!(f, "  WRONG          {}", self.wrong)?;
        match self.bound {
            Some(bound) => writeln!(f, "; with 95 % confidence at most {:.4} % of the entries", bound * 100.0)?,
            None => writeln!(f)?,
        }
        for (why, number) in &self.skipped {
            writeln!(f, "  not checked    {number} {}", why.words())?;
        }
        writeln!(f, "staleness        {}", self.staleness_ms)?;
        writeln!(f, "lag of the cache {}", self.lag_ms)?;
        for failure in &self.failures {
            writeln!(f, "recipe {} failed for {} entries: {}", failure.recipe, failure.times, failure.problem)?;
        }
        for mismatch in &self.mismatches {
            write!(f, "{mismatch}")?;
        }
        let told = self.mismatches.len() as u64;
        if told < self.wrong {
            writeln!(f, "and {} more wrong entries", self.wrong - told)?;
        }
        Ok(())
    }
}

impl fmt::Display for Mismatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = |value: &Option<String>| value.clone().unwrap_or_else(|| "nothing".into());
        writeln!(f, "WRONG {} (recipe {})", self.key, self.recipe)?;
        writeln!(f, "  cached   {}", value(&self.cached))?;
        writeln!(f, "  database {}", value(&self.database))?;
        writeln!(f, "  as of    {}, commit behind it and not behind {}", self.as_of, self.commit_at_most)?;
        if self.kind == Kind::AheadOfLog {
            writeln!(f, "  its as_of is ahead of the database's log: nobody was given such a token")?;
        }
        if self.tags.is_empty() {
            writeln!(f, "  it has no tags: nothing but its expiry ends it")?;
        }
        for tag in &self.tags {
            let hard = tag.hard.as_deref().unwrap_or("absent");
            writeln!(
                f,
                "  tag      {} {hard}{}",
                tag.tag,
                tag.soft.iter().map(|soft| format!(" soft {soft}")).collect::<String>()
            )?;
        }
        self.suspects.iter().try_for_each(|suspect| write!(f, "{suspect}"))
    }
}

impl fmt::Display for Suspect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "  suspect  table {}", self.table)?;
        if let Some(xid) = self.xid {
            write!(f, ", transaction {xid}")?;
        }
        if let Some(at) = &self.committed_at {
            write!(f, ", committed {at}")?;
        }
        let tags = self.tags.join(", ");
        match &self.cause {
            Cause::Untracked => writeln!(f, ": no rule tracks the table"),
            Cause::TagMissing if tags.is_empty() => writeln!(f, ": its rules give this row no tag"),
            Cause::TagMissing => writeln!(f, ": its rules bump {tags}, which the entry does not have"),
            Cause::NotBumped { tag, version } => writeln!(
                f,
                ": the entry has {tag}, which stands at {}: the bump is missing, or the value was read before its token",
                version.as_deref().unwrap_or("nothing")
            ),
            Cause::NoRow => {
                writeln!(f, ": no row that the query reads is left; was one deleted, or moved out of its conditions?")
            }
        }
    }
}

/// Both values around the first byte in which they differ, short and printable.
pub fn difference(cached: Option<&[u8]>, database: Option<&[u8]>) -> (Option<String>, Option<String>) {
    let (a, b) = (cached.unwrap_or_default(), database.unwrap_or_default());
    let same = a.iter().zip(b).take_while(|(a, b)| a == b).count();
    // Some of what is the same, so that one sees where it is.
    let from = if a.len().max(b.len()) <= SHOWN { 0 } else { same.saturating_sub(SHOWN / 3) };
    let shown = |value: &[u8]| {
        let text = String::from_utf8_lossy(value.get(from..).unwrap_or_default()).into_owned();
        let short: String = text.chars().take(SHOWN).collect();
        let (before, after) = (if from > 0 { "…" } else { "" }, if short.len() < text.len() { "…" } else { "" });
        format!("{before}{}{after}", short.escape_debug())
    };
    (cached.map(shown), database.map(shown))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_values_that_occurred() {
        assert_eq!(Percentiles::of(vec![]), Percentiles::default());
        assert_eq!(Percentiles::of(vec![7]), Percentiles { p50: 7, p95: 7, p99: 7, max: 7 });
        let all = Percentiles::of((1..=200).rev().collect());
        assert_eq!(all, Percentiles { p50: 100, p95: 190, p99: 198, max: 200 });
    }

    #[test]
    fn a_difference_is_shown_where_it_is() {
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(difference(Some(b"10"), Some(b"11")), (some("10"), some("11")));
        assert_eq!(difference(None, Some(b"\n\xff")), (None, some("\\n\u{fffd}")));
        let long = format!("{}A{}", "x".repeat(500), "y".repeat(500));
        let (cached, database) = difference(Some(long.as_bytes()), Some(long.replace('A', "B").as_bytes()));
        assert!(cached.clone().unwrap().contains("xAy") && database.unwrap().contains("xBy"), "{cached:?}");
        assert!(cached.unwrap().len() < 100);
        // In the middle of a character.
        let (a, b) = ("é".repeat(40) + "a", "é".repeat(39) + "èb");
        assert!(difference(Some(a.as_bytes()), Some(b.as_bytes())).0.is_some());
    }
}

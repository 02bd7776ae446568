//! The WAL budget: how much of the log, and for how long, may wait for this daemon before a cache gives up on it. Pure.
//!
//! Two positions of the slot count. `confirmed` is what Redis is known to hold: it stands still while Redis is away or the daemon is too
//! slow, and can be moved at any time at the price of an epoch. `restart` is where decoding would begin anew: the log is kept from there
//! on, and a transaction that has been open since then keeps it there, whatever is confirmed.

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use cachetag_core::Lsn;
use tokio::time::Instant;

/// Samples of the past: the age of what waits is known to a part of this of the limit.
const SAMPLES: u32 = 60;
/// A healthy slot's `restart` follows within seconds: PostgreSQL logs the transactions that run every 15 s. One that has stood still for
/// this long is held by a transaction.
const HELD: Duration = Duration::from_secs(20);

/// What the configuration allows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// Log kept for the slot, in bytes.
    pub bytes: Option<u64>,
    /// Age of the oldest change that is not acknowledged.
    pub age: Option<Duration>,
}

/// What a slot keeps at a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retained {
    /// The log is kept from here on.
    pub restart: Lsn,
    /// Acknowledged up to here.
    pub confirmed: Lsn,
    /// Written and flushed up to here.
    pub current: Lsn,
}

impl Retained {
    /// Bytes of the log that are kept for the slot.
    pub fn bytes(&self) -> u64 {
        self.current.0.saturating_sub(self.restart.0)
    }

    /// Bytes of the log that are not acknowledged.
    pub fn unconfirmed(&self) -> u64 {
        self.current.0.saturating_sub(self.confirmed.0)
    }
}

/// How the budget is exceeded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Excess {
    /// Too much of the log waits to be acknowledged.
    Bytes {
        /// How much is kept.
        retained: u64,
        /// What is allowed.
        limit: u64,
    },
    /// A change has waited too long.
    Age {
        /// For how long, at least.
        waiting: Duration,
        /// What is allowed.
        limit: Duration,
    },
    /// Nearly everything is acknowledged, and still too much is kept: an old transaction needs it.
    Held {
        /// How much is kept.
        retained: u64,
        /// What is allowed.
        limit: u64,
    },
}

impl Excess {
    /// Acknowledging more would not help.
    pub fn is_held(&self) -> bool {
        matches!(self, Excess::Held { .. })
    }
}

impl fmt::Display for Excess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Excess::Bytes { retained, limit } => {
                write!(f, "the slot holds back {} of WAL, wal_budget is {}", Bytes(*retained), Bytes(*limit))
            }
            Excess::Age { waiting, limit } => write!(
                f,
                "a change has waited for Redis for {} s, wal_budget_age is {} s",
                waiting.as_secs(),
                limit.as_secs()
            ),
            Excess::Held { retained, limit } => write!(
                f,
                "a transaction that has been open for long makes the slot hold back {} of WAL, wal_budget is {}",
                Bytes(*retained),
                Bytes(*limit)
            ),
        }
    }
}

/// Bytes for people.
#[derive(Debug, Clone, Copy)]
pub struct Bytes(pub u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut value = self.0 as f64;
        let mut unit = "B";
        for larger in ["KiB", "MiB", "GiB", "TiB"] {
            if value < 1024.0 {
                break;
            }
            (value, unit) = (value / 1024.0, larger);
        }
        if unit == "B" { write!(f, "{} B", self.0) } else { write!(f, "{value:.1} {unit}") }
    }
}

/// The budget over time; it outlives sessions.
#[derive(Debug, Clone, Default)]
pub struct Budget {
    limits: Limits,
    /// Positions that were current at a time and are not acknowledged, oldest first.
    waiting: VecDeque<(Instant, Lsn)>,
    /// Where `restart` stands, and since when.
    restart: Option<(Lsn, Instant)>,
}

impl Budget {
    /// With these limits.
    pub fn new(limits: Limits) -> Budget {
        Budget { limits, ..Budget::default() }
    }

    /// The limits.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// Takes a look at the slot in, and tells what is exceeded.
    pub fn look(&mut self, now: Instant, slot: Retained) -> Option<Excess> {
        while self.waiting.front().is_some_and(|(_, position)| *position <= slot.confirmed) {
            self.waiting.pop_front();
        }
        let apart = self.limits.age.map_or(Duration::ZERO, |age| age / SAMPLES);
        if slot.current > slot.confirmed && self.waiting.back().is_none_or(|(at, _)| now - *at >= apart) {
            self.waiting.push_back((now, slot.current));
            if self.waiting.len() > 2 * SAMPLES as usize {
                // Without a limit nobody asks for the age; the oldest stays all the same, for the message.
                self.waiting.remove(1);
            }
        }
        if self.restart.is_none_or(|(restart, _)| restart != slot.restart) {
            self.restart = Some((slot.restart, now));
        }
        self.exceeded(now, slot)
    }

    fn exceeded(&self, now: Instant, slot: Retained) -> Option<Excess> {
        if let Some(limit) = self.limits.bytes
            && slot.bytes() > limit
        {
            if slot.unconfirmed() > limit / 2 {
                return Some(Excess::Bytes { retained: slot.bytes(), limit });
            }
            if self.restart.is_some_and(|(_, since)| now - since >= HELD) {
                return Some(Excess::Held { retained: slot.bytes(), limit });
            }
        }
        let waiting = self.waiting(now);
        match self.limits.age {
            Some(limit) if waiting > limit => Some(Excess::Age { waiting, limit }),
            _ => None,
        }
    }

    /// How long the oldest change that is not acknowledged has been waiting, at least.
    pub fn waiting(&self, now: Instant) -> Duration {
        self.waiting.front().map_or(Duration::ZERO, |(at, _)| now - *at)
    }
}

/// Do commits wait for a standby of this name under this `synchronous_standby_names`?
pub fn names(setting: &str, standby: &str) -> bool {
    // FIRST 2 (a, "b", *): names, numbers and key words between separators; a name that is a key word counts as well.
    let separator = |c: char| c.is_whitespace() || matches!(c, ',' | '(' | ')');
    setting.split(separator).any(|name| {
        let name = name.trim_matches('"');
        name == "*" || name.eq_ignore_ascii_case(standby)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MIB: u64 = 1 << 20;

    fn budget(bytes: Option<u64>, age: Option<u64>) -> Budget {
        Budget::new(Limits { bytes, age: age.map(Duration::from_secs) })
    }

    fn slot(restart: u64, confirmed: u64, current: u64) -> Retained {
        Retained { restart: Lsn(restart), confirmed: Lsn(confirmed), current: Lsn(current) }
    }

    #[test]
    fn bytes_that_wait_for_redis_exceed_it_at_once() {
        let now = Instant::now();
        let mut budget = budget(Some(MIB), None);
        assert_eq!(budget.look(now, slot(0, 0, MIB)), None);
        assert_eq!(budget.look(now, slot(0, 0, MIB + 1)), Some(Excess::Bytes { retained: MIB + 1, limit: MIB }));
        assert_eq!(budget.look(now, slot(MIB, MIB, MIB + 1)), None, "acknowledged");
    }

    #[test]
    fn what_a_transaction_holds_counts_when_it_does_not_move() {
        let now = Instant::now();
        let mut budget = budget(Some(MIB), None);
        let held = slot(10, 4 * MIB, 4 * MIB);
        assert_eq!(budget.look(now, held), None, "restart follows in a moment");
        assert!(budget.look(now + HELD, held).is_some_and(|e| e.is_held()));
        assert_eq!(budget.look(now + HELD, slot(11, 4 * MIB, 4 * MIB)), None, "it has moved");
    }

    #[test]
    fn the_oldest_change_counts_for_the_age() {
        let start = Instant::now();
        let at = |s| start + Duration::from_secs(s);
        let mut budget = budget(None, Some(60));
        assert_eq!(budget.look(at(0), slot(0, 0, 10)), None);
        for s in 1..=60 {
            assert_eq!(budget.look(at(s), slot(0, 0, 10 + s)), None);
        }
        let late = budget.look(at(61), slot(0, 0, 71));
        assert_eq!(late, Some(Excess::Age { waiting: Duration::from_secs(61), limit: Duration::from_secs(60) }));
        // What came at 31 s is the oldest now.
        assert_eq!(budget.look(at(61), slot(0, 40, 71)), None);
        assert_eq!(budget.waiting(at(61)), Duration::from_secs(30));
        assert_eq!(budget.look(at(200), slot(0, 71, 71)), None, "everything is acknowledged");
        assert_eq!(budget.waiting(at(200)), Duration::ZERO);
    }

    #[test]
    fn an_idle_server_has_no_age() {
        let now = Instant::now();
        let mut budget = budget(None, Some(1));
        budget.look(now, slot(0, 10, 10));
        assert_eq!(budget.look(now + Duration::from_secs(10_000), slot(0, 10, 10)), None);
    }

    #[test]
    fn no_limit_is_never_exceeded() {
        let now = Instant::now();
        let mut budget = budget(None, None);
        for s in 0..1000 {
            assert_eq!(budget.look(now + Duration::from_secs(s * 3600), slot(0, 0, s << 40)), None);
        }
        assert!(budget.waiting.len() < 200, "memory stays as it is");
    }

    #[test]
    fn the_text_tells_redis_from_a_transaction() {
        assert!(Excess::Bytes { retained: 9 << 30, limit: 8 << 30 }.to_string().contains("9.0 GiB"));
        let held = Excess::Held { retained: 9 << 30, limit: 8 << 30 }.to_string();
        assert!(held.contains("transaction") && !held.contains("Redis"), "{held}");
    }

    #[test]
    fn standby_names() {
        for setting in ["cachetag", "*", "FIRST 1 (a, cachetag)", "ANY 2 (\"cachetag\",b)", "CACHETAG"] {
            assert!(names(setting, "cachetag"), "{setting}");
        }
        for setting in ["", "other", "cachetag2", "FIRST 1 (a, b)"] {
            assert!(!names(setting, "cachetag"), "{setting}");
        }
    }

    proptest! {
        /// The age that is told is never above the true one, and lags behind it by no more than a sample's distance.
        #[test]
        fn the_age_is_true(steps in prop::collection::vec((1u64..20, 0u64..5, 0u64..40), 1..200)) {
            let start = Instant::now();
            let mut budget = budget(None, Some(600));
            let (mut now, mut current, mut confirmed) = (0u64, 100u64, 100u64);
            // When each position was written.
            let mut written = vec![(0u64, 100u64)];
            for (seconds, bytes, acknowledged) in steps {
                now += seconds;
                current += bytes;
                written.push((now, current));
                confirmed = (confirmed + acknowledged).min(current);
                budget.look(start + Duration::from_secs(now), slot(0, confirmed, current));
                let told = budget.waiting(start + Duration::from_secs(now)).as_secs();
                let oldest = written.iter().find(|(_, position)| *position > confirmed).map(|(at, _)| now - at);
                let truth = oldest.unwrap_or(0);
                prop_assert!(told <= truth, "told {told}, true {truth}");
                prop_assert!(truth <= told + 600 / u64::from(SAMPLES) + 20, "told {told}, true {truth}");
            }
        }
    }
}

//! PostgreSQL's clock as the wire carries it.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Microseconds between 1970-01-01 and 2000-01-01, PostgreSQL's own epoch.
const EPOCH_OFFSET_MICROS: i64 = 946_684_800_000_000;

/// A moment in microseconds since 2000-01-01 00:00 UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PgTime(pub i64);

impl PgTime {
    /// This machine's present time.
    pub fn now() -> PgTime {
        let since_unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
        PgTime(i64::try_from(since_unix.as_micros()).unwrap_or(i64::MAX).saturating_sub(EPOCH_OFFSET_MICROS))
    }

    /// The same moment in microseconds since 1970-01-01 00:00 UTC.
    pub fn unix_micros(self) -> i64 {
        self.0.saturating_add(EPOCH_OFFSET_MICROS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn epoch_is_the_year_2000() {
        assert_eq!(PgTime(0).unix_micros(), 946_684_800_000_000);
        assert_eq!(PgTime(i64::MAX).unix_micros(), i64::MAX);
    }

    #[test]
    fn now_is_after_2020() {
        assert!(PgTime::now().unix_micros() > 1_577_836_800_000_000);
    }
}

//! How consistent a read must be.

use std::time::Duration;

use cachetag_core::{Lsn, Version, VersionError};

/// A position that a read must cover: what was committed up to there is in the value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AtLeast {
    /// The end of a commit, as `pg_current_wal_insert_lsn()` tells after it.
    Lsn(Lsn),
    /// A version that the cache has answered with.
    Version(Version),
}

impl AtLeast {
    /// Does a version cover it? Position and epoch are compared apart: a new epoch may begin at an earlier position than the last one reached.
    pub fn is_covered_by(self, version: Version) -> bool {
        match self {
            AtLeast::Lsn(lsn) => version.lsn >= lsn,
            AtLeast::Version(wanted) => version.lsn >= wanted.lsn && version.epoch >= wanted.epoch,
        }
    }

    /// The one of two that covers both, or the wider one where neither does.
    pub(crate) fn and(self, other: AtLeast) -> AtLeast {
        match (self, other) {
            (AtLeast::Lsn(a), AtLeast::Lsn(b)) => AtLeast::Lsn(a.max(b)),
            (AtLeast::Version(v), AtLeast::Lsn(lsn)) | (AtLeast::Lsn(lsn), AtLeast::Version(v)) => {
                AtLeast::Version(Version::new(v.epoch, v.lsn.max(lsn)))
            }
            (AtLeast::Version(a), AtLeast::Version(b)) => {
                AtLeast::Version(Version::new(a.epoch.max(b.epoch), a.lsn.max(b.lsn)))
            }
        }
    }
}

impl std::fmt::Display for AtLeast {
    /// What `ATLEAST` takes.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            AtLeast::Lsn(lsn) => lsn.fmt(f),
            AtLeast::Version(version) => version.fmt(f),
        }
    }
}

impl From<Lsn> for AtLeast {
    fn from(lsn: Lsn) -> AtLeast {
        AtLeast::Lsn(lsn)
    }
}

impl From<Version> for AtLeast {
    fn from(version: Version) -> AtLeast {
        AtLeast::Version(version)
    }
}

impl std::str::FromStr for AtLeast {
    type Err = VersionError;

    fn from_str(text: &str) -> Result<AtLeast, VersionError> {
        if text.contains('/') { text.parse().map(AtLeast::Lsn) } else { text.parse().map(AtLeast::Version) }
    }
}

/// What one read asks for.
///
/// ```
/// use std::time::Duration;
/// use cachetag_client::ReadOptions;
///
/// let strict = ReadOptions::new().max_lag(Duration::from_millis(50)).at_least("16/B374D848".parse()?);
/// # Ok::<(), cachetag_client::core::VersionError>(())
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ReadOptions {
    pub(crate) max_lag: Option<Duration>,
    pub(crate) at_least: Option<AtLeast>,
    pub(crate) fresh: bool,
}

impl ReadOptions {
    /// What the cache was built with.
    pub fn new() -> ReadOptions {
        ReadOptions::default()
    }

    /// A hit was true no longer ago than this.
    pub fn max_lag(mut self, bound: Duration) -> ReadOptions {
        self.max_lag = Some(bound);
        self
    }

    /// A hit covers this commit. Given twice, it covers both.
    pub fn at_least(mut self, position: AtLeast) -> ReadOptions {
        self.at_least = Some(self.at_least.map_or(position, |other| other.and(position)));
        self
    }

    /// Goes to the database, and refills.
    pub fn fresh(mut self) -> ReadOptions {
        self.fresh = true;
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cachetag_core::Epoch;

    fn version(epoch: u64, lsn: u64) -> Version {
        Version::new(Epoch::new(epoch).unwrap(), Lsn(lsn))
    }

    #[test]
    fn epoch_and_position_are_compared_apart() {
        assert!(AtLeast::Lsn(Lsn(5)).is_covered_by(version(1, 5)));
        assert!(!AtLeast::Lsn(Lsn(5)).is_covered_by(version(9, 4)));
        assert!(!AtLeast::Version(version(2, 5)).is_covered_by(version(3, 4)));
        assert!(!AtLeast::Version(version(2, 5)).is_covered_by(version(1, 9)));
        assert!(AtLeast::Version(version(2, 5)).is_covered_by(version(3, 5)));
    }

    #[test]
    fn two_positions_are_both_covered() {
        let both = ReadOptions::new().at_least(Lsn(7).into()).at_least(version(2, 5).into());
        assert_eq!(both.at_least, Some(AtLeast::Version(version(2, 7))));
        assert_eq!("0/7".parse::<AtLeast>().unwrap().to_string(), "0/7");
    }
}

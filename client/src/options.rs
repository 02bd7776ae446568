//! How consistent a read must be.

use std::time::Duration;

use cachetag_core::{Epoch, Lsn, Version};

/// A position that a read must cover: what was committed up to there is in the value.
///
/// As text it is what `ATLEAST` takes: an LSN, a version of the cache, and in front of either the timeline of the server that it is of.
///
/// ```
/// use cachetag_client::AtLeast;
///
/// let commit: AtLeast = "1@16/B374D848".parse()?; // SELECT cachetag.position()
/// assert_eq!(commit.to_string(), "1@16/B374D848");
/// # Ok::<(), cachetag_client::PositionError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AtLeast {
    lsn: Lsn,
    /// A version's epoch; a later one covers it, too.
    epoch: Option<Epoch>,
    /// Of which history the LSN is. Without it, one of a promoted server may seem covered before the daemon has met that server.
    timeline: Option<u32>,
}

impl AtLeast {
    /// A position of this timeline, as `cachetag.position()` tells it.
    ///
    /// ```
    /// use cachetag_client::AtLeast;
    /// use cachetag_client::core::Lsn;
    ///
    /// assert_eq!(AtLeast::on(3, Lsn(0x16_0000_0001)).to_string(), "3@16/1");
    /// ```
    pub fn on(timeline: u32, lsn: Lsn) -> AtLeast {
        AtLeast { timeline: Some(timeline), ..AtLeast::from(lsn) }
    }

    /// The place in the log.
    ///
    /// ```
    /// # use cachetag_client::{AtLeast, core::Lsn};
    /// assert_eq!("1@0/7".parse::<AtLeast>().unwrap().lsn(), Lsn(7));
    /// ```
    pub fn lsn(self) -> Lsn {
        self.lsn
    }

    /// Does a version cover it, in a cache that follows this timeline of the database? Position, epoch and timeline are compared apart: a new epoch, and a
    /// new timeline, may begin at an earlier position than the last one reached.
    ///
    /// ```
    /// # use cachetag_client::{AtLeast, core::{Lsn, Version}};
    /// let seven = AtLeast::from(Lsn(7));
    /// assert!(!seven.is_covered_by(Version::default(), None));
    /// ```
    pub fn is_covered_by(self, version: Version, timeline: Option<u32>) -> bool {
        version.lsn >= self.lsn
            && self.epoch.is_none_or(|epoch| version.epoch >= epoch)
            && self.timeline.is_none_or(|wanted| timeline.is_some_and(|timeline| timeline >= wanted))
    }

    /// The same place in the log, of whatever epoch.
    pub(crate) fn without_epoch(self) -> AtLeast {
        AtLeast { epoch: None, ..self }
    }

    /// The one that covers both.
    pub(crate) fn and(self, other: AtLeast) -> AtLeast {
        AtLeast {
            lsn: self.lsn.max(other.lsn),
            epoch: self.epoch.max(other.epoch),
            timeline: self.timeline.max(other.timeline),
        }
    }
}

impl std::fmt::Display for AtLeast {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Some(timeline) = self.timeline {
            write!(f, "{timeline}@")?;
        }
        match self.epoch {
            Some(epoch) => Version::new(epoch, self.lsn).fmt(f),
            None => self.lsn.fmt(f),
        }
    }
}

impl From<Lsn> for AtLeast {
    fn from(lsn: Lsn) -> AtLeast {
        AtLeast { lsn, epoch: None, timeline: None }
    }
}

impl From<Version> for AtLeast {
    fn from(version: Version) -> AtLeast {
        AtLeast { lsn: version.lsn, epoch: Some(version.epoch), timeline: None }
    }
}

/// A text is no position.
///
/// ```
/// use cachetag_client::AtLeast;
///
/// let error = "yesterday".parse::<AtLeast>().unwrap_err();
/// assert!(error.to_string().contains("cachetag.position()"));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is no position: write what cachetag.position() gives (1@16/B374D848), an LSN (16/B374D848) or a version of the cache"
)]
pub struct PositionError {
    text: String,
}

impl std::str::FromStr for AtLeast {
    type Err = PositionError;

    fn from_str(text: &str) -> Result<AtLeast, PositionError> {
        let no_position = || PositionError { text: text.chars().take(80).collect() };
        let (timeline, place) = match text.split_once('@') {
            Some((timeline, place)) => (Some(timeline.parse().map_err(|_| no_position())?), place),
            None => (None, text),
        };
        let place: AtLeast = if place.contains('/') {
            place.parse::<Lsn>().map_err(|_| no_position())?.into()
        } else {
            place.parse::<Version>().map_err(|_| no_position())?.into()
        };
        Ok(AtLeast { timeline, ..place })
    }
}

/// The timeline in the identity of a source, `<system>/<timeline>/<database>/<slot>`.
pub(crate) fn timeline_of(source: &str) -> Option<u32> {
    source.split('/').nth(1)?.parse().ok()
}

/// What one read asks for.
///
/// ```
/// use std::time::Duration;
/// use cachetag_client::ReadOptions;
///
/// let strict = ReadOptions::new().max_lag(Duration::from_millis(50)).at_least("1@16/B374D848".parse()?);
/// # Ok::<(), cachetag_client::PositionError>(())
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ReadOptions {
    pub(crate) max_lag: Option<Duration>,
    pub(crate) at_least: Option<AtLeast>,
    pub(crate) fresh: bool,
}

impl ReadOptions {
    /// What the cache was built with.
    ///
    /// ```
    /// # use cachetag_client::ReadOptions;
    /// assert_eq!(ReadOptions::new(), ReadOptions::default());
    /// ```
    pub fn new() -> ReadOptions {
        ReadOptions::default()
    }

    /// A hit was true no longer ago than this.
    ///
    /// ```
    /// # use cachetag_client::ReadOptions;
    /// let options = ReadOptions::new().max_lag(std::time::Duration::from_millis(50));
    /// assert_ne!(options, ReadOptions::new());
    /// ```
    pub fn max_lag(mut self, bound: Duration) -> ReadOptions {
        self.max_lag = Some(bound);
        self
    }

    /// A hit covers this commit. Given twice, it covers both.
    ///
    /// ```
    /// # use cachetag_client::ReadOptions;
    /// let options = ReadOptions::new().at_least("1@16/B374D848".parse().unwrap());
    /// assert_ne!(options, ReadOptions::new());
    /// ```
    pub fn at_least(mut self, position: AtLeast) -> ReadOptions {
        self.at_least = Some(self.at_least.map_or(position, |other| other.and(position)));
        self
    }

    /// Goes to the database, and refills.
    ///
    /// ```
    /// # use cachetag_client::ReadOptions;
    /// let options = ReadOptions::new().fresh();
    /// assert_ne!(options, ReadOptions::new());
    /// ```
    pub fn fresh(mut self) -> ReadOptions {
        self.fresh = true;
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(epoch: u64, lsn: u64) -> Version {
        Version::new(Epoch::new(epoch).unwrap(), Lsn(lsn))
    }

    fn covers(version: Version, timeline: Option<u32>, at_least: impl Into<AtLeast>) -> bool {
        at_least.into().is_covered_by(version, timeline)
    }

    #[test]
    fn epoch_and_position_are_compared_apart() {
        assert!(covers(version(1, 5), None, Lsn(5)));
        assert!(!covers(version(9, 4), None, Lsn(5)));
        assert!(!covers(version(3, 4), None, version(2, 5)));
        assert!(!covers(version(1, 9), None, version(2, 5)));
        assert!(covers(version(3, 5), None, version(2, 5)));
    }

    #[test]
    fn a_timeline_that_the_cache_has_not_met_is_not_covered() {
        let commit = AtLeast::on(4, Lsn(5));
        assert!(covers(version(1, 5), Some(4), commit) && covers(version(1, 5), Some(5), commit));
        assert!(!covers(version(1, 9), Some(3), commit) && !covers(version(1, 9), None, commit));
        assert!(!covers(version(1, 4), Some(4), commit));
    }

    #[test]
    fn two_positions_are_both_covered() {
        let both = ReadOptions::new().at_least(Lsn(7).into()).at_least(version(2, 5).into());
        assert_eq!(both.at_least, Some(version(2, 7).into()));
        let both = both.at_least(AtLeast::on(3, Lsn(6)));
        assert_eq!(both.at_least.unwrap().to_string(), format!("3@{}", version(2, 7)));
    }

    #[test]
    fn a_position_is_read_as_it_is_written() {
        for text in
            ["0/7", "1@16/B374D848", "0000000002.00000000000000000007", "4294967295@0000000002.00000000000000000007"]
        {
            assert_eq!(text.parse::<AtLeast>().unwrap().to_string(), text);
        }
        for wrong in ["", "@", "1@", "@0/7", "x@0/7", "1@2@0/7", "-1@0/7", "4294967296@0/7", "0/7@1", "7", "1@7"] {
            let error = wrong.parse::<AtLeast>().unwrap_err().to_string();
            assert!(error.contains("cachetag.position()"), "{error}");
        }
    }

    #[test]
    fn the_identity_of_a_source_tells_its_timeline() {
        assert_eq!(timeline_of("7312/12/shop/cachetag"), Some(12));
        assert_eq!(timeline_of("elsewhere"), None);
        assert_eq!(timeline_of("a/b/c"), None);
    }
}

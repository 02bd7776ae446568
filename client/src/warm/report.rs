//! What became of the keys that were to be warmed.

use std::time::Duration;

use crate::error::Error;

/// What became of one key.
#[derive(Debug)]
pub(super) enum Outcome {
    Warmed,
    Present,
    NotStored,
    NoLoader,
    Failed(Error),
}

/// What became of the keys that were to be warmed. Each key counts once.
///
/// ```
/// use cachetag_client::warm::Report;
///
/// let report = Report::default();
/// assert_eq!(report.keys(), 0);
/// ```
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Report {
    /// So many were loaded and stored.
    pub warmed: usize,
    /// So many were in a layer already, and valid; those from Redis are in memory now, too.
    pub present: usize,
    /// The loader failed, or there was no room to run it.
    pub failed: Vec<(String, Error)>,
    /// Not stored: nothing vouched for the cache (then they were not loaded either), a tag changed meanwhile, or the loader said so.
    pub not_stored: Vec<String>,
    /// There is no loader for these.
    pub no_loader: Vec<String>,
    /// How long it took.
    pub took: Duration,
}

impl Report {
    /// How many keys it is about.
    ///
    /// ```
    /// assert_eq!(cachetag_client::warm::Report::default().keys(), 0);
    /// ```
    pub fn keys(&self) -> usize {
        self.warmed + self.present + self.failed.len() + self.not_stored.len() + self.no_loader.len()
    }

    pub(super) fn add(&mut self, key: String, outcome: Outcome) {
        match outcome {
            Outcome::Warmed => self.warmed += 1,
            Outcome::Present => self.present += 1,
            Outcome::NotStored => self.not_stored.push(key),
            Outcome::NoLoader => self.no_loader.push(key),
            Outcome::Failed(error) => self.failed.push((key, error)),
        }
    }
}

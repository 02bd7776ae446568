//! Under one lock, what must change together: the ring of recent records, the registry of tags, and the position.

use std::sync::Arc;

use cachetag_core::{Tag, Version};
use tokio::sync::{broadcast, watch};

use super::changes::Change;
use super::options::FeedOptions;
use super::view::View;

/// Why the feed cannot take a value's tags.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum Refusal {
    /// The feed has no position.
    #[error("the feed follows no log yet")]
    NotFollowing,
    /// The value was read in another epoch.
    #[error("the value is of another epoch")]
    Epoch,
    /// The value is below the floor.
    #[error("the value is below the floor")]
    Floor,
    /// A tag was bumped after the value was true.
    #[error("a tag of the value was bumped since it was read")]
    Bumped,
    /// What is in memory of the log does not reach back to the value.
    #[error("the value is older than the part of the log that is in memory")]
    Unknown,
}

/// What happened to a value's tags since it was true.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Touch {
    /// Nothing.
    Clean,
    /// At least one was softly bumped, none hard.
    Soft,
    /// At least one was bumped.
    Hard,
}

/// A value's tags, registered: every later bump of one of them is seen by [`Tracked::touch`].
#[derive(Debug)]
pub struct Tracked {}

impl Tracked {
    /// The generation that it was registered under; it tells nothing under another.
    pub fn generation(&self) -> u64 {
        0
    }

    /// Up to where the value is known to be true without the feed: its `as_of`, or what Redis has verified.
    pub fn known_to(&self) -> Version {
        todo!()
    }

    /// What happened to the tags since.
    pub fn touch(&self) -> Touch {
        todo!()
    }
}

#[derive(Debug)]
pub(super) struct Ledger {}

impl Ledger {
    pub(super) fn new(_options: &FeedOptions) -> Ledger {
        Ledger {}
    }
    pub(super) fn view(&self) -> arc_swap::Guard<Arc<View>> {
        todo!()
    }
    pub(super) fn track(&self, _tags: &[Tag], _as_of: Version, _verified: Option<Version>) -> Result<Tracked, Refusal> {
        todo!()
    }
    pub(super) fn live(&self) -> watch::Receiver<bool> {
        todo!()
    }
    pub(super) fn changes(&self) -> broadcast::Receiver<Change> {
        todo!()
    }
}

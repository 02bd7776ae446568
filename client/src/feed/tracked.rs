//! A value's tags, registered with the feed.

use std::sync::Arc;

use cachetag_core::Version;

use super::registry::TagState;

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
pub struct Tracked {
    pub(super) states: Box<[Arc<TagState>]>,
    pub(super) known_to: Version,
    pub(super) generation: u64,
}

impl Tracked {
    /// The generation that it was registered under; it tells nothing under another.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    /// Up to where the value is known to be true without the feed: its `as_of`, or what Redis has verified.
    pub fn known_to(&self) -> Version {
        self.known_to
    }

    /// How many keys it checks.
    pub fn checks(&self) -> usize {
        self.states.len()
    }

    /// The position of the last bump since, hard or soft.
    pub fn bumped(&self) -> Option<u64> {
        let last = self.states.iter().map(|state| state.bumps()).map(|bumps| bumps.hard.max(bumps.soft)).max();
        last.filter(|last| *last > self.known_to.lsn.0)
    }

    /// What happened to the tags since, up to the position of any view that was loaded before this call.
    pub fn touch(&self) -> Touch {
        let known_to = self.known_to.lsn.0;
        let mut touch = Touch::Clean;
        for state in &self.states {
            let bumps = state.bumps();
            if bumps.hard > known_to {
                return Touch::Hard;
            }
            if bumps.soft > known_to {
                touch = Touch::Soft;
            }
        }
        touch
    }
}

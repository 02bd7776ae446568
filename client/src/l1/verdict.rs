//! What is asked of the in-process layer, and what it answers.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cachetag_core::Version;

use super::held::Held;
use crate::options::AtLeast;

/// What a caller asks for.
#[derive(Debug, Clone, Copy)]
pub struct Ask {
    /// The present moment.
    pub now: Instant,
    /// How stale a hit may be.
    pub max_lag: Duration,
    /// What it must cover.
    pub at_least: Option<AtLeast>,
}

impl Ask {
    /// Asks now, for a hit this stale at most.
    pub fn now(max_lag: Duration) -> Ask {
        Ask { now: Instant::now(), max_lag, at_least: None }
    }

    /// Asks for a hit that covers this commit, too.
    pub fn at_least(mut self, commit: AtLeast) -> Ask {
        self.at_least = Some(commit);
        self
    }
}

/// What the layer answers.
#[derive(Debug, Clone)]
pub enum Verdict {
    /// True no longer ago than asked for.
    Hit {
        /// The copy.
        held: Arc<Held>,
        /// It is true for every snapshot from its `as_of` up to this version.
        valid_to: Version,
    },
    /// May be used while one caller computes it anew.
    Stale {
        /// The copy.
        held: Arc<Held>,
        /// Why.
        why: Staleness,
        /// It is true for every snapshot from its `as_of` up to this version.
        valid_to: Version,
    },
    /// Not to be used.
    Miss {
        /// Why.
        why: Miss,
        /// The copy, where there is one: for revalidation, or for a caller who takes what is old rather than an error.
        held: Option<Arc<Held>>,
    },
}

/// Why a copy is stale.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Staleness {
    /// A tag was softly bumped, or everything was.
    Bumped,
    /// It is past the time that it is fresh for.
    Past,
}

/// Why there is no hit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Miss {
    /// There is no copy.
    None,
    /// Its time is over.
    Expired,
    /// The feed vouches for nothing: not connected, not caught up, or the daemon publishes nothing.
    NotLive,
    /// The feed is further behind than the caller allows.
    Lag,
    /// The copy was registered under an earlier generation of the feed: it may be true, and is to be asked of Redis.
    Revalidate,
    /// Below the floor.
    Floor,
    /// It does not cover the commit that the caller asked for.
    AtLeast,
    /// A tag was bumped: it is old.
    Bumped,
}

/// Why a value may not come in. The caller may still use it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum Refused {
    /// What the feed says.
    #[error(transparent)]
    Feed(#[from] crate::feed::Refusal),
    /// Its time is over already.
    #[error("the value has expired")]
    Expired,
    /// It would take more than its share of the layer.
    #[error("the value is larger than one may be in this layer: raise the layer's capacity or the share of one")]
    TooLarge,
    /// A copy that is known to be true for longer is there already.
    #[error("a later copy of the same key is held already")]
    Older,
}

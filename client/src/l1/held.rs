//! What the in-process layer holds of a value.

use std::any::Any;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use cachetag_core::{Tag, Version};

use crate::adaptive::AccessRate;
use crate::feed::{Pulse, Tracked};
use crate::options::AtLeast;

/// Accesses that are this long ago count half in [`Held::rate`].
pub(crate) const HALF_LIFE: Duration = Duration::from_secs(60);

/// A decoded value, of whatever type.
pub type Decoded = Arc<dyn Any + Send + Sync>;

/// Whether there is a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// There is.
    Value,
    /// It is known that there is none: a negative entry.
    Absent,
}

/// Where a copy came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Origin {
    /// It was loaded in this process.
    Loader,
    /// Another layer had it.
    Layer,
}

/// A value that asks to come in.
///
/// ```
/// use std::sync::Arc;
/// use std::time::{Duration, Instant};
/// use cachetag_client::l1::Candidate;
/// use cachetag_core::{Tag, Version};
///
/// let token: Version = "1767225600.00000000097500059720".parse().unwrap();
/// let mut candidate = Candidate::new(Arc::new("a page"), 6, token, Instant::now() + Duration::from_secs(60));
/// candidate.tags = Arc::from([Tag::parse("product:42").unwrap()]);
/// ```
#[derive(Clone)]
#[non_exhaustive]
// In this order: the first of them are read by every hit, and lie behind what else it reads (see `Held`).
#[repr(C)]
pub struct Candidate {
    /// The value; whatever for [`Kind::Absent`].
    pub value: Decoded,
    /// Whether there is one.
    pub kind: Kind,
    /// Where it comes from.
    pub origin: Origin,
    /// What it cost to compute.
    pub cost: Duration,
    /// The token that it was read under.
    pub as_of: Version,
    /// For an answer `hit` or `early` of Redis: the token of that answer, which is up to where Redis vouches for the value. `None` for a fill and for a
    /// stale answer. See [`Feed::track`](crate::feed::Feed::track).
    pub verified: Option<Version>,
    /// Everything that it depends on.
    pub tags: Arc<[Tag]>,
    /// When it was computed, as far as is known: its age counts from here.
    pub stored_at: Instant,
    /// From when on it is none: no later than the layer below says.
    pub expires_at: Instant,
    /// From when on it is stale.
    pub fresh_until: Option<Instant>,
    /// Every commit that its loader may have seen ends here or earlier, as far as that is known.
    pub seen: Option<AtLeast>,
    /// Bytes that it takes, about.
    pub size: usize,
    /// How long the entry lives that it is a copy of, which may be longer than the copy does.
    pub life: Option<Life>,
}

/// The life of an entry, for deciding whether it is worth making anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Life {
    /// When it ends, or becomes stale.
    pub ends_at: Instant,
    /// The whole of it.
    pub ttl: Duration,
}

impl Candidate {
    /// A value without tags, loaded just now.
    pub fn new(value: Decoded, size: usize, as_of: Version, expires_at: Instant) -> Candidate {
        Candidate {
            value,
            kind: Kind::Value,
            origin: Origin::Loader,
            as_of,
            verified: None,
            tags: Arc::from([]),
            stored_at: Instant::now(),
            expires_at,
            fresh_until: None,
            cost: Duration::ZERO,
            seen: None,
            size,
            life: None,
        }
    }

    /// A held value once more, because Redis answered that an entry of this `as_of` is valid: nothing has to be decoded again.
    pub fn again(held: &Held, as_of: Version, verified: Version, expires_at: Instant) -> Candidate {
        Candidate { as_of, verified: Some(verified), expires_at, ..held.what.clone() }
    }
}

impl fmt::Debug for Candidate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Candidate")
            .field("kind", &self.kind)
            .field("origin", &self.origin)
            .field("as_of", &self.as_of)
            .field("verified", &self.verified)
            .field("tags", &self.tags)
            .field("size", &self.size)
            .finish_non_exhaustive()
    }
}

/// A value in the layer, with all that is known of it.
///
/// What a hit reads comes first, and in this order: with the reference counts before it, that is one or two cache lines. Of a layer of any size a hit costs
/// what it reads of memory that the processor does not have at hand.
#[derive(Debug)]
#[repr(C)]
pub struct Held {
    pub(super) accesses: AtomicU64,
    /// The tick of a view of the feed under which it was found clean; 0 for none. See the feed's [`Pulse`].
    pub(super) clean_at: AtomicU64,
    /// From when on it is expired or stale, in the time of the feed's pulse.
    pub(super) good_until: u64,
    /// It is known to be true up to there without the feed, whose epoch it is of.
    pub(super) known_to: u64,
    pub(super) what: Candidate,
    pub(super) tracked: Tracked,
    /// So many of the accesses were of the copies before it.
    pub(super) inherited: u64,
    /// How often it was asked for, as of when this copy came in.
    pub(super) pace: AccessRate,
    /// Whether somebody has set out to make the entry anew because of this copy.
    pub(super) claimed: AtomicBool,
}

impl Held {
    /// A copy that nobody has asked for yet.
    pub(super) fn new(what: Candidate, tracked: Tracked, pulse: &Pulse, now: Instant) -> Held {
        let until = what.fresh_until.map_or(what.expires_at, |fresh| fresh.min(what.expires_at));
        Held {
            accesses: AtomicU64::new(0),
            clean_at: AtomicU64::new(0),
            good_until: pulse.since_origin(until),
            known_to: tracked.known_to().lsn.0,
            what,
            tracked,
            inherited: 0,
            pace: AccessRate::new(now),
            claimed: AtomicBool::new(false),
        }
    }

    /// The value, if it is of this type.
    pub fn value<T: Any + Send + Sync>(&self) -> Option<Arc<T>> {
        Arc::clone(&self.what.value).downcast().ok()
    }

    /// The same, borrowed.
    #[inline]
    pub(crate) fn value_ref<T: Any + Send + Sync>(&self) -> Option<&T> {
        self.what.value.downcast_ref()
    }

    /// Whether the value is of this type. Does not read the value.
    #[inline]
    pub(crate) fn is<T: Any + Send + Sync>(&self) -> bool {
        self.what.value.is::<T>()
    }

    /// Everything that it came in with; its expiry is what the layer made of it.
    pub fn what(&self) -> &Candidate {
        &self.what
    }

    /// The generation of the feed that it was registered under.
    pub fn generation(&self) -> u64 {
        self.tracked.generation()
    }

    /// Accesses a second, of late, of this copy and of those that it took the place of.
    pub fn rate(&self, now: Instant) -> f64 {
        self.paced(now).per_second(now, HALF_LIFE)
    }

    pub(super) fn paced(&self, now: Instant) -> AccessRate {
        let mut pace = self.pace;
        pace.record(self.accesses().saturating_sub(self.inherited), now, HALF_LIFE);
        pace
    }

    /// The position of the last bump of its tags since it was true.
    pub(crate) fn bumped(&self) -> Option<u64> {
        self.tracked.bumped()
    }

    /// Whether the caller is the first to want the entry made anew because of this copy.
    pub(crate) fn claim(&self) -> bool {
        !self.claimed.swap(true, Ordering::Relaxed)
    }

    /// How often it, or what it replaced, was a hit.
    pub fn accesses(&self) -> u64 {
        self.accesses.load(Ordering::Relaxed)
    }
}

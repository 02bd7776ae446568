//! How large the in-process layer may become, and who hears of what leaves it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::held::Held;

/// Why a copy left the layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Left {
    /// No room: others are asked for more often.
    Evicted,
    /// Its time was over.
    Expired,
    /// Another took its place.
    Replaced,
    /// It was removed by a call.
    Removed,
}

/// Called with what leaves the layer; it must be quick, and must not call the layer.
pub type OnLeft = dyn Fn(&str, &Held, Left) + Send + Sync;

/// How large the in-process layer may become.
///
/// ```
/// use std::time::Duration;
/// use cachetag_client::l1::L1Options;
///
/// let options = L1Options::new(64 << 20).max_share(16).ttl(Duration::from_secs(60));
/// ```
#[derive(Clone)]
pub struct L1Options {
    pub(super) capacity: u64,
    pub(super) max_share: u64,
    pub(super) ttl: Duration,
    pub(super) grace: Duration,
    pub(super) on_left: Option<Arc<OnLeft>>,
}

impl L1Options {
    /// At most `capacity` bytes, no copy larger than an eighth of it, none kept longer than five minutes.
    pub fn new(capacity: u64) -> L1Options {
        L1Options { capacity, max_share: 8, ttl: Duration::from_secs(300), grace: Duration::ZERO, on_left: None }
    }

    /// No copy is larger than the capacity divided by this.
    pub fn max_share(mut self, divisor: u64) -> L1Options {
        self.max_share = divisor.max(1);
        self
    }

    /// No copy is kept longer, whatever its own expiry.
    pub fn ttl(mut self, ttl: Duration) -> L1Options {
        self.ttl = ttl;
        self
    }

    /// Keeps expired copies this much longer, for callers who would rather have what is old than an error. They are no hits.
    pub fn grace(mut self, grace: Duration) -> L1Options {
        self.grace = grace;
        self
    }

    /// Calls this with what leaves the layer.
    pub fn on_left(mut self, hook: impl Fn(&str, &Held, Left) + Send + Sync + 'static) -> L1Options {
        self.on_left = Some(Arc::new(hook));
        self
    }
}

impl fmt::Debug for L1Options {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let L1Options { capacity, max_share, ttl, grace, on_left: _ } = self;
        f.debug_struct("L1Options")
            .field("capacity", capacity)
            .field("max_share", max_share)
            .field("ttl", ttl)
            .field("grace", grace)
            .finish_non_exhaustive()
    }
}

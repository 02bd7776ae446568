//! A TTL for each layer: the nearer, the shorter.

use std::time::Duration;

use crate::observe::Layer;

/// The TTL of each layer, as a share of the entry's own, with a cap.
///
/// Near layers are small and many: what they hold is soon asked for again or makes room. The far ones are large, and save the load.
///
/// ```
/// use cachetag_client::{adaptive::LayerTtl, observe::Layer};
/// use std::time::Duration;
///
/// let ttls = LayerTtl::default();
/// let ttl = Duration::from_secs(600);
/// assert_eq!(ttls.ttl(Layer::L1, ttl), Duration::from_secs(60));
/// assert_eq!(ttls.ttl(Layer::L2, ttl), ttl);
/// assert_eq!(ttls.ttl(Layer::L3, ttl), Duration::from_secs(2400));
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LayerTtl {
    /// In the process: share of the entry's TTL, and cap.
    pub l1: (f64, Duration),
    /// In Redis.
    pub l2: (f64, Duration),
    /// Behind Redis.
    pub l3: (f64, Duration),
}

impl Default for LayerTtl {
    /// A tenth (a minute at most) in the process, all of it in Redis, four times as long behind.
    fn default() -> LayerTtl {
        LayerTtl { l1: (0.1, Duration::from_secs(60)), l2: (1.0, Duration::MAX), l3: (4.0, Duration::MAX) }
    }
}

impl LayerTtl {
    /// The TTL of an entry in a layer: `min(share × ttl, cap)`.
    ///
    /// ```
    /// # use cachetag_client::{adaptive::LayerTtl, observe::Layer};
    /// # use std::time::Duration;
    /// assert_eq!(LayerTtl::default().ttl(Layer::L1, Duration::from_secs(86_400)), Duration::from_secs(60));
    /// ```
    pub fn ttl(&self, layer: Layer, ttl: Duration) -> Duration {
        let (share, cap) = match layer {
            Layer::L1 => self.l1,
            Layer::L2 => self.l2,
            Layer::L3 => self.l3,
            // It stores nothing.
            Layer::Loader => return Duration::ZERO,
        };
        Duration::try_from_secs_f64(ttl.as_secs_f64() * share.max(0.0)).unwrap_or(Duration::MAX).min(cap)
    }

    /// The TTL of a copy on its way back from a farther layer, where it lives for another `remaining`: `min(share × ttl, cap, remaining)`. A copy never
    /// outlives what it was copied from.
    ///
    /// ```
    /// # use cachetag_client::{adaptive::LayerTtl, observe::Layer};
    /// # use std::time::Duration;
    /// let (ttl, remaining) = (Duration::from_secs(600), Duration::from_secs(5));
    /// assert_eq!(LayerTtl::default().backfill(Layer::L1, ttl, remaining), remaining);
    /// ```
    pub fn backfill(&self, layer: Layer, ttl: Duration, remaining: Duration) -> Duration {
        self.ttl(layer, ttl).min(remaining)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_nearer_the_shorter(ttl in any::<u64>(), remaining in any::<u64>()) {
            let (ttls, ttl, remaining) = (LayerTtl::default(), Duration::from_millis(ttl), Duration::from_millis(remaining));
            prop_assert!(ttls.ttl(Layer::L1, ttl) <= ttls.ttl(Layer::L2, ttl));
            prop_assert!(ttls.ttl(Layer::L2, ttl) <= ttls.ttl(Layer::L3, ttl));
            prop_assert!(ttls.backfill(Layer::L1, ttl, remaining) <= remaining);
        }
    }
}

//! What is asked for often lives longer.

use std::time::{Duration, Instant};

/// How often something is asked for, of late: a count that halves every `half_life`.
///
/// After steady accesses at rate r the count is `r × half_life ÷ ln 2`; so the rate is `count × ln 2 ÷ half_life`.
///
/// ```
/// use cachetag_client::adaptive::AccessRate;
/// use std::time::{Duration, Instant};
///
/// let half_life = Duration::from_secs(60);
/// let begin = Instant::now();
/// let mut rate = AccessRate::new(begin);
/// for second in 0..600 {
///     rate.record(2.0, begin + Duration::from_secs(second), half_life);
/// }
/// let at = begin + Duration::from_secs(600);
/// assert!((rate.per_second(at, half_life) - 2.0).abs() < 0.05);
/// assert!((rate.per_second(at + half_life, half_life) - 1.0).abs() < 0.05);
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AccessRate {
    count: f64,
    at: Instant,
}

impl AccessRate {
    /// Of something that has not been asked for yet.
    ///
    /// ```
    /// # use cachetag_client::adaptive::AccessRate;
    /// # use std::time::{Duration, Instant};
    /// let now = Instant::now();
    /// assert_eq!(AccessRate::new(now).per_second(now, Duration::from_secs(60)), 0.0);
    /// ```
    pub fn new(now: Instant) -> AccessRate {
        AccessRate { count: 0.0, at: now }
    }

    /// Counts accesses; more than one at a time where they are sampled.
    ///
    /// ```
    /// # use cachetag_client::adaptive::AccessRate;
    /// # use std::time::{Duration, Instant};
    /// let now = Instant::now();
    /// let mut rate = AccessRate::new(now);
    /// rate.record(1.0, now, Duration::from_secs(60));
    /// assert!(rate.per_second(now, Duration::from_secs(60)) > 0.0);
    /// ```
    pub fn record(&mut self, accesses: f64, now: Instant, half_life: Duration) {
        self.count = self.decayed(now, half_life) + accesses;
        self.at = self.at.max(now);
    }

    /// Accesses a second, of late.
    ///
    /// ```
    /// # use cachetag_client::adaptive::AccessRate;
    /// # use std::time::{Duration, Instant};
    /// let now = Instant::now();
    /// assert_eq!(AccessRate::new(now).per_second(now, Duration::ZERO), 0.0);
    /// ```
    pub fn per_second(&self, now: Instant, half_life: Duration) -> f64 {
        let half_life_seconds = half_life.as_secs_f64();
        if half_life_seconds == 0.0 {
            return 0.0;
        }
        self.decayed(now, half_life) * std::f64::consts::LN_2 / half_life_seconds
    }

    fn decayed(&self, now: Instant, half_life: Duration) -> f64 {
        let passed = now.saturating_duration_since(self.at);
        if passed.is_zero() || half_life.is_zero() {
            return self.count;
        }
        self.count * (-passed.as_secs_f64() / half_life.as_secs_f64()).exp2()
    }
}

/// A TTL by popularity: `min + (max − min) × r ÷ (r + pivot)`, with r in accesses a second.
///
/// What nobody asks for gets `min`, what is asked for `pivot` times a second gets the middle, and nothing gets more than `max`.
///
/// ```
/// use cachetag_client::adaptive::PopularityTtl;
/// use std::time::Duration;
///
/// let ttl = PopularityTtl { min: Duration::from_secs(60), max: Duration::from_secs(660), pivot: 0.1 };
/// assert_eq!(ttl.ttl(0.0), Duration::from_secs(60));
/// assert_eq!(ttl.ttl(0.1), Duration::from_secs(360));
/// assert!(ttl.ttl(1e9) <= Duration::from_secs(660));
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct PopularityTtl {
    /// The TTL of what nobody asks for.
    pub min: Duration,
    /// No TTL is longer.
    pub max: Duration,
    /// The accesses a second that earn the middle of the two.
    pub pivot: f64,
}

impl PopularityTtl {
    /// The TTL of what is asked for `per_second` times a second.
    ///
    /// ```
    /// # use cachetag_client::adaptive::PopularityTtl;
    /// # use std::time::Duration;
    /// # let ttl = PopularityTtl { min: Duration::from_secs(60), max: Duration::from_secs(660), pivot: 0.1 };
    /// assert!(ttl.ttl(5.0) > ttl.ttl(0.5));
    /// ```
    pub fn ttl(&self, per_second: f64) -> Duration {
        // What is no number counts as 0; halves of the greatest number can be added.
        let finite = |value: f64| if value.is_nan() { 0.0 } else { value.clamp(0.0, f64::MAX / 2.0) };
        let rate = finite(per_second);
        let pivot = finite(self.pivot).max(f64::MIN_POSITIVE);
        let span = self.max.saturating_sub(self.min);
        (self.min + span.mul_f64(rate / (rate + pivot))).min(self.max.max(self.min))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn random_arrivals_are_estimated_without_bias() {
        let half_life = Duration::from_secs(60);
        let mut rng = fastrand::Rng::with_seed(5);
        let begin = Instant::now();
        let (mut estimates, mut seconds) = (0.0, 0.0);
        let mut rate = AccessRate::new(begin);
        for n in 0..50_000 {
            seconds += -(1.0 - rng.f64()).ln() / 5.0;
            let now = begin + Duration::from_secs_f64(seconds);
            estimates += if n >= 10_000 { rate.per_second(now, half_life) } else { 0.0 };
            rate.record(1.0, now, half_life);
        }
        let mean = estimates / 40_000.0;
        assert!((mean - 5.0).abs() < 0.15, "{mean}");
    }

    proptest! {
        #[test]
        fn a_ttl_is_bounded_and_grows(min in 0u64..10_000, span in 0u64..10_000, pivot in 0.0..10.0, a in any::<f64>(), b in 0.0..1e9) {
            let (low, high) = (Duration::from_secs(min), Duration::from_secs(min + span));
            let ttl = PopularityTtl { min: low, max: high, pivot };
            prop_assert!(ttl.ttl(a) >= low && ttl.ttl(a) <= high);
            prop_assert!(ttl.ttl(b) <= ttl.ttl(b * 2.0));
        }

        /// A clock that seems to go back (another thread's reading) neither panics nor inflates the count.
        #[test]
        fn any_order_of_times_is_harmless(offsets in proptest::collection::vec(0u64..1000, 1..50)) {
            let begin = Instant::now();
            let mut rate = AccessRate::new(begin);
            for &offset in &offsets {
                rate.record(1.0, begin + Duration::from_secs(offset), Duration::from_secs(60));
            }
            prop_assert!(rate.count <= offsets.len() as f64);
        }
    }
}

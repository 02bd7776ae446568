//! What is asked for often lives longer.

use std::time::{Duration, Instant};

/// How often something is asked for, of late: accesses divided by the time in which they happened. Of both, what is `half_life` ago counts half.
///
/// The weight of a moment that is t ago is `2^(−t ÷ half_life)`; accesses that are recorded at once are spread over the time since the last record. What
/// happened at a steady rate thus has that rate from the beginning, however often it is recorded.
///
/// ```
/// use cachetag_client::adaptive::AccessRate;
/// use std::time::{Duration, Instant};
///
/// let half_life = Duration::from_secs(60);
/// let begin = Instant::now();
/// let at = |seconds| begin + Duration::from_secs(seconds);
/// let mut rate = AccessRate::new(begin);
/// rate.record(40, at(20), half_life);
/// assert!((rate.per_second(at(20), half_life) - 2.0).abs() < 1e-6);
/// rate.record(20, at(600), half_life);
/// assert!(rate.per_second(at(600), half_life) < 0.1);
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AccessRate {
    /// Accesses, weighted.
    count: f64,
    /// Seconds in which they happened, weighted alike.
    seconds: f64,
    at: Instant,
}

/// Something that was met only just now is judged as if it had been watched for this share of the half-life: one access is not yet a rate.
const LEAST: f64 = 1.0 / 8.0;

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
        AccessRate { count: 0.0, seconds: 0.0, at: now }
    }

    /// Counts accesses that happened since the last record.
    ///
    /// ```
    /// # use cachetag_client::adaptive::AccessRate;
    /// # use std::time::{Duration, Instant};
    /// let now = Instant::now();
    /// let mut rate = AccessRate::new(now);
    /// rate.record(1, now, Duration::from_secs(60));
    /// assert!(rate.per_second(now, Duration::from_secs(60)) > 0.0);
    /// ```
    pub fn record(&mut self, accesses: u64, now: Instant, half_life: Duration) {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        let AccessRate { count, seconds, .. } = self.later(now, half_life);
        // Of the time since the last record, this share counts; at one moment, all of it.
        let share = if passed > 0.0 { weight(passed, half_life) / passed } else { 1.0 };
        *self = AccessRate { count: count + accesses as f64 * share, seconds, at: self.at.max(now) };
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
        if half_life.is_zero() {
            return 0.0;
        }
        let later = self.later(now, half_life);
        later.count / later.seconds.max(half_life.as_secs_f64() * LEAST)
    }

    /// As of now, if there was no access since.
    fn later(&self, now: Instant, half_life: Duration) -> AccessRate {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        if passed == 0.0 || half_life.is_zero() {
            return *self;
        }
        let left = (-passed / half_life.as_secs_f64()).exp2();
        AccessRate {
            count: self.count * left,
            seconds: self.seconds * left + weight(passed, half_life),
            at: self.at.max(now),
        }
    }
}

/// The weight of the last so many seconds: the integral of `2^(−t ÷ half_life)` over them.
fn weight(seconds: f64, half_life: Duration) -> f64 {
    let half_life = half_life.as_secs_f64();
    if half_life == 0.0 {
        0.0
    } else {
        -(-seconds / half_life * std::f64::consts::LN_2).exp_m1() * half_life / std::f64::consts::LN_2
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
            rate.record(1, now, half_life);
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

        /// However it is cut into records, a steady rate is that rate.
        #[test]
        fn a_steady_rate_is_found(rate in 1u64..50, steps in proptest::collection::vec(1u64..100, 1..30), half_life in 1u64..500) {
            let half_life = Duration::from_secs(half_life);
            let begin = Instant::now();
            let (mut known, mut at) = (AccessRate::new(begin), begin);
            let least = half_life.as_secs_f64() * LEAST;
            for seconds in steps {
                at += Duration::from_secs(seconds);
                known.record(rate * seconds, at, half_life);
                let found = known.per_second(at, half_life);
                if at - begin > Duration::from_secs_f64(2.0 * least) {
                    prop_assert!((found - rate as f64).abs() < 1e-6 * rate as f64, "{} instead of {}", found, rate);
                } else {
                    prop_assert!(found <= rate as f64 * 1.000_001);
                }
            }
        }

        /// A clock that seems to go back (another thread's reading) neither panics nor inflates the count.
        #[test]
        fn any_order_of_times_is_harmless(offsets in proptest::collection::vec(0u64..1000, 1..50)) {
            let begin = Instant::now();
            let mut rate = AccessRate::new(begin);
            for &offset in &offsets {
                rate.record(1, begin + Duration::from_secs(offset), Duration::from_secs(60));
            }
            prop_assert!(rate.count <= offsets.len() as f64);
        }
    }
}

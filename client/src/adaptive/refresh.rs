//! Whether an entry is worth making anew before it expires, in the background.

use std::time::Duration;

/// When an entry is worth a refresh in the background.
///
/// Three questions, all of which must be answered with yes:
///
/// 1. Is it **near its expiry**? `remaining ≤ window × ttl`.
/// 2. Would anybody **feel the miss**? `readers = rate × cost`, the readers that arrive while one load runs and so wait for it, is at least `min_readers`:
///    the cost of a load times its popularity.
/// 3. Will it **be used** before it expires again? `1 − e^(−rate × ttl) ≥ min_use`, the chance of an access within a TTL if they come at random.
///
/// ```
/// use cachetag_client::adaptive::{RefreshPolicy, Verdict};
/// use std::time::Duration;
///
/// let policy = RefreshPolicy::default();
/// let (ttl, cost) = (Duration::from_secs(600), Duration::from_millis(500));
/// assert_eq!(policy.judge(Duration::from_secs(500), ttl, cost, 2.0), Verdict::NotYet);
/// assert_eq!(policy.judge(Duration::from_secs(20), ttl, cost, 2.0), Verdict::Refresh);
/// assert_eq!(policy.judge(Duration::from_secs(20), ttl, Duration::from_micros(50), 2.0), Verdict::TooCheap);
/// assert_eq!(policy.judge(Duration::from_secs(20), ttl, Duration::from_secs(100), 0.001), Verdict::TooRare);
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RefreshPolicy {
    /// The last share of a TTL in which an entry is looked at, 0 to 1.
    pub window: f64,
    /// The readers that a miss would make wait.
    pub min_readers: f64,
    /// How likely the refreshed entry must be to be used.
    pub min_use: f64,
}

impl Default for RefreshPolicy {
    /// In the last tenth of the TTL, if a miss would make a tenth of a reader wait, and use is likelier than not.
    fn default() -> RefreshPolicy {
        RefreshPolicy { window: 0.1, min_readers: 0.1, min_use: 0.5 }
    }
}

/// What a [`RefreshPolicy`] says of an entry.
///
/// ```
/// use cachetag_client::adaptive::Verdict;
/// assert_ne!(Verdict::Refresh, Verdict::NotYet);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Make it anew now.
    Refresh,
    /// Its expiry is far.
    NotYet,
    /// A miss would hardly be felt.
    TooCheap,
    /// It would likely expire unused.
    TooRare,
}

impl RefreshPolicy {
    /// The first of the three questions, which needs no more than the time that is left: is the entry near its expiry?
    ///
    /// ```
    /// # use cachetag_client::adaptive::RefreshPolicy;
    /// # use std::time::Duration;
    /// let second = Duration::from_secs(1);
    /// assert!(RefreshPolicy::default().is_near(6 * second, 60 * second) && !RefreshPolicy::default().is_near(7 * second, 60 * second));
    /// ```
    pub fn is_near(&self, remaining: Duration, ttl: Duration) -> bool {
        remaining.as_secs_f64() <= self.window * ttl.as_secs_f64()
    }

    /// What to do with an entry that lives for `remaining` of its `ttl`, took `cost` to load and is asked for `per_second` times a second.
    ///
    /// ```
    /// # use cachetag_client::adaptive::{RefreshPolicy, Verdict};
    /// # use std::time::Duration;
    /// let second = Duration::from_secs(1);
    /// assert_eq!(RefreshPolicy::default().judge(second, 60 * second, second, 10.0), Verdict::Refresh);
    /// ```
    pub fn judge(&self, remaining: Duration, ttl: Duration, cost: Duration, per_second: f64) -> Verdict {
        let rate = per_second.max(0.0);
        if !self.is_near(remaining, ttl) {
            Verdict::NotYet
        } else if 1.0 - (-rate * ttl.as_secs_f64()).exp() < self.min_use {
            Verdict::TooRare
        } else if rate * cost.as_secs_f64() < self.min_readers {
            Verdict::TooCheap
        } else {
            Verdict::Refresh
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Whoever is worth it stays worth it when it is nearer to its end, dearer, or asked for more.
        #[test]
        fn it_is_monotone(left in 0.0..1e3, ttl in 0.0..1e3, cost in 0.0..1e2, rate in 0.0..1e3, more in 1.0..10.0) {
            let policy = RefreshPolicy::default();
            let seconds = Duration::from_secs_f64;
            if policy.judge(seconds(left), seconds(ttl), seconds(cost), rate) == Verdict::Refresh {
                prop_assert_eq!(policy.judge(seconds(left / more), seconds(ttl), seconds(cost * more), rate * more), Verdict::Refresh);
            }
        }
    }

    /// The two estimates of the formula, against arrivals drawn at random.
    #[test]
    fn the_estimates_hold_for_random_arrivals() {
        let mut rng = fastrand::Rng::with_seed(11);
        let (rate, ttl, cost) = (0.5, 3.0, 4.0);
        let (mut used, mut readers) = (0u32, 0u32);
        for _ in 0..20_000 {
            let mut arrival = 0.0;
            let mut first = true;
            loop {
                arrival += -(1.0 - rng.f64()).ln() / rate;
                used += u32::from(first && arrival <= ttl);
                readers += u32::from(arrival <= cost);
                first = false;
                if arrival > cost {
                    break;
                }
            }
        }
        assert!((f64::from(used) / 20_000.0 - (1.0 - (-rate * ttl).exp())).abs() < 0.01);
        assert!((f64::from(readers) / 20_000.0 - rate * cost).abs() < 0.03);
    }
}

//! How long to wait before the next try.

use std::time::Duration;

/// Waits that double from `base` to `cap`, each shortened by a random share of up to `jitter`, so that those who failed together do not
/// come back together.
///
/// ```
/// use cachetag_client::resilience::Backoff;
/// use std::time::Duration;
///
/// let backoff = Backoff::default();
/// assert_eq!(backoff.delay(0, 0.0), Duration::from_millis(100));
/// assert_eq!(backoff.delay(3, 0.0), Duration::from_millis(800));
/// assert_eq!(backoff.delay(3, 1.0), Duration::from_millis(400));
/// assert_eq!(backoff.delay(u32::MAX, 0.0), Duration::from_secs(10));
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Backoff {
    /// The first wait.
    pub base: Duration,
    /// The longest wait.
    pub cap: Duration,
    /// Up to which share of a wait is taken off at random, 0 to 1.
    pub jitter: f64,
}

impl Default for Backoff {
    /// From 100 ms to 10 s, shortened by up to a half.
    fn default() -> Backoff {
        Backoff { base: Duration::from_millis(100), cap: Duration::from_secs(10), jitter: 0.5 }
    }
}

impl Backoff {
    /// The wait after `failures` further failures: `min(cap, base × 2^failures) × (1 − jitter × u)`, with `u` uniform in [0, 1).
    ///
    /// ```
    /// use cachetag_client::resilience::Backoff;
    /// assert!(Backoff::default().delay(1, 0.5) < Backoff::default().delay(1, 0.1));
    /// ```
    pub fn delay(&self, failures: u32, u: f64) -> Duration {
        let full = match 1u32.checked_shl(failures) {
            Some(factor) => self.base.saturating_mul(factor).min(self.cap),
            None => self.cap,
        };
        full.mul_f64(1.0 - self.jitter.clamp(0.0, 1.0) * u.clamp(0.0, 1.0))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn waits_grow_within_their_bounds(base in 1u64..1000, cap in 1000u64..100_000, jitter in 0.0..=1.0, u in 0.0..1.0, n in 0u32..80) {
            let backoff = Backoff { base: Duration::from_millis(base), cap: Duration::from_millis(cap), jitter };
            let full = backoff.delay(n, 0.0);
            prop_assert!(full >= backoff.base && full <= backoff.cap);
            prop_assert!(backoff.delay(n + 1, 0.0) >= full);
            let wait = backoff.delay(n, u);
            prop_assert!(wait <= full);
            prop_assert!(wait >= full.mul_f64((1.0 - jitter) * 0.999));
        }
    }
}

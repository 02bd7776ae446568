//! What was stored together need not expire together.

use std::time::Duration;

/// A TTL moved by up to `share` of itself, earlier or later: `ttl × (1 + share × (2u − 1))`, with `u` uniform in [0, 1). The mean stays.
///
/// ```
/// use cachetag_client::adaptive::jittered;
/// use std::time::Duration;
/// let ttl = Duration::from_secs(100);
/// assert_eq!(jittered(ttl, 0.1, 0.0), Duration::from_secs(90));
/// assert_eq!(jittered(ttl, 0.1, 0.5), ttl);
/// let one = jittered(ttl, 0.1, fastrand::f64());
/// assert!(one >= Duration::from_secs(90) && one < Duration::from_secs(110));
/// ```
pub fn jittered(ttl: Duration, share: f64, u: f64) -> Duration {
    let share = if share.is_nan() { 0.0 } else { share.clamp(0.0, 1.0) };
    let factor = 1.0 + share * (2.0 * u - 1.0);
    Duration::try_from_secs_f64(ttl.as_secs_f64() * factor).unwrap_or(ttl)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_uniform_around_the_ttl() {
        let mut rng = fastrand::Rng::with_seed(3);
        let mut tenths = [0u32; 10];
        let mut sum = 0.0;
        for _ in 0..100_000 {
            let ttl = jittered(Duration::from_secs(1000), 0.2, rng.f64()).as_secs_f64();
            assert!((800.0..1200.0).contains(&ttl));
            tenths[((ttl - 800.0) / 40.0) as usize] += 1;
            sum += ttl;
        }
        assert!((sum / 100_000.0 - 1000.0).abs() < 2.0);
        assert!(tenths.iter().all(|count| (9_600..10_400).contains(count)), "{tenths:?}");
    }

    #[test]
    fn odd_arguments_are_harmless() {
        assert_eq!(jittered(Duration::MAX, 1.0, 1.0), Duration::MAX);
        assert_eq!(jittered(Duration::from_secs(5), f64::NAN, 0.9), Duration::from_secs(5));
        assert_eq!(jittered(Duration::from_secs(5), 9.0, 0.0), Duration::ZERO);
    }
}

//! XFetch: one reader, by chance, makes an entry anew before it expires.

use std::time::Duration;

/// Whether this reader is the one to make the entry anew before its time.
///
/// XFetch (Vattani, Chierichetti, Lowenstein 2015), as in Redis: `now − cost × beta × ln(u) ≥ expiry`, with `u` uniform in (0, 1] and
/// `remaining = expiry − now`. The higher the cost and the nearer the expiry, the likelier: `e^(−remaining ÷ (cost × beta))`. A beta of 0 says no until the entry has
/// expired; 1 is the paper's; more is earlier.
#[inline]
pub(crate) fn is_early(remaining: Duration, cost: Duration, beta: f64, u: f64) -> bool {
    // The logarithm of 0 is no number to reckon with: the least draw of 53 bits stands for it.
    let u = u.clamp(f64::EPSILON / 2.0, 1.0);
    -cost.as_secs_f64() * beta.max(0.0) * u.ln() >= remaining.as_secs_f64()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DRAWS: u32 = 100_000;

    fn early_probability(remaining: Duration, cost: Duration, beta: f64) -> f64 {
        (-remaining.as_secs_f64() / (cost.as_secs_f64() * beta)).exp()
    }

    #[test]
    fn the_share_of_early_readers_is_the_formulas() {
        let mut rng = fastrand::Rng::with_seed(42);
        for (remaining, cost, beta) in
            [(1.0, 1.0, 1.0), (3.0, 1.0, 1.0), (3.0, 1.0, 2.0), (0.1, 0.05, 1.5), (5.0, 0.5, 1.0)]
        {
            let (remaining, cost) = (Duration::from_secs_f64(remaining), Duration::from_secs_f64(cost));
            let early = (0..DRAWS).filter(|_| is_early(remaining, cost, beta, rng.f64())).count();
            let (share, expected) = (early as f64 / f64::from(DRAWS), early_probability(remaining, cost, beta));
            // Four standard deviations.
            let tolerance = 4.0 * (expected * (1.0 - expected) / f64::from(DRAWS)).sqrt();
            assert!((share - expected).abs() <= tolerance.max(1e-4), "{share} instead of {expected}");
        }
    }

    proptest! {
        #[test]
        fn it_agrees_with_the_formula_as_it_is_written(now in 0.0..1e6, left in 0.0..1e3f64, cost in 0.0..10.0f64, beta in 0.0..5.0f64, u in 1e-9..=1.0) {
            let expiry: f64 = now + left;
            let written = now - cost * beta * f64::ln(u) >= expiry;
            let due: f64 = -cost * beta * f64::ln(u);
            prop_assume!((due - left).abs() > 1e-6); // rounding
            prop_assert_eq!(is_early(Duration::from_secs_f64(left), Duration::from_secs_f64(cost), beta, u), written);
        }

        #[test]
        fn nothing_is_early_without_cost_or_beta(left in 1u64.., u in 0.0..=1.0) {
            let left = Duration::from_nanos(left);
            prop_assert!(!is_early(left, Duration::ZERO, 1.0, u));
            prop_assert!(!is_early(left, Duration::from_secs(1), 0.0, u));
            prop_assert!(is_early(Duration::ZERO, Duration::ZERO, 0.0, u));
        }
    }
}

//! How far an entry is trusted that did not come from the first source.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// How far a value is trusted, 0 to 1. The loader's own is [`Confidence::FULL`]; a fallback source (a replica, a search index, an older copy) says less.
///
/// Confidence is about the *source*. It never makes up for validity: an entry whose tags were bumped is no hit, however far it is trusted.
///
/// ```
/// use cachetag_client::adaptive::Confidence;
/// let replica = Confidence::new(0.8);
/// assert!(replica.is_at_least(Confidence::new(0.5)));
/// assert!(!replica.is_at_least(Confidence::FULL));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(from = "f64", into = "f64")]
pub struct Confidence(f64);

impl Confidence {
    /// Of the first source.
    pub const FULL: Confidence = Confidence(1.0);
    /// Of no source.
    pub const NONE: Confidence = Confidence(0.0);

    /// Of this share; what lies outside of 0 to 1 is taken as the nearer end, what is no number as 0.
    ///
    /// ```
    /// # use cachetag_client::adaptive::Confidence;
    /// assert_eq!(Confidence::new(7.0), Confidence::FULL);
    /// assert_eq!(Confidence::new(f64::NAN), Confidence::NONE);
    /// ```
    pub fn new(share: f64) -> Confidence {
        if share.is_nan() { Confidence::NONE } else { Confidence(share.clamp(0.0, 1.0)) }
    }

    /// The share.
    ///
    /// ```
    /// # use cachetag_client::adaptive::Confidence;
    /// assert_eq!(Confidence::FULL.share(), 1.0);
    /// ```
    pub fn share(self) -> f64 {
        self.0
    }

    /// Whether it is enough for a caller who asks for `minimum`.
    ///
    /// ```
    /// # use cachetag_client::adaptive::Confidence;
    /// assert!(Confidence::NONE.is_at_least(Confidence::NONE));
    /// ```
    pub fn is_at_least(self, minimum: Confidence) -> bool {
        self >= minimum
    }

    /// Of a value made of this one and another: the product. Two sources that are right nine times of ten are both right in 81 of 100.
    ///
    /// ```
    /// # use cachetag_client::adaptive::Confidence;
    /// assert!((Confidence::new(0.9).and(Confidence::new(0.9)).share() - 0.81).abs() < 1e-9);
    /// ```
    #[must_use]
    pub fn and(self, other: Confidence) -> Confidence {
        Confidence(self.0 * other.0)
    }

    /// After `age`, if it halves every `half_life`: `share × 2^(−age ÷ half_life)`. Full confidence does not fade: the first source's values are kept true by their tags.
    ///
    /// ```
    /// # use cachetag_client::adaptive::Confidence;
    /// # use std::time::Duration;
    /// let minute = Duration::from_secs(60);
    /// assert_eq!(Confidence::new(0.8).after(minute, minute), Confidence::new(0.4));
    /// assert_eq!(Confidence::FULL.after(minute, minute), Confidence::FULL);
    /// ```
    #[must_use]
    pub fn after(self, age: Duration, half_life: Duration) -> Confidence {
        if self == Confidence::FULL || age.is_zero() {
            return self;
        }
        Confidence::new(self.0 * (-age.as_secs_f64() / half_life.as_secs_f64()).exp2())
    }

    /// How long a value of this confidence is kept: `ttl × share`. The less it is trusted, the sooner the first source is asked again.
    ///
    /// ```
    /// # use cachetag_client::adaptive::Confidence;
    /// # use std::time::Duration;
    /// assert_eq!(Confidence::new(0.5).ttl(Duration::from_secs(60)), Duration::from_secs(30));
    /// ```
    pub fn ttl(self, ttl: Duration) -> Duration {
        if self == Confidence::FULL { ttl } else { ttl.mul_f64(self.0) }
    }
}

impl Default for Confidence {
    fn default() -> Confidence {
        Confidence::FULL
    }
}

impl From<f64> for Confidence {
    fn from(share: f64) -> Confidence {
        Confidence::new(share)
    }
}

impl From<Confidence> for f64 {
    fn from(confidence: Confidence) -> f64 {
        confidence.0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_stays_a_share_and_only_falls(a in any::<f64>(), b in any::<f64>(), age in any::<u32>(), half_life in any::<u32>()) {
            let (a, b) = (Confidence::new(a), Confidence::new(b));
            let (age, half_life) = (Duration::from_millis(age.into()), Duration::from_millis(half_life.into()));
            for less in [a.and(b), a.after(age, half_life)] {
                prop_assert!((0.0..=1.0).contains(&less.share()) && less <= a);
            }
            prop_assert!(a.ttl(age) <= age);
        }
    }
}

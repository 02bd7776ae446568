//! Latencies, by percentile.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::Serialize;

/// So many bits of a value are kept: 16 buckets to a power of two, so a percentile is at most 1/32 off.
const BITS: u32 = 4;
/// Values of this many bits and more share the last bucket: 2^37 ns are 137 s.
const MAX_BITS: u32 = 37;
const BUCKETS: usize = (((MAX_BITS - BITS) as usize) << BITS) + (1 << BITS);

/// A histogram that many threads record into at once, without a lock; log-linear, so that a percentile is off by at most about 3 %, from
/// nanoseconds to two minutes, in 4.4 kB.
///
/// Not the `hdrhistogram` crate: its recording takes `&mut`, so it would need a lock or a channel here, and its reading side must be told to take turns.
///
/// ```
/// use cachetag_client::observe::Histogram;
/// use std::time::Duration;
///
/// let histogram = Histogram::default();
/// (1..=1000).for_each(|ms| histogram.record(Duration::from_millis(ms)));
/// let p99 = histogram.latency().p99_ns as f64 / 1e6;
/// assert!((960.0..1021.0).contains(&p99));
/// ```
pub struct Histogram {
    buckets: Box<[AtomicU64; BUCKETS]>,
    sum_ns: AtomicU64,
    max_ns: AtomicU64,
}

impl Default for Histogram {
    fn default() -> Histogram {
        Histogram {
            buckets: Box::new([const { AtomicU64::new(0) }; BUCKETS]),
            sum_ns: AtomicU64::new(0),
            max_ns: AtomicU64::new(0),
        }
    }
}

/// Percentiles of a latency, in nanoseconds.
///
/// ```
/// use cachetag_client::observe::Histogram;
/// assert_eq!(Histogram::default().latency().count, 0);
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Latency {
    /// How many were timed.
    pub count: u64,
    /// The mean.
    pub mean_ns: u64,
    /// Half are at most this.
    pub p50_ns: u64,
    /// Nine of ten.
    pub p90_ns: u64,
    /// 99 of 100.
    pub p99_ns: u64,
    /// 999 of 1,000.
    pub p999_ns: u64,
    /// The longest.
    pub max_ns: u64,
}

impl Histogram {
    /// Records one.
    ///
    /// ```
    /// # use cachetag_client::observe::Histogram;
    /// let histogram = Histogram::default();
    /// histogram.record(std::time::Duration::from_micros(80));
    /// assert_eq!(histogram.latency().max_ns, 80_000);
    /// ```
    pub fn record(&self, took: Duration) {
        let ns = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.buckets[bucket(ns)].fetch_add(1, Ordering::Relaxed);
        self.sum_ns.fetch_add(ns, Ordering::Relaxed);
        self.max_ns.fetch_max(ns, Ordering::Relaxed);
    }

    /// The percentiles of what was recorded. What is recorded meanwhile may be in it or not.
    ///
    /// ```
    /// # use cachetag_client::observe::Histogram;
    /// let histogram = Histogram::default();
    /// histogram.record(std::time::Duration::from_nanos(7));
    /// assert_eq!(histogram.latency().p50_ns, 7);
    /// ```
    pub fn latency(&self) -> Latency {
        latency([self])
    }

    /// The sum of what was recorded.
    ///
    /// ```
    /// # use cachetag_client::observe::Histogram;
    /// assert!(Histogram::default().sum().is_zero());
    /// ```
    pub fn sum(&self) -> Duration {
        Duration::from_nanos(self.sum_ns.load(Ordering::Relaxed))
    }
}

/// The percentiles of several histograms as of one.
pub(super) fn latency<'a>(histograms: impl IntoIterator<Item = &'a Histogram>) -> Latency {
    let mut counts = [0u64; BUCKETS];
    let (mut sum, mut max) = (0u64, 0);
    for histogram in histograms {
        for (count, bucket) in counts.iter_mut().zip(histogram.buckets.iter()) {
            *count += bucket.load(Ordering::Relaxed);
        }
        sum = sum.saturating_add(histogram.sum_ns.load(Ordering::Relaxed));
        max = histogram.max_ns.load(Ordering::Relaxed).max(max);
    }
    let count: u64 = counts.iter().sum();
    let percentile = |share: f64| {
        let rank = ((count as f64 * share).ceil() as u64).max(1);
        let mut below = 0;
        let found = counts.iter().position(|n| {
            below += n;
            below >= rank
        });
        found.map_or(0, |bucket| middle(bucket).min(max))
    };
    Latency {
        count,
        mean_ns: sum.checked_div(count).unwrap_or(0),
        p50_ns: percentile(0.5),
        p90_ns: percentile(0.9),
        p99_ns: percentile(0.99),
        p999_ns: percentile(0.999),
        max_ns: max,
    }
}

/// Small values have a bucket each; above, the bits after the leading one say which of the buckets of that power of two.
fn bucket(ns: u64) -> usize {
    let bits = u64::BITS - ns.leading_zeros();
    if bits <= BITS {
        return ns as usize;
    }
    if bits > MAX_BITS {
        return BUCKETS - 1;
    }
    let shift = bits - BITS - 1;
    // The leading one stays in it, and counts as one more power.
    ((shift as usize) << BITS) + (ns >> shift) as usize
}

/// The value in the middle of a bucket.
fn middle(bucket: usize) -> u64 {
    let shift = (bucket >> BITS).saturating_sub(1) as u32;
    if shift == 0 {
        return bucket as u64;
    }
    let lowest = ((bucket - ((shift as usize) << BITS)) as u64) << shift;
    lowest + (1 << shift >> 1)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn buckets_follow_one_another_without_a_gap() {
        let mut last = 0;
        for ns in 0..1u64 << 16 {
            let here = bucket(ns);
            assert!(here == last || here == last + 1, "{ns}: {here} after {last}");
            last = here;
        }
        assert_eq!(bucket((1 << MAX_BITS) - 1), BUCKETS - 1);
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
    }

    proptest! {
        #[test]
        fn a_value_is_near_the_middle_of_its_bucket(ns in 0u64..1 << MAX_BITS) {
            let middle = middle(bucket(ns));
            prop_assert!(middle.abs_diff(ns) as f64 <= ns as f64 / 32.0, "{middle} for {ns}");
        }

        #[test]
        fn percentiles_are_near_the_true_ones(mut values in proptest::collection::vec(0u64..1 << 34, 1..400)) {
            let histogram = Histogram::default();
            values.iter().for_each(|&ns| histogram.record(Duration::from_nanos(ns)));
            values.sort_unstable();
            let latency = histogram.latency();
            for (share, found) in [(0.5, latency.p50_ns), (0.9, latency.p90_ns), (0.99, latency.p99_ns)] {
                let rank = ((values.len() as f64 * share).ceil() as usize).max(1);
                let exact = values[rank - 1];
                prop_assert!(found.abs_diff(exact) as f64 <= exact as f64 / 32.0, "{found} for {exact}");
            }
            prop_assert_eq!(latency.max_ns, values[values.len() - 1]);
            prop_assert_eq!(latency.count, values.len() as u64);
        }
    }
}

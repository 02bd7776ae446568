//! Counters that many threads add to at once.

use std::cell::Cell;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

/// As many threads count without sharing a cache line.
const STRIPES: usize = 8;

/// Hits and the time that they saved. Relaxed throughout: sums are read now and then, and order nothing.
#[derive(Default)]
pub(super) struct HitCounter {
    stripes: [Stripe; STRIPES],
}

/// Two cache lines: processors fetch them in pairs.
#[derive(Default)]
#[repr(align(128))]
struct Stripe {
    hits: AtomicU64,
    saved_us: AtomicU64,
}

impl HitCounter {
    #[inline]
    pub(super) fn hit(&self, saved: Duration) {
        let stripe = &self.stripes[stripe()];
        stripe.hits.fetch_add(1, Ordering::Relaxed);
        // What costs no microsecond is counted for nothing.
        let saved = micros(saved);
        if saved > 0 {
            stripe.saved_us.fetch_add(saved, Ordering::Relaxed);
        }
    }

    pub(super) fn hits(&self) -> u64 {
        self.stripes.iter().map(|stripe| stripe.hits.load(Ordering::Relaxed)).sum()
    }

    pub(super) fn saved(&self) -> Duration {
        Duration::from_micros(self.stripes.iter().map(|stripe| stripe.saved_us.load(Ordering::Relaxed)).sum())
    }
}

/// One counter for each of `N` names.
pub(super) struct Named<const N: usize>([AtomicU64; N]);

impl<const N: usize> Default for Named<N> {
    fn default() -> Named<N> {
        Named([const { AtomicU64::new(0) }; N])
    }
}

impl<const N: usize> Named<N> {
    #[inline]
    pub(super) fn add(&self, index: usize, count: u64) {
        if let Some(counter) = self.0.get(index) {
            counter.fetch_add(count, Ordering::Relaxed);
        }
    }

    pub(super) fn get(&self, index: usize) -> u64 {
        self.0.get(index).map_or(0, |counter| counter.load(Ordering::Relaxed))
    }
}

/// Microseconds: half a million years of saved time fit.
#[inline]
pub(super) fn micros(duration: Duration) -> u64 {
    duration.as_secs().saturating_mul(1_000_000).saturating_add(u64::from(duration.subsec_micros()))
}

/// The stripe of this thread: threads take them in turn.
#[inline]
fn stripe() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static MINE: Cell<usize> = const { Cell::new(usize::MAX) };
    }
    MINE.with(|mine| {
        if mine.get() == usize::MAX {
            mine.set(NEXT.fetch_add(1, Ordering::Relaxed) % STRIPES);
        }
        mine.get()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_hit_is_lost_between_threads() {
        let counter = HitCounter::default();
        std::thread::scope(|scope| {
            for _ in 0..12 {
                scope.spawn(|| (0..10_000).for_each(|_| counter.hit(Duration::from_millis(2))));
            }
        });
        assert_eq!(counter.hits(), 120_000);
        assert_eq!(counter.saved(), Duration::from_secs(240));
    }
}

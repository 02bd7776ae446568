//! Numbers by key prefix, for a bounded number of prefixes.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use xxhash_rust::xxh3::xxh3_64;

use super::counters::{HitCounter, Named, micros};
use super::histogram::Histogram;
use super::layer::Layer;
use super::reason::MissReason;

/// A longer text before a `:` is no prefix but data.
const LONGEST: usize = 64;

/// The name under which all prefixes are counted that are not told apart.
pub(super) const OTHER: &str = "other";

/// The prefix of a key: the text before its first `:`. `None` for a key without one, or with one of more than 64 bytes: those are counted as `other`.
///
/// ```
/// use cachetag_client::observe::prefix_of;
/// assert_eq!(prefix_of("page:product:42"), Some("page"));
/// assert_eq!(prefix_of("f81d4fae-7dec-11d0"), None);
/// ```
#[inline]
pub fn prefix_of(key: &str) -> Option<&str> {
    // Prefixes are short: a search that is made for long texts would take longer to begin than to end.
    let end = key.bytes().take(LONGEST + 1).position(|byte| byte == b':')?;
    key.get(..end)
}

/// What is counted of a layer.
#[derive(Default)]
pub(super) struct LayerCounters {
    pub(super) hits: HitCounter,
    pub(super) misses: Named<{ MissReason::ALL.len() }>,
    latency: OnceLock<Histogram>,
}

impl LayerCounters {
    pub(super) fn record(&self, took: Duration) {
        self.latency.get_or_init(Histogram::default).record(took);
    }

    pub(super) fn latency(&self) -> Option<&Histogram> {
        self.latency.get()
    }
}

/// What is counted of a prefix.
pub(super) struct Prefix {
    pub(super) name: Box<str>,
    layers: [LayerCounters; Layer::ALL.len()],
    pub(super) loads: AtomicU64,
    pub(super) failed_loads: AtomicU64,
    paid_us: AtomicU64,
}

impl Prefix {
    fn new(name: &str) -> Prefix {
        Prefix {
            name: name.into(),
            layers: Default::default(),
            loads: AtomicU64::new(0),
            failed_loads: AtomicU64::new(0),
            paid_us: AtomicU64::new(0),
        }
    }

    #[inline]
    pub(super) fn layer(&self, layer: Layer) -> &LayerCounters {
        &self.layers[layer.index()]
    }

    pub(super) fn load(&self, took: Duration, succeeded: bool) {
        let count = if succeeded { &self.loads } else { &self.failed_loads };
        count.fetch_add(1, Ordering::Relaxed);
        self.paid_us.fetch_add(micros(took), Ordering::Relaxed);
    }

    pub(super) fn paid(&self) -> Duration {
        Duration::from_micros(self.paid_us.load(Ordering::Relaxed))
    }
}

/// The first so many prefixes, each with its numbers. Found by hashing, without a lock; never forgotten.
pub(super) struct Prefixes {
    /// At most half full, so that a search is short and ends.
    slots: Box<[OnceLock<Box<Prefix>>]>,
    known: AtomicUsize,
    most: usize,
    adding: Mutex<()>,
    other: Prefix,
}

impl Prefixes {
    pub(super) fn new(most: usize) -> Prefixes {
        let slots = (2 * most).next_power_of_two();
        Prefixes {
            slots: std::iter::repeat_with(OnceLock::new).take(slots).collect(),
            known: AtomicUsize::new(0),
            most,
            adding: Mutex::new(()),
            other: Prefix::new(OTHER),
        }
    }

    #[inline]
    pub(super) fn of(&self, key: &str) -> &Prefix {
        let Some(name) = prefix_of(key) else { return &self.other };
        let start = xxh3_64(name.as_bytes()) as usize;
        match self.find(name, start) {
            Some(prefix) => prefix,
            // When all are known their slots are filled: who has just looked in vain looks once more.
            None if self.known.load(Ordering::Acquire) >= self.most => self.find(name, start).unwrap_or(&self.other),
            None => self.add(name, start),
        }
    }

    /// In the order of their names, `other` last.
    pub(super) fn all(&self) -> Vec<&Prefix> {
        let mut all: Vec<&Prefix> = self.slots.iter().filter_map(|slot| Some(&**slot.get()?)).collect();
        all.sort_unstable_by(|a, b| a.name.cmp(&b.name));
        all.push(&self.other);
        all
    }

    #[inline]
    fn find(&self, name: &str, start: usize) -> Option<&Prefix> {
        for step in 0..self.slots.len() {
            let prefix = self.slots[self.place(start, step)].get()?;
            if *prefix.name == *name {
                return Some(prefix);
            }
        }
        None
    }

    #[cold]
    fn add(&self, name: &str, start: usize) -> &Prefix {
        let _adding = self.adding.lock();
        if let Some(prefix) = self.find(name, start) {
            return prefix;
        }
        if self.known.load(Ordering::Relaxed) >= self.most || name == OTHER {
            return &self.other;
        }
        let free =
            (0..self.slots.len()).map(|step| &self.slots[self.place(start, step)]).find(|slot| slot.get().is_none());
        let added = free.map_or(&self.other, |slot| slot.get_or_init(|| Box::new(Prefix::new(name))));
        self.known.fetch_add(1, Ordering::Release);
        added
    }

    #[inline]
    fn place(&self, start: usize, step: usize) -> usize {
        start.wrapping_add(step) & (self.slots.len() - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_prefixes_are_told_apart_and_no_more() {
        let prefixes = Prefixes::new(3);
        for round in 0..3 {
            for (key, name) in
                [("a:1", "a"), ("b:1:2", "b"), (":", ""), ("c:1", OTHER), ("plain", OTHER), ("other:1", OTHER)]
            {
                assert_eq!(*prefixes.of(key).name, *name, "{key} in round {round}");
            }
        }
        let long = format!("{}:1", "x".repeat(65));
        assert_eq!(*prefixes.of(&long).name, *OTHER);
        let names: Vec<&str> = prefixes.all().iter().map(|prefix| &*prefix.name).collect();
        assert_eq!(names, ["", "a", "b", OTHER]);
    }

    #[test]
    fn none_at_all_is_a_choice() {
        assert_eq!(*Prefixes::new(0).of("a:1").name, *OTHER);
    }

    #[test]
    fn threads_that_meet_a_prefix_at_once_agree() {
        // The last one that is told apart is the one that somebody may be too late for: so there are many last ones.
        for _ in 0..200 {
            let prefixes = Prefixes::new(10);
            std::thread::scope(|scope| {
                for _ in 0..8 {
                    scope.spawn(|| (0..20).for_each(|n| prefixes.of(&format!("p{n}:x")).load(Duration::ZERO, true)));
                }
            });
            assert_eq!(prefixes.all().len(), 11);
            let loads: u64 = prefixes.all().iter().map(|prefix| prefix.loads.load(Ordering::Relaxed)).sum();
            assert_eq!(loads, 160);
            assert!(prefixes.all().iter().all(|prefix| prefix.loads.load(Ordering::Relaxed) % 8 == 0));
        }
    }
}

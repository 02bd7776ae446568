//! What the cache tells, and what is read of it.

use std::fmt;
use std::sync::Arc;

use parking_lot::Mutex;

use super::access::Access;
use super::counters::Named;
use super::event::{Event, Eviction};
use super::layer::Layer;
use super::path::{Paths, Step};
use super::prefixes::Prefixes;
use super::snapshot::Snapshot;
use super::topk::{Counted, SpaceSaving};

/// How much an [`Observer`] keeps.
///
/// ```
/// use cachetag_client::observe::{Observer, ObserverOptions};
/// let observer = Observer::new(ObserverOptions { name: "pages".into(), ..ObserverOptions::default() });
/// assert_eq!(observer.snapshot().name, "pages");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObserverOptions {
    /// The name of the cache, to tell several in one process apart.
    pub name: String,
    /// So many key prefixes are told apart; the others are counted together.
    pub prefixes: usize,
    /// One access in so many is timed and shown to the sketch of hot keys; a power of two, or the next one.
    pub sample_every: u32,
    /// So many keys are kept in the sketch of hot keys.
    pub sketch: usize,
    /// The sketch halves its counts whenever it has seen so many: that is how long it remembers.
    pub remember: u64,
    /// So many of the hottest keys are read, and counted for the concentration.
    pub hot_keys: usize,
    /// So many of the last miss paths are kept.
    pub paths: usize,
}

impl Default for ObserverOptions {
    /// 64 prefixes, one access in 32, a sketch of 512 keys, ten hot keys, 64 paths.
    fn default() -> ObserverOptions {
        ObserverOptions {
            name: "cache".into(),
            prefixes: 64,
            sample_every: 32,
            sketch: 512,
            remember: 1 << 16,
            hot_keys: 10,
            paths: 64,
        }
    }
}

/// What the cache tells, and what is read of it. Clones are the same observer.
///
/// ```
/// use cachetag_client::observe::{Layer, Observer};
/// use std::time::Duration;
///
/// let observer = Observer::default();
/// observer.access("product:42").loaded(Duration::from_millis(30));
/// for _ in 0..9 {
///     observer.access("product:42").hit(Layer::L1, Duration::from_millis(30));
/// }
/// assert_eq!(observer.snapshot().total.effectiveness, 0.9);
/// ```
#[derive(Clone)]
pub struct Observer(Arc<Inner>);

pub(super) struct Inner {
    pub(super) options: ObserverOptions,
    sample_mask: u32,
    pub(super) prefixes: Prefixes,
    pub(super) events: Named<{ Event::ALL.len() }>,
    pub(super) evictions: [Named<{ Eviction::ALL.len() }>; Layer::ALL.len()],
    /// A lock: one access in `sample_every` takes it, for a fraction of a microsecond.
    pub(super) sketch: Mutex<SpaceSaving>,
    pub(super) paths: Paths,
}

impl Default for Observer {
    fn default() -> Observer {
        Observer::new(ObserverOptions::default())
    }
}

impl fmt::Debug for Observer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Observer").field(&self.0.options).finish()
    }
}

impl Observer {
    /// An observer that has seen nothing.
    ///
    /// ```
    /// use cachetag_client::observe::{Observer, ObserverOptions};
    /// let observer = Observer::new(ObserverOptions { sample_every: 1, ..ObserverOptions::default() });
    /// ```
    pub fn new(options: ObserverOptions) -> Observer {
        let sample_every = options.sample_every.clamp(1, 1 << 31).next_power_of_two();
        Observer(Arc::new(Inner {
            sample_mask: sample_every - 1,
            prefixes: Prefixes::new(options.prefixes),
            events: Named::default(),
            evictions: Default::default(),
            sketch: Mutex::new(SpaceSaving::new(options.sketch)),
            paths: Paths::new(options.paths),
            options: ObserverOptions { sample_every, ..options },
        }))
    }

    /// One access of a caller begins.
    ///
    /// ```
    /// # use cachetag_client::observe::{Layer, Observer};
    /// # let observer = Observer::default();
    /// let mut access = observer.access("product:42");
    /// access.hit(Layer::L1, std::time::Duration::ZERO);
    /// ```
    #[inline]
    pub fn access<'a>(&'a self, key: &'a str) -> Access<'a> {
        // Drawn, not counted off: a caller that goes through its keys in step would have the same ones sampled for ever.
        let sampled = fastrand::u32(..) & self.0.sample_mask == 0;
        if sampled {
            self.0.show(key);
        }
        Access::new(&self.0, key, sampled)
    }

    /// One access of the cache itself begins (a refresh in the background, warming): it makes no key hotter.
    ///
    /// ```
    /// # use cachetag_client::observe::Observer;
    /// # let observer = Observer::default();
    /// observer.background("product:42").loaded(std::time::Duration::from_millis(5));
    /// assert!(observer.hottest(1).is_empty());
    /// ```
    pub fn background<'a>(&'a self, key: &'a str) -> Access<'a> {
        Access::new(&self.0, key, false)
    }

    /// Something else happened.
    ///
    /// ```
    /// # use cachetag_client::observe::{Event, Observer};
    /// # let observer = Observer::default();
    /// observer.event(Event::Coalesced);
    /// assert_eq!(observer.snapshot().events["coalesced"], 1);
    /// ```
    pub fn event(&self, event: Event) {
        self.0.events.add(event.index(), 1);
    }

    /// Entries left a layer.
    ///
    /// ```
    /// # use cachetag_client::observe::{Eviction, Layer, Observer};
    /// # let observer = Observer::default();
    /// observer.evicted(Layer::L1, Eviction::Size, 3);
    /// assert_eq!(observer.snapshot().layer(Layer::L1).evictions["size"], 3);
    /// ```
    pub fn evicted(&self, layer: Layer, eviction: Eviction, entries: u64) {
        self.0.evictions[layer.index()].add(eviction.index(), entries);
    }

    /// The `k` keys that are asked for most, hottest first, as the sketch counts them: one access in [`ObserverOptions::sample_every`].
    ///
    /// ```
    /// # use cachetag_client::observe::Observer;
    /// assert!(Observer::default().hottest(100).is_empty());
    /// ```
    pub fn hottest(&self, k: usize) -> Vec<Counted> {
        self.0.sketch.lock().top(k)
    }

    /// Everything, now.
    ///
    /// ```
    /// # use cachetag_client::observe::Observer;
    /// assert_eq!(Observer::default().snapshot().total.loads, 0);
    /// ```
    pub fn snapshot(&self) -> Snapshot {
        Snapshot::of(&self.0)
    }
}

impl Inner {
    #[cold]
    fn show(&self, key: &str) {
        let mut sketch = self.sketch.lock();
        sketch.record(key);
        if sketch.total() >= self.options.remember.max(2) {
            sketch.halve();
        }
    }

    pub(super) fn went(&self, key: &str, steps: Vec<Step>) {
        if tracing::enabled!(tracing::Level::TRACE) {
            let way: Vec<String> = steps.iter().map(Step::to_string).collect();
            tracing::trace!(cache = self.options.name, key, way = way.join(" → "), "the first layer had no answer");
        }
        self.paths.keep(key, steps);
    }
}

#[cfg(test)]
#[path = "observer_tests.rs"]
mod tests;

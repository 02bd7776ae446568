//! One access, told as it goes from layer to layer.

use std::time::{Duration, Instant};

use super::counters::micros;
use super::layer::Layer;
use super::observer::Inner;
use super::path::{Answer, Step};
use super::prefixes::Prefix;
use super::reason::MissReason;

/// One access to a key, told as it goes from layer to layer. Dropped half-way (a cancelled future), it keeps what was said so far.
///
/// A layer's time runs from the last answer, or from [`Access::ask`], to its own answer. In the first layer only sampled accesses are timed: reading the clock
/// costs as much as the hit.
///
/// ```
/// use cachetag_client::observe::{Layer, MissReason, Observer};
/// use std::time::Duration;
///
/// let observer = Observer::default();
/// let mut access = observer.access("product:42");
/// access.miss(Layer::L1, MissReason::None);
/// access.miss(Layer::L2, MissReason::Bumped);
/// access.loaded(Duration::from_millis(30));
/// drop(access);
///
/// let snapshot = observer.snapshot();
/// assert_eq!(snapshot.layer(Layer::L2).misses["bumped"], 1);
/// assert_eq!(snapshot.paths[0].steps.len(), 3);
/// ```
pub struct Access<'a> {
    inner: &'a Inner,
    key: &'a str,
    prefix: &'a Prefix,
    /// Since when the layer is asked; `None`: this is not timed.
    since: Option<Instant>,
    /// Empty, and so without memory, unless the first layer misses.
    steps: Vec<Step>,
}

impl<'a> Access<'a> {
    #[inline]
    pub(super) fn new(inner: &'a Inner, key: &'a str, timed: bool) -> Access<'a> {
        let since = timed.then(Instant::now);
        Access { inner, key, prefix: inner.prefixes.of(key), since, steps: Vec::new() }
    }

    /// The next layer is asked from now on; what went before (a wait for another's load, for a slot) is not its time.
    ///
    /// ```
    /// # use cachetag_client::observe::{Layer, Observer};
    /// # let observer = Observer::default();
    /// let mut access = observer.access("product:42");
    /// access.ask();
    /// access.hit(Layer::L2, std::time::Duration::ZERO);
    /// assert_eq!(observer.snapshot().layer(Layer::L2).latency.count, 1);
    /// ```
    pub fn ask(&mut self) {
        self.since = Some(Instant::now());
    }

    /// The layer had a valid value, which took `cost` to load.
    ///
    /// ```
    /// # use cachetag_client::observe::{Layer, Observer};
    /// # use std::time::Duration;
    /// # let observer = Observer::default();
    /// observer.access("product:42").hit(Layer::L1, Duration::from_millis(30));
    /// assert_eq!(observer.snapshot().layer(Layer::L1).hits, 1);
    /// ```
    #[inline]
    pub fn hit(&mut self, layer: Layer, cost: Duration) {
        self.prefix.layer(layer).hits.hit(cost);
        self.answered(layer, Answer::Hit);
    }

    /// The layer had a value that may be used while it is made anew. It counts as a hit.
    ///
    /// ```
    /// # use cachetag_client::observe::{Layer, Observer};
    /// # let observer = Observer::default();
    /// observer.access("product:42").stale(Layer::L2, std::time::Duration::ZERO);
    /// assert_eq!(observer.snapshot().layer(Layer::L2).hits, 1);
    /// ```
    pub fn stale(&mut self, layer: Layer, cost: Duration) {
        self.prefix.layer(layer).hits.hit(cost);
        self.answered(layer, Answer::Stale);
    }

    /// The layer had none, for this reason.
    ///
    /// ```
    /// # use cachetag_client::observe::{Layer, MissReason, Observer};
    /// # let observer = Observer::default();
    /// observer.access("product:42").miss(Layer::L1, MissReason::Feed);
    /// assert_eq!(observer.snapshot().layer(Layer::L1).misses["feed"], 1);
    /// ```
    pub fn miss(&mut self, layer: Layer, reason: MissReason) {
        self.prefix.layer(layer).misses.add(reason.index(), 1);
        self.step(layer, Answer::Miss(reason));
        self.ask();
    }

    /// The loader returned a value, in this time.
    ///
    /// ```
    /// # use cachetag_client::observe::Observer;
    /// # use std::time::Duration;
    /// # let observer = Observer::default();
    /// observer.access("product:42").loaded(Duration::from_millis(30));
    /// assert_eq!(observer.snapshot().total.loads, 1);
    /// ```
    pub fn loaded(&mut self, took: Duration) {
        self.load(took, Answer::Loaded);
    }

    /// The loader failed, after this time.
    ///
    /// ```
    /// # use cachetag_client::observe::Observer;
    /// # use std::time::Duration;
    /// # let observer = Observer::default();
    /// observer.access("product:42").load_failed(Duration::from_millis(30));
    /// assert_eq!(observer.snapshot().total.failed_loads, 1);
    /// ```
    pub fn load_failed(&mut self, took: Duration) {
        self.load(took, Answer::Failed);
    }

    fn load(&mut self, took: Duration, answer: Answer) {
        self.prefix.load(took, answer == Answer::Loaded);
        self.prefix.layer(Layer::Loader).record(took);
        self.steps.push(Step { layer: Layer::Loader, answer, took_us: micros(took) });
        self.ask();
    }

    #[inline]
    fn answered(&mut self, layer: Layer, answer: Answer) {
        // Neither is so for most hits of the first layer.
        if self.since.is_some() || !self.steps.is_empty() {
            self.step(layer, answer);
        }
    }

    #[cold]
    fn step(&mut self, layer: Layer, answer: Answer) {
        let took = self.since.take().map(|since| since.elapsed());
        if let Some(took) = took {
            self.prefix.layer(layer).record(took);
        }
        let missed = matches!(answer, Answer::Miss(_));
        if missed || !self.steps.is_empty() {
            self.steps.push(Step { layer, answer, took_us: took.map_or(0, micros) });
        }
    }
}

impl Drop for Access<'_> {
    #[inline]
    fn drop(&mut self) {
        if !self.steps.is_empty() {
            self.inner.went(self.key, std::mem::take(&mut self.steps));
        }
    }
}

//! Everything that an observer has seen, at one moment.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde::Serialize;

use super::event::{Event, Eviction};
use super::histogram::{Latency, latency};
use super::layer::Layer;
use super::observer::Inner;
use super::path::MissPath;
use super::prefixes::{LayerCounters, Prefix};
use super::reason::MissReason;

/// Everything that an observer has seen, at one moment. Counts only rise; those of hot keys fade.
///
/// ```
/// use cachetag_client::observe::{Layer, MissReason, Observer};
///
/// let observer = Observer::default();
/// observer.access("product:42").miss(Layer::L1, MissReason::None);
/// let snapshot = observer.snapshot();
/// assert_eq!(snapshot.layer(Layer::L1).misses["none"], 1);
/// assert!(serde_json::to_string(&snapshot)?.contains(r#""prefix":"product""#));
/// # Ok::<(), serde_json::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Snapshot {
    /// The name of the cache.
    pub name: String,
    /// All prefixes together.
    pub total: Numbers,
    /// Each layer, all prefixes together; nearest first.
    pub layers: Vec<LayerNumbers>,
    /// Each prefix that was asked for; `other` last.
    pub prefixes: Vec<PrefixNumbers>,
    /// What else happened, by name.
    pub events: BTreeMap<&'static str, u64>,
    /// The hottest keys, hottest first.
    pub hot_keys: Vec<HotKey>,
    /// The share of accesses that the hot keys take, at least, 0 to 1.
    pub concentration: f64,
    /// The last accesses that the first layer could not answer, latest last.
    pub paths: Vec<MissPath>,
}

/// What the cache is worth.
///
/// ```
/// # use cachetag_client::observe::Observer;
/// assert_eq!(Observer::default().snapshot().total.effectiveness, 0.0);
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct Numbers {
    /// Loads that returned.
    pub loads: u64,
    /// Loads that failed.
    pub failed_loads: u64,
    /// The load time that hits saved, in seconds: for each hit what its entry took to load.
    pub saved_seconds: f64,
    /// The load time that was spent, in seconds.
    pub paid_seconds: f64,
    /// The share of load time saved: `saved ÷ (saved + paid)`. A hit ratio that counts a hit for what it spared: cheap hits and dear misses do not look good.
    pub effectiveness: f64,
}

/// What a layer did.
///
/// ```
/// # use cachetag_client::observe::{Layer, Observer};
/// assert_eq!(Observer::default().snapshot().layer(Layer::L1).hits, 0);
/// ```
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct LayerNumbers {
    /// The layer.
    pub layer: Layer,
    /// Hits, stale ones too.
    pub hits: u64,
    /// Misses, by [reason](MissReason).
    pub misses: BTreeMap<&'static str, u64>,
    /// `hits ÷ (hits + misses)`, 0 if never asked.
    pub hit_ratio: f64,
    /// How long it took to answer; in the first layer sampled.
    pub latency: Latency,
    /// Entries that left it, by [cause](Eviction); only where all prefixes are together.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub evictions: BTreeMap<&'static str, u64>,
}

/// What was done for the keys of a prefix.
///
/// ```
/// # use cachetag_client::observe::{Layer, Observer};
/// # let observer = Observer::default();
/// observer.access("product:42").loaded(std::time::Duration::from_millis(1));
/// assert_eq!(observer.snapshot().prefixes[0].prefix, "product");
/// ```
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct PrefixNumbers {
    /// The prefix.
    pub prefix: String,
    /// What the cache is worth to it.
    pub total: Numbers,
    /// Each layer that was asked.
    pub layers: Vec<LayerNumbers>,
}

/// A key that is asked for often, of late.
///
/// ```
/// # use cachetag_client::observe::{Observer, ObserverOptions};
/// let observer = Observer::new(ObserverOptions { sample_every: 1, ..ObserverOptions::default() });
/// drop(observer.access("product:42"));
/// assert_eq!(observer.snapshot().hot_keys[0].accesses, 1);
/// ```
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct HotKey {
    /// The key.
    pub key: String,
    /// Its accesses of late, estimated from the sample.
    pub accesses: u64,
    /// Its share of all accesses of late, at least.
    pub share: f64,
}

impl Snapshot {
    pub(super) fn of(inner: &Inner) -> Snapshot {
        let prefixes = inner.prefixes.all();
        let asked = prefixes.iter().map(|prefix| PrefixNumbers::of(prefix)).filter(PrefixNumbers::was_asked);
        let (hot_keys, concentration) = hot_keys(inner);
        Snapshot {
            name: inner.options.name.clone(),
            total: Numbers::of(&prefixes),
            prefixes: asked.collect(),
            layers: Layer::ALL
                .into_iter()
                .map(|layer| {
                    let counters: Vec<_> = prefixes.iter().map(|prefix| prefix.layer(layer)).collect();
                    let evictions = named(
                        Eviction::ALL
                            .iter()
                            .map(|cause| (cause.name(), inner.evictions[layer.index()].get(cause.index()))),
                    );
                    LayerNumbers { evictions, ..LayerNumbers::of(layer, &counters) }
                })
                .collect(),
            events: named(Event::ALL.iter().map(|event| (event.name(), inner.events.get(event.index())))),
            hot_keys,
            concentration,
            paths: inner.paths.last(),
        }
    }

    /// What a layer did, all prefixes together.
    ///
    /// ```
    /// # use cachetag_client::observe::{Layer, Observer};
    /// assert!(Observer::default().snapshot().layer(Layer::L3).misses.is_empty());
    /// ```
    pub fn layer(&self, layer: Layer) -> &LayerNumbers {
        &self.layers[layer.index()]
    }
}

impl Numbers {
    fn of(prefixes: &[&Prefix]) -> Numbers {
        let sum = |of: fn(&Prefix) -> u64| prefixes.iter().map(|prefix| of(prefix)).sum();
        let saved: Duration =
            prefixes.iter().flat_map(|prefix| Layer::ALL.map(|layer| prefix.layer(layer).hits.saved())).sum();
        let paid: Duration = prefixes.iter().map(|prefix| prefix.paid()).sum();
        Numbers {
            loads: sum(|prefix| prefix.loads.load(Ordering::Relaxed)),
            failed_loads: sum(|prefix| prefix.failed_loads.load(Ordering::Relaxed)),
            saved_seconds: saved.as_secs_f64(),
            paid_seconds: paid.as_secs_f64(),
            effectiveness: share(saved.as_micros() as f64, paid.as_micros() as f64),
        }
    }
}

impl LayerNumbers {
    fn of(layer: Layer, counters: &[&LayerCounters]) -> LayerNumbers {
        let hits = counters.iter().map(|counters| counters.hits.hits()).sum();
        let misses =
            named(MissReason::ALL.iter().map(|reason| {
                (reason.name(), counters.iter().map(|counters| counters.misses.get(reason.index())).sum())
            }));
        LayerNumbers {
            layer,
            hits,
            hit_ratio: share(hits as f64, misses.values().sum::<u64>() as f64),
            misses,
            latency: latency(counters.iter().filter_map(|counters| counters.latency())),
            evictions: BTreeMap::new(),
        }
    }

    fn was_asked(&self) -> bool {
        self.hits > 0 || !self.misses.is_empty() || self.latency.count > 0
    }
}

impl PrefixNumbers {
    fn of(prefix: &Prefix) -> PrefixNumbers {
        let layers = Layer::ALL.into_iter().map(|layer| LayerNumbers::of(layer, &[prefix.layer(layer)]));
        PrefixNumbers {
            prefix: prefix.name.to_string(),
            total: Numbers::of(&[prefix]),
            layers: layers.filter(LayerNumbers::was_asked).collect(),
        }
    }

    fn was_asked(&self) -> bool {
        !self.layers.is_empty()
    }
}

fn hot_keys(inner: &Inner) -> (Vec<HotKey>, f64) {
    let (top, total) = {
        let sketch = inner.sketch.lock();
        (sketch.top(inner.options.hot_keys), sketch.total())
    };
    let sure = |count: u64| if total == 0 { 0.0 } else { (count as f64 / total as f64).min(1.0) };
    let concentration = sure(top.iter().map(|counted| counted.count - counted.over).sum());
    let every = u64::from(inner.options.sample_every);
    let keys = top.into_iter().map(|counted| HotKey {
        key: Arc::<str>::as_ref(&counted.key).to_owned(),
        accesses: counted.count.saturating_mul(every),
        share: sure(counted.count - counted.over),
    });
    (keys.collect(), concentration)
}

/// Those that are not zero.
fn named(all: impl Iterator<Item = (&'static str, u64)>) -> BTreeMap<&'static str, u64> {
    all.filter(|(_, count)| *count > 0).collect()
}

fn share(part: f64, rest: f64) -> f64 {
    if part + rest == 0.0 { 0.0 } else { part / (part + rest) }
}

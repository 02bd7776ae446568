//! The numbers, through the `metrics` facade.
//!
//! They are set from a [`Snapshot`], now and then, not where they arise: a recorder looks a name and its labels up on each call, which would cost more
//! than the hit that it counts.

use metrics::{Unit, counter, describe_counter, describe_gauge, gauge};

use super::histogram::Latency;
use super::snapshot::{LayerNumbers, Numbers, Snapshot};

const HITS: &str = "cachetag_client_hits_total";
const MISSES: &str = "cachetag_client_misses_total";
const LATENCY: &str = "cachetag_client_latency_seconds";
const LOADS: &str = "cachetag_client_loads_total";
const EVICTIONS: &str = "cachetag_client_evictions_total";
const EVENTS: &str = "cachetag_client_events_total";
const SAVED: &str = "cachetag_client_load_saved_seconds";
const PAID: &str = "cachetag_client_load_paid_seconds";
const EFFECTIVENESS: &str = "cachetag_client_effectiveness";
const CONCENTRATION: &str = "cachetag_client_concentration";

/// Tells the recorder what the numbers mean. Once a process, after the recorder is installed.
///
/// ```
/// cachetag_client::observe::describe();
/// ```
pub fn describe() {
    describe_counter!(HITS, "hits, by cache, layer and key prefix");
    describe_counter!(MISSES, "misses, by cache, layer, key prefix and reason");
    describe_gauge!(
        LATENCY,
        Unit::Seconds,
        "how long a layer takes to answer, by cache, layer, key prefix and quantile"
    );
    describe_counter!(LOADS, "calls of the loader, by cache, key prefix and result");
    describe_counter!(EVICTIONS, "entries that left a layer, by cache, layer and cause");
    describe_counter!(EVENTS, "what else happens, by cache and event");
    describe_gauge!(SAVED, Unit::Seconds, "the load time that hits saved, by cache and key prefix");
    describe_gauge!(PAID, Unit::Seconds, "the load time that was spent, by cache and key prefix");
    describe_gauge!(EFFECTIVENESS, "the share of load time saved, 0 to 1, by cache and key prefix");
    describe_gauge!(CONCENTRATION, "the share of accesses that the hottest keys take, at least, 0 to 1, by cache");
}

impl Snapshot {
    /// Sets the numbers of the `metrics` facade to these. Single keys are not among them.
    ///
    /// ```
    /// cachetag_client::observe::Observer::default().snapshot().publish();
    /// ```
    pub fn publish(&self) {
        for prefix in &self.prefixes {
            publish_total(&self.name, &prefix.prefix, &prefix.total);
            for layer in &prefix.layers {
                publish_layer(&self.name, &prefix.prefix, layer);
            }
        }
        for layer in &self.layers {
            for (&cause, &count) in &layer.evictions {
                let labels =
                    [("cache", self.name.clone()), ("layer", layer.layer.name().into()), ("cause", cause.into())];
                counter!(EVICTIONS, &labels).absolute(count);
            }
        }
        for (&event, &count) in &self.events {
            counter!(EVENTS, "cache" => self.name.clone(), "event" => event).absolute(count);
        }
        gauge!(CONCENTRATION, "cache" => self.name.clone()).set(self.concentration);
    }
}

fn publish_total(cache: &str, prefix: &str, numbers: &Numbers) {
    let labels = [("cache", cache.to_owned()), ("prefix", prefix.to_owned())];
    for (result, count) in [("ok", numbers.loads), ("failed", numbers.failed_loads)] {
        counter!(LOADS, "cache" => cache.to_owned(), "prefix" => prefix.to_owned(), "result" => result).absolute(count);
    }
    gauge!(SAVED, &labels).set(numbers.saved_seconds);
    gauge!(PAID, &labels).set(numbers.paid_seconds);
    gauge!(EFFECTIVENESS, &labels).set(numbers.effectiveness);
}

fn publish_layer(cache: &str, prefix: &str, numbers: &LayerNumbers) {
    let layer = numbers.layer.name();
    counter!(HITS, "cache" => cache.to_owned(), "layer" => layer, "prefix" => prefix.to_owned()).absolute(numbers.hits);
    for (&reason, &count) in &numbers.misses {
        counter!(MISSES, "cache" => cache.to_owned(), "layer" => layer, "prefix" => prefix.to_owned(), "reason" => reason)
            .absolute(count);
    }
    let Latency { p50_ns, p90_ns, p99_ns, p999_ns, .. } = numbers.latency;
    for (quantile, ns) in [("0.5", p50_ns), ("0.9", p90_ns), ("0.99", p99_ns), ("0.999", p999_ns)] {
        gauge!(LATENCY, "cache" => cache.to_owned(), "layer" => layer, "prefix" => prefix.to_owned(), "quantile" => quantile)
            .set(ns as f64 / 1e9);
    }
}

#[cfg(test)]
#[path = "publish_tests.rs"]
mod tests;

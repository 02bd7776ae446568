use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use metrics::{Counter, CounterFn, Gauge, GaugeFn, Histogram, Key, KeyName, Metadata, Recorder, SharedString};
use parking_lot::Mutex;

use super::*;
use crate::observe::{Event, Eviction, Layer, MissReason, Observer};

type Values = Arc<Mutex<BTreeMap<String, f64>>>;

/// Keeps what is set, by name and labels.
#[derive(Default)]
struct Kept {
    values: Values,
    described: Arc<Mutex<Vec<String>>>,
}

struct Place(Values, String);

impl CounterFn for Place {
    fn increment(&self, _: u64) {
        unreachable!("counters are set");
    }
    fn absolute(&self, value: u64) {
        self.0.lock().insert(self.1.clone(), value as f64);
    }
}

impl GaugeFn for Place {
    fn increment(&self, _: f64) {
        unreachable!("gauges are set");
    }
    fn decrement(&self, _: f64) {
        unreachable!("gauges are set");
    }
    fn set(&self, value: f64) {
        self.0.lock().insert(self.1.clone(), value);
    }
}

impl Kept {
    fn place(&self, key: &Key) -> Arc<Place> {
        let labels: Vec<String> = key.labels().map(|label| format!("{}={}", label.key(), label.value())).collect();
        Arc::new(Place(self.values.clone(), format!("{}{{{}}}", key.name(), labels.join(","))))
    }
}

impl Recorder for Kept {
    fn describe_counter(&self, key: KeyName, _: Option<Unit>, _: SharedString) {
        self.described.lock().push(key.as_str().to_owned());
    }
    fn describe_gauge(&self, key: KeyName, _: Option<Unit>, _: SharedString) {
        self.described.lock().push(key.as_str().to_owned());
    }
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn register_counter(&self, key: &Key, _: &Metadata<'_>) -> Counter {
        Counter::from_arc(self.place(key))
    }
    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(self.place(key))
    }
    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        unreachable!("percentiles are gauges");
    }
}

#[test]
fn every_number_is_published_and_described() {
    let observer = Observer::default();
    let mut access = observer.access("page:1");
    access.miss(Layer::L1, MissReason::Bumped);
    access.miss(Layer::L2, MissReason::Timeout);
    access.loaded(Duration::from_millis(10));
    drop(access);
    (0..3).for_each(|_| observer.access("page:1").hit(Layer::L1, Duration::from_millis(10)));
    observer.event(Event::Backfilled);
    observer.evicted(Layer::L1, Eviction::Expired, 2);

    let kept = Kept::default();
    metrics::with_local_recorder(&kept, || {
        describe();
        observer.snapshot().publish();
    });
    let values = kept.values.lock();
    for (name, value) in [
        ("cachetag_client_hits_total{cache=cache,layer=l1,prefix=page}", 3.0),
        ("cachetag_client_misses_total{cache=cache,layer=l1,prefix=page,reason=bumped}", 1.0),
        ("cachetag_client_misses_total{cache=cache,layer=l2,prefix=page,reason=timeout}", 1.0),
        ("cachetag_client_loads_total{cache=cache,prefix=page,result=ok}", 1.0),
        ("cachetag_client_effectiveness{cache=cache,prefix=page}", 0.75),
        ("cachetag_client_events_total{cache=cache,event=backfilled}", 1.0),
        ("cachetag_client_evictions_total{cache=cache,layer=l1,cause=expired}", 2.0),
    ] {
        assert_eq!(values.get(name), Some(&value), "{name} of {values:#?}");
    }
    let p99 = values["cachetag_client_latency_seconds{cache=cache,layer=loader,prefix=page,quantile=0.99}"];
    assert!((p99 - 0.01).abs() < 0.001);
    let described = kept.described.lock();
    for name in values.keys() {
        let name = name.split('{').next().unwrap();
        assert!(described.iter().any(|known| known == name), "{name} is not described");
    }
}

use std::time::{Duration, Instant};

use super::*;
use crate::observe::{Answer, MissReason};

const COST: Duration = Duration::from_millis(20);

fn every_access() -> Observer {
    Observer::new(ObserverOptions { sample_every: 1, ..ObserverOptions::default() })
}

#[test]
fn a_miss_leaves_its_path_and_a_hit_none() {
    let observer = every_access();
    observer.access("page:1").hit(Layer::L1, COST);
    let mut access = observer.access("page:2");
    access.miss(Layer::L1, MissReason::None);
    access.miss(Layer::L2, MissReason::Breaker);
    access.hit(Layer::L3, COST);
    drop(access);
    let snapshot = observer.snapshot();
    assert_eq!(snapshot.paths.len(), 1);
    assert_eq!(snapshot.paths[0].key, "page:2");
    let steps: Vec<_> = snapshot.paths[0].steps.iter().map(|step| (step.layer, step.answer)).collect();
    assert_eq!(
        steps,
        [
            (Layer::L1, Answer::Miss(MissReason::None)),
            (Layer::L2, Answer::Miss(MissReason::Breaker)),
            (Layer::L3, Answer::Hit)
        ]
    );
    assert_eq!(snapshot.layer(Layer::L1).hit_ratio, 0.5);
    assert_eq!(snapshot.layer(Layer::L3).latency.count, 1);
}

#[test]
fn only_the_last_paths_are_kept() {
    let observer = Observer::new(ObserverOptions { paths: 2, ..ObserverOptions::default() });
    for key in ["a", "b", "c"] {
        observer.access(key).miss(Layer::L1, MissReason::None);
    }
    let keys: Vec<_> = observer.snapshot().paths.into_iter().map(|path| path.key).collect();
    assert_eq!(keys, ["b", "c"]);
}

#[test]
fn prefixes_are_told_apart_and_add_up() {
    let observer = every_access();
    for n in 0..10 {
        observer.access(&format!("page:{n}")).hit(Layer::L1, COST);
        observer.access(&format!("user:{n}")).miss(Layer::L1, MissReason::Lag);
        observer.access(&format!("user:{n}")).load_failed(COST);
    }
    let snapshot = observer.snapshot();
    let names: Vec<_> = snapshot.prefixes.iter().map(|prefix| prefix.prefix.as_str()).collect();
    assert_eq!(names, ["page", "user"]);
    assert_eq!((snapshot.prefixes[0].total.effectiveness, snapshot.prefixes[1].total.effectiveness), (1.0, 0.0));
    assert_eq!((snapshot.total.effectiveness, snapshot.total.failed_loads), (0.5, 10));
    assert_eq!(snapshot.layer(Layer::L1).misses["lag"], 10);
}

/// One access in 32: the hot key is found, and its share is about right.
#[test]
fn a_sample_finds_the_hot_key() {
    fastrand::seed(9);
    let observer = Observer::default();
    for n in 0..100_000 {
        let hot = n % 4 == 0;
        let key = if hot { "home:1".to_owned() } else { format!("page:{n}") };
        observer.access(&key).hit(Layer::L1, COST);
    }
    let snapshot = observer.snapshot();
    assert_eq!(snapshot.hot_keys[0].key, "home:1");
    assert!((snapshot.hot_keys[0].share - 0.25).abs() < 0.03, "{}", snapshot.hot_keys[0].share);
    assert!((snapshot.hot_keys[0].accesses as f64 - 25_000.0).abs() < 3000.0);
    assert!((0.22..0.32).contains(&snapshot.concentration), "{}", snapshot.concentration);
    assert_eq!(snapshot.layer(Layer::L1).hits, 100_000);
    let timed = snapshot.layer(Layer::L1).latency.count;
    assert!((2700..3600).contains(&timed), "{timed}");
}

#[test]
fn a_snapshot_is_readable_as_json() {
    let observer = every_access();
    let mut access = observer.access("page:1");
    access.miss(Layer::L1, MissReason::Schema);
    access.loaded(COST);
    drop(access);
    let json = serde_json::to_value(observer.snapshot()).unwrap();
    assert_eq!(json["layers"][0]["misses"]["schema"], 1);
    assert_eq!(json["paths"][0]["steps"][0]["answer"]["miss"], "schema");
    assert_eq!(json["paths"][0]["steps"][1]["answer"], "loaded");
}

/// Not a benchmark: prints what a counted hit costs, and fails only if it has become absurd.
#[test]
fn a_hit_costs_little() {
    let observer = Observer::default();
    let begin = Instant::now();
    for _ in 0..100_000 {
        observer.access("page:product:42").hit(Layer::L1, COST);
    }
    let each = begin.elapsed() / 100_000;
    println!("a counted hit takes {each:?}");
    assert!(each < Duration::from_micros(20));
}

//! What must not stay in a cache: errors, half of a value, a value of another kind, and loads that ended badly.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use cachetag_client::envelope::{Envelope, Format};
use cachetag_client::third::Stored;
use cachetag_client::{Cache, Error, Load, Source};
use cachetag_tests::eventually;
use redis::cmd;

use super::gate::Gate;
use super::{is_stored, patient};
use crate::shelf::Shelf;
use crate::trial::{PATIENCE, Trial};

/// Long enough to be compressed.
const LENGTH: u32 = 5_000;
const ENTRY: &str = "{ct}:e:list";

#[tokio::test]
async fn an_error_is_stored_in_no_layer() {
    let trial = Trial::start().await;
    let shelf = Shelf::default();
    let cache = trial.cache(patient(&trial).third(shelf.clone())).await;
    let calls = Arc::new(AtomicUsize::new(0));
    for call in 1..=5 {
        let counted = calls.clone();
        let failing = move |load: Load| async move {
            load.tag("item:1");
            counted.fetch_add(1, Ordering::SeqCst);
            Err::<i32, _>(std::io::Error::other("half a page"))
        };
        assert!(cache.get_or_load("k", failing).await.expect_err("it fails").is_loader());
        assert_eq!(calls.load(Ordering::SeqCst), call, "each call asks anew");
    }
    let counted = calls.clone();
    let failing = move |loads: Vec<Load>| async move {
        counted.fetch_add(loads.len(), Ordering::SeqCst);
        Err::<Vec<Option<i32>>, _>(std::io::Error::other("half of them"))
    };
    assert!(cache.get_many(&["k", "l"], failing).await.expect_err("it fails").is_loader());
    // One value too few is none at all: whose it would be nobody knows.
    let short = |_| async { Ok::<_, std::io::Error>(vec![Some(1)]) };
    assert!(cache.get_many(&["k", "l"], short).await.is_err());
    assert_eq!(calls.load(Ordering::SeqCst), 7);
    for key in ["k", "l"] {
        assert!(cache.get::<i32>(key).await.is_none());
        assert!(!is_stored(&trial, key).await, "{key} is in Redis");
    }
    assert_eq!(shelf.len(), 0);
    let works = |load: Load| async move {
        load.tag("item:1");
        Ok::<_, std::io::Error>(7)
    };
    assert_eq!(*cache.get_or_load("k", works).await.expect("a value"), 7);
    assert_eq!((shelf.len(), cache.get::<i32>("k").await.flatten().map(|value| *value)), (1, Some(7)));
}

/// What is done to an entry in Redis.
type Harm = (&'static str, fn(Vec<u8>) -> Vec<u8>);

const HARMS: [Harm; 6] = [
    ("cut short", |payload| payload[..payload.len() / 2].to_vec()),
    ("emptied", |_| Vec::new()),
    ("another byte", |mut payload| {
        let middle = payload.len() / 2;
        payload[middle] ^= 0x55;
        payload
    }),
    ("a longer end", |mut payload| {
        payload.extend_from_slice(b"]]");
        payload
    }),
    ("of another type", |_| br#"{"a":1}"#.to_vec()),
    ("no text at all", |_| vec![0xFF, 0xFE, 0, 1, 2, 3]),
];

/// Reads a list that is long enough for any envelope, whatever is in Redis.
async fn list(cache: &Cache, loads: &Arc<AtomicUsize>) -> Source {
    let loads = loads.clone();
    let loader = move |load: Load| async move {
        load.tag("item:1");
        loads.fetch_add(1, Ordering::SeqCst);
        Ok::<_, std::io::Error>((0..LENGTH).collect::<Vec<u32>>())
    };
    let read = cache.get_or_load("list", loader).await.expect("a value");
    assert!(read.iter().copied().eq(0..LENGTH), "another list");
    read.metadata().source()
}

#[tokio::test]
async fn a_damaged_entry_is_a_miss_that_the_next_load_repairs() {
    let trial = Trial::start().await;
    let mut redis = trial.stack.cache().await;
    let plain = Envelope::default().compress_from(None);
    for envelope in [Envelope::default(), plain, Envelope::default().format(Format::Postcard).schema(3)] {
        // Nothing in memory: every read is one of Redis.
        let cache = trial.cache(patient(&trial).envelope(envelope).memory(0)).await;
        let loads = Arc::new(AtomicUsize::new(0));
        for (what, harm) in HARMS {
            cache.forget("list").await.expect("forgotten");
            loads.store(0, Ordering::SeqCst);
            assert_eq!(list(&cache, &loads).await, Source::Loader);
            assert_eq!(list(&cache, &loads).await, Source::Redis, "{envelope:?} before it is {what}");
            let payload: Vec<u8> =
                cmd("HGET").arg(ENTRY).arg("payload").query_async(redis.connection()).await.expect("HGET");
            cmd("HSET")
                .arg(ENTRY)
                .arg("payload")
                .arg(harm(payload))
                .exec_async(redis.connection())
                .await
                .expect("HSET");
            assert_eq!(list(&cache, &loads).await, Source::Loader, "{envelope:?} {what}");
            assert_eq!(list(&cache, &loads).await, Source::Redis, "{envelope:?} {what}, and loaded anew");
            assert_eq!(loads.load(Ordering::SeqCst), 2, "{envelope:?} {what}");
        }
    }
}

/// What stands beside the payload is harmed: the entry says nothing any more, or is no entry at all.
#[tokio::test]
async fn an_entry_without_its_other_fields_is_never_an_error() {
    let trial = Trial::start().await;
    let mut redis = trial.stack.cache().await;
    let cache = trial.cache(patient(&trial).memory(0)).await;
    let loads = Arc::new(AtomicUsize::new(0));
    let harms: [&[&str]; 7] = [
        &["HDEL", ENTRY, "meta"],
        &["HSET", ENTRY, "meta", "1"],
        &["HDEL", ENTRY, "payload"],
        &["HDEL", ENTRY, "meta", "as_of"],
        &["HDEL", ENTRY, "meta", "keys"],
        &["HSET", ENTRY, "meta", "", "expires_at", "tomorrow"],
        &["DEL", ENTRY],
    ];
    for harm in harms {
        cache.forget("list").await.expect("forgotten");
        assert_eq!(list(&cache, &loads).await, Source::Loader);
        cmd(harm[0]).arg(&harm[1..]).exec_async(redis.connection()).await.expect("a command");
        for _ in 0..3 {
            list(&cache, &loads).await;
        }
        assert_eq!(list(&cache, &loads).await, Source::Redis, "after {harm:?} and a load");
    }
    // A stranger's key is left alone, and read past.
    cache.forget("list").await.expect("forgotten");
    cmd("SET").arg(ENTRY).arg("a stranger's").exec_async(redis.connection()).await.expect("SET");
    for _ in 0..20 {
        assert_eq!(list(&cache, &loads).await, Source::Loader);
    }
    trial.database.read(&cache, 1).await;
    assert!(is_stored(&trial, "price:1").await, "Redis is not taken for broken because of it");
}

/// Two versions of an application beside each other: each is right, neither reads what the other wrote.
#[tokio::test]
async fn another_schema_or_type_is_a_miss() {
    let trial = Trial::start().await;
    let envelope = |schema| Envelope::default().format(Format::Postcard).schema(schema);
    let old = trial.cache(patient(&trial).envelope(envelope(1))).await;
    let new = trial.cache(patient(&trial).envelope(envelope(2))).await;
    let loads = Arc::new(AtomicUsize::new(0));
    assert_eq!(list(&old, &loads).await, Source::Loader);
    assert_eq!(list(&new, &loads).await, Source::Loader);
    assert_eq!(list(&new, &loads).await, Source::Memory);
    let misses = new.snapshot().layer(cachetag_client::observe::Layer::L2).misses.clone();
    assert!(misses.contains_key("schema"), "{misses:?}");
    // The same bytes may be a value of many types, but not of this one.
    let text = async |cache: &Cache| {
        let loader = |load: Load| async move {
            load.tag("item:1");
            Ok::<_, std::io::Error>("now a text".to_owned())
        };
        let read = cache.get_or_load("list", loader).await.expect("a value");
        (read.to_string(), read.metadata().source())
    };
    let plain = trial.cache(patient(&trial)).await;
    assert_eq!(list(&plain, &loads).await, Source::Loader);
    assert_eq!(text(&plain).await, ("now a text".into(), Source::Loader));
    assert_eq!(text(&plain).await, ("now a text".into(), Source::Memory));
}

#[tokio::test]
async fn a_damaged_third_layer_is_a_miss_and_repaired() {
    let trial = Trial::start().await;
    let shelf = Shelf::default();
    let cache = trial.cache(patient(&trial).third(shelf.clone()).memory(0)).await;
    let mut redis = trial.stack.cache().await;
    let loads = Arc::new(AtomicUsize::new(0));
    let harms: [fn(&mut Stored); 3] = [
        |stored| stored.payload = stored.payload.slice(..stored.payload.len() - 1),
        |stored| stored.payload = "null".into(),
        |stored| stored.as_of = "0000000001.00000000000000000001".parse().expect("a version"),
    ];
    for harm in harms {
        list(&cache, &loads).await;
        shelf.spoil("list", harm);
        redis.drop("list").await.expect("dropped");
        assert_eq!(list(&cache, &loads).await, Source::Loader);
        redis.drop("list").await.expect("dropped");
        assert_eq!(list(&cache, &loads).await, Source::Third, "kept anew");
    }
}

/// Readers of one key, all of whom wait for one load.
async fn crowd(cache: &Cache, gate: &Gate, outcome: fn() -> i32) -> Vec<tokio::task::JoinHandle<Result<i32, Error>>> {
    const READERS: u64 = 100;
    let coalesced = || cache.snapshot().events.get("coalesced").copied().unwrap_or_default();
    let before = coalesced();
    let reader = |_| {
        let (cache, gate) = (cache.clone(), gate.clone());
        tokio::spawn(async move {
            let loader = move |load: Load| async move {
                load.tag("item:1");
                gate.pass().await;
                Ok::<_, std::io::Error>(outcome())
            };
            cache.get_or_load("crowded", loader).await.map(|value| *value)
        })
    };
    let readers = (0..READERS).map(reader).collect();
    gate.wait_for(1).await;
    eventually("all wait for one", PATIENCE, async || (coalesced() == before + READERS - 1).then_some(())).await;
    readers
}

#[tokio::test]
async fn a_panic_poisons_no_flight() {
    let trial = Trial::start().await;
    let cache = trial.cache(patient(&trial)).await;
    for _ in 0..3 {
        let gate = Gate::closed();
        let readers = crowd(&cache, &gate, || panic!("the loader breaks")).await;
        gate.open();
        for reader in readers {
            let error = reader.await.expect("the reader does not panic").expect_err("the load does");
            assert!(error.is_loader() && error.to_string().contains("the loader breaks"), "{error}");
        }
        assert_eq!(gate.arrived(), 1);
        assert!(format!("{cache:?}").contains("loads: 0"), "{cache:?}");
        assert!(!is_stored(&trial, "crowded").await);
    }
    let gate = Gate::closed();
    let readers = crowd(&cache, &gate, || 8).await;
    gate.open();
    for reader in readers {
        assert_eq!(reader.await.expect("no panic").expect("a value"), 8);
    }
    assert_eq!(gate.arrived(), 1);
    assert!(is_stored(&trial, "crowded").await);
}

/// Whoever began the load is gone, and all but one who wait for it; then all of them.
#[tokio::test]
async fn callers_who_give_up_poison_no_flight() {
    let trial = Trial::start().await;
    let cache = trial.cache(patient(&trial)).await;
    let gate = Gate::closed();
    let mut readers = crowd(&cache, &gate, || 8).await;
    let last = readers.pop().expect("a reader");
    for reader in readers {
        reader.abort();
        assert!(reader.await.expect_err("aborted").is_cancelled());
    }
    gate.open();
    assert_eq!(last.await.expect("no panic").expect("a value"), 8);
    cache.forget("crowded").await.expect("forgotten");

    let gate = Gate::closed();
    for reader in crowd(&cache, &gate, || 9).await {
        reader.abort();
        assert!(reader.await.expect_err("aborted").is_cancelled());
    }
    gate.open();
    // Nobody waits; what was loaded is there all the same, for the next one.
    eventually("the entry", PATIENCE, async || is_stored(&trial, "crowded").await.then_some(())).await;
    let again = |_| async { panic!("loaded twice") as Result<i32, std::io::Error> };
    assert_eq!(*cache.get_or_load("crowded", again).await.expect("a value"), 9);
    assert_eq!(gate.arrived(), 1);
}

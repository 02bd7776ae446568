//! Misses, and who loads.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use cachetag_client::Source;
use cachetag_client::observe::Layer;
use cachetag_tests::eventually;
use tokio::sync::Semaphore;

use crate::trial::{PATIENCE, Trial};

#[tokio::test]
async fn a_value_is_loaded_once_and_then_served_from_memory() {
    let trial = Trial::start().await;
    let cache = trial.cache(trial.builder()).await;
    let first = trial.database.get(cache.with(Default::default()), 1).await.expect("a value").expect("a price");
    assert_eq!((*first, first.metadata().source()), (10, Source::Loader));
    let again = trial.database.get(cache.with(Default::default()), 1).await.expect("a value").expect("a price");
    let known = again.metadata();
    assert_eq!((*again, known.source(), known.as_of()), (10, Source::Memory, first.metadata().as_of()));
    assert_eq!(known.tags().iter().map(|tag| tag.as_str()).collect::<Vec<_>>(), ["item:1"]);
    assert!(known.size() > 0 && known.as_of().is_some() && !known.is_stale());
    assert_eq!(trial.database.queries(), 1);
}

#[tokio::test]
async fn another_process_gets_it_from_redis_and_keeps_a_copy() {
    let trial = Trial::start().await;
    let (one, other) = (trial.cache(trial.builder()).await, trial.cache(trial.builder()).await);
    assert_eq!(trial.database.read(&one, 1).await, Some(10));
    let mut sources = Vec::new();
    for _ in 0..2 {
        let got = trial.database.get(other.with(Default::default()), 1).await.expect("a value").expect("a price");
        sources.push(got.metadata().source());
    }
    assert_eq!(sources, [Source::Redis, Source::Memory]);
    assert_eq!(trial.database.queries(), 1);
}

#[tokio::test]
async fn a_row_that_changes_is_loaded_anew_and_never_served_again() {
    let trial = Trial::start().await;
    let cache = trial.cache(trial.builder()).await;
    for price in 11..30 {
        trial.database.read(&cache, 1).await;
        trial.stack.sql(&format!("UPDATE items SET price = {price} WHERE id = 1")).await;
        let price_of = async || (trial.database.read(&cache, 1).await == Some(price)).then_some(());
        eventually("the new price", PATIENCE, price_of).await;
        for _ in 0..10 {
            assert_eq!(trial.database.read(&cache, 1).await, Some(price), "back to an old price");
        }
    }
}

#[tokio::test]
async fn an_absence_is_remembered_until_the_row_is_there() {
    let trial = Trial::start().await;
    let cache = trial.cache(trial.builder()).await;
    for _ in 0..3 {
        assert_eq!(trial.database.read(&cache, 77).await, None);
    }
    assert_eq!(trial.database.queries(), 1);
    trial.stack.sql("INSERT INTO items VALUES (77, 1, 7)").await;
    eventually("the row", PATIENCE, async || trial.database.read(&cache, 77).await).await;
}

#[tokio::test]
async fn many_who_miss_share_one_load() {
    let trial = Trial::start().await;
    let cache = trial.cache(trial.builder()).await;
    let mut tasks = Vec::new();
    for _ in 0..5_000 {
        let (cache, database) = (cache.clone(), trial.database.clone());
        tasks.push(tokio::spawn(async move { database.read(&cache, 1).await }));
    }
    for task in tasks {
        assert_eq!(task.await.expect("no panic"), Some(10));
    }
    assert_eq!(trial.database.queries(), 1);
}

#[tokio::test]
async fn processes_share_one_load_too() {
    let trial = Trial::start().await;
    let loads = Arc::new(AtomicUsize::new(0));
    let mut tasks = Vec::new();
    for _ in 0..4 {
        // A cache of its own has a memory and connections of its own, as a process does.
        let cache = trial.cache(trial.builder()).await;
        for _ in 0..100 {
            let (cache, loads) = (cache.clone(), loads.clone());
            tasks.push(tokio::spawn(async move {
                let slow = |load: cachetag_client::Load| async move {
                    load.tag("item:1");
                    loads.fetch_add(1, Ordering::SeqCst);
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    Ok::<_, std::io::Error>(7)
                };
                cache.get_or_load("slow", slow).await.map(|cached| *cached)
            }));
        }
    }
    for task in tasks {
        assert_eq!(task.await.expect("no panic").expect("a value"), 7);
    }
    assert_eq!(loads.load(Ordering::SeqCst), 1);
}

/// Whoever has waited long enough for another process loads by itself, and says so.
#[tokio::test]
async fn nobody_waits_for_another_process_forever() {
    let trial = Trial::start().await;
    let slow = trial.cache(trial.builder()).await;
    let hasty = trial.cache(trial.builder().lease_wait(Duration::from_millis(200))).await;
    let gate = Arc::new(Semaphore::new(0));
    let first = {
        let (slow, gate) = (slow.clone(), gate.clone());
        tokio::spawn(async move {
            let load = |_| async move {
                gate.acquire().await.expect("it is never closed").forget();
                Ok::<_, std::io::Error>(5)
            };
            slow.get_or_load("k", load).await.map(|cached| *cached)
        })
    };
    // By now the lease is the first one's, or will be: a second asker is told to wait, or loads.
    eventually("the first one loads", PATIENCE, async || {
        (trial.stack.explain("k").await["lease"] == "held").then_some(())
    })
    .await;
    let read = hasty.get_or_load("k", |_| async { Ok::<_, std::io::Error>(6) }).await.expect("a value");
    assert_eq!((*read, read.metadata().source()), (6, Source::Loader));
    assert_eq!(hasty.snapshot().layer(Layer::L2).misses.get("wait"), Some(&1));
    assert_eq!(hasty.snapshot().events.get("lease_wait"), Some(&1));
    gate.add_permits(1);
    assert_eq!(first.await.expect("no panic").expect("a value"), 5);
}

#[tokio::test]
async fn a_reader_that_gives_up_disturbs_nobody() {
    let trial = Trial::start().await;
    let cache = trial.cache(trial.builder()).await;
    let load = |value: i32| {
        move |load: cachetag_client::Load| async move {
            load.tag("item:1");
            tokio::time::sleep(Duration::from_millis(150)).await;
            Ok::<_, std::io::Error>(value)
        }
    };
    let impatient = tokio::time::timeout(Duration::from_millis(20), cache.get_or_load("k", load(1)));
    assert!(impatient.await.is_err());
    // The load that it began goes on.
    assert_eq!(*cache.get_or_load("k", load(2)).await.expect("a value"), 1);
}

#[tokio::test]
async fn an_error_reaches_all_who_wait_and_is_not_stored() {
    let trial = Trial::start().await;
    let cache = trial.cache(trial.builder()).await;
    let failing = |_| async { Err::<i32, _>(std::io::Error::other("the database is away")) };
    let (one, two) = tokio::join!(cache.get_or_load("k", failing), cache.get_or_load("k", failing));
    for error in [one.expect_err("fails"), two.expect_err("fails")] {
        assert!(error.is_loader(), "{error}");
        assert_eq!(error.loader_error::<std::io::Error>().expect("its type").to_string(), "the database is away");
    }
    let panics = |_| async { panic!("boom") as Result<i32, std::io::Error> };
    assert!(cache.get_or_load("k", panics).await.expect_err("fails").is_loader());
    let works = |load: cachetag_client::Load| async move {
        load.tag("item:1");
        Ok::<_, std::io::Error>(5)
    };
    assert_eq!(*cache.get_or_load("k", works).await.expect("the lease was given back"), 5);
}

#[tokio::test]
async fn many_keys_take_one_load_and_one_round_trip() {
    let trial = Trial::start().await;
    let cache = trial.cache(trial.builder()).await;
    let other = trial.cache(trial.builder()).await;
    assert_eq!(trial.database.read(&cache, 2).await, Some(10));
    let keys: Vec<String> = (1..=20).map(|id| format!("price:{id}")).collect();
    for (cache, expected) in [(&cache, 1), (&cache, 0), (&other, 0)] {
        let before = trial.database.queries();
        let database = trial.database.clone();
        let prices = cache.get_many(&keys, |loads| async move {
            assert!(loads.iter().all(|load| load.key() != "price:2"), "it is there");
            let mut prices = Vec::new();
            for load in loads {
                let id = load.key()[6..].parse().expect("a number");
                prices.push(database.clone().price(load, id).await?);
            }
            Ok::<_, tokio_postgres::Error>(prices)
        });
        let prices = prices.await.expect("values");
        let expected_prices: Vec<Option<i32>> = (1..=20).map(|id| (id <= 9).then_some(10)).collect();
        assert_eq!(prices.iter().map(|price| price.as_ref().map(|price| **price)).collect::<Vec<_>>(), expected_prices);
        assert_eq!(trial.database.queries() - before, if expected == 1 { 19 } else { 0 });
    }
}

/// Loads inside of loads take no slot of their own: with one slot, the outer one would wait for ever.
#[tokio::test]
async fn a_load_inside_of_a_load_waits_for_no_slot() {
    let trial = Trial::start().await;
    let one = cachetag_client::resilience::LimiterOptions { concurrency: 1, ..Default::default() };
    let cache = trial.cache(trial.builder().loads(one)).await;
    let (inner, database) = (cache.clone(), trial.database.clone());
    let page = cache.get_or_load("page", move |_| async move {
        let price = database.read(&inner, 1).await.unwrap_or_default();
        let rest = inner.get_many(&["price:2", "price:3"], |loads| async move {
            let mut prices = Vec::new();
            for (load, id) in loads.into_iter().zip([2, 3]) {
                prices.push(database.clone().price(load, id).await?);
            }
            Ok::<_, tokio_postgres::Error>(prices)
        });
        let rest: i32 = rest.await?.iter().flatten().map(|price| **price).sum();
        Ok::<_, cachetag_client::Error>(price + rest)
    });
    assert_eq!(*tokio::time::timeout(PATIENCE, page).await.expect("it ends").expect("a page"), 30);
}

#[tokio::test]
async fn a_loader_that_reads_its_own_key_is_told_so() {
    let trial = Trial::start().await;
    let cache = trial.cache(trial.builder()).await;
    let inner = cache.clone();
    let outcome = cache.get_or_load("k", move |_| async move {
        inner.get_or_load("k", |_| async { Ok::<_, std::io::Error>(1) }).await.map(|cached| *cached)
    });
    let error = tokio::time::timeout(PATIENCE, outcome).await.expect("it ends").expect_err("it fails");
    assert!(error.to_string().contains("would wait for itself"), "{error}");
}

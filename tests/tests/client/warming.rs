//! What is loaded before it is asked for.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use cachetag_client::core::Lsn;
use cachetag_client::observe::ObserverOptions;
use cachetag_client::warm::{self, WarmError};
use cachetag_client::{Builder, Cache, Load, ReadOptions, Source};
use cachetag_tests::eventually;
use tokio::sync::Semaphore;

use crate::trial::{Database, PATIENCE, Trial};

/// Every access is shown to the sketch: nothing is left to chance.
fn watched(trial: &Trial) -> Builder {
    trial.builder().observer(ObserverOptions { sample_every: 1, ..ObserverOptions::default() })
}

/// Loads prices by their keys.
fn prices(cache: &Cache, database: &Database) -> warm::Builder {
    let database = database.clone();
    cache.warming().loader("price:", move |load: Load| {
        let (database, id) = (database.clone(), load.key()[6..].parse().expect("a number"));
        database.price(load, id)
    })
}

fn events(cache: &Cache, name: &str) -> u64 {
    cache.snapshot().events.get(name).copied().unwrap_or_default()
}

async fn source(database: &Database, cache: &Cache, id: i32) -> (i32, Source) {
    let read = database.get(cache.with(Default::default()), id).await.expect("a value").expect("a price");
    (*read, read.metadata().source())
}

/// Until the cache's own feed has seen this commit, a copy does not cover it.
async fn seen(database: &Database, cache: &Cache, id: i32, commit: u64) {
    eventually("the feed sees the commit", PATIENCE, async || {
        let read = database.get(cache.with(ReadOptions::new().at_least(Lsn(commit).into())), id).await.ok()??;
        (read.metadata().source() == Source::Memory).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_list_is_warmed_and_said_to_be() {
    let trial = Trial::start().await;
    let (cache, other) = (trial.cache(trial.builder()).await, trial.cache(trial.builder()).await);
    let warming = prices(&cache, &trial.database)
        .loader("broken:", |_| async { Err::<Option<i32>, _>(std::io::Error::other("away")) })
        .loader("private:", |load: Load| async move {
            load.do_not_store("it is somebody's");
            Ok::<_, std::io::Error>(Some(1))
        })
        .start();
    assert_eq!(trial.database.read(&other, 3).await, Some(10));
    let keys = ["price:1", "price:2", "price:3", "price:77", "price:1", "broken:1", "private:1", "page:1", ""];
    let report = warming.warm(keys).await;
    // Of these one is there by the other process, one is an absence, and one comes twice.
    assert_eq!((report.warmed, report.present, report.keys()), (3, 1, 8), "{report:?}");
    assert_eq!(report.failed.iter().map(|(key, _)| key.as_str()).collect::<Vec<_>>(), ["broken:1"]);
    assert!(report.failed[0].1.is_loader());
    assert_eq!(report.not_stored, ["private:1"]);
    assert_eq!(report.no_loader, ["page:1", ""]);
    let before = trial.database.queries();
    for id in [1, 2, 3] {
        assert_eq!(source(&trial.database, &cache, id).await, (10, Source::Memory));
    }
    assert_eq!(trial.database.read(&cache, 77).await, None);
    assert_eq!(source(&trial.database, &other, 1).await, (10, Source::Redis));
    let again = warming.warm(["price:1", "price:2"]).await;
    assert_eq!((again.warmed, again.present, trial.database.queries()), (0, 2, before));
}

#[tokio::test]
async fn warming_does_not_storm_the_database() {
    let trial = Trial::start().await;
    let cache = trial.cache(trial.builder()).await;
    let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (now, peak) = (running.clone(), most.clone());
    let load = move |load: Load| {
        let (now, peak) = (now.clone(), peak.clone());
        async move {
            load.tag("item:1");
            peak.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(2)).await;
            now.fetch_sub(1, Ordering::SeqCst);
            Ok::<_, std::io::Error>(Some(1))
        }
    };
    let warming = cache.warming().loader("", load).concurrency(3).start();
    let keys = |from: usize| (from..from + 100).map(|n| format!("k:{n}"));
    // Two lists at a time share the limit.
    let (one, two) = tokio::join!(warming.warm(keys(0)), warming.warm(keys(50)));
    assert_eq!((one.warmed + two.warmed >= 150, one.keys(), two.keys()), (true, 100, 100), "{one:?} {two:?}");
    assert!(one.failed.is_empty() && two.failed.is_empty());
    assert_eq!((most.load(Ordering::SeqCst), running.load(Ordering::SeqCst)), (3, 0));
}

/// A reader who comes while a key is being warmed waits for that load; what it reads was checked like any other.
#[tokio::test]
async fn warming_and_readers_share_a_load_and_a_commit_that_overtakes_it_keeps_it_out() {
    let trial = Trial::start().await;
    let cache = trial.cache(trial.builder()).await;
    let gate = Arc::new(Semaphore::new(0));
    let (database, waits) = (trial.database.clone(), gate.clone());
    let load = move |load: Load| {
        let (database, waits) = (database.clone(), waits.clone());
        async move {
            let price = database.price(load, 1).await?;
            waits.acquire().await.expect("it is not closed").forget();
            Ok::<_, tokio_postgres::Error>(price)
        }
    };
    let warming = Arc::new(cache.warming().loader("price:", load).start());
    let (keeper, reader) = (warming.clone(), cache.clone());
    let warmed = tokio::spawn(async move { keeper.warm(["price:1"]).await });
    eventually("the load has read", PATIENCE, async || (trial.database.queries() == 1).then_some(())).await;
    let database = trial.database.clone();
    let read = tokio::spawn(async move { database.read(&reader, 1).await });
    eventually("the reader waits", PATIENCE, async || (events(&cache, "coalesced") == 1).then_some(())).await;
    trial.change("UPDATE items SET price = 11 WHERE id = 1").await;
    gate.add_permits(1);
    assert_eq!(read.await.expect("no panic"), Some(10), "true when it was read");
    let report = warmed.await.expect("no panic");
    assert_eq!((report.warmed, report.not_stored), (0, vec!["price:1".to_owned()]));
    assert_eq!(trial.database.read(&cache, 1).await, Some(11));
}

/// What the last run asked for most is there before the next one asks.
async fn the_next_run_starts_warm(store: impl Fn(warm::Builder) -> warm::Builder) {
    let trial = Trial::start().await;
    let first = trial.cache(watched(&trial)).await;
    let warming = store(prices(&first, &trial.database)).top(3).start();
    assert!(warming.saved().await.expect("no trouble").is_empty());
    for (id, times) in [(5, 40), (2, 30), (7, 20), (1, 1), (3, 1)] {
        for _ in 0..times {
            trial.database.read(&first, id).await;
        }
    }
    assert_eq!(warming.shutdown().await.expect("saved"), 3);
    drop(first);
    // Nothing but the list is left of it.
    let mut redis = trial.stack.cache().await;
    for id in [5, 2, 7, 1, 3] {
        assert!(redis.drop(&format!("price:{id}")).await.expect("dropped"));
    }
    let next = trial.cache(watched(&trial)).await;
    let warming = store(prices(&next, &trial.database)).top(3).start();
    assert_eq!(warming.saved().await.expect("no trouble"), ["price:5", "price:2", "price:7"]);
    let before = trial.database.queries();
    let report = warming.warm_last_run().await.expect("no trouble");
    assert_eq!((report.warmed, report.keys(), trial.database.queries() - before), (3, 3, 3));
    for id in [5, 2, 7] {
        assert_eq!(source(&trial.database, &next, id).await, (10, Source::Memory));
    }
    // Who has seen little does not push the list out: what was hot is still known.
    assert!(warming.shutdown().await.is_ok());
    let third = trial.cache(watched(&trial)).await;
    let warming = store(prices(&third, &trial.database)).top(3).start();
    assert_eq!(warming.saved().await.expect("no trouble"), ["price:5", "price:2", "price:7"]);
}

#[tokio::test]
async fn the_hottest_keys_are_saved_in_redis() {
    the_next_run_starts_warm(warm::Builder::save_in_redis).await;
}

#[tokio::test]
async fn the_hottest_keys_are_saved_in_a_file() {
    let path = temporary();
    the_next_run_starts_warm(|builder| builder.save_in_file(&path)).await;
    std::fs::remove_file(&path).expect("it is there");
}

/// A process that is killed has saved before; here the task that saves is watched doing it.
#[tokio::test]
async fn the_hottest_keys_are_saved_now_and_then() {
    let trial = Trial::start().await;
    let cache = trial.cache(watched(&trial)).await;
    let path = temporary();
    let warming = prices(&cache, &trial.database).save_in_redis().save_in_file(&path);
    let warming = warming.save_every(Duration::from_millis(20)).start();
    trial.database.read(&cache, 4).await;
    eventually("it is saved", PATIENCE, async || (warming.saved().await.ok()? == ["price:4"]).then_some(())).await;
    eventually("the file, too", PATIENCE, async || path.exists().then_some(())).await;
    // One store that is broken costs nothing but itself.
    drop(warming);
    std::fs::write(&path, "{").expect("written");
    let broken = prices(&cache, &trial.database).save_in_file(&path).start();
    assert!(matches!(broken.saved().await, Err(WarmError::Format { .. })));
    assert!(matches!(broken.warm_last_run().await, Err(WarmError::Format { .. })));
    let both = prices(&cache, &trial.database).save_in_file(&path).save_in_redis().start();
    assert_eq!(both.saved().await.expect("Redis has it"), ["price:4"]);
    assert!(matches!(both.shutdown().await, Err(WarmError::Format { .. })), "it is said all the same");
    std::fs::remove_file(&path).expect("it is there");
}

#[tokio::test]
async fn without_redis_nothing_is_loaded_in_vain() {
    let mut trial = Trial::start().await;
    trial.stack.redis.kill().await;
    let cache = watched(&trial).build().expect("a cache");
    let warming = prices(&cache, &trial.database).save_in_redis().ready_within(Duration::from_millis(50)).start();
    let report = warming.warm(["price:1", "price:2"]).await;
    assert_eq!((report.not_stored.len(), report.keys(), trial.database.queries()), (2, 2, 0), "{report:?}");
    assert!(matches!(warming.warm_last_run().await, Err(WarmError::Redis(_))));
    trial.stack.redis.start_again().await.expect("Redis again");
    trial.stack.wait_caught_up_now().await;
    assert!(cache.ready(PATIENCE).await);
    eventually("it warms", PATIENCE, async || (warming.warm(["price:1"]).await.warmed == 1).then_some(())).await;
}

/// Makes a price hot for this process.
async fn heat(trial: &Trial, cache: &Cache, id: i32) {
    for _ in 0..200 {
        trial.database.read(cache, id).await;
    }
}

#[tokio::test]
async fn a_hot_key_that_is_bumped_is_there_before_its_readers_ask() {
    let trial = Trial::start().await;
    let cache = trial.cache(watched(&trial)).await;
    let _warming = prices(&cache, &trial.database).hot(1.0).start();
    heat(&trial, &cache, 1).await;
    trial.database.read(&cache, 2).await;
    for price in 11..20 {
        let before = (trial.database.queries(), events(&cache, "warm_refresh"));
        let one_transaction = format!("UPDATE items SET price = {price}; UPDATE items SET shelf = 5");
        trial.stack.sql(&format!("BEGIN; {one_transaction}; COMMIT")).await;
        eventually("it is loaded again", PATIENCE, async || (events(&cache, "warm_refresh") > before.1).then_some(()))
            .await;
        let read = source(&trial.database, &cache, 1).await;
        assert_eq!(read, (price, Source::Memory), "no reader has to load it");
        // Once for the transaction, and only what is hot: the other one is loaded by who reads it.
        assert_eq!((trial.database.queries(), events(&cache, "warm_refresh")), (before.0 + 1, before.1 + 1));
    }
    assert_eq!(trial.database.read(&cache, 2).await, Some(19));
    // Its readers are what makes it hot, not its being warmed.
    let read = trial.database.get(cache.with(Default::default()), 1).await.expect("a value").expect("a price");
    assert!(read.metadata().accesses() <= 200 + 9 + 1);
}

/// One load at a time: what is bumped while it is loaded is loaded once more at the end, however often it was.
#[tokio::test]
async fn a_burst_of_bumps_is_loaded_for_once() {
    let trial = Trial::start().await;
    let cache = trial.cache(watched(&trial)).await;
    let gate = Arc::new(Semaphore::new(0));
    let (database, waits, loads) = (trial.database.clone(), gate.clone(), Arc::new(AtomicUsize::new(0)));
    let begun = loads.clone();
    let load = move |load: Load| {
        let (database, waits, begun) = (database.clone(), waits.clone(), begun.clone());
        async move {
            let price = database.price(load, 1).await?;
            begun.fetch_add(1, Ordering::SeqCst);
            let _passed = waits.acquire().await;
            Ok::<_, tokio_postgres::Error>(price)
        }
    };
    let _warming = cache.warming().loader("price:1", load).start();
    trial.database.read(&cache, 2).await;
    heat(&trial, &cache, 1).await;
    trial.change("UPDATE items SET price = 11 WHERE id = 1").await;
    eventually("it is loaded", PATIENCE, async || (loads.load(Ordering::SeqCst) == 1).then_some(())).await;
    let mut last = 0;
    for price in 12..40 {
        last = trial.stack.commit(&format!("UPDATE items SET price = {price} WHERE id = 1")).await;
    }
    trial.stack.wait_caught_up(last).await;
    seen(&trial.database, &cache, 2, last).await;
    assert_eq!(loads.load(Ordering::SeqCst), 1, "the first one is not over");
    gate.add_permits(1);
    eventually("the last price", PATIENCE, async || (events(&cache, "warm_refresh") == 1).then_some(())).await;
    assert_eq!((loads.load(Ordering::SeqCst), events(&cache, "refused_bumped")), (2, 1));
    assert_eq!(source(&trial.database, &cache, 1).await, (39, Source::Memory));
}

#[tokio::test]
async fn of_all_processes_that_are_hot_one_loads() {
    let trial = Trial::start().await;
    let mut caches = Vec::new();
    for _ in 0..3 {
        let cache = trial.cache(watched(&trial)).await;
        let warming = prices(&cache, &trial.database).start();
        heat(&trial, &cache, 1).await;
        caches.push((cache, warming));
    }
    // One that loads before what it saw is visible to it is refused, and is not the one that counts.
    let refused = || -> u64 {
        let events = ["refused_bumped", "refused_unregistered", "refused_uncovered"];
        caches.iter().flat_map(|(cache, _)| events.map(|name| self::events(cache, name))).sum()
    };
    for price in 11..16 {
        let (before, refused_before) = (trial.database.queries() as u64, refused());
        trial.stack.sql(&format!("UPDATE items SET price = {price} WHERE id = 1")).await;
        for (cache, _) in &caches {
            eventually("it is in memory again", PATIENCE, async || {
                let found = cache.get::<i32>("price:1").await??;
                (*found == price && found.metadata().source() == Source::Memory).then_some(())
            })
            .await;
        }
        assert_eq!(trial.database.queries() as u64, before + 1 + refused() - refused_before);
    }
}

/// A loader that fails is not called again and again for one bump; and what cannot be loaded is not served.
#[tokio::test]
async fn a_hot_key_whose_loader_fails_is_left_to_its_readers() {
    let trial = Trial::start().await;
    let cache = trial.cache(watched(&trial)).await;
    let failing = |_: Load| async { Err::<Option<i32>, _>(std::io::Error::other("away")) };
    let _warming = cache.warming().loader("price:", failing).start();
    trial.database.read(&cache, 2).await;
    heat(&trial, &cache, 1).await;
    trial.change("UPDATE items SET price = 11 WHERE id = 1").await;
    eventually("it is tried", PATIENCE, async || (events(&cache, "load_failed") == 1).then_some(())).await;
    let commit = trial.stack.commit("UPDATE items SET shelf = 2 WHERE id = 9").await;
    seen(&trial.database, &cache, 2, commit).await;
    assert_eq!(events(&cache, "load_failed"), 1);
    assert_eq!(source(&trial.database, &cache, 1).await, (11, Source::Loader));
}

/// A new epoch empties the cache; what is hot is back before anybody asks.
#[tokio::test]
async fn after_a_new_epoch_the_hot_keys_are_loaded_again() {
    let trial = Trial::start().await;
    let cache = trial.cache(watched(&trial)).await;
    let _warming = prices(&cache, &trial.database).start();
    heat(&trial, &cache, 1).await;
    let mut redis = trial.stack.cache().await;
    redis::cmd("FLUSHALL").exec_async(redis.connection()).await.expect("FLUSHALL");
    trial.stack.sql("UPDATE items SET price = 11 WHERE id = 1").await;
    eventually("it is loaded again", PATIENCE, async || (events(&cache, "warm_refresh") >= 1).then_some(())).await;
    eventually("and in memory", PATIENCE, async || {
        (source(&trial.database, &cache, 1).await == (11, Source::Memory)).then_some(())
    })
    .await;
}

fn temporary() -> PathBuf {
    let unique = format!("cachetag-hot-{}-{:?}.json", std::process::id(), std::thread::current().id());
    std::env::temp_dir().join(unique)
}

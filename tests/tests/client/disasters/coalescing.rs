//! Readers who share a flight are answered as if each had asked alone: with nothing that is older than it may be.

use std::time::{Duration, Instant};

use cachetag_client::{Cache, ReadOptions, Session};
use cachetag_core::Lsn;
use cachetag_tests::fault::proxy::{Direction, Traffic};
use cachetag_tests::{StackOptions, eventually};

use super::gate::Gate;
use super::patient;
use crate::trial::{Database, PATIENCE, Trial};

/// Short: some of these tests have to let it pass.
const LAG: Duration = Duration::from_secs(1);

async fn until(moment: Instant) {
    tokio::time::sleep_until(moment.into()).await;
}

/// What one item costs, under a key of its own; the loader waits at the gate after its query.
async fn slow(cache: Cache, database: Database, key: &'static str, gate: Gate) -> Option<i32> {
    let read = cache.get_or_load_optional(key, move |load| async move {
        let price = database.price(load, 1).await;
        gate.pass().await;
        price
    });
    read.await.expect("a value").map(|price| *price)
}

/// A load has read the row, and has not ended, when the row changes. Who knows of the change, or cannot take what is that old, does not share it.
#[tokio::test]
async fn a_load_from_before_is_not_shared_with_who_asks_for_more() {
    let trial = Trial::start().await;
    // The load from before has the lease, too, and does not end before this test lets it.
    let cache = trial.cache(patient(&trial).lease_wait(Duration::from_millis(50))).await;
    let read = async |key: &str, options: ReadOptions| {
        let database = trial.database.clone();
        let read = cache.with(options).get_or_load_optional(key, move |load| database.price(load, 1)).await;
        read.expect("a value").map(|price| *price)
    };
    let gate = Gate::closed();
    let begin = |key| tokio::spawn(slow(cache.clone(), trial.database.clone(), key, gate.clone()));
    let slow = ["fresh", "commit", "session", "lag"].map(begin);
    gate.wait_for(slow.len()).await;
    let position = Lsn(trial.stack.commit("UPDATE items SET price = 11 WHERE id = 1").await);
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert_eq!(read("fresh", ReadOptions::new().fresh()).await, Some(11));
    assert_eq!(read("commit", ReadOptions::new().at_least(position.into())).await, Some(11));
    assert_eq!(read("lag", ReadOptions::new().max_lag(Duration::from_millis(10))).await, Some(11));
    let session = Session::new();
    session.wrote(position.into());
    let database = trial.database.clone();
    let mine = cache.session(&session).get_or_load_optional("session", move |load| database.price(load, 1)).await;
    assert_eq!(mine.expect("a value").map(|price| *price), Some(11));
    // The first readers' own answers were true when they asked, and are not kept.
    trial.stack.wait_caught_up_now().await;
    gate.open();
    for reader in slow {
        assert_eq!(reader.await.expect("no panic"), Some(10));
    }
    for key in ["fresh", "commit", "session", "lag"] {
        assert_eq!(read(key, ReadOptions::new()).await, Some(11), "{key}");
    }
}

/// Redis answers the first reader, rightly, with what was replaced just within `max_lag`; the answer is long on its way. For a reader who comes meanwhile it
/// is too old, though not for the flight that this reader may share.
#[tokio::test]
async fn an_answer_of_redis_is_too_old_for_who_came_later() {
    let mut trial = Trial::with(StackOptions::new().proxied()).await;
    let cache = trial.cache(patient(&trial).max_lag(LAG).memory(0)).await;
    trial.database.read(&cache, 1).await;
    trial.stack.daemon().pause();
    trial.stack.sql("UPDATE items SET price = 11 WHERE id = 1").await;
    let replaced = Instant::now();
    until(replaced + LAG.mul_f64(0.6)).await;
    let proxy = &trial.stack.proxies().app_redis;
    proxy.set(Traffic::Hold(Direction::ToClient));
    let reader = || {
        let (cache, database) = (cache.clone(), trial.database.clone());
        tokio::spawn(async move { database.read(&cache, 1).await })
    };
    let first = reader();
    until(replaced + LAG.mul_f64(1.3)).await;
    let second = reader();
    // It takes its seat before it waits for anything.
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    proxy.set(Traffic::Pass);
    assert_eq!(second.await.expect("no panic"), Some(11), "replaced 1.3 times max_lag before it was asked for");
    // On a machine that is slow enough, it was too late for the old one already.
    assert!([Some(10), Some(11)].contains(&first.await.expect("no panic")));
    trial.stack.daemon().resume();
}

/// The same with what is read inside of a load: the fragment was true within `max_lag` of the first reader's call, not of the second's.
#[tokio::test]
async fn a_page_of_an_old_fragment_is_too_old_for_who_came_later() {
    let mut trial = Trial::start().await;
    let cache = trial.cache(patient(&trial).max_lag(LAG)).await;
    trial.database.read(&cache, 1).await;
    trial.stack.daemon().pause();
    trial.stack.sql("UPDATE items SET price = 11 WHERE id = 1").await;
    let replaced = Instant::now();
    until(replaced + LAG.mul_f64(0.6)).await;
    let gate = Gate::closed();
    let reader = || {
        let (cache, database, gate) = (cache.clone(), trial.database.clone(), gate.clone());
        tokio::spawn(async move {
            let inner = cache.clone();
            let page = cache.get_or_load("page", move |_| async move {
                let price = database.read(&inner, 1).await;
                gate.pass().await;
                Ok::<_, std::io::Error>(price)
            });
            *page.await.expect("a page")
        })
    };
    let first = reader();
    gate.wait_for(1).await;
    until(replaced + LAG.mul_f64(1.3)).await;
    let second = reader();
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    gate.open();
    assert_eq!(second.await.expect("no panic"), Some(11), "replaced 1.3 times max_lag before it was asked for");
    assert!([Some(10), Some(11)].contains(&first.await.expect("no panic")));
    trial.stack.daemon().resume();
}

/// Who asks a page for a commit gets no page of fragments from before: what the page is asked for, its fragments are.
#[tokio::test]
async fn what_a_page_is_asked_for_its_fragments_are_asked_for() {
    let mut trial = Trial::start().await;
    let cache = trial.cache(patient(&trial)).await;
    let page = async |key: &str, options: ReadOptions| {
        let (inner, database) = (cache.clone(), trial.database.clone());
        let reader = cache.with(options);
        let page = reader.get_or_load(key, move |_| async move {
            // Two deep, and by a call for many.
            let (innermost, deeper) = (inner.clone(), database.clone());
            let shelf = inner.get_or_load("shelf", move |_| async move {
                Ok::<_, std::io::Error>(deeper.read(&innermost, 1).await)
            });
            let shelf = *shelf.await?;
            let many = inner.get_many(&["price:1", "price:2"], |loads| async move {
                let mut prices = Vec::new();
                for load in loads {
                    let id = load.key()[6..].parse().expect("a number");
                    prices.push(database.clone().price(load, id).await?);
                }
                Ok::<_, tokio_postgres::Error>(prices)
            });
            let many: Vec<Option<i32>> = many.await?.iter().map(|price| price.as_deref().copied()).collect();
            Ok::<_, cachetag_client::Error>((shelf, many))
        });
        (*page.await.expect("a page")).clone()
    };
    let all = |price| (Some(price), vec![Some(price), Some(price)]);
    assert_eq!(page("front", ReadOptions::new()).await, all(10));
    // Redis and memory hear of nothing from now on, and vouch for what they have.
    trial.stack.daemon().pause();
    let position = Lsn(trial.stack.commit("UPDATE items SET price = 11 WHERE id IN (1, 2)").await);
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert_eq!(page("front", ReadOptions::new()).await, all(10), "within max_lag");
    let strict = [
        ("commit", ReadOptions::new().at_least(position.into())),
        ("lag", ReadOptions::new().max_lag(Duration::from_millis(10))),
        ("fresh", ReadOptions::new().fresh()),
    ];
    for (what, options) in strict {
        assert_eq!(page("front", options).await, all(11), "{what}");
        assert_eq!(page(what, options).await, all(11), "{what}, a page that nobody has read before");
    }
    trial.stack.daemon().resume();
    eventually("hits of the present", PATIENCE, async || {
        (page("front", ReadOptions::new()).await == all(11)).then_some(())
    })
    .await;
}

//! Layers that are dead, slow, flapping or switched off; and what is served then.

use std::time::Duration;

use cachetag_client::observe::Layer;
use cachetag_client::{Load, ReadOptions, Source};
use cachetag_tests::{StackOptions, eventually};

use crate::shelf::Shelf;
use crate::trial::{Database, PATIENCE, Trial};

/// Redis is gone: everything comes from the database, and the cache is back by itself with it.
#[tokio::test]
async fn with_redis_dead_reads_go_to_the_database() {
    let mut trial = Trial::start().await;
    let cache = trial.cache(trial.builder()).await;
    trial.database.read(&cache, 1).await;
    assert_eq!(cache.snapshot().events.get("feed_lost"), None);
    trial.stack.redis.kill().await;
    trial.stack.sql("UPDATE items SET price = 11 WHERE id = 1").await;
    eventually("the database's price", PATIENCE, async || {
        (trial.database.read(&cache, 1).await == Some(11)).then_some(())
    })
    .await;
    for _ in 0..20 {
        assert_eq!(trial.database.read(&cache, 1).await, Some(11));
    }
    trial.stack.redis.start_again().await.expect("Redis again");
    trial.stack.wait_caught_up_now().await;
    eventually("hits again", PATIENCE, async || {
        let read = trial.database.get(cache.with(Default::default()), 1).await.ok()??;
        (read.metadata().source() == Source::Memory).then_some(())
    })
    .await;
    let lost = cache.snapshot().events.get("feed_lost").copied();
    assert!(lost.is_some_and(|times| times >= 1), "{lost:?}");
}

#[tokio::test]
async fn with_redis_frozen_reads_wait_no_longer_than_the_timeout() {
    let mut trial = Trial::start().await;
    let timeouts =
        cachetag_client::l2::Timeouts { connect: Duration::from_millis(200), response: Duration::from_millis(100) };
    let cache = trial.cache(trial.builder().timeouts(timeouts).max_lag(Duration::from_millis(500))).await;
    trial.database.read(&cache, 1).await;
    trial.stack.redis.signal(libc::SIGSTOP);
    tokio::time::sleep(Duration::from_millis(600)).await;
    trial.stack.sql("UPDATE items SET price = 11 WHERE id = 1").await;
    for _ in 0..20 {
        assert_eq!(trial.database.read(&cache, 1).await, Some(11));
    }
    let l2 = cache.snapshot().layer(Layer::L2).misses.clone();
    assert!(l2.get("breaker").is_some_and(|n| *n > 0), "the breaker opens: {l2:?}");
    assert!(cache.snapshot().events.get("breaker_opened").is_some_and(|times| *times >= 1));
    trial.stack.redis.signal(libc::SIGCONT);
    trial.stack.wait_caught_up_now().await;
    eventually("hits again", PATIENCE, async || {
        let read = trial.database.get(cache.with(Default::default()), 1).await.ok()??;
        (read.metadata().source() == Source::Memory).then_some(())
    })
    .await;
}

/// The log is emptied behind everybody's back: memory is not trusted any more, and nothing wrong is served.
#[tokio::test]
async fn a_feed_with_a_gap_stops_trust() {
    let trial = Trial::start().await;
    let cache = trial.cache(trial.builder()).await;
    for price in 11..20 {
        trial.database.read(&cache, 1).await;
        let mut redis = trial.stack.cache().await;
        redis::cmd("DEL").arg("{ct}:log").exec_async(redis.connection()).await.expect("DEL");
        trial.stack.sql(&format!("UPDATE items SET price = {price} WHERE id = 1")).await;
        eventually("the price", PATIENCE, async || (trial.database.read(&cache, 1).await == Some(price)).then_some(()))
            .await;
    }
}

/// Everything in Redis is lost: a new epoch, in which nothing of before is served, from memory neither.
#[tokio::test]
async fn a_flushed_redis_ends_what_is_in_memory() {
    let trial = Trial::start().await;
    let cache = trial.cache(trial.builder()).await;
    trial.database.read(&cache, 1).await;
    let mut redis = trial.stack.cache().await;
    redis::cmd("FLUSHALL").exec_async(redis.connection()).await.expect("FLUSHALL");
    trial.stack.sql("UPDATE items SET price = 11 WHERE id = 1").await;
    eventually("the price", PATIENCE, async || (trial.database.read(&cache, 1).await == Some(11)).then_some(())).await;
    for _ in 0..50 {
        assert_eq!(trial.database.read(&cache, 1).await, Some(11));
    }
}

#[tokio::test]
async fn an_old_value_instead_of_an_error_if_that_is_wanted() {
    let trial = Trial::start().await;
    let cache = trial.cache(trial.builder().stale_if_error(Duration::from_secs(60))).await;
    trial.database.read(&cache, 1).await;
    trial.change("UPDATE items SET price = 11 WHERE id = 1").await;
    let failing = |_: Load| async { Err::<Option<i32>, _>(std::io::Error::other("away")) };
    let old = eventually("the old value", PATIENCE, async || {
        let read = cache.get_or_load_optional("price:1", failing).await.ok()??;
        read.metadata().is_stale().then_some(read)
    })
    .await;
    assert_eq!(*old, 10);
    // Where it is not wanted, or there is nothing old, the error is the answer.
    cache.switches().stale_if_error(false);
    assert!(cache.get_or_load_optional("price:1", failing).await.expect_err("fails").is_loader());
    cache.switches().stale_if_error(true);
    assert!(cache.get_or_load_optional("price:2", failing).await.expect_err("fails").is_loader());
}

/// PostgreSQL itself is gone: what was valid is served for `max_lag`, then what is old where that is wanted; everybody else is told.
#[tokio::test]
async fn with_the_database_dead_what_is_old_is_served_where_that_is_wanted() {
    let mut trial = Trial::start().await;
    let lenient = trial.cache(trial.builder().stale_if_error(Duration::from_secs(600))).await;
    let strict = trial.cache(trial.builder()).await;
    for cache in [&lenient, &strict] {
        trial.database.read(cache, 1).await;
    }
    trial.stack.postgres.kill().await;
    let get = async |cache: &cachetag_client::Cache| trial.database.get(cache.with(Default::default()), 1).await;
    eventually("an error", PATIENCE, async || get(&strict).await.err()?.is_loader().then_some(())).await;
    let old = get(&lenient).await.expect("the old value").expect("a price");
    assert_eq!((*old, old.metadata().is_stale()), (10, true));
    let never = trial.database.get(lenient.with(Default::default()), 2).await.expect_err("there is nothing old");
    assert!(never.is_loader(), "{never}");
    trial.stack.postgres.start_again().await.expect("PostgreSQL starts");
    let database = Database::connect(&trial.stack.postgres_url()).await;
    for cache in [&lenient, &strict] {
        eventually("a hit again", PATIENCE, async || {
            let read = database.get(cache.with(Default::default()), 1).await.ok()??;
            (read.metadata().source() == Source::Memory && !read.metadata().is_stale()).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn layers_can_be_switched_off_while_it_runs() {
    let trial = Trial::start().await;
    let cache = trial.cache(trial.builder()).await;
    trial.database.read(&cache, 1).await;
    cache.switches().bypass(Layer::L1, true);
    let read = trial.database.get(cache.with(ReadOptions::new()), 1).await.expect("a value").expect("a price");
    assert_eq!(read.metadata().source(), Source::Redis);
    cache.switches().bypass(Layer::L2, true);
    let read = trial.database.get(cache.with(ReadOptions::new()), 1).await.expect("a value").expect("a price");
    assert_eq!(read.metadata().source(), Source::Loader);
    // Memory alone is honest, too: the feed tells it.
    cache.switches().bypass(Layer::L1, false);
    trial.database.read(&cache, 2).await;
    let before = trial.database.queries();
    assert_eq!((trial.database.read(&cache, 2).await, trial.database.queries()), (Some(10), before));
    trial.stack.sql("UPDATE items SET price = 12 WHERE id = 2").await;
    eventually("the price", PATIENCE, async || (trial.database.read(&cache, 2).await == Some(12)).then_some(())).await;
    cache.switches().read_only(true);
    trial.database.read(&cache, 3).await;
    let before = trial.database.queries();
    trial.database.read(&cache, 3).await;
    assert_eq!(trial.database.queries(), before + 1, "nothing is stored");
}

/// The loader switched off, the database is left alone: what the layers have is served, also what is stale, and for the rest the error says why.
#[tokio::test]
async fn with_the_loader_switched_off_only_the_layers_serve() {
    let trial = Trial::start().await;
    let cache = trial.cache(trial.builder()).await;
    for id in [1, 2, 3] {
        trial.database.read(&cache, id).await;
    }
    let before = trial.database.queries();
    cache.switches().bypass(Layer::Loader, true);
    assert_eq!(trial.database.read(&cache, 1).await, Some(10));
    let get = async |id| trial.database.get(cache.with(Default::default()), id).await;
    let refused = get(4).await.expect_err("no layer has it");
    assert!(refused.is_switched_off() && !refused.is_loader() && refused.to_string().contains("price:4"), "{refused}");
    let fresh =
        trial.database.get(cache.with(ReadOptions::new().fresh()), 1).await.expect_err("the database is not asked");
    assert!(fresh.is_switched_off(), "{fresh}");
    // Softly bumped: stale, and nobody makes it anew.
    trial.change("SELECT cachetag.invalidate_soft('item:2')").await;
    for refreshes in [true, false] {
        cache.switches().background_refresh(refreshes);
        let stale = get(2).await.expect("the old value").expect("a price");
        assert!(stale.metadata().is_stale(), "{:?}", stale.metadata());
    }
    // Bumped: there is nothing that may be served.
    trial.change("UPDATE items SET price = 13 WHERE id = 3").await;
    eventually("an error", PATIENCE, async || get(3).await.err()?.is_switched_off().then_some(())).await;
    let many = cache
        .get_many(&["price:1", "price:5"], |_| async { Ok::<Vec<Option<i32>>, std::io::Error>(vec![Some(1); 2]) })
        .await;
    assert!(many.expect_err("one is missing").is_switched_off());
    cache.with(Default::default()).refresh("price:1", |_| async { Ok::<_, std::io::Error>(Some(7)) });
    assert_eq!(trial.database.read(&cache, 1).await, Some(10));
    assert_eq!(trial.database.queries(), before);
    // Nobody else has to wait for a lease of who could not load.
    cache.switches().bypass(Layer::Loader, false);
    assert_eq!((trial.database.read(&cache, 4).await, trial.database.read(&cache, 3).await), (Some(10), Some(13)));
}

#[tokio::test]
async fn with_the_loader_switched_off_an_old_value_is_served_where_that_is_wanted() {
    let trial = Trial::start().await;
    let cache = trial.cache(trial.builder().stale_if_error(Duration::from_secs(60))).await;
    trial.database.read(&cache, 1).await;
    cache.switches().bypass(Layer::Loader, true);
    trial.change("UPDATE items SET price = 11 WHERE id = 1").await;
    let get = async || trial.database.get(cache.with(Default::default()), 1).await;
    let old =
        eventually("the old value", PATIENCE, async || get().await.ok()?.filter(|read| read.metadata().is_stale()));
    assert_eq!(*old.await, 10);
    cache.switches().stale_if_error(false);
    assert!(get().await.expect_err("it is not wanted").is_switched_off());
    assert_eq!(trial.database.queries(), 1);
}

#[tokio::test]
async fn a_third_layer_serves_what_the_feed_vouches_for_and_fills_the_nearer_ones() {
    let trial = Trial::with(StackOptions::new()).await;
    let shelf = Shelf::default();
    let cache = trial.cache(trial.builder().third(shelf.clone())).await;
    trial.database.read(&cache, 1).await;
    trial.database.read(&cache, 2).await;
    let other = trial.cache(trial.builder().third(shelf.clone())).await;
    let mut redis = trial.stack.cache().await;
    for key in ["price:1", "price:2"] {
        assert!(redis.drop(key).await.expect("dropped"));
    }
    trial.change("UPDATE items SET price = 12 WHERE id = 2").await;
    let read = trial.database.get(other.with(Default::default()), 1).await.expect("a value").expect("a price");
    assert_eq!((*read, read.metadata().source()), (10, Source::Third));
    let again = trial.database.get(other.with(Default::default()), 1).await.expect("a value").expect("a price");
    assert_eq!(again.metadata().source(), Source::Memory);
    assert!(trial.stack.get("price:1").await.is_hit(), "Redis has it back");
    eventually("what changed", PATIENCE, async || (trial.database.read(&other, 2).await == Some(12)).then_some(()))
        .await;
}

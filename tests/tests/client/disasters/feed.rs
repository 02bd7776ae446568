//! Only the connection that follows the log is dead: everything else of Redis works.

use cachetag_client::Source;
use cachetag_client::observe::Layer;
use cachetag_tests::{Stack, StackOptions, eventually};

use super::patient;
use crate::trial::{PATIENCE, Trial};

/// Ids of the connections that wait for records of the log.
async fn feeds(stack: &Stack) -> Vec<String> {
    let mut redis = stack.cache().await;
    let list: String = redis::cmd("CLIENT").arg("LIST").query_async(redis.connection()).await.expect("CLIENT LIST");
    let feeds = list.lines().filter(|line| line.contains(" cmd=xread "));
    feeds.filter_map(|line| Some(line.strip_prefix("id=")?.split_once(' ')?.0.to_owned())).collect()
}

/// Ends the feed's connection, which is the only one of its kind.
async fn kill(stack: &Stack) {
    let mut redis = stack.cache().await;
    eventually("a feed to kill", PATIENCE, async || {
        let feeds = feeds(stack).await;
        let [feed] = &feeds[..] else { return None };
        let killed = redis::cmd("CLIENT").arg(&["KILL", "ID", feed]).query_async::<i64>(redis.connection()).await;
        (killed.ok()? == 1).then_some(())
    })
    .await;
}

#[tokio::test]
async fn without_its_feed_memory_is_not_trusted_and_redis_still_is() {
    let trial = Trial::with(StackOptions::new().proxied()).await;
    let cache = trial.cache(patient(&trial)).await;
    let read = async |id: i32| {
        let read = trial.database.get(cache.with(Default::default()), id).await.expect("a value").expect("a price");
        (*read, read.metadata().source())
    };
    for id in [1, 2, 3] {
        read(id).await;
        assert_eq!(read(id).await, (10, Source::Memory));
    }
    for price in 11..14 {
        // The connection for commands stays; the feed gets no other.
        trial.stack.proxies().app_redis.bar(true);
        kill(&trial.stack).await;
        let lost = || cache.snapshot().layer(Layer::L1).misses.get("feed").copied().unwrap_or_default();
        let before = lost();
        eventually("distrust", PATIENCE, async || {
            let (price_of, source) = read(3).await;
            assert_eq!(price_of, 10);
            (source == Source::Redis).then_some(())
        })
        .await;
        assert!(lost() > before);
        // Changed while nobody in this process could hear of it.
        let old = price - 1;
        assert_eq!(read(1).await, (old, Source::Redis));
        trial.change(&format!("UPDATE items SET price = {price} WHERE id IN (1, 2)")).await;
        assert_eq!(read(1).await, (price, Source::Loader));
        for _ in 0..20 {
            assert_eq!(read(1).await, (price, Source::Redis), "from memory without a feed, or not from Redis");
            assert_eq!(read(3).await, (10, Source::Redis));
        }
        trial.stack.proxies().app_redis.bar(false);
        // Back by itself. What was in memory all the time is judged by what the feed has missed: 2 fell, 3 did not.
        eventually("trust", PATIENCE, async || {
            let (price_of, source) = read(3).await;
            assert_eq!(price_of, 10);
            (source == Source::Memory).then_some(())
        })
        .await;
        assert_eq!(read(2).await, (price, Source::Loader));
        assert_eq!(read(2).await, (price, Source::Memory));
        read(1).await;
        assert_eq!(read(1).await, (price, Source::Memory));
    }
}

/// Killed again and again, as soon as it is back: no value is wrong, and commands never notice.
#[tokio::test]
async fn a_feed_that_is_killed_again_and_again_comes_back_each_time() {
    let trial = Trial::with(StackOptions::new().proxied()).await;
    let cache = trial.cache(patient(&trial)).await;
    for price in 11..31 {
        trial.database.read(&cache, 1).await;
        kill(&trial.stack).await;
        trial.change(&format!("UPDATE items SET price = {price} WHERE id = 1")).await;
        // Redis has it; memory must not vouch for the old one once its feed is back.
        assert!(cache.ready(PATIENCE).await, "the feed is back");
        eventually("the price from memory", PATIENCE, async || {
            let read = trial.database.get(cache.with(Default::default()), 1).await.expect("a value").expect("a price");
            (*read == price && read.metadata().source() == Source::Memory).then_some(())
        })
        .await;
        for _ in 0..10 {
            assert_eq!(trial.database.read(&cache, 1).await, Some(price), "back to an old price");
        }
    }
}

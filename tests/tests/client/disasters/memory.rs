//! More is put into the cache than it may take.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cachetag_client::feed::{Feed, FeedOptions};
use cachetag_client::l1::{Candidate, L1, L1Options};
use cachetag_client::observe::Layer;
use cachetag_client::{Cache, Load, Source};
use cachetag_core::Tag;
use cachetag_tests::eventually;

use super::{is_stored, patient};
use crate::trial::{PATIENCE, Trial};

const CAPACITY: u64 = 1 << 20;
const VALUE: usize = 4096;
/// Eight times what there is room for.
const VALUES: u64 = 8 * CAPACITY / VALUE as u64;

async fn big(cache: &Cache, number: u64) -> Source {
    let loader = move |load: Load| async move {
        load.tag(format!("big:{number}"));
        Ok::<_, std::io::Error>("x".repeat(VALUE))
    };
    let read = cache.get_or_load(&format!("big:{number}"), loader).await.expect("a value");
    assert_eq!(read.len(), VALUE);
    read.metadata().source()
}

/// What is stored of a value is much shorter than the value, here: it is the value that takes room.
#[tokio::test]
async fn memory_takes_no_more_than_it_may() {
    let trial = Trial::start().await;
    let cache = trial.cache(patient(&trial).memory(CAPACITY)).await;
    for number in 0..VALUES {
        big(&cache, number).await;
    }
    // What is not in memory any more is still in Redis; with Redis out of the way memory alone answers.
    cache.switches().bypass(Layer::L2, true);
    let kept = eventually("room", PATIENCE, async || {
        let mut kept = 0;
        for number in 0..VALUES {
            kept += u64::from(cache.get::<String>(&format!("big:{number}")).await.is_some());
        }
        (kept * VALUE as u64 <= CAPACITY).then_some(kept)
    })
    .await;
    assert!(kept > 0, "it keeps what it has room for");
    assert!(cache.snapshot().layer(Layer::L1).evictions["size"] > 0);
    cache.switches().bypass(Layer::L2, false);
    let mut sources = Vec::new();
    for number in 0..VALUES {
        sources.push(big(&cache, number).await);
    }
    assert!(!sources.contains(&Source::Loader), "what left memory is in Redis");
}

#[tokio::test]
async fn weight_and_registered_tags_follow_what_is_held() {
    const COPIES: u64 = 20_000;
    const TAGS: u64 = 3;
    let trial = Trial::start().await;
    let feed = Feed::follow(&trial.stack.redis_url(), FeedOptions::new()).expect("a URL");
    assert!(feed.wait_live(PATIENCE).await);
    let token = eventually("a watermark", PATIENCE, async || feed.view().watermark).await;
    let l1 = L1::new(L1Options::new(CAPACITY));
    let admit = |number: u64| {
        let tag = |i| Tag::parse(&format!("tag{i}:{number}")).expect("a tag");
        let mut copy = Candidate::new(Arc::new(()), 512, token, Instant::now() + Duration::from_secs(600));
        copy.tags = (0..TAGS).map(tag).collect();
        l1.admit(&feed, &format!("copy:{number}"), copy).expect("it comes in");
    };
    let mut most = 0;
    for number in 0..COPIES {
        admit(number);
        most = most.max(feed.stats().registered);
    }
    l1.settle();
    assert!(l1.weight() <= CAPACITY, "{} bytes", l1.weight());
    let held = l1.len();
    assert!(held > 0 && held < COPIES / 10, "{held} copies");
    // The dead ones are found when their number has doubled, so the registry is never much larger than what is held.
    assert!(most < (COPIES * TAGS / 4) as usize, "{most} tags were registered at a time");
    l1.clear();
    l1.settle();
    assert_eq!(l1.weight(), 0);
    // Nobody holds a tag any more: as new ones come, the old ones go.
    for number in 0..2 * COPIES {
        let tag = Tag::parse(&format!("passing:{number}")).expect("a tag");
        drop(feed.track(&[tag], token, None).expect("it is registered"));
    }
    assert!(feed.stats().registered <= 2 * 1024, "{}", feed.stats().registered);
}

/// Redis takes 4,096 tags for an entry and says so; what has more is not stored there. Memory follows each of them.
#[tokio::test]
async fn a_value_with_too_many_tags_is_not_stored_in_redis_and_still_falls_with_each() {
    const TAGS: usize = 5_000;
    let trial = Trial::start().await;
    let cache = trial.cache(patient(&trial)).await;
    let read = async |value: i32| {
        let loader = move |load: Load| async move {
            load.tags((0..TAGS).map(|i| format!("many:{i}")));
            Ok::<_, std::io::Error>(value)
        };
        let read = cache.get_or_load("many", loader).await.expect("a value");
        (*read, read.metadata().source())
    };
    assert_eq!(read(1).await, (1, Source::Loader));
    assert_eq!(cache.snapshot().events["store_failed"], 1);
    assert!(!is_stored(&trial, "many").await);
    assert_eq!(read(2).await, (1, Source::Memory));
    // Redis is not taken for broken because of it.
    trial.database.read(&cache, 1).await;
    assert!(is_stored(&trial, "price:1").await);
    trial.change(&format!("SELECT cachetag.invalidate('many:{}')", TAGS - 1)).await;
    eventually("the value falls", PATIENCE, async || (read(3).await == (3, Source::Loader)).then_some(())).await;
    // A family stands for any number of them.
    let loader = |load: Load| async move {
        load.tag("many:*");
        Ok::<_, std::io::Error>(4)
    };
    assert_eq!(*cache.get_or_load("family", loader).await.expect("a value"), 4);
    assert!(is_stored(&trial, "family").await);
}

/// A tag outlives the entries that use it, or they would be misses; and it ends, or Redis would fill up with names that nobody uses.
#[tokio::test]
async fn in_redis_everything_ends_and_tags_after_their_entries() {
    let trial = Trial::start().await;
    let cache = trial.cache(patient(&trial)).await;
    for (i, ttl) in [60, 3_600, 86_400, 60].into_iter().enumerate() {
        let loader = move |load: Load| async move {
            // One of its own, and two that they share.
            load.ttl(Duration::from_secs(ttl)).tags([format!("own:{i}"), "shared:1".into(), "shared:*".into()]);
            Ok::<_, std::io::Error>(i)
        };
        cache.get_or_load(&format!("entry:{i}"), loader).await.expect("a value");
    }
    for id in 1..=12 {
        trial.database.read(&cache, id).await;
    }
    trial.change("UPDATE items SET price = 11; SELECT cachetag.invalidate('own:*')").await;
    let mut redis = trial.stack.cache().await;
    let names: Vec<String> = redis::cmd("KEYS").arg("*").query_async(redis.connection()).await.expect("KEYS");
    let mut ends = std::collections::HashMap::new();
    for name in names {
        let end: i64 = redis::cmd("PEXPIRETIME").arg(&name).query_async(redis.connection()).await.expect("PEXPIRETIME");
        ends.insert(name, end);
    }
    let endless: Vec<&String> = ends.iter().filter(|(_, end)| **end == -1).map(|(name, _)| name).collect();
    let bounded = ["{ct}:w", "{ct}:log"];
    assert!(endless.iter().all(|name| bounded.contains(&name.as_str())), "{endless:?}");
    let mut checked = 0;
    for (name, end) in ends.iter().filter(|(name, _)| name.starts_with("{ct}:e:")) {
        let keys: String =
            redis::cmd("HGET").arg(name).arg("keys").query_async(redis.connection()).await.expect("HGET");
        for key in keys.split('\n').filter(|key| !key.is_empty()) {
            let tag_end = ends[&format!("{{ct}}:{key}")];
            assert!(tag_end > *end, "{key} ends {} ms before {name}", end - tag_end);
            checked += 1;
        }
    }
    assert!(checked > 12, "{checked} tags of {ends:?}");
}

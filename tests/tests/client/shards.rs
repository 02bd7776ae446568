//! A cache over two Redis servers, each fed by a daemon of its own: pages and their fragments on different ones.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use cachetag_client::{Cache, Cached, Error, Load, Session, Source};
use cachetag_tests::{Daemon, DaemonOptions, Redis, Stack, StackOptions, eventually, lsn_of_version};
use tokio::sync::oneshot;
use tokio_postgres::{Client, NoTls};

const PATIENCE: Duration = Duration::from_secs(60);
/// Nothing here is about what is late: a daemon that is stopped on purpose is still believed.
const MAX_LAG: Duration = Duration::from_secs(300);
const SCHEMA: &str = "CREATE TABLE items (id int PRIMARY KEY, price int NOT NULL);
    INSERT INTO items SELECT i, 10 FROM generate_series(1, 9) i; SELECT cachetag.track('items', 'item:{id}')";
const NAMESPACES: [&str; 2] = ["ct0", "ct1"];

/// One database, and two shards of one cache.
struct Shards {
    stack: Stack,
    second: Redis,
    daemons: Vec<Daemon>,
    database: Arc<Client>,
    loads: Arc<AtomicU32>,
}

impl Shards {
    async fn start() -> Shards {
        let mut stack = Stack::start(StackOptions::new().without_daemon().schema(SCHEMA)).await;
        let home = stack.new_home();
        let second = Redis::builder(home).args(stack.redis.args()).start().await.expect("a second Redis");
        let (database, connection) = tokio_postgres::connect(&stack.postgres_url(), NoTls).await.expect("a connection");
        tokio::spawn(connection);
        let (database, loads) = (Arc::new(database), Arc::default());
        let mut shards = Shards { stack, second, daemons: Vec::new(), database, loads };
        for shard in [0, 1] {
            let options = DaemonOptions::new().slot(slot(shard)).args(["--namespace", NAMESPACES[shard]]);
            let (log, url) = (shards.stack.folder().join(format!("{}.log", slot(shard))), shards.redis(shard).url());
            shards.daemons.push(Daemon::start(&shards.stack.postgres_url(), &url, &log, options));
        }
        for shard in [0, 1] {
            shards.caught_up(shard).await;
        }
        shards
    }

    fn redis(&self, shard: usize) -> &Redis {
        [&self.stack.redis, &self.second][shard]
    }

    /// A cache whose feeds are live, and have seen each other's shards caught up.
    async fn cache(&self, memory: u64) -> Cache {
        let builder = Cache::builder().redis(self.redis(0).url()).redis(self.redis(1).url());
        let cache = builder.memory(memory).max_lag(MAX_LAG).beta(0.0).build().expect("a cache");
        assert!(cache.ready(PATIENCE).await, "the feeds are not live");
        static CACHES: AtomicU32 = AtomicU32::new(0);
        let name = format!("try:{}", CACHES.fetch_add(1, Ordering::SeqCst));
        for shard in [0, 1] {
            let fragment = on(shard, &name);
            let page = page_on(1 - shard, &name, &fragment);
            eventually("a page of two shards that is stored", PATIENCE, async || {
                self.page(&cache, &page, &fragment, 9).await.expect("a page");
                cache.get::<String>(&format!("{page} of {fragment}")).await
            })
            .await;
        }
        cache
    }

    async fn state(&self, shard: usize, field: &str) -> Option<String> {
        let mut connection = self.redis(shard).connect().await.ok()?;
        let key = format!("{{{}}}:w", NAMESPACES[shard]);
        redis::cmd("HGET").arg(key).arg(field).query_async(&mut connection).await.ok()?
    }

    async fn caught_up(&self, shard: usize) {
        let flushed = self.stack.flushed().await;
        eventually("the watermark's advance", PATIENCE, async || {
            (lsn_of_version(&self.state(shard, "watermark").await?) >= flushed).then_some(())
        })
        .await;
    }

    async fn change(&self, price: i32, caught_up: &[usize]) {
        self.stack.sql(&format!("UPDATE items SET price = {price} WHERE id = 1")).await;
        for &shard in caught_up {
            self.caught_up(shard).await;
        }
    }

    /// What an item costs: a value with its item's tag.
    async fn price(&self, cache: &Cache, key: &str, id: i32) -> Result<Cached<i32>, Error> {
        price(cache.clone(), self.database.clone(), key.to_owned(), id, self.loads.clone()).await
    }

    /// A page that shows what one fragment says.
    async fn page(&self, cache: &Cache, page: &str, fragment: &str, id: i32) -> Result<Cached<String>, Error> {
        self.slow_page(cache, page, fragment, id, async {}).await
    }

    /// A page whose loader goes on only then, after its fragment was read.
    async fn slow_page(
        &self,
        cache: &Cache,
        page: &str,
        fragment: &str,
        id: i32,
        go_on: impl Future<Output = ()> + Send + 'static,
    ) -> Result<Cached<String>, Error> {
        let (inner, database, loads) = (cache.clone(), self.database.clone(), self.loads.clone());
        let own = fragment.to_owned();
        let load = move |load: Load| async move {
            load.tag("layout");
            let price = price(inner, database, own, id, loads).await?;
            go_on.await;
            Ok::<_, Error>(format!("for {}", *price))
        };
        cache.get_or_load(&format!("{page} of {fragment}"), load).await
    }

    fn event(&self, cache: &Cache, name: &str) -> u64 {
        cache.snapshot().events.get(name).copied().unwrap_or(0)
    }
}

async fn price(
    cache: Cache,
    database: Arc<Client>,
    key: String,
    id: i32,
    loads: Arc<AtomicU32>,
) -> Result<Cached<i32>, Error> {
    let load = move |load: Load| async move {
        loads.fetch_add(1, Ordering::SeqCst);
        load.tag(format!("item:{id}"));
        let row = database.query_one("SELECT price FROM items WHERE id = $1", &[&id]).await?;
        Ok::<i32, tokio_postgres::Error>(row.get(0))
    };
    cache.get_or_load(&key, load).await
}

fn slot(shard: usize) -> String {
    format!("cachetag_{shard}")
}

/// Where a key lives, as the client finds it: FNV-1a, the same in every language.
fn shard_of(key: &str) -> usize {
    let hash = key
        .bytes()
        .fold(0xCBF2_9CE4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3));
    (hash % 2) as usize
}

/// A key that lives on this shard, whatever page of any fragment it is.
fn on(shard: usize, name: &str) -> String {
    (0..).map(|i| format!("{name}:{i}")).find(|key| shard_of(key) == shard).expect("one of them")
}

/// A page's name whose pages of this fragment live on the shard.
fn page_on(shard: usize, name: &str, fragment: &str) -> String {
    (0..).map(|i| format!("{name}:{i}")).find(|page| shard_of(&format!("{page} of {fragment}")) == shard).expect("one")
}

#[tokio::test]
async fn a_page_is_stored_though_its_fragment_is_on_another_shard_and_falls_with_it() {
    let shards = Shards::start().await;
    for memory in [0, 1 << 20] {
        let cache = shards.cache(memory).await;
        for (fragments, pages) in [(0, 1), (1, 0), (0, 0)] {
            let name = format!("{memory}:{fragments}:{pages}");
            let fragment = on(fragments, &format!("fragment:{name}"));
            let page = page_on(pages, &format!("page:{name}"), &fragment);
            let read = async || shards.page(&cache, &page, &fragment, 1).await.expect("a page");
            let before = shards.stack.value("SELECT price FROM items WHERE id = 1").await;
            let price: i32 = before.parse().expect("a price");
            // The fragment is there before the page, as it usually is.
            shards.price(&cache, &fragment, 1).await.expect("a price");
            assert_eq!(*read().await, format!("for {price}"));
            let again = read().await;
            assert_ne!(again.metadata().source(), Source::Loader, "{name}");
            let tags: Vec<_> = again.metadata().tags().iter().map(ToString::to_string).collect();
            assert_eq!(tags, ["item:1", "layout"], "{name}");
            shards.change(price + 1, &[0, 1]).await;
            eventually("the page", PATIENCE, async || (*read().await == format!("for {}", price + 1)).then_some(()))
                .await;
        }
    }
}

/// The commit comes between the fragment's read and the page's fill, and the page's shard knows of it before the fill.
#[tokio::test]
async fn a_fragment_that_changes_before_the_fill_keeps_the_page_out() {
    let shards = Shards::start().await;
    for (memory, registered) in [(0, false), (1 << 20, false), (1 << 20, true)] {
        let cache = shards.cache(memory).await;
        let fragment = on(0, &format!("fragment:{memory}:{registered}"));
        let page = page_on(1, "page", &fragment);
        shards.change(10, &[0, 1]).await;
        eventually("the fragment", PATIENCE, async || {
            (*shards.price(&cache, &fragment, 1).await.ok()? == 10).then_some(())
        })
        .await;
        if registered {
            // The tag has a key on the page's shard, too.
            let beside = on(1, "beside");
            eventually("a neighbour", PATIENCE, async || {
                (*shards.price(&cache, &beside, 1).await.ok()? == 10).then_some(())
            })
            .await;
        }
        let (go, gone) = oneshot::channel::<()>();
        let (read, has_read) = oneshot::channel::<()>();
        let go_on = async move {
            let _ = read.send(());
            let _ = gone.await;
        };
        let refused = shards.event(&cache, "refused_bumped");
        let commits = async {
            has_read.await.expect("the fragment is read");
            shards.change(11, &[0, 1]).await;
            let _ = go.send(());
        };
        let (first, ()) = tokio::join!(shards.slow_page(&cache, &page, &fragment, 1, go_on), commits);
        assert_eq!(*first.expect("a page"), "for 10", "it was true when it was read");
        assert_eq!(shards.event(&cache, "refused_bumped"), refused + 1);
        let second = async || (*shards.page(&cache, &page, &fragment, 1).await.ok()? == "for 11").then_some(());
        eventually("the new price", PATIENCE, second).await;
    }
}

/// The page's shard does not know of the commit when it takes the page: the page falls as soon as it does.
#[tokio::test]
async fn a_fragment_that_changes_before_a_shard_that_is_behind_hears_of_it_takes_the_page_along() {
    let mut shards = Shards::start().await;
    let cache = shards.cache(0).await;
    let fragment = on(0, "fragment");
    let page = page_on(1, "page", &fragment);
    shards.price(&cache, &fragment, 1).await.expect("a price");
    shards.daemons[1].pause();
    let (go, gone) = oneshot::channel::<()>();
    let (read, has_read) = oneshot::channel::<()>();
    let go_on = async move {
        let _ = read.send(());
        let _ = gone.await;
    };
    let commits = async {
        has_read.await.expect("the fragment is read");
        shards.change(11, &[0]).await;
        let _ = go.send(());
    };
    let (first, ()) = tokio::join!(shards.slow_page(&cache, &page, &fragment, 1, go_on), commits);
    assert_eq!(*first.expect("a page"), "for 10");
    // Within max_lag it is served, as any value of that shard.
    let stored = shards.page(&cache, &page, &fragment, 1).await.expect("a page");
    assert_eq!((stored.as_str(), stored.metadata().source()), ("for 10", Source::Redis));
    shards.daemons[1].resume();
    shards.caught_up(1).await;
    let second = async || (*shards.page(&cache, &page, &fragment, 1).await.ok()? == "for 11").then_some(());
    eventually("the new price", PATIENCE, second).await;
}

/// The fragment's shard is behind, and answers what it may within `max_lag`; the page's own token is past the change. Under that token the old fragment would
/// be taken for true.
#[tokio::test]
async fn a_fragment_of_a_shard_that_is_behind_is_not_stored_as_new() {
    let mut shards = Shards::start().await;
    for (round, memory) in [0, 1 << 20].into_iter().enumerate() {
        let cache = shards.cache(memory).await;
        let fragment = on(0, &format!("fragment:{memory}"));
        let page = page_on(1, "page", &fragment);
        let (old, new) = (10 + 2 * round as i32, 11 + 2 * round as i32);
        shards.change(old, &[0, 1]).await;
        eventually("the fragment", PATIENCE, async || {
            (*shards.price(&cache, &fragment, 1).await.ok()? == old).then_some(())
        })
        .await;
        shards.daemons[0].pause();
        shards.change(new, &[1]).await;
        let first = shards.page(&cache, &page, &fragment, 1).await.expect("a page");
        assert_eq!(*first, format!("for {old}"), "the fragment's shard has not heard of the change");
        assert!(cache.get::<String>(&format!("{page} of {fragment}")).await.is_none(), "the page's has");
        assert!(shards.event(&cache, "refused_bumped") >= 1, "{:?}", cache.snapshot().events);
        shards.daemons[0].resume();
        shards.caught_up(0).await;
        eventually("the new price", PATIENCE, async || {
            (*shards.page(&cache, &page, &fragment, 1).await.ok()? == format!("for {new}")).then_some(())
        })
        .await;
        for _ in 0..20 {
            assert_eq!(*shards.page(&cache, &page, &fragment, 1).await.expect("a page"), format!("for {new}"));
        }
    }
}

/// A new epoch may mean that the database was set back. What the other shard says counts again once its daemon has looked at the database, too.
#[tokio::test]
async fn after_a_new_epoch_a_shard_counts_once_it_is_proven_anew() {
    let mut shards = Shards::start().await;
    let cache = shards.cache(1 << 20).await;
    let fragment = on(0, "fragment");
    let page = page_on(1, "page", &fragment);
    shards.price(&cache, &fragment, 1).await.expect("a price");
    shards.daemons[0].pause();
    let epoch = shards.state(1, "epoch").await.expect("an epoch");
    let mut connection = shards.redis(1).connect().await.expect("Redis answers");
    redis::cmd("FLUSHALL").exec_async(&mut connection).await.expect("FLUSHALL");
    let key = format!("{page} of {fragment}");
    eventually("another epoch", PATIENCE, async || {
        let opened = shards.state(1, "epoch").await? != epoch && shards.state(1, "watermark").await.is_some();
        opened.then_some(())
    })
    .await;
    // Once the feed of the page's shard has seen it, too.
    let near = on(1, "near");
    eventually("a hit in memory", PATIENCE, async || {
        let read = shards.price(&cache, &near, 2).await.ok()?;
        (read.metadata().source() == Source::Memory).then_some(())
    })
    .await;
    let refused = shards.event(&cache, "refused_uncovered");
    assert_eq!(*shards.page(&cache, &page, &fragment, 1).await.expect("a page"), "for 10");
    assert_eq!(shards.event(&cache, "refused_uncovered"), refused + 1, "{:?}", cache.snapshot().events);
    assert!(cache.get::<String>(&key).await.is_none());
    shards.daemons[0].resume();
    eventually("the page", PATIENCE, async || {
        shards.page(&cache, &page, &fragment, 1).await.ok()?;
        cache.get::<String>(&key).await.is_some().then_some(())
    })
    .await;
}

/// The epochs of shards have nothing to do with each other: a session that has seen one shard still hits the other.
#[tokio::test]
async fn a_session_hits_both_shards() {
    let shards = Shards::start().await;
    // Both may have begun in the same second, which would be their epoch.
    if shards.state(0, "epoch").await == shards.state(1, "epoch").await {
        let epoch = shards.state(1, "epoch").await;
        let mut connection = shards.redis(1).connect().await.expect("Redis answers");
        redis::cmd("FLUSHALL").exec_async(&mut connection).await.expect("FLUSHALL");
        eventually("another epoch", PATIENCE, async || {
            let opened = shards.state(1, "epoch").await? != *epoch.as_ref()?;
            opened.then_some(())
        })
        .await;
    }
    let cache = shards.cache(1 << 20).await;
    let keys = [on(0, "price"), on(1, "price")];
    for key in &keys {
        eventually("the price in memory", PATIENCE, async || {
            let read = shards.price(&cache, key, 1).await.ok()?;
            (read.metadata().source() == Source::Memory).then_some(())
        })
        .await;
    }
    assert_ne!(shards.state(0, "epoch").await, shards.state(1, "epoch").await, "epochs of their own");
    let session = Session::new();
    let none = |_: Load| async { Err::<i32, _>(std::io::Error::other("not a hit")) };
    for key in [&keys[0], &keys[1], &keys[0]] {
        // What one shard has proven the other has, too, in a moment.
        let hit = async || cache.session(&session).get_or_load(key, none).await.ok();
        assert_eq!(*eventually("a hit", PATIENCE, hit).await, 10);
    }
    let position = session.position().expect("a position").to_string();
    assert!(position.starts_with("1@"), "{position}");
    // It still reads its own writes, from whichever shard.
    for price in 20..25 {
        let commit = shards.stack.commit(&format!("UPDATE items SET price = {price} WHERE id = 1")).await;
        session.wrote(cachetag_client::core::Lsn(commit).into());
        for key in &keys {
            let (database, loads) = (shards.database.clone(), shards.loads.clone());
            let load = move |load: Load| async move {
                loads.fetch_add(1, Ordering::SeqCst);
                load.tag("item:1");
                let row = database.query_one("SELECT price FROM items WHERE id = 1", &[]).await?;
                Ok::<i32, tokio_postgres::Error>(row.get(0))
            };
            assert_eq!(*cache.session(&session).get_or_load(key, load).await.expect("a price"), price);
        }
    }
}

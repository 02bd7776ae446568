//! What is hot and dear is made anew before it ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use cachetag_client::adaptive::{LayerTtl, RefreshPolicy};
use cachetag_client::{Builder, Cache, Load, ReadOptions, Source};
use cachetag_tests::eventually;
use tokio::sync::Semaphore;

use crate::trial::{Database, PATIENCE, Trial};

/// An entry is looked at from its first moment on, so that no test waits for an expiry; what it costs is said by the loaders.
const POLICY: RefreshPolicy = RefreshPolicy { window: 1.0, min_readers: 5.0, min_use: 0.0 };
/// Makes the policy want half an access a second.
const DEAR: Duration = Duration::from_secs(10);
const CHEAP: Duration = Duration::from_millis(1);

fn eager(trial: &Trial) -> Builder {
    trial.builder().proactive_refresh(POLICY)
}

/// A process that reads one key, whose loads wait at a gate.
struct Shop {
    cache: Cache,
    database: Database,
    loads: Arc<AtomicUsize>,
    gate: Arc<Semaphore>,
}

impl Shop {
    async fn open(trial: &Trial, builder: Builder) -> Shop {
        let gate = Arc::new(Semaphore::new(Semaphore::MAX_PERMITS));
        let database = trial.database.clone();
        Shop { cache: trial.cache(builder).await, database, loads: Arc::default(), gate }
    }

    fn loads(&self) -> usize {
        self.loads.load(Ordering::SeqCst)
    }

    fn events(&self, name: &str) -> u64 {
        self.cache.snapshot().events.get(name).copied().unwrap_or_default()
    }

    /// The price, and where it came from.
    async fn read(&self, cost: Duration) -> (i32, Source) {
        let (database, loads, gate) = (self.database.clone(), self.loads.clone(), self.gate.clone());
        let load = move |load: Load| async move {
            loads.fetch_add(1, Ordering::SeqCst);
            load.cost(cost);
            let _passed = gate.acquire().await;
            database.price(load, 1).await
        };
        let read = self.cache.get_or_load_optional("price:1", load).await.expect("a value").expect("a price");
        (*read, read.metadata().source())
    }

    /// Reads from memory until something happens.
    async fn read_until(&self, what: &str, happened: impl Fn() -> bool) {
        eventually(what, PATIENCE, async || {
            assert_eq!(self.read(DEAR).await, (10, Source::Memory), "nobody waits: {:?}", self.cache.snapshot().paths);
            happened().then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn what_is_hot_and_dear_is_made_anew_and_nobody_waits() {
    let trial = Trial::start().await;
    let shop = Shop::open(&trial, eager(&trial)).await;
    assert_eq!(shop.read(DEAR).await, (10, Source::Loader));
    // Three accesses are not yet half an access a second, however quick they are.
    for _ in 0..3 {
        assert_eq!(shop.read(DEAR).await, (10, Source::Memory));
    }
    assert_eq!(shop.events("proactive_refresh"), 0);
    shop.read_until("a refresh", || shop.loads() == 2).await;
    assert!(shop.events("proactive_refresh") >= 1);
    eventually("it is stored", PATIENCE, async || (shop.events("stored") >= 2).then_some(())).await;
}

#[tokio::test]
async fn what_is_cheap_is_left_to_expire() {
    let trial = Trial::start().await;
    let shop = Shop::open(&trial, eager(&trial)).await;
    for _ in 0..300 {
        assert_eq!(shop.read(CHEAP).await.0, 10);
    }
    assert_eq!((shop.loads(), shop.events("proactive_refresh"), shop.events("refresh_left")), (1, 0, 0));
}

#[tokio::test]
async fn one_of_all_processes_makes_it_anew() {
    let trial = Trial::start().await;
    let (one, other) = (Shop::open(&trial, eager(&trial)).await, Shop::open(&trial, eager(&trial)).await);
    one.read(DEAR).await;
    assert_eq!(other.read(DEAR).await, (10, Source::Redis));
    one.gate.forget_permits(Semaphore::MAX_PERMITS);
    one.read_until("the first sets out", || one.loads() == 2).await;
    // It has the lease, and the other one comes too late.
    other.read_until("the second leaves it to the first", || other.events("refresh_left") == 1).await;
    one.gate.add_permits(1);
    eventually("it is stored", PATIENCE, async || (one.events("stored") == 2).then_some(())).await;
    assert_eq!((one.loads(), other.loads()), (2, 0));
}

/// A copy in memory does not know that another process has made its entry anew.
#[tokio::test]
async fn what_another_process_has_made_anew_is_taken_over() {
    let trial = Trial::start().await;
    // After a thousandth of an entry's life it is looked at: of the first entry at once, of the second not before the test is over.
    let policy = RefreshPolicy { window: 0.999, ..POLICY };
    let whole = LayerTtl { l1: (1.0, Duration::MAX), ..LayerTtl::default() };
    let one = trial.cache(trial.builder()).await;
    let other = Shop::open(&trial, trial.builder().layer_ttl(whole).proactive_refresh(policy)).await;
    let put = async |ttl: u64| {
        let load = move |load: Load| async move {
            load.tag("item:1").cost(DEAR).ttl(Duration::from_secs(ttl));
            Ok::<_, std::io::Error>(Some(10))
        };
        one.with(ReadOptions::new().fresh()).get_or_load_optional("price:1", load).await.expect("a value");
    };
    put(60).await;
    assert_eq!(other.read(DEAR).await, (10, Source::Redis));
    put(1_000_000).await;
    other.read_until("it is left to the other process", || other.events("refresh_left") == 1).await;
    for _ in 0..100 {
        assert_eq!(other.read(DEAR).await, (10, Source::Memory));
    }
    assert_eq!((other.loads(), other.events("refresh_left"), other.events("backfilled")), (0, 1, 2));
}

#[tokio::test]
async fn a_refresh_that_fails_leaves_what_is_there() {
    let trial = Trial::start().await;
    let shop = Shop::open(&trial, eager(&trial)).await;
    shop.read(DEAR).await;
    let failing = |_: Load| async { Err::<Option<i32>, _>(std::io::Error::other("away")) };
    eventually("a refresh that fails", PATIENCE, async || {
        let read = shop.cache.get_or_load_optional("price:1", failing).await.expect("a hit").expect("a price");
        assert_eq!((*read, read.metadata().source()), (10, Source::Memory));
        (shop.events("load_failed") == 1).then_some(())
    })
    .await;
    for _ in 0..50 {
        assert_eq!(shop.read(DEAR).await, (10, Source::Memory));
    }
    assert_eq!((shop.events("load_failed"), shop.loads()), (1, 1), "no hit of this copy tries again");
    // The lease was given back: another process may try.
    let other = Shop::open(&trial, eager(&trial)).await;
    assert_eq!(other.read(DEAR).await, (10, Source::Redis));
    other.read_until("a refresh", || other.loads() == 1).await;
}

#[tokio::test]
async fn refreshes_can_be_switched_off() {
    let trial = Trial::start().await;
    let shop = Shop::open(&trial, eager(&trial)).await;
    shop.cache.switches().background_refresh(false);
    for _ in 0..300 {
        assert_eq!(shop.read(DEAR).await.0, 10);
    }
    assert_eq!(shop.loads(), 1);
    shop.cache.switches().background_refresh(true);
    shop.read_until("a refresh", || shop.loads() == 2).await;
    // And where there is no room for any, there is none.
    let none = Shop::open(&trial, eager(&trial).background_loads(0)).await;
    for _ in 0..300 {
        assert_eq!(none.read(DEAR).await.0, 10);
    }
    assert_eq!(none.loads(), 0);
}

#[tokio::test]
async fn an_application_may_ask_for_a_refresh() {
    let trial = Trial::start().await;
    let shop = Shop::open(&trial, trial.builder()).await;
    shop.read(CHEAP).await;
    let database = trial.database.clone();
    shop.cache.with(Default::default()).refresh("price:1", move |load| database.price(load, 1));
    eventually("the load", PATIENCE, async || (shop.events("stored") == 2).then_some(())).await;
    assert_eq!((shop.events("proactive_refresh"), trial.database.queries()), (1, 2));
}

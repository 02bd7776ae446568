//! Redis comes and goes, or is slow: readers notice neither by an error nor by a wrong value.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use cachetag_client::l2::Timeouts;
use cachetag_client::observe::Layer;
use cachetag_client::resilience::{Backoff, BreakerOptions};
use cachetag_client::{Builder, Cache, Source};
use cachetag_tests::fault::proxy::{Direction, Traffic};
use cachetag_tests::{StackOptions, eventually};
use tokio::task::JoinHandle;

use super::gate::Tally;
use crate::trial::{Database, PATIENCE, Trial};

const ITEMS: i32 = 9;
const READERS: i32 = 4;
/// Between two commits.
const PAUSE: Duration = Duration::from_millis(60);
const MAX_LAG: Duration = Duration::from_secs(1);
/// Redis counts whole milliseconds.
const CLOCK_GRAIN: Duration = Duration::from_millis(2);

/// Reads and commits that go on whatever happens to Redis. A price rises with each commit, so that a wrong one is told by its number.
struct Traffics {
    readers: Vec<JoinHandle<()>>,
    writer: JoinHandle<()>,
    shared: Arc<Shared>,
}

struct Shared {
    cache: Cache,
    database: Database,
    /// When each price of each item was committed; the first is 10.
    commits: Mutex<[Vec<Instant>; ITEMS as usize]>,
    sources: [Tally; 3],
    stop: AtomicBool,
}

impl Traffics {
    async fn start(trial: &Trial, cache: &Cache) -> Traffics {
        let shared = Arc::new(Shared {
            cache: cache.clone(),
            database: trial.database.clone(),
            commits: Mutex::new(std::array::from_fn(|_| vec![Instant::now()])),
            sources: Default::default(),
            stop: AtomicBool::new(false),
        });
        let readers = (0..READERS).map(|_| tokio::spawn(shared.clone().read())).collect();
        let client = trial.stack.connect().await;
        let committing = shared.clone();
        let writer = tokio::spawn(async move {
            let mut id = 0;
            while !committing.stop.load(Ordering::SeqCst) {
                id = id % ITEMS + 1;
                client.execute("UPDATE items SET price = price + 1 WHERE id = $1", &[&id]).await.expect("a commit");
                committing.commits.lock().expect("no panic")[id as usize - 1].push(Instant::now());
                // Each item stays for some time, so that there is something to hit.
                tokio::time::sleep(PAUSE).await;
            }
        });
        Traffics { readers, writer, shared }
    }

    /// Waits for so many more answers from there.
    async fn see(&self, source: Source, more: u64) {
        let tally = self.shared.tally(source);
        tally.wait_for(tally.get() + more).await;
    }

    async fn stop(self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        for task in self.readers {
            task.await.expect("no reader had an error or a wrong value");
        }
        self.writer.await.expect("no panic");
    }
}

impl Shared {
    fn tally(&self, source: Source) -> &Tally {
        match source {
            Source::Memory => &self.sources[0],
            Source::Redis => &self.sources[1],
            _ => &self.sources[2],
        }
    }

    async fn read(self: Arc<Self>) {
        let mut id = 0;
        while !self.stop.load(Ordering::SeqCst) {
            id = id % ITEMS + 1;
            let called = Instant::now();
            let read = self.database.get(self.cache.with(Default::default()), id).await;
            let price = read.expect("a value, and no error").expect("a price");
            let next = (*price - 10 + 1) as usize;
            let replaced = self.commits.lock().expect("no panic")[id as usize - 1].get(next).copied();
            if let Some(at) = replaced {
                assert!(
                    at + MAX_LAG + CLOCK_GRAIN >= called,
                    "{} from {:?} was replaced {} ms before it was asked for",
                    *price,
                    price.metadata().source(),
                    (called - at).as_millis()
                );
            }
            self.tally(price.metadata().source()).add();
            tokio::task::yield_now().await;
        }
    }
}

fn builder(trial: &Trial) -> Builder {
    let timeouts = Timeouts { connect: Duration::from_millis(200), response: Duration::from_millis(100) };
    let backoff = Backoff { cap: Duration::from_millis(200), ..Backoff::default() };
    let breaker = BreakerOptions { consecutive: 3, backoff, ..BreakerOptions::default() };
    // A lease whose answer was lost on the way runs out by itself, in ten seconds: nobody is to wait for that here.
    let lease_wait = Duration::from_millis(200);
    trial.builder().max_lag(MAX_LAG).timeouts(timeouts).breaker(breaker).lease_wait(lease_wait)
}

/// Times that the layer was left alone because its breaker was open.
fn left_alone(cache: &Cache) -> u64 {
    cache.snapshot().layer(Layer::L2).misses.get("breaker").copied().unwrap_or_default()
}

/// Waits until the breaker is open again; there has to be something to ask Redis for.
async fn opens(cache: &Cache) {
    let before = left_alone(cache);
    eventually("an open breaker", PATIENCE, async || (left_alone(cache) > before).then_some(())).await;
}

#[tokio::test]
async fn redis_may_come_and_go() {
    const FLAPS: usize = 9;
    let trial = Trial::with(StackOptions::new().proxied()).await;
    let cache = trial.cache(builder(&trial)).await;
    let traffics = Traffics::start(&trial, &cache).await;
    let proxy = &trial.stack.proxies().app_redis;
    for flap in 0..FLAPS {
        traffics.see(Source::Memory, 50).await;
        // Refused, silent, or cut in the middle of an answer, now and then: of that the breaker may think what it likes.
        match flap % 3 {
            0 => proxy.set(Traffic::Refuse),
            1 => proxy.set(Traffic::Blackhole),
            _ => proxy.set(Traffic::CutAfter { bytes: 300, direction: Direction::ToClient }),
        }
        if flap % 3 != 2 {
            opens(&cache).await;
        }
        traffics.see(Source::Loader, 50).await;
        proxy.set(Traffic::Pass);
    }
    // By itself: nobody tells the cache that it is over.
    traffics.see(Source::Memory, 500).await;
    traffics.stop().await;
}

/// Every answer of Redis comes later than it is waited for.
#[tokio::test]
async fn a_slow_redis_is_left_alone_until_it_is_quick_again() {
    let trial = Trial::with(StackOptions::new().proxied()).await;
    let cache = trial.cache(builder(&trial)).await;
    let traffics = Traffics::start(&trial, &cache).await;
    let proxy = &trial.stack.proxies().app_redis;
    let timeouts = || cache.snapshot().layer(Layer::L2).misses.get("timeout").copied().unwrap_or_default();
    for _ in 0..3 {
        traffics.see(Source::Memory, 50).await;
        let before = timeouts();
        proxy.set(Traffic::Delay(Duration::from_millis(400)));
        eventually("timeouts", PATIENCE, async || (timeouts() > before).then_some(())).await;
        opens(&cache).await;
        traffics.see(Source::Loader, 50).await;
        proxy.set(Traffic::Pass);
    }
    traffics.see(Source::Memory, 500).await;
    traffics.stop().await;
}

//! The Rust client's own layers, in the turns of the peers: the same values and tags, in this process.

use std::hint::black_box;
use std::time::{Duration, Instant};

use cachetag_client::l2::Timeouts;
use cachetag_client::{Cache, Load};
use futures_util::future::join_all;
use redis::aio::MultiplexedConnection;
use redis::cmd;

use super::{AT_ONCE, DAEMON_MAX_LAG, value};
use crate::Stack;
use crate::bench::latency::patient;

/// Before a turn, so that the feed, which shares the thread, has its own.
const BREATH: Duration = Duration::from_millis(5);
const PATIENCE: Duration = Duration::from_secs(30);
/// Hits in memory for each read that a peer is asked for: they take no time worth measuring otherwise.
const IN_MEMORY: u32 = 50;

/// A cache with the layer in memory, one without, and a plain connection.
pub(super) struct Rust {
    memory: Cache,
    redis: Cache,
    plain: MultiplexedConnection,
    /// Reads that are under way at the same time are of keys of their own: those of one key would be one.
    keys: Vec<String>,
}

impl Rust {
    pub(super) async fn connect(stack: &Stack) -> Rust {
        let timeouts = Timeouts { connect: PATIENCE, response: PATIENCE };
        let builder = || Cache::builder().redis(stack.redis_url()).max_lag(DAEMON_MAX_LAG).beta(0.0).timeouts(timeouts);
        let memory = builder().build().expect("a cache");
        let redis = builder().memory(0).build().expect("a cache");
        let keys: Vec<String> = (0..AT_ONCE).map(|i| format!("rust:{i}")).collect();
        let mut plain = patient(&stack.redis_url()).await;
        cmd("SET").arg("rust:plain").arg(value(0)).exec_async(&mut plain).await.expect("SET");
        for cache in [&memory, &redis] {
            assert!(cache.ready(PATIENCE).await, "the feed is not live");
            for key in &keys {
                let load = |load: Load| async move {
                    load.tags(["product:0", "category:0", "brand:0", "homepage"]);
                    Ok::<_, std::io::Error>(value(0))
                };
                cache.get_or_load(key, load).await.expect("a value");
            }
        }
        Rust { memory, redis, plain, keys }
    }

    /// Hits a second in memory.
    pub(super) async fn in_memory(&self, reads: u32) -> f64 {
        tokio::time::sleep(BREATH).await;
        let reads = reads.saturating_mul(IN_MEMORY);
        let started = Instant::now();
        for key in self.keys.iter().cycle().take(reads as usize) {
            hit(&self.memory, key).await;
        }
        f64::from(reads) / started.elapsed().as_secs_f64()
    }

    /// Hits a second from Redis, so many at a time.
    pub(super) async fn in_redis(&self, reads: u32, at_once: u32) -> f64 {
        tokio::time::sleep(BREATH).await;
        let started = Instant::now();
        for _ in 0..reads / at_once {
            join_all(self.keys.iter().take(at_once as usize).map(|key| hit(&self.redis, key))).await;
        }
        f64::from(reads / at_once * at_once) / started.elapsed().as_secs_f64()
    }

    /// GETs a second on one connection, so many at a time.
    pub(super) async fn get(&self, reads: u32, at_once: u32) -> f64 {
        let get = || async {
            let found: String = cmd("GET").arg("rust:plain").query_async(&mut self.plain.clone()).await.expect("GET");
            assert_eq!(black_box(found).len(), value(0).len());
        };
        let started = Instant::now();
        for _ in 0..reads / at_once {
            join_all((0..at_once).map(|_| get())).await;
        }
        f64::from(reads / at_once * at_once) / started.elapsed().as_secs_f64()
    }
}

async fn hit(cache: &Cache, key: &str) {
    let none = |_: Load| async { Err::<String, _>(std::io::Error::other("not a hit")) };
    black_box(cache.get_or_load(key, none).await.expect("a hit"));
}

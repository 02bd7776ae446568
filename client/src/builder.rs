//! From options to a cache.

use std::sync::Arc;
use std::time::Duration;

use crate::adaptive::{LayerTtl, PopularityTtl, RefreshPolicy};
use crate::cache::Cache;
use crate::engine::Engine;
use crate::envelope::Envelope;
use crate::error::Error;
use crate::l2::Timeouts;
use crate::observe::ObserverOptions;
use crate::resilience::{BreakerOptions, LimiterOptions};
use crate::third::Layer;

/// What a cache is built with.
#[derive(Clone)]
pub(crate) struct Config {
    pub shards: Vec<String>,
    pub namespace: String,
    pub max_lag: Duration,
    pub ttl: Duration,
    pub absent_ttl: Duration,
    pub jitter: f64,
    pub fresh_for: Option<Duration>,
    pub beta: f64,
    pub stale_if_error: Option<Duration>,
    pub min_confidence: f32,
    pub memory: u64,
    pub max_share: u64,
    pub layer_ttl: LayerTtl,
    pub popularity: Option<PopularityTtl>,
    pub refresh: Option<RefreshPolicy>,
    pub background: usize,
    pub envelope: Envelope,
    pub timeouts: Timeouts,
    pub third: Option<Arc<dyn Layer>>,
    pub third_timeout: Duration,
    pub breaker: BreakerOptions,
    pub loads: LimiterOptions,
    pub load_timeout: Option<Duration>,
    pub lease_wait: Duration,
    pub observer: ObserverOptions,
}

/// What a cache is to be. Every option has a default that suits a web application; only where Redis is must be said.
///
/// ```no_run
/// # async fn example() -> Result<(), cachetag_client::Error> {
/// use std::time::Duration;
/// use cachetag_client::Cache;
///
/// let cache = Cache::builder()
///     .redis("redis://127.0.0.1/")
///     .max_lag(Duration::from_secs(1))
///     .ttl(Duration::from_secs(600))
///     .fresh_for(Duration::from_secs(60))
///     .memory(64 << 20)
///     .build()?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
#[must_use = "a builder builds nothing before `build`"]
pub struct Builder(Config);

impl Builder {
    pub(crate) fn new() -> Builder {
        Builder(Config {
            shards: Vec::new(),
            namespace: "ct".into(),
            max_lag: Duration::from_secs(2),
            ttl: Duration::from_secs(600),
            absent_ttl: Duration::from_secs(60),
            jitter: 0.1,
            fresh_for: None,
            beta: 1.0,
            stale_if_error: None,
            min_confidence: 0.0,
            memory: 64 << 20,
            max_share: 8,
            layer_ttl: LayerTtl::default(),
            popularity: None,
            refresh: None,
            background: 8,
            envelope: Envelope::default(),
            timeouts: Timeouts::default(),
            third: None,
            third_timeout: Duration::from_millis(500),
            breaker: BreakerOptions::default(),
            loads: LimiterOptions::default(),
            load_timeout: None,
            lease_wait: Duration::from_secs(5),
            observer: ObserverOptions::default(),
        })
    }

    /// Redis or Valkey: `redis://`, `rediss://` or `redis+sentinel://host:port,…/name`. Given once for each shard, in the same order in every process:
    /// keys are spread over them.
    ///
    /// ```
    /// # use cachetag_client::Cache;
    /// let alone = Cache::builder().redis("redis://127.0.0.1/");
    /// let sharded = Cache::builder().redis("redis://one/").redis("redis+sentinel://a,b,c/two");
    /// ```
    pub fn redis(mut self, url: impl Into<String>) -> Builder {
        self.0.shards.push(url.into());
        self
    }

    /// The instance's namespace, `ct` by default. With several shards the first is `ct0`, the second `ct1`, ….
    ///
    /// ```
    /// # use cachetag_client::Cache;
    /// let builder = Cache::builder().redis("redis://127.0.0.1/").namespace("shop");
    /// ```
    pub fn namespace(mut self, namespace: impl Into<String>) -> Builder {
        self.0.namespace = namespace.into();
        self
    }

    /// A hit was true no longer ago than this, for reads that do not say otherwise: 2 s.
    ///
    /// ```
    /// use std::time::Duration;
    /// # use cachetag_client::Cache;
    /// let builder = Cache::builder().redis("redis://127.0.0.1/").max_lag(Duration::from_millis(500));
    /// ```
    pub fn max_lag(mut self, bound: Duration) -> Builder {
        self.0.max_lag = bound;
        self
    }

    /// How long a value is kept at most: 10 min. It is a bound on memory, not on staleness.
    ///
    /// ```
    /// use std::time::Duration;
    /// # use cachetag_client::Cache;
    /// let builder = Cache::builder().redis("redis://127.0.0.1/").ttl(Duration::from_secs(3600));
    /// ```
    pub fn ttl(mut self, ttl: Duration) -> Builder {
        self.0.ttl = ttl;
        self
    }

    /// The same for absences: 1 min.
    ///
    /// ```
    /// use std::time::Duration;
    /// # use cachetag_client::Cache;
    /// let builder = Cache::builder().redis("redis://127.0.0.1/").absent_ttl(Duration::from_secs(10));
    /// ```
    pub fn absent_ttl(mut self, ttl: Duration) -> Builder {
        self.0.absent_ttl = ttl;
        self
    }

    /// By which share TTLs vary, so that what was stored together does not end together: 0.1.
    ///
    /// ```
    /// # use cachetag_client::Cache;
    /// let builder = Cache::builder().redis("redis://127.0.0.1/").jitter(0.2);
    /// ```
    pub fn jitter(mut self, share: f64) -> Builder {
        self.0.jitter = share.clamp(0.0, 0.9);
        self
    }

    /// After this a value is still served while one reader makes it anew. Off by default.
    ///
    /// ```
    /// use std::time::Duration;
    /// # use cachetag_client::Cache;
    /// let builder = Cache::builder().redis("redis://127.0.0.1/").fresh_for(Duration::from_secs(30));
    /// ```
    pub fn fresh_for(mut self, time: Duration) -> Builder {
        self.0.fresh_for = Some(time);
        self
    }

    /// Eagerness of early refreshes (XFetch): 1; 0 turns them off.
    ///
    /// ```
    /// # use cachetag_client::Cache;
    /// let builder = Cache::builder().redis("redis://127.0.0.1/").beta(0.0);
    /// ```
    pub fn beta(mut self, beta: f64) -> Builder {
        self.0.beta = beta.max(0.0);
        self
    }

    /// Where the loader fails, a value that is no older than this is served, though it may be invalid. Off by default.
    ///
    /// ```
    /// use std::time::Duration;
    /// # use cachetag_client::Cache;
    /// let builder = Cache::builder().redis("redis://127.0.0.1/").stale_if_error(Duration::from_secs(300));
    /// ```
    pub fn stale_if_error(mut self, bound: Duration) -> Builder {
        self.0.stale_if_error = Some(bound);
        self
    }

    /// What a loader calls less sure than this ([`Load::confidence`](crate::Load::confidence)) is not stored: 0.
    ///
    /// ```
    /// # use cachetag_client::Cache;
    /// let builder = Cache::builder().redis("redis://127.0.0.1/").min_confidence(0.5);
    /// ```
    pub fn min_confidence(mut self, least: f32) -> Builder {
        self.0.min_confidence = least;
        self
    }

    /// Bytes that the in-process layer may take: 64 MiB. 0: there is none.
    ///
    /// ```
    /// # use cachetag_client::Cache;
    /// let builder = Cache::builder().redis("redis://127.0.0.1/").memory(256 << 20);
    /// ```
    pub fn memory(mut self, bytes: u64) -> Builder {
        self.0.memory = bytes;
        self
    }

    /// No value takes more of the in-process layer than one part in so many: 8.
    ///
    /// ```
    /// # use cachetag_client::Cache;
    /// let builder = Cache::builder().redis("redis://127.0.0.1/").max_share(16);
    /// ```
    pub fn max_share(mut self, parts: u64) -> Builder {
        self.0.max_share = parts;
        self
    }

    /// How the layers' TTLs follow from a value's own.
    ///
    /// ```
    /// use std::time::Duration;
    /// use cachetag_client::{Cache, adaptive::LayerTtl};
    ///
    /// let ttl = LayerTtl { l1: (0.5, Duration::from_secs(10)), ..LayerTtl::default() };
    /// let builder = Cache::builder().redis("redis://127.0.0.1/").layer_ttl(ttl);
    /// ```
    pub fn layer_ttl(mut self, ttl: LayerTtl) -> Builder {
        self.0.layer_ttl = ttl;
        self
    }

    /// TTLs by popularity: what is asked for often is kept longer. Off by default.
    ///
    /// ```
    /// use std::time::Duration;
    /// use cachetag_client::{Cache, adaptive::PopularityTtl};
    ///
    /// let policy = PopularityTtl { min: Duration::from_secs(60), max: Duration::from_secs(3600), pivot: 0.1 };
    /// let builder = Cache::builder().redis("redis://127.0.0.1/").popularity_ttl(policy);
    /// ```
    pub fn popularity_ttl(mut self, policy: PopularityTtl) -> Builder {
        self.0.popularity = Some(policy);
        self
    }

    /// What is hot and dear is made anew before it expires or becomes stale, in the background, so that nobody waits for it: once among all processes.
    /// How hot a key is, its copy in memory tells. Off by default.
    ///
    /// ```no_run
    /// # fn example() -> Result<(), cachetag_client::Error> {
    /// use cachetag_client::{Cache, adaptive::RefreshPolicy};
    ///
    /// // In the last fifth of an entry's life, where a miss would make one reader or more wait.
    /// let policy = RefreshPolicy { window: 0.2, min_readers: 1.0, ..RefreshPolicy::default() };
    /// let cache = Cache::builder().redis("redis://127.0.0.1/").proactive_refresh(policy).build()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn proactive_refresh(mut self, policy: RefreshPolicy) -> Builder {
        self.0.refresh = Some(policy);
        self
    }

    /// How many entries are made anew in the background at a time: 8. They count among the [`loads`](Builder::loads), too. With 0 there is no refresh.
    ///
    /// ```
    /// # use cachetag_client::Cache;
    /// let builder = Cache::builder().redis("redis://127.0.0.1/").background_loads(2);
    /// ```
    pub fn background_loads(mut self, concurrency: usize) -> Builder {
        self.0.background = concurrency;
        self
    }

    /// Format, schema version and compression of stored values. By default plain JSON, compressed from a kilobyte on.
    ///
    /// ```
    /// use cachetag_client::{Cache, envelope::{Envelope, Format}};
    ///
    /// let envelope = Envelope::default().format(Format::Postcard).schema(3);
    /// let builder = Cache::builder().redis("redis://127.0.0.1/").envelope(envelope);
    /// ```
    pub fn envelope(mut self, envelope: Envelope) -> Builder {
        self.0.envelope = envelope;
        self
    }

    /// How long Redis may take.
    ///
    /// ```
    /// use std::time::Duration;
    /// use cachetag_client::{Cache, l2::Timeouts};
    ///
    /// let timeouts = Timeouts { response: Duration::from_millis(100), ..Timeouts::default() };
    /// let builder = Cache::builder().redis("redis://127.0.0.1/").timeouts(timeouts);
    /// ```
    pub fn timeouts(mut self, timeouts: Timeouts) -> Builder {
        self.0.timeouts = timeouts;
        self
    }

    /// A third layer, asked after Redis.
    ///
    /// ```
    /// use cachetag_client::{Builder, third::Layer};
    ///
    /// fn with_files(builder: Builder, files: impl Layer) -> Builder {
    ///     builder.third(files)
    /// }
    /// ```
    pub fn third(mut self, layer: impl Layer) -> Builder {
        self.0.third = Some(Arc::new(layer));
        self
    }

    /// How long the third layer may take: 500 ms.
    ///
    /// ```
    /// use std::time::Duration;
    /// # use cachetag_client::Cache;
    /// let builder = Cache::builder().redis("redis://127.0.0.1/").third_timeout(Duration::from_millis(50));
    /// ```
    pub fn third_timeout(mut self, timeout: Duration) -> Builder {
        self.0.third_timeout = timeout;
        self
    }

    /// When a layer that fails is left alone, and when it is tried again.
    ///
    /// ```
    /// use cachetag_client::{Cache, resilience::BreakerOptions};
    ///
    /// let options = BreakerOptions { consecutive: 3, ..BreakerOptions::default() };
    /// let builder = Cache::builder().redis("redis://127.0.0.1/").breaker(options);
    /// ```
    pub fn breaker(mut self, options: BreakerOptions) -> Builder {
        self.0.breaker = options;
        self
    }

    /// How many loaders run at a time, how many wait, and for how long.
    ///
    /// ```
    /// use cachetag_client::{Cache, resilience::LimiterOptions};
    ///
    /// let options = LimiterOptions { concurrency: 8, ..LimiterOptions::default() };
    /// let builder = Cache::builder().redis("redis://127.0.0.1/").loads(options);
    /// ```
    pub fn loads(mut self, options: LimiterOptions) -> Builder {
        self.0.loads = options;
        self
    }

    /// A loader that takes longer is ended. Off by default.
    ///
    /// ```
    /// use std::time::Duration;
    /// # use cachetag_client::Cache;
    /// let builder = Cache::builder().redis("redis://127.0.0.1/").load_timeout(Duration::from_secs(2));
    /// ```
    pub fn load_timeout(mut self, timeout: Duration) -> Builder {
        self.0.load_timeout = Some(timeout);
        self
    }

    /// How long a read waits for another process that is loading the same key, before it loads itself: 5 s.
    ///
    /// ```
    /// use std::time::Duration;
    /// # use cachetag_client::Cache;
    /// let builder = Cache::builder().redis("redis://127.0.0.1/").lease_wait(Duration::from_secs(1));
    /// ```
    pub fn lease_wait(mut self, time: Duration) -> Builder {
        self.0.lease_wait = time;
        self
    }

    /// How closely the cache watches itself.
    ///
    /// ```
    /// use cachetag_client::{Cache, observe::ObserverOptions};
    ///
    /// let builder = Cache::builder().redis("redis://127.0.0.1/").observer(ObserverOptions::default());
    /// ```
    pub fn observer(mut self, options: ObserverOptions) -> Builder {
        self.0.observer = options;
        self
    }

    /// The cache. Must be called within a tokio runtime. It does not wait for Redis, which may come later.
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), cachetag_client::Error> {
    /// use std::time::Duration;
    /// use cachetag_client::Cache;
    ///
    /// let cache = Cache::builder().redis("redis://127.0.0.1/").build()?;
    /// cache.ready(Duration::from_secs(1)).await; // if hits in memory are wanted from the first read on
    /// # Ok(())
    /// # }
    /// ```
    pub fn build(self) -> Result<Cache, Error> {
        Ok(Cache::new(Engine::new(self.0)?))
    }
}

//! How a cache is kept warm.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::Warming;
use super::loaders::{Loaders, Registered};
use super::saved::Store;
use crate::engine::Engine;
use crate::load::Load;
use crate::loader::{LoaderError, LoaderFuture, Value};

/// What need not be known of the loaders and the stores.
#[derive(Debug, Clone)]
pub(super) struct Options {
    pub concurrency: usize,
    pub top: usize,
    pub save_every: Duration,
    pub continuous: bool,
    pub hot: f64,
    pub settle: Duration,
    pub ready_within: Duration,
}

/// How a cache is to be kept warm: [`Cache::warming`](crate::Cache::warming) begins it.
///
/// ```no_run
/// # async fn render(key: String) -> Result<Option<String>, std::io::Error> { Ok(None) }
/// # fn example(cache: cachetag_client::Cache) {
/// let warming = cache
///     .warming()
///     .loader("page:", |load| async move { load.tag("layout"); render(load.key().to_owned()).await })
///     .concurrency(2)
///     .save_in_file("/var/lib/shop/hot.json")
///     .start();
/// # }
/// ```
#[must_use = "nothing is warmed before `start`"]
pub struct Builder {
    engine: Arc<Engine>,
    loaders: Loaders,
    stores: Vec<Store>,
    options: Options,
}

impl Builder {
    pub(crate) fn new(engine: Arc<Engine>) -> Builder {
        let options = Options {
            concurrency: 4,
            top: 1000,
            save_every: Duration::from_secs(60),
            continuous: true,
            hot: 0.2,
            settle: Duration::from_millis(5),
            ready_within: Duration::from_secs(5),
        };
        Builder { engine, loaders: Loaders::default(), stores: Vec::new(), options }
    }

    /// Computes the keys that begin with this; of several prefixes the longest counts. The loader is that of
    /// [`get_or_load_optional`](crate::Cache::get_or_load_optional), but it may be called again and again, and finds the key on its [`Load`].
    ///
    /// ```no_run
    /// # fn example(cache: cachetag_client::Cache) {
    /// let builder = cache.warming().loader("page:", |load| async move { load.tag("layout"); Ok::<_, std::io::Error>(Some(load.key().to_owned())) });
    /// # }
    /// ```
    pub fn loader<T: Value, E: LoaderError, R: LoaderFuture<Option<T>, E>>(
        mut self,
        prefix: impl Into<String>,
        loader: impl Fn(Load) -> R + Send + Sync + 'static,
    ) -> Builder {
        self.loaders.add(Registered::new(prefix.into(), loader));
        self
    }

    /// How many keys are warmed at a time: 4.
    ///
    /// ```no_run
    /// # fn example(cache: cachetag_client::Cache) {
    /// let builder = cache.warming().concurrency(2);
    /// # }
    /// ```
    pub fn concurrency(mut self, keys: usize) -> Builder {
        self.options.concurrency = keys;
        self
    }

    /// Saves the hottest keys in Redis, on each shard those that it holds: `{ct}:hot:<name of the cache>`. All processes save into one list.
    ///
    /// ```no_run
    /// # fn example(cache: cachetag_client::Cache) {
    /// let builder = cache.warming().save_in_redis();
    /// # }
    /// ```
    pub fn save_in_redis(mut self) -> Builder {
        self.stores.push(Store::Redis);
        self
    }

    /// Saves the hottest keys in a file, which no other process writes to. It is always whole: a new one takes the place of the old one.
    ///
    /// ```no_run
    /// # fn example(cache: cachetag_client::Cache) {
    /// let builder = cache.warming().save_in_file("/var/lib/shop/hot.json");
    /// # }
    /// ```
    pub fn save_in_file(mut self, path: impl Into<PathBuf>) -> Builder {
        self.stores.push(Store::File(path.into()));
        self
    }

    /// How many keys are saved: 1,000. No more are known than the [sketch](crate::observe::ObserverOptions::sketch) keeps, 512 by default.
    ///
    /// ```no_run
    /// # fn example(cache: cachetag_client::Cache) {
    /// let builder = cache.warming().top(100);
    /// # }
    /// ```
    pub fn top(mut self, keys: usize) -> Builder {
        self.options.top = keys;
        self
    }

    /// How often they are saved, about: 1 min.
    ///
    /// ```no_run
    /// # fn example(cache: cachetag_client::Cache) {
    /// let builder = cache.warming().save_every(std::time::Duration::from_secs(300));
    /// # }
    /// ```
    pub fn save_every(mut self, time: Duration) -> Builder {
        self.options.save_every = time;
        self
    }

    /// Whether keys that are bumped while they are hot are loaded again: yes.
    ///
    /// ```no_run
    /// # fn example(cache: cachetag_client::Cache) {
    /// let builder = cache.warming().continuous(false);
    /// # }
    /// ```
    pub fn continuous(mut self, on: bool) -> Builder {
        self.options.continuous = on;
        self
    }

    /// From how many accesses a second in this process on a key is hot, of those that the sketch of hot keys holds: 0.2.
    ///
    /// ```no_run
    /// # fn example(cache: cachetag_client::Cache) {
    /// let builder = cache.warming().hot(1.0);
    /// # }
    /// ```
    pub fn hot(mut self, per_second: f64) -> Builder {
        self.options.hot = per_second;
        self
    }

    /// A burst of bumps is over when a key has not been bumped for this long, and is not waited for longer than ten times that: 5 ms.
    ///
    /// ```no_run
    /// # fn example(cache: cachetag_client::Cache) {
    /// let builder = cache.warming().settle(std::time::Duration::from_millis(20));
    /// # }
    /// ```
    pub fn settle(mut self, time: Duration) -> Builder {
        self.options.settle = time;
        self
    }

    /// How long [`Warming::warm`] waits for the feeds, without which nothing could be kept in memory: 5 s.
    ///
    /// ```no_run
    /// # fn example(cache: cachetag_client::Cache) {
    /// let builder = cache.warming().ready_within(std::time::Duration::from_secs(10));
    /// # }
    /// ```
    pub fn ready_within(mut self, time: Duration) -> Builder {
        self.options.ready_within = time;
        self
    }

    /// Begins. Must be called within a tokio runtime.
    ///
    /// ```no_run
    /// # fn example(cache: cachetag_client::Cache) {
    /// let warming = cache.warming().save_in_redis().start();
    /// # }
    /// ```
    pub fn start(self) -> Warming {
        Warming::start(self.engine, self.loaders, self.stores, self.options)
    }
}

impl std::fmt::Debug for Builder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Builder").field("options", &self.options).finish_non_exhaustive()
    }
}

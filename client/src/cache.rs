//! The cache, as an application holds it.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::builder::Builder;
use crate::cached::Cached;
use crate::engine::{Engine, check_key};
use crate::error::Error;
use crate::load::Load;
use crate::loader::{LoaderError, LoaderFuture, Value};
use crate::observe::{Observer, Snapshot};
use crate::options::ReadOptions;
use crate::reader::Reader;
use crate::resilience::Switches;
use crate::session::Session;

/// A cache with a layer in this process and one in Redis, each hit of which is provably true. Cheap to clone; clones are the same cache.
///
/// ```no_run
/// # async fn render(id: i64) -> Result<String, std::io::Error> { Ok(String::new()) }
/// # async fn example() -> Result<(), cachetag_client::Error> {
/// use cachetag_client::Cache;
///
/// let cache = Cache::builder().redis("redis://127.0.0.1/").build()?;
/// let page = cache
///     .get_or_load("page:product:42", |load| async move {
///         load.tag("product:42");
///         render(42).await
///     })
///     .await?;
/// println!("{}", page.len());
/// # Ok(())
/// # }
/// ```
#[derive(Clone)]
pub struct Cache(Arc<Engine>);

impl fmt::Debug for Cache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cache")
            .field("shards", &self.0.shards.len())
            .field("loads", &self.0.flights.len())
            .finish_non_exhaustive()
    }
}

impl Cache {
    /// Begins with the defaults.
    ///
    /// ```
    /// let builder = cachetag_client::Cache::builder().redis("redis://127.0.0.1/");
    /// ```
    pub fn builder() -> Builder {
        Builder::new()
    }

    pub(crate) fn new(engine: Arc<Engine>) -> Cache {
        Cache(engine)
    }

    /// The value under a key: from memory, from Redis, from the third layer, or else from the loader, which many readers of this process and
    /// of all others share.
    ///
    /// The loader runs in a task of its own, so dropping this future does not disturb those who wait for the same key. Its error is handed
    /// to all of them and stored nowhere. It must query the database itself, after it was called: not from a snapshot that is older.
    ///
    /// ```no_run
    /// # async fn render() -> Result<String, std::io::Error> { Ok(String::new()) }
    /// # async fn example(cache: cachetag_client::Cache) -> Result<(), cachetag_client::Error> {
    /// let page = cache.get_or_load("page:1", |load| async move { load.tag("product:1"); render().await }).await?;
    /// println!("{}", page.len());
    /// # Ok(())
    /// # }
    /// ```
    pub async fn get_or_load<T: Value, E: LoaderError, R: LoaderFuture<T, E>>(
        &self,
        key: &str,
        loader: impl FnOnce(Load) -> R + Send + 'static,
    ) -> Result<Cached<T>, Error> {
        self.with(ReadOptions::new()).get_or_load(key, loader).await
    }

    /// The same for what may not exist: that it does not is remembered, too, for `absent_ttl`.
    ///
    /// ```no_run
    /// # async fn find(id: i64) -> Result<Option<String>, std::io::Error> { Ok(None) }
    /// # async fn example(cache: cachetag_client::Cache) -> Result<(), cachetag_client::Error> {
    /// let user = cache
    ///     .get_or_load_optional("user:7", |load| async move {
    ///         load.tag("user:7");
    ///         find(7).await
    ///     })
    ///     .await?;
    /// assert!(user.is_none());
    /// # Ok(())
    /// # }
    /// ```
    pub async fn get_or_load_optional<T: Value, E: LoaderError, R: LoaderFuture<Option<T>, E>>(
        &self,
        key: &str,
        loader: impl FnOnce(Load) -> R + Send + 'static,
    ) -> Result<Option<Cached<T>>, Error> {
        self.with(ReadOptions::new()).get_or_load_optional(key, loader).await
    }

    /// The value under a key if a layer has it and it is valid; `Some(None)` for a stored absence. Loads nothing.
    ///
    /// ```no_run
    /// # async fn render() -> Result<String, std::io::Error> { Ok(String::new()) }
    /// # async fn example(cache: cachetag_client::Cache) -> Result<(), cachetag_client::Error> {
    /// match cache.get::<String>("page:1").await {
    ///     Some(Some(page)) => println!("{}", page.len()),
    ///     Some(None) => println!("known not to exist"),
    ///     None => println!("not cached"),
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn get<T: Value>(&self, key: &str) -> Option<Option<Cached<T>>> {
        self.with(ReadOptions::new()).get(key).await
    }

    /// The values of many keys, in the order of the keys: what memory lacks comes from each shard's Redis in one round trip, and the rest from one call
    /// of the loader, which is given a context for each key and returns the values in the same order.
    ///
    /// ```no_run
    /// # async fn names(ids: Vec<String>) -> Result<Vec<Option<String>>, std::io::Error> { Ok(Vec::new()) }
    /// # async fn example(cache: cachetag_client::Cache) -> Result<(), cachetag_client::Error> {
    /// let products = cache
    ///     .get_many(&["product:1", "product:2"], |loads| async move {
    ///         let keys = loads.iter().map(|load| { load.tag(load.key()); load.key().to_owned() }).collect();
    ///         names(keys).await
    ///     })
    ///     .await?;
    /// assert_eq!(products.len(), 2);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn get_many<T: Value, E: LoaderError, R: Future<Output = Result<Vec<Option<T>>, E>>>(
        &self,
        keys: &[impl AsRef<str> + Sync],
        loader: impl FnOnce(Vec<Load>) -> R,
    ) -> Result<Vec<Option<Cached<T>>>, Error> {
        self.with(ReadOptions::new()).get_many(keys, loader).await
    }

    /// Reads that ask for more, or for less, than the cache was built for.
    ///
    /// ```no_run
    /// # async fn render() -> Result<String, std::io::Error> { Ok(String::new()) }
    /// # async fn example(cache: cachetag_client::Cache, commit: cachetag_client::core::Lsn) -> Result<(), cachetag_client::Error> {
    /// use cachetag_client::ReadOptions;
    ///
    /// let mine = cache.with(ReadOptions::new().at_least(commit.into()));
    /// let page = mine.get_or_load("page:1", |load| async move { load.tag("product:1"); render().await }).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn with(&self, options: ReadOptions) -> Reader<'_> {
        Reader::new(&self.0, options, None)
    }

    /// Reads of one user, who sees what that user has written and never goes back.
    ///
    /// ```no_run
    /// # async fn render() -> Result<String, std::io::Error> { Ok(String::new()) }
    /// # async fn example(cache: cachetag_client::Cache) -> Result<(), cachetag_client::Error> {
    /// use cachetag_client::Session;
    ///
    /// let session = Session::new();
    /// session.wrote("1@16/B374D848".parse().unwrap()); // SELECT cachetag.position(), after the COMMIT
    /// let page = cache.session(&session).get_or_load("page:1", |load| async move { load.tag("product:1"); render().await }).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn session<'a>(&'a self, session: &'a Session) -> Reader<'a> {
        Reader::new(&self.0, session.options(), Some(session))
    }

    /// Loads what will be asked for before it is: on start, and what is bumped while it is hot. See [`warm`](crate::warm).
    ///
    /// ```no_run
    /// # async fn page(key: String) -> Result<Option<String>, std::io::Error> { Ok(None) }
    /// # async fn example(cache: cachetag_client::Cache) {
    /// let warming = cache
    ///     .warming()
    ///     .loader("page:", |load| async move { load.tag("layout"); page(load.key().to_owned()).await })
    ///     .start();
    /// println!("{:?}", warming.warm(["page:home", "page:offers"]).await);
    /// # }
    /// ```
    pub fn warming(&self) -> crate::warm::Builder {
        crate::warm::Builder::new(Arc::clone(&self.0))
    }

    /// Makes sure that the next read of this key, by whichever process, loads it. To invalidate what depends on a row that changed, nothing needs to be
    /// called at all.
    ///
    /// ```no_run
    /// # async fn render() -> Result<String, std::io::Error> { Ok(String::new()) }
    /// # async fn example(cache: cachetag_client::Cache) -> Result<(), cachetag_client::Error> {
    /// cache.forget("page:1").await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn forget(&self, key: &str) -> Result<(), Error> {
        check_key(key)?;
        self.0.forget(key).await
    }

    /// Waits until the feeds of all shards are live, so that hits in memory are possible; whether they are.
    ///
    /// ```no_run
    /// # async fn render() -> Result<String, std::io::Error> { Ok(String::new()) }
    /// # async fn example(cache: cachetag_client::Cache) -> Result<(), cachetag_client::Error> {
    /// use std::time::Duration;
    ///
    /// if !cache.ready(Duration::from_secs(5)).await { println!("no hits in memory yet") }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn ready(&self, within: Duration) -> bool {
        let deadline = Instant::now() + within;
        for unit in &self.0.shards {
            if !unit.feed.wait_live(deadline.saturating_duration_since(Instant::now())).await {
                return false;
            }
        }
        true
    }

    /// What can be switched while it runs: layers bypassed, writes sampled or off, ….
    ///
    /// ```no_run
    /// # async fn render() -> Result<String, std::io::Error> { Ok(String::new()) }
    /// # async fn example(cache: cachetag_client::Cache) -> Result<(), cachetag_client::Error> {
    /// use cachetag_client::observe::Layer;
    ///
    /// cache.switches().bypass(Layer::L1, true);
    /// # Ok(())
    /// # }
    /// ```
    pub fn switches(&self) -> &Switches {
        &self.0.switches
    }

    /// Hits, misses by reason, latencies, hot keys.
    ///
    /// ```no_run
    /// # async fn render() -> Result<String, std::io::Error> { Ok(String::new()) }
    /// # async fn example(cache: cachetag_client::Cache) -> Result<(), cachetag_client::Error> {
    /// println!("{:?}", cache.snapshot().events);
    /// # Ok(())
    /// # }
    /// ```
    pub fn snapshot(&self) -> Snapshot {
        self.0.observer.snapshot()
    }

    /// Where the numbers come from.
    ///
    /// ```no_run
    /// # async fn render() -> Result<String, std::io::Error> { Ok(String::new()) }
    /// # async fn example(cache: cachetag_client::Cache) -> Result<(), cachetag_client::Error> {
    /// println!("{:?}", cache.observer().snapshot().events);
    /// # Ok(())
    /// # }
    /// ```
    pub fn observer(&self) -> &Observer {
        &self.0.observer
    }
}

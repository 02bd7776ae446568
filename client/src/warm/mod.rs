//! Warming: what will be asked for is loaded before it is.
//!
//! Whoever warms must be able to compute a value from its key alone: [`Builder::loader`] says how, for all keys with a prefix. Every load goes the way of any
//! other (token, loader, checked put, admission to memory), shares the flights of readers and, among processes, their leases; no more than
//! [`Builder::concurrency`] of them run at a time, and they count among the cache's [`loads`](crate::Builder::loads).
//!
//! - *On start*: [`Warming::warm`] loads a list of keys, [`Warming::warm_last_run`] those that were hottest when the application last ran. These are saved in
//!   Redis or in a file, every so often and by [`Warming::shutdown`]. What is there already is not loaded again.
//! - *While it runs*: a key whose copy in memory is hot and bumped is loaded again at once, so that its readers do not miss; once for a burst of bumps, when the
//!   last of them is visible to new snapshots.
//!
//! ```no_run
//! # async fn price(id: i64) -> Result<Option<i64>, std::io::Error> { Ok(None) }
//! # async fn example(cache: cachetag_client::Cache) -> Result<(), Box<dyn std::error::Error>> {
//! let warming = cache
//!     .warming()
//!     .loader("price:", |load| async move {
//!         let id = load.key()["price:".len()..].parse().unwrap_or_default();
//!         load.tag(format!("product:{id}"));
//!         price(id).await
//!     })
//!     .save_in_redis()
//!     .start();
//! let report = warming.warm_last_run().await?;
//! println!("{} warmed, {} there already, {} failed", report.warmed, report.present, report.failed.len());
//! // … the application runs, and when it ends:
//! warming.shutdown().await?;
//! # Ok(())
//! # }
//! ```

mod bursts;
mod error;
mod loaders;
mod options;
mod report;
mod run;
mod saved;
mod scores;
mod watch;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

pub use error::WarmError;
pub use options::Builder;
pub use report::Report;

use crate::engine::Engine;
use loaders::Loaders;
use options::Options;
use saved::Store;

/// Keeps a cache warm until it is dropped. See the [module](self).
///
/// ```no_run
/// # async fn example(warming: cachetag_client::warm::Warming) {
/// let report = warming.warm(["page:home", "page:offers"]).await;
/// assert!(report.failed.is_empty(), "{report:?}");
/// # }
/// ```
pub struct Warming {
    inner: Arc<Inner>,
    tasks: Vec<JoinHandle<()>>,
}

/// What the tasks share.
struct Inner {
    engine: Arc<Engine>,
    loaders: Loaders,
    stores: Vec<Store>,
    options: Options,
    /// Of all that is warmed, whatever for.
    slots: Semaphore,
}

impl Warming {
    fn start(engine: Arc<Engine>, loaders: Loaders, stores: Vec<Store>, options: Options) -> Warming {
        let slots = Semaphore::new(options.concurrency.clamp(1, Semaphore::MAX_PERMITS));
        let inner = Arc::new(Inner { engine, loaders, stores, options, slots });
        let mut tasks = Vec::new();
        if inner.options.continuous {
            tasks.extend(
                (0..inner.engine.shards.len()).map(|shard| tokio::spawn(watch::run(Arc::clone(&inner), shard))),
            );
        }
        if !inner.stores.is_empty() {
            tasks.push(tokio::spawn(save_again_and_again(Arc::clone(&inner))));
        }
        Warming { inner, tasks }
    }

    /// Loads what is not cached of these keys, the first ones first.
    ///
    /// ```no_run
    /// # async fn example(warming: cachetag_client::warm::Warming) {
    /// let report = warming.warm((1..=100).map(|id| format!("price:{id}"))).await;
    /// println!("{} of {} keys are cached now", report.warmed + report.present, report.keys());
    /// # }
    /// ```
    pub async fn warm<K: Into<String>>(&self, keys: impl IntoIterator<Item = K>) -> Report {
        self.inner.warm(keys.into_iter().map(Into::into).collect()).await
    }

    /// The keys that were hottest when they were last saved, the hottest first. An error only if no store can be read.
    ///
    /// ```no_run
    /// # async fn example(warming: cachetag_client::warm::Warming) -> Result<(), cachetag_client::warm::WarmError> {
    /// println!("{:?}", warming.saved().await?.first());
    /// # Ok(())
    /// # }
    /// ```
    pub async fn saved(&self) -> Result<Vec<String>, WarmError> {
        self.inner.saved().await
    }

    /// Loads what is not cached of the keys that were hottest when the application last ran, the hottest first.
    ///
    /// ```no_run
    /// # async fn example(warming: cachetag_client::warm::Warming) {
    /// match warming.warm_last_run().await {
    ///     Ok(report) => println!("{report:?}"),
    ///     Err(error) => eprintln!("the cache starts cold: {error}"),
    /// }
    /// # }
    /// ```
    pub async fn warm_last_run(&self) -> Result<Report, WarmError> {
        Ok(self.inner.warm(self.inner.saved().await?).await)
    }

    /// Saves the hottest keys now; how many there are. Nothing is forgotten by it: what was saved before fades by and by.
    ///
    /// ```no_run
    /// # async fn example(warming: cachetag_client::warm::Warming) -> Result<(), cachetag_client::warm::WarmError> {
    /// println!("{} keys", warming.save().await?);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn save(&self) -> Result<usize, WarmError> {
        self.inner.save().await
    }

    /// Stops, and saves a last time. A process that is killed has saved what was hottest some [`save_every`](Builder::save_every) ago.
    ///
    /// ```no_run
    /// # async fn example(warming: cachetag_client::warm::Warming) -> Result<(), cachetag_client::warm::WarmError> {
    /// warming.shutdown().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn shutdown(self) -> Result<usize, WarmError> {
        self.tasks.iter().for_each(JoinHandle::abort);
        self.inner.save().await
    }
}

impl Drop for Warming {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl std::fmt::Debug for Warming {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Warming").field("options", &self.inner.options).finish_non_exhaustive()
    }
}

async fn save_again_and_again(inner: Arc<Inner>) {
    loop {
        // Not in step with the other processes.
        tokio::time::sleep(
            inner.options.save_every.max(Duration::from_millis(1)).mul_f64(0.75 + fastrand::f64() / 2.0),
        )
        .await;
        if let Err(error) = inner.save().await {
            tracing::warn!(%error, "the hottest keys were not saved");
        }
    }
}

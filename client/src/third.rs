//! A third layer of the application's own: files, a local Redis, anything that keeps bytes.

use std::error::Error;
use std::future::Future;
use std::pin::Pin;
use std::time::SystemTime;

use bytes::Bytes;
use cachetag_core::{Tag, Version};

use crate::options::AtLeast;

/// What a layer keeps for a key. Nothing in it may change between `put` and `get`.
///
/// ```
/// use std::time::SystemTime;
/// use cachetag_client::third::Stored;
///
/// fn is_over(stored: &Stored) -> bool {
///     stored.expires_at <= SystemTime::now()
/// }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// The value as the cache encodes it; empty for an absence.
    pub payload: Bytes,
    /// The database was asked, and has nothing.
    pub absent: bool,
    /// The version under which it was read.
    pub as_of: Version,
    /// What it depends on.
    pub tags: Vec<Tag>,
    /// When it was stored.
    pub stored_at: SystemTime,
    /// After this it counts for nothing.
    pub expires_at: SystemTime,
    /// What it cost to load, in milliseconds.
    pub cost_ms: u64,
    /// Every commit that its loader may have seen ends here or earlier, as far as that is known.
    pub seen: Option<AtLeast>,
}

/// The answer of a layer, some time later.
///
/// ```
/// use cachetag_client::third::{Answer, Stored};
///
/// fn nothing<'a>() -> Answer<'a, Option<Stored>> {
///     Box::pin(async { Ok(None) })
/// }
/// ```
pub type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, Box<dyn Error + Send + Sync>>> + Send + 'a>>;

/// A layer that is asked after Redis and before the loader.
///
/// It need not invalidate anything: what it returns is served only if the log of bumps proves that none of its tags has changed since
/// `as_of`. It may forget whatever it likes, whenever it likes. Errors and slowness are a miss, and open its circuit breaker.
///
/// One of memory that other processes could share:
///
/// ```
/// use std::collections::HashMap;
/// use std::sync::{Mutex, PoisonError};
/// use cachetag_client::third::{Answer, Layer, Stored};
///
/// #[derive(Default)]
/// struct Shelf(Mutex<HashMap<String, Stored>>);
///
/// impl Layer for Shelf {
///     fn name(&self) -> &str {
///         "shelf"
///     }
///
///     fn get<'a>(&'a self, key: &'a str) -> Answer<'a, Option<Stored>> {
///         let found = self.0.lock().unwrap_or_else(PoisonError::into_inner).get(key).cloned();
///         Box::pin(async move { Ok(found) })
///     }
///
///     fn put<'a>(&'a self, key: &'a str, stored: Stored) -> Answer<'a, ()> {
///         self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(key.to_owned(), stored);
///         Box::pin(async { Ok(()) })
///     }
///
///     fn remove<'a>(&'a self, key: &'a str) -> Answer<'a, ()> {
///         self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
///         Box::pin(async { Ok(()) })
///     }
/// }
/// ```
pub trait Layer: Send + Sync + 'static {
    /// Its name in metrics.
    ///
    /// ```no_run
    /// # fn example(layer: &dyn cachetag_client::third::Layer) {
    /// println!("{}", layer.name());
    /// # }
    /// ```
    fn name(&self) -> &str;

    /// What it has for a key.
    ///
    /// ```no_run
    /// # async fn example(layer: &dyn cachetag_client::third::Layer) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    /// if let Some(stored) = layer.get("page:42").await? {
    ///     println!("as of {}", stored.as_of);
    /// }
    /// # Ok(()) }
    /// ```
    fn get<'a>(&'a self, key: &'a str) -> Answer<'a, Option<Stored>>;

    /// Keeps this for a key, in the place of what it has.
    ///
    /// ```no_run
    /// # async fn example(layer: &dyn cachetag_client::third::Layer, stored: cachetag_client::third::Stored) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    /// layer.put("page:42", stored).await?;
    /// # Ok(()) }
    /// ```
    fn put<'a>(&'a self, key: &'a str, stored: Stored) -> Answer<'a, ()>;

    /// Forgets a key.
    ///
    /// ```no_run
    /// # async fn example(layer: &dyn cachetag_client::third::Layer) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    /// layer.remove("page:42").await?;
    /// # Ok(()) }
    /// ```
    fn remove<'a>(&'a self, key: &'a str) -> Answer<'a, ()>;
}

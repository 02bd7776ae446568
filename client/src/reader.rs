//! Reads, with what each of them asks for.

use std::fmt;
use std::sync::Arc;

use crate::cached::Cached;
use crate::codec::Typed;
use crate::engine::{Engine, Remembered};
use crate::error::Error;
use crate::load::Load;
use crate::loader::{LoaderError, LoaderFuture, Value, boxed};
use crate::options::ReadOptions;
use crate::session::Session;

/// Reads under options of their own: [`Cache::with`](crate::Cache::with), [`Cache::session`](crate::Cache::session).
///
/// ```no_run
/// # use cachetag_client::{Cache, ReadOptions};
/// # async fn render() -> Result<String, std::io::Error> { Ok(String::new()) }
/// # async fn example(cache: Cache) -> Result<(), cachetag_client::Error> {
/// let reader = cache.with(ReadOptions::new().fresh());
/// let page = reader.get_or_load("page:1", |load| async move { load.tag("product:1"); render().await }).await?;
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy)]
pub struct Reader<'a> {
    engine: &'a Arc<Engine>,
    options: ReadOptions,
    session: Option<&'a Session>,
}

impl fmt::Debug for Reader<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").field("options", &self.options).finish_non_exhaustive()
    }
}

impl<'a> Reader<'a> {
    pub(crate) fn new(engine: &'a Arc<Engine>, options: ReadOptions, session: Option<&'a Session>) -> Reader<'a> {
        Reader { engine, options, session }
    }

    /// As [`Cache::get_or_load`](crate::Cache::get_or_load).
    ///
    /// ```no_run
    /// # use cachetag_client::{Cache, ReadOptions};
    /// # async fn render() -> Result<String, std::io::Error> { Ok(String::new()) }
    /// # async fn example(cache: Cache) -> Result<(), cachetag_client::Error> {
    /// let reader = cache.with(ReadOptions::new().fresh());
    /// let page = reader.get_or_load("page:1", |load| async move { load.tag("product:1"); render().await }).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn get_or_load<T: Value, E: LoaderError, R: LoaderFuture<T, E>>(
        &self,
        key: &str,
        loader: impl FnOnce(Load) -> R + Send + 'static,
    ) -> Result<Cached<T>, Error> {
        let loader = move |load| {
            let loading = loader(load);
            async move { loading.await.map(Some) }
        };
        match self.get_or_load_optional(key, loader).await? {
            Some(cached) => Ok(cached),
            // A stored absence, of a caller for whom the key may have no value.
            None => Err(Error::absent(key)),
        }
    }

    /// As [`Cache::get_or_load_optional`](crate::Cache::get_or_load_optional).
    ///
    /// ```no_run
    /// # use cachetag_client::{Cache, ReadOptions};
    /// # async fn render() -> Result<String, std::io::Error> { Ok(String::new()) }
    /// # async fn example(cache: Cache) -> Result<(), cachetag_client::Error> {
    /// let reader = cache.with(ReadOptions::new().fresh());
    /// let load = |load: cachetag_client::Load| async move { load.tag("product:1"); render().await.map(Some) };
    /// let page = reader.get_or_load_optional("page:1", load).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn get_or_load_optional<T: Value, E: LoaderError, R: LoaderFuture<Option<T>, E>>(
        &self,
        key: &str,
        loader: impl FnOnce(Load) -> R + Send + 'static,
    ) -> Result<Option<Cached<T>>, Error> {
        let terms = self.engine.terms(&self.options);
        let spare = match self.engine.remembered(key, &terms) {
            Remembered::Hit(cached, due) => {
                if let Some(background) = due {
                    self.engine.refresh_due(key, Typed::of::<T>(), boxed(loader), background);
                }
                return Ok(self.seen(cached));
            }
            Remembered::Miss(spare) => spare,
        };
        // Boxed: the future of a hit, which is moved about, stays small.
        let found = Box::pin(self.engine.fly(key, terms, Typed::of::<T>(), boxed(loader), spare)).await?;
        match found.typed() {
            Some(cached) => Ok(self.seen(cached)),
            None => {
                Err(Error::configuration("get_or_load", format!("{key:?} was loaded as another type at the same time")))
            }
        }
    }

    /// As [`Cache::get`](crate::Cache::get).
    ///
    /// ```no_run
    /// # use cachetag_client::{Cache, ReadOptions};
    /// # async fn render() -> Result<String, std::io::Error> { Ok(String::new()) }
    /// # async fn example(cache: Cache) -> Result<(), cachetag_client::Error> {
    /// let reader = cache.with(ReadOptions::new().fresh());
    /// let page = reader.get::<String>("page:1").await;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn get<T: Value>(&self, key: &str) -> Option<Option<Cached<T>>> {
        let found = self.engine.find_many(&[key], &self.engine.terms(&self.options), Typed::of::<T>()).await;
        let found = found.into_iter().next()?.found?;
        found.typed().map(|cached| self.seen(cached))
    }

    /// As [`Cache::get_many`](crate::Cache::get_many).
    ///
    /// ```no_run
    /// # use cachetag_client::{Cache, ReadOptions};
    /// # async fn render() -> Result<String, std::io::Error> { Ok(String::new()) }
    /// # async fn example(cache: Cache) -> Result<(), cachetag_client::Error> {
    /// let reader = cache.with(ReadOptions::new().fresh());
    /// let none = |_| async { Ok::<Vec<Option<String>>, std::io::Error>(vec![None, None]) };
    /// let pages = reader.get_many(&["page:1", "page:2"], none).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn get_many<T: Value, E: LoaderError, R: Future<Output = Result<Vec<Option<T>>, E>>>(
        &self,
        keys: &[impl AsRef<str> + Sync],
        loader: impl FnOnce(Vec<Load>) -> R,
    ) -> Result<Vec<Option<Cached<T>>>, Error> {
        let names: Vec<&str> = keys.iter().map(AsRef::as_ref).collect();
        let load = |loads| async move {
            let values = loader(loads).await.map_err(|error| Error::loader(error))?;
            Ok(values.into_iter().map(|value| value.map(|value| Arc::new(value) as _)).collect())
        };
        let found = self.engine.get_many(&names, &self.engine.terms(&self.options), Typed::of::<T>(), load).await?;
        found
            .into_iter()
            .zip(names)
            .map(|(found, key)| match found.typed() {
                Some(cached) => Ok(self.seen(cached)),
                None => Err(Error::configuration("get_many", format!("{key:?} is held as another type"))),
            })
            .collect()
    }

    /// Makes a key anew in the background, if nobody is at it in any process, and if what is loaded can be stored.
    ///
    /// ```no_run
    /// # use cachetag_client::{Cache, ReadOptions};
    /// # async fn render() -> Result<String, std::io::Error> { Ok(String::new()) }
    /// # async fn example(cache: Cache) -> Result<(), cachetag_client::Error> {
    /// let reader = cache.with(ReadOptions::new().fresh());
    /// reader.refresh("page:1", |load| async move { load.tag("product:1"); render().await.map(Some) });
    /// # Ok(())
    /// # }
    /// ```
    pub fn refresh<T: Value, E: LoaderError, R: LoaderFuture<Option<T>, E>>(
        &self,
        key: &str,
        loader: impl FnOnce(Load) -> R + Send + 'static,
    ) {
        self.engine.refresh(key, Typed::of::<T>(), boxed(loader));
    }

    /// The session has seen it.
    fn seen<T>(&self, cached: Option<Cached<T>>) -> Option<Cached<T>> {
        if let (Some(session), Some(cached)) = (self.session, &cached) {
            let known = cached.versions();
            if let Some(version) = known.as_of.or(known.valid_to) {
                session.saw(self.engine.position(known.shard, version));
            }
            if let Some(position) = known.seen {
                session.saw(position);
            }
        }
        cached
    }
}

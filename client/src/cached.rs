//! A value as a read gives it, and what is known of it.

use std::any::Any;
use std::fmt;
use std::ops::Deref;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use cachetag_core::{Tag, Version};

use crate::l1::Held;
use crate::l2::Keys;
use crate::options::AtLeast;

/// Where a value came from.
///
/// ```
/// # use cachetag_client::Cached;
/// fn known(page: &Cached<String>) -> bool {
///     matches!(page.metadata().source(), cachetag_client::Source::Memory | cachetag_client::Source::Redis)
/// }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Source {
    /// The layer in this process.
    Memory,
    /// Redis.
    Redis,
    /// The third layer.
    Third,
    /// The loader, just now.
    Loader,
}

/// What is known of a value.
///
/// ```
/// # use cachetag_client::Cached;
/// fn known(page: &Cached<String>) -> String {
///     format!("{:?}", page.metadata())
/// }
/// ```
#[derive(Debug, Clone)]
pub struct Metadata {
    pub(crate) source: Source,
    pub(crate) as_of: Option<Version>,
    /// It is known to be true up to here.
    pub(crate) valid_to: Option<Version>,
    pub(crate) tags: Tags,
    pub(crate) born: Instant,
    pub(crate) cost: Duration,
    pub(crate) size: usize,
    pub(crate) accesses: u64,
    pub(crate) stale: bool,
    pub(crate) confidence: f32,
    pub(crate) shard: usize,
    /// Whether `tags` are all that it depends on.
    pub(crate) tags_known: bool,
    /// Every commit that its loader saw ends here or earlier, as far as that is known.
    pub(crate) seen: Option<AtLeast>,
}

impl Metadata {
    /// Of a value of which no more is known than where it came from, and when.
    pub(crate) fn new(source: Source, shard: usize, born: Instant) -> Metadata {
        Metadata {
            source,
            as_of: None,
            valid_to: None,
            tags: Tags::default(),
            born,
            cost: Duration::ZERO,
            size: 0,
            accesses: 0,
            stale: false,
            confidence: 1.0,
            shard,
            tags_known: true,
            seen: None,
        }
    }

    /// Of a copy of the in-process layer.
    pub(crate) fn of(held: &Held, valid_to: Version, stale: bool, shard: usize) -> Metadata {
        let what = held.what();
        Metadata {
            as_of: Some(what.as_of),
            valid_to: Some(valid_to),
            tags: what.tags.clone().into(),
            cost: what.cost,
            size: what.size,
            accesses: held.accesses(),
            stale,
            seen: what.seen,
            ..Metadata::new(Source::Memory, shard, what.stored_at)
        }
    }

    /// Where it came from.
    ///
    /// ```
    /// # use cachetag_client::Cached;
    /// fn known(page: &Cached<String>) -> cachetag_client::Source {
    ///     page.metadata().source()
    /// }
    /// ```
    pub fn source(&self) -> Source {
        self.source
    }

    /// The version under which it was read from the database; `None` where the cache could not vouch for anything.
    ///
    /// ```
    /// # use cachetag_client::Cached;
    /// fn known(page: &Cached<String>) -> Option<cachetag_client::core::Version> {
    ///     page.metadata().as_of()
    /// }
    /// ```
    pub fn as_of(&self) -> Option<Version> {
        self.as_of
    }

    /// What it depends on. Empty for a value from Redis whose tags were not needed.
    ///
    /// ```
    /// # use cachetag_client::Cached;
    /// fn known(page: &Cached<String>) -> usize {
    ///     page.metadata().tags().len()
    /// }
    /// ```
    pub fn tags(&self) -> &[Tag] {
        self.tags.get()
    }

    /// Time since it was stored, or loaded.
    ///
    /// ```
    /// # use cachetag_client::Cached;
    /// fn known(page: &Cached<String>) -> std::time::Duration {
    ///     page.metadata().age()
    /// }
    /// ```
    pub fn age(&self) -> Duration {
        self.born.elapsed()
    }

    /// How long it took to load.
    ///
    /// ```
    /// # use cachetag_client::Cached;
    /// fn known(page: &Cached<String>) -> std::time::Duration {
    ///     page.metadata().cost()
    /// }
    /// ```
    pub fn cost(&self) -> Duration {
        self.cost
    }

    /// Bytes of the value as it is stored, in memory without compression; 0 if it was not stored.
    ///
    /// ```
    /// # use cachetag_client::Cached;
    /// fn known(page: &Cached<String>) -> usize {
    ///     page.metadata().size()
    /// }
    /// ```
    pub fn size(&self) -> usize {
        self.size
    }

    /// How often this process has read it from memory.
    ///
    /// ```
    /// # use cachetag_client::Cached;
    /// fn known(page: &Cached<String>) -> u64 {
    ///     page.metadata().accesses()
    /// }
    /// ```
    pub fn accesses(&self) -> u64 {
        self.accesses
    }

    /// Is it past its best: softly invalidated, past its `fresh_for`, or served because the database failed?
    ///
    /// ```
    /// # use cachetag_client::Cached;
    /// fn known(page: &Cached<String>) -> bool {
    ///     page.metadata().is_stale()
    /// }
    /// ```
    pub fn is_stale(&self) -> bool {
        self.stale
    }

    /// How sure its loader was of it, from 0 to 1, where it was loaded just now. What a layer keeps was sure enough to be kept: 1.
    ///
    /// ```
    /// # use cachetag_client::Cached;
    /// fn known(page: &Cached<String>) -> f32 {
    ///     page.metadata().confidence()
    /// }
    /// ```
    pub fn confidence(&self) -> f32 {
        self.confidence
    }
}

/// What a value depends on. Those of an entry of Redis are read of it when somebody asks: most who read a value never do.
#[derive(Clone, Default)]
pub(crate) struct Tags {
    known: OnceLock<Arc<[Tag]>>,
    keys: Option<Keys>,
}

impl Tags {
    /// Those of an entry, whose tags [are some](Tag::is_tag).
    pub fn named_by(keys: Keys) -> Tags {
        Tags { known: OnceLock::new(), keys: Some(keys) }
    }

    /// The tags.
    pub fn get(&self) -> &Arc<[Tag]> {
        self.known.get_or_init(|| {
            let tags = self.keys.iter().flat_map(Keys::tags);
            tags.filter_map(|tag| Tag::parse(tag).ok()).collect()
        })
    }
}

impl From<Arc<[Tag]>> for Tags {
    fn from(tags: Arc<[Tag]>) -> Tags {
        Tags { known: OnceLock::from(tags), keys: None }
    }
}

impl fmt::Debug for Tags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.get().fmt(f)
    }
}

/// A value and what is known of it. Derefs to the value.
///
/// ```
/// # use cachetag_client::Cached;
/// fn header(page: &Cached<String>) -> String {
///     let known = page.metadata();
///     format!("X-Cache: {:?}, age {} ms, {} bytes", known.source(), known.age().as_millis(), page.len())
/// }
/// ```
pub struct Cached<T>(Inner<T>);

enum Inner<T> {
    /// A copy of the in-process layer, which holds a `T`. A hit in memory neither copies what is known of it nor touches the value: who wants them reads
    /// them here.
    Held {
        held: Arc<Held>,
        valid_to: Version,
        shard: usize,
    },
    Loose {
        value: Arc<T>,
        metadata: Arc<Metadata>,
    },
}

/// What a session goes by.
pub(crate) struct Versions {
    pub shard: usize,
    pub as_of: Option<Version>,
    pub valid_to: Option<Version>,
    pub seen: Option<AtLeast>,
}

impl<T> Cached<T> {
    /// What is known of it.
    ///
    /// ```
    /// # use cachetag_client::Cached;
    /// fn known(page: &Cached<String>) -> cachetag_client::Source {
    ///     page.metadata().source()
    /// }
    /// ```
    pub fn metadata(&self) -> Metadata {
        match &self.0 {
            Inner::Held { held, valid_to, shard } => Metadata::of(held, *valid_to, false, *shard),
            Inner::Loose { metadata, .. } => (**metadata).clone(),
        }
    }

    /// The part of the metadata that a session goes by, without making all of it.
    pub(crate) fn versions(&self) -> Versions {
        match &self.0 {
            Inner::Held { held, valid_to, shard } => {
                let what = held.what();
                Versions { shard: *shard, as_of: Some(what.as_of), valid_to: Some(*valid_to), seen: what.seen }
            }
            Inner::Loose { metadata, .. } => Versions {
                shard: metadata.shard,
                as_of: metadata.as_of,
                valid_to: metadata.valid_to,
                seen: metadata.seen,
            },
        }
    }
}

impl<T: Send + Sync + 'static> Cached<T> {
    /// The value, shared with the cache.
    ///
    /// ```
    /// # use cachetag_client::Cached;
    /// fn shared(page: Cached<String>) -> std::sync::Arc<String> {
    ///     page.into_inner()
    /// }
    /// ```
    pub fn into_inner(self) -> Arc<T> {
        match self.0 {
            Inner::Held { held, .. } => held.value().unwrap_or_else(another_type),
            Inner::Loose { value, .. } => value,
        }
    }

    /// A copy of the in-process layer, which [is](Held::is) a `T`.
    pub(crate) fn held(held: Arc<Held>, valid_to: Version, shard: usize) -> Cached<T> {
        debug_assert!(held.is::<T>());
        Cached(Inner::Held { held, valid_to, shard })
    }
}

/// Whoever makes a [`Cached`] of a copy has seen that it is of its type, and a copy does not change.
#[cold]
fn another_type<T>() -> T {
    unreachable!("a copy in memory changed its type")
}

impl<T> Clone for Cached<T> {
    fn clone(&self) -> Self {
        Cached(match &self.0 {
            Inner::Held { held, valid_to, shard } => {
                Inner::Held { held: held.clone(), valid_to: *valid_to, shard: *shard }
            }
            Inner::Loose { value, metadata } => Inner::Loose { value: value.clone(), metadata: metadata.clone() },
        })
    }
}

impl<T: Send + Sync + 'static> Deref for Cached<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        match &self.0 {
            Inner::Held { held, .. } => held.value_ref().unwrap_or_else(another_type),
            Inner::Loose { value, .. } => value,
        }
    }
}

impl<T: fmt::Debug + Send + Sync + 'static> fmt::Debug for Cached<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cached").field("value", &**self).field("metadata", &self.metadata()).finish()
    }
}

/// A value of any type, as layers and flights hand it on; `None` is a stored absence.
pub(crate) type AnyValue = Option<Arc<dyn Any + Send + Sync>>;

/// What a read found.
#[derive(Clone)]
pub(crate) struct Found {
    pub value: AnyValue,
    pub metadata: Arc<Metadata>,
    /// When a layer was asked that vouches for it, or for the first of its parts: it was true no longer ago than `max_lag` before then. `None` for what was
    /// loaded as a whole, after its flight began.
    pub asked: Option<Instant>,
    /// Whether a layer of this cache has it.
    pub stored: bool,
}

impl Found {
    /// The value in the caller's type: `None` if it is of another, `Some(None)` if it is absent.
    pub fn typed<T: Send + Sync + 'static>(self) -> Option<Option<Cached<T>>> {
        match self.value {
            None => Some(None),
            Some(value) => {
                let value = value.downcast::<T>().ok()?;
                Some(Some(Cached(Inner::Loose { value, metadata: self.metadata })))
            }
        }
    }
}

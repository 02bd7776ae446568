//! The in-process layer: decoded values, bounded in bytes, each hit proven by a feed.
//!
//! A copy comes in if the feed shows that none of its tags was bumped since it was true ([`L1::admit`]), and it is a hit as long as that holds, the feed is
//! live and no further behind than the caller allows ([`L1::get`]): a few atomic loads. Which copies are kept when there is no room is TinyLFU's choice: those
//! that are asked for most.

mod held;
mod judge;
mod key;
mod options;
mod verdict;

#[cfg(test)]
mod properties;
#[cfg(test)]
mod tests;

use std::cell::Cell;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use moka::Expiry;
use moka::notification::RemovalCause;
use moka::ops::compute::Op;
use moka::sync::Cache;

use crate::feed::Feed;
use key::{Sought, StoredKey};

pub(crate) use held::HALF_LIFE;
pub use held::{Candidate, Decoded, Held, Kind, Life, Origin};
pub use options::{L1Options, Left, OnLeft};
pub use verdict::{Ask, Miss, Refused, Staleness, Verdict};

/// What a copy takes beside its value, tags and key: the structures around it, here and in the store.
const OVERHEAD: usize = 512;
/// What a key that it checks takes: its place in the copy, and the state and its place in the registry, which are often shared.
const CHECK: usize = 96;

/// The in-process layer. Clones share one store.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use std::sync::Arc;
/// use std::time::{Duration, Instant};
/// use cachetag_client::feed::{Feed, FeedOptions};
/// use cachetag_client::l1::{Ask, Candidate, L1, L1Options, Verdict};
/// use cachetag_core::Tag;
///
/// let feed = Feed::follow("redis://127.0.0.1/", FeedOptions::new())?;
/// let l1 = L1::new(L1Options::new(64 << 20));
/// feed.wait_live(Duration::from_secs(5)).await;
///
/// let token = feed.view().watermark.ok_or("no watermark yet")?; // as cachetag_get gives it; then query the database
/// let mut page = Candidate::new(Arc::new("<html>".to_owned()), 6, token, Instant::now() + Duration::from_secs(60));
/// page.tags = Arc::from([Tag::parse("product:42")?]);
/// l1.admit(&feed, "page:42", page)?;
///
/// if let Verdict::Hit { held, .. } = l1.get(&feed, "page:42", &Ask::now(Duration::from_secs(2))) {
///     println!("{}", held.value::<String>().ok_or("another type")?);
/// }
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct L1 {
    store: Cache<StoredKey, Arc<Held>>,
    /// No copy is heavier.
    largest: u64,
    ttl: Duration,
}

impl L1 {
    /// An empty layer.
    ///
    /// ```
    /// use cachetag_client::l1::{L1, L1Options};
    ///
    /// assert!(L1::new(L1Options::new(64 << 20)).is_empty());
    /// ```
    pub fn new(options: L1Options) -> L1 {
        let L1Options { capacity, max_share, ttl, grace, on_left } = options;
        let mut store = Cache::builder()
            .max_capacity(capacity)
            .weigher(|key: &StoredKey, held: &Arc<Held>| u32::try_from(weight(key.as_str(), held)).unwrap_or(u32::MAX))
            .expire_after(UntilItExpires { grace });
        if let Some(on_left) = on_left {
            store = store.eviction_listener(move |key, held, cause| on_left(key.as_str(), &held, left(cause)));
        }
        // What the store counts with is 32 bits.
        L1 { store: store.build(), largest: (capacity / max_share).min(u64::from(u32::MAX)), ttl }
    }

    /// The verdict on the copy under `key`, which is in the shard of this feed. Wait-free beside what the store does.
    ///
    /// ```no_run
    /// # fn example(l1: &cachetag_client::l1::L1, feed: &cachetag_client::feed::Feed) {
    /// use std::time::Duration;
    /// use cachetag_client::l1::{Ask, Verdict};
    ///
    /// match l1.get(feed, "page:42", &Ask::now(Duration::from_secs(2))) {
    ///     Verdict::Hit { held, .. } => println!("{:?}", held.value::<String>()),
    ///     Verdict::Stale { why, .. } => println!("stale: {why:?}"),
    ///     Verdict::Miss { why, .. } => println!("a miss: {why:?}"),
    /// }
    /// # }
    /// ```
    pub fn get(&self, feed: &Feed, key: &str, ask: &Ask) -> Verdict {
        match self.find(key) {
            Some((held, _)) => verdict(feed, held, ask),
            None => Verdict::Miss { why: Miss::None, held: None },
        }
    }

    /// The copy under `key`, whatever it is worth, and when it was looked for: the store reads the clock anyway, and reading it is a good part of what
    /// a hit costs.
    #[inline]
    pub(crate) fn find(&self, key: &str) -> Option<(Arc<Held>, Instant)> {
        // What an earlier call left there is no moment of this one.
        READ_AT.set(None);
        let held = self.store.get(&Sought(key))?;
        let read_at = READ_AT.take().unwrap_or_else(Instant::now);
        Some((held, read_at))
    }

    /// Takes a value in, if the feed shows that it is still true; replaces what is there under the key. One that was softly bumped comes in, as stale.
    ///
    /// The copy expires when the candidate does, or after the layer's own time. Having come in is no promise to stay: where there is no room, what is asked for
    /// more often stays.
    ///
    /// ```no_run
    /// # fn example(l1: &cachetag_client::l1::L1, feed: &cachetag_client::feed::Feed, token: cachetag_core::Version) {
    /// use std::sync::Arc;
    /// use std::time::{Duration, Instant};
    /// use cachetag_client::l1::Candidate;
    ///
    /// let page = Candidate::new(Arc::new("<html>".to_owned()), 6, token, Instant::now() + Duration::from_secs(60));
    /// if let Err(refused) = l1.admit(feed, "page:42", page) {
    ///     println!("used, and not kept: {refused}");
    /// }
    /// # }
    /// ```
    pub fn admit(&self, feed: &Feed, key: &str, candidate: Candidate) -> Result<Arc<Held>, Refused> {
        self.admit_at(feed, key, candidate, Instant::now())
    }

    fn admit_at(&self, feed: &Feed, key: &str, mut what: Candidate, now: Instant) -> Result<Arc<Held>, Refused> {
        if now >= what.expires_at {
            return Err(Refused::Expired);
        }
        what.expires_at = now.checked_add(self.ttl).map_or(what.expires_at, |until| until.min(what.expires_at));
        let tracked = feed.track(&what.tags, what.as_of, what.verified)?;
        let mut held = Held::new(what, tracked, feed.pulse(), now);
        if weight(key, &held) > self.largest {
            return Err(Refused::TooLarge);
        }
        let mut new = None;
        // Whichever of two callers comes last, what is there is true: both were checked, and their states are bumped from then on.
        self.store.entry(StoredKey::new(key)).and_compute_with(|old| {
            if let Some(old) = old {
                held.inherited = old.value().accesses();
                held.accesses = AtomicU64::new(held.inherited);
                held.pace = old.value().paced(now);
            }
            let held = Arc::new(held);
            new = Some(Arc::clone(&held));
            Op::Put(held)
        });
        new.ok_or(Refused::TooLarge)
    }

    /// The copy under `key`, whatever it is worth.
    ///
    /// ```
    /// use cachetag_client::l1::{L1, L1Options};
    ///
    /// let l1 = L1::new(L1Options::new(1 << 20));
    /// assert!(l1.peek("page:42").is_none());
    /// ```
    pub fn peek(&self, key: &str) -> Option<Arc<Held>> {
        self.store.get(&Sought(key))
    }

    /// Removes the copy under `key`. It does not stop a load in flight: to invalidate what changed, bump its tag.
    ///
    /// ```
    /// use cachetag_client::l1::{L1, L1Options};
    ///
    /// let l1 = L1::new(L1Options::new(1 << 20));
    /// assert!(l1.remove("page:42").is_none());
    /// ```
    pub fn remove(&self, key: &str) -> Option<Arc<Held>> {
        self.store.remove(&Sought(key))
    }

    /// Removes everything that is there now.
    ///
    /// ```
    /// use cachetag_client::l1::{L1, L1Options};
    ///
    /// let l1 = L1::new(L1Options::new(1 << 20));
    /// l1.clear();
    /// assert!(l1.is_empty());
    /// ```
    pub fn clear(&self) {
        self.store.invalidate_all();
    }

    /// How many copies there are, about: what is under way is not counted yet ([`L1::settle`]).
    ///
    /// ```
    /// use cachetag_client::l1::{L1, L1Options};
    ///
    /// let l1 = L1::new(L1Options::new(1 << 20));
    /// assert_eq!(l1.len(), 0);
    /// ```
    pub fn len(&self) -> u64 {
        self.store.entry_count()
    }

    /// Whether there is none, about.
    ///
    /// ```
    /// use cachetag_client::l1::{L1, L1Options};
    ///
    /// let l1 = L1::new(L1Options::new(1 << 20));
    /// assert!(l1.is_empty());
    /// ```
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many bytes they take, about.
    ///
    /// ```
    /// use cachetag_client::l1::{L1, L1Options};
    ///
    /// let l1 = L1::new(L1Options::new(1 << 20));
    /// assert_eq!(l1.weight(), 0);
    /// ```
    pub fn weight(&self) -> u64 {
        self.store.weighted_size()
    }

    /// Does at once what the store otherwise does by and by: evict, expire, count.
    ///
    /// ```
    /// use cachetag_client::l1::{L1, L1Options};
    ///
    /// let l1 = L1::new(L1Options::new(1 << 20));
    /// l1.settle();
    /// assert_eq!(l1.len(), 0, "exactly so now");
    /// ```
    pub fn settle(&self) {
        self.store.run_pending_tasks();
    }

    /// The copies with the most accesses, the most asked for first. O(copies).
    ///
    /// ```
    /// use cachetag_client::l1::{L1, L1Options};
    ///
    /// let l1 = L1::new(L1Options::new(1 << 20));
    /// for (key, held) in l1.hottest(10) {
    ///     println!("{key}: {} accesses", held.accesses());
    /// }
    /// ```
    pub fn hottest(&self, n: usize) -> Vec<(Arc<str>, Arc<Held>)> {
        let mut hottest = Vec::with_capacity(n.saturating_mul(2).min(4096));
        let keep = |hottest: &mut Vec<(u64, Arc<StoredKey>, Arc<Held>)>| {
            hottest.sort_by(|a, b| b.0.cmp(&a.0).then_with(|| a.1.as_str().cmp(b.1.as_str())));
            hottest.truncate(n);
        };
        for (key, held) in &self.store {
            hottest.push((held.accesses(), key, held));
            // Never more than twice what was asked for.
            if hottest.len() >= n.saturating_mul(2).max(16) {
                keep(&mut hottest);
            }
        }
        keep(&mut hottest);
        hottest.into_iter().map(|(_, key, held)| (Arc::from(key.as_str()), held)).collect()
    }
}

impl fmt::Debug for L1 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("L1").field("len", &self.len()).field("weight", &self.weight()).finish_non_exhaustive()
    }
}

/// The verdict on a copy; a served one counts as an access.
#[inline]
pub(crate) fn verdict(feed: &Feed, held: Arc<Held>, ask: &Ask) -> Verdict {
    if let Some(valid_to) = judge::unmoved(feed.pulse(), &held, ask) {
        held.accesses.fetch_add(1, Ordering::Relaxed);
        return Verdict::Hit { held, valid_to };
    }
    let usable = match judge::judge(&feed.view(), &held, ask) {
        Ok(usable) => usable,
        Err(why) => return Verdict::Miss { why, held: Some(held) },
    };
    held.accesses.fetch_add(1, Ordering::Relaxed);
    match usable.stale {
        None => Verdict::Hit { held, valid_to: usable.valid_to },
        Some(why) => Verdict::Stale { held, why, valid_to: usable.valid_to },
    }
}

fn weight(key: &str, held: &Held) -> u64 {
    let tags: usize = held.what.tags.iter().map(|tag| tag.as_str().len()).sum();
    let checks = held.tracked.checks().saturating_mul(CHECK);
    held.what.size.saturating_add(key.len() + tags + OVERHEAD).saturating_add(checks) as u64
}

fn left(cause: RemovalCause) -> Left {
    match cause {
        RemovalCause::Expired => Left::Expired,
        RemovalCause::Explicit => Left::Removed,
        RemovalCause::Replaced => Left::Replaced,
        RemovalCause::Size => Left::Evicted,
    }
}

thread_local! {
    /// When the store last read an entry on this thread, by its own clock: see [`L1::find`].
    static READ_AT: Cell<Option<Instant>> = const { Cell::new(None) };
}

/// Each copy has a time of its own, also one that takes another's place.
struct UntilItExpires {
    grace: Duration,
}

impl UntilItExpires {
    fn left(&self, held: &Held, now: Instant) -> Option<Duration> {
        Some(held.what.expires_at.saturating_duration_since(now).saturating_add(self.grace))
    }
}

impl Expiry<StoredKey, Arc<Held>> for UntilItExpires {
    fn expire_after_read(
        &self,
        _: &StoredKey,
        _: &Arc<Held>,
        read_at: Instant,
        left: Option<Duration>,
        _: Instant,
    ) -> Option<Duration> {
        READ_AT.set(Some(read_at));
        left
    }

    fn expire_after_create(&self, _: &StoredKey, held: &Arc<Held>, now: Instant) -> Option<Duration> {
        self.left(held, now)
    }

    fn expire_after_update(
        &self,
        _: &StoredKey,
        held: &Arc<Held>,
        now: Instant,
        _: Option<Duration>,
    ) -> Option<Duration> {
        self.left(held, now)
    }
}

//! The log of a shard, followed by one connection: what makes hits of the in-process layer provable.
//!
//! A [`Feed`] looks at the shard's state and log in one atomic step, again whenever the log grows and at least once a heartbeat. From what it saw it publishes
//! a [`View`]: everything bumped up to [`View::position`] is known here, and at a moment `now` that knowledge is [`View::staleness`] old. Whatever
//! cannot be explained (a gap, another epoch or source, an answer of another shape) ends the *generation*: nothing that was kept under an earlier one counts.
//!
//! ```text
//! options → task (connection, heartbeat) → look (values parsed) → trail (may it be trusted?) → ledger (ring, registry) → view → readers
//! ```

mod changes;
mod keys;
mod kinship;
mod ledger;
mod look;
mod options;
mod pulse;
mod registry;
#[cfg(test)]
pub(crate) mod rig;
mod ring;
mod task;
mod tracked;
mod trail;
mod view;

use std::sync::Arc;
use std::time::{Duration, Instant};

use cachetag_core::{Tag, Version};
use tokio::sync::{broadcast, watch};

pub use changes::Change;
pub use keys::Key;
pub(crate) use keys::{CheckKey, check_keys};
pub use ledger::FeedStats;
pub use options::FeedOptions;
pub use tracked::{Refusal, Touch, Tracked};
pub use trail::Lost;
pub use view::View;

use ledger::Ledger;
pub(crate) use pulse::Pulse;

use crate::l2::Error;
use crate::target::{Target, redact};
use task::Task;

/// The log of one shard (one Redis and namespace), followed by a background task. Clones are handles of the same task, which ends with the last of them.
///
/// ```no_run
/// # async fn example() -> Result<(), cachetag_client::l2::Error> {
/// use std::time::{Duration, Instant};
/// use cachetag_client::feed::{Feed, FeedOptions};
///
/// let feed = Feed::follow("redis://127.0.0.1/", FeedOptions::new())?;
/// assert!(feed.wait_live(Duration::from_secs(5)).await);
/// println!("{:?} behind at most", feed.staleness(Instant::now()));
/// # Ok(()) }
/// ```
#[derive(Debug, Clone)]
pub struct Feed {
    ledger: Arc<Ledger>,
    /// `None` in tests that take the looks themselves.
    _task: Option<Arc<Task>>,
}

impl Feed {
    /// Begins to follow. Returns at once: until the first look the feed is not live. Must be called within a tokio runtime.
    ///
    /// ```no_run
    /// # async fn example() -> Result<(), cachetag_client::l2::Error> {
    /// use cachetag_client::feed::{Feed, FeedOptions};
    ///
    /// let feed = Feed::follow("redis://127.0.0.1/", FeedOptions::new().namespace("ct0"))?;
    /// # Ok(()) }
    /// ```
    pub fn follow(url: &str, options: FeedOptions) -> Result<Feed, Error> {
        let target = Target::parse(url).map_err(|problem| Error::Url { url: redact(url), problem })?;
        let ledger = Arc::new(Ledger::new(&options));
        let task = Arc::new(Task::spawn(target, options, Arc::clone(&ledger)));
        Ok(Feed { ledger, _task: Some(task) })
    }

    /// What is known now; wait-free. Load it once a decision: two loads may differ.
    ///
    /// ```no_run
    /// # fn example(feed: &cachetag_client::feed::Feed) {
    /// let view = feed.view();
    /// println!("everything up to {} of the log is known", view.position);
    /// # }
    /// ```
    pub fn view(&self) -> arc_swap::Guard<Arc<View>> {
        self.ledger.view()
    }

    /// The last view in short, for a reader who needs no more of it.
    #[inline]
    pub(crate) fn pulse(&self) -> &Pulse {
        self.ledger.pulse()
    }

    /// How old, at most, what the feed vouches for is at `now`; `None` if it vouches for nothing.
    ///
    /// ```no_run
    /// # fn example(feed: &cachetag_client::feed::Feed) {
    /// match feed.staleness(std::time::Instant::now()) {
    ///     Some(lag) => println!("{lag:?} behind at most"),
    ///     None => println!("nothing can be trusted now"),
    /// }
    /// # }
    /// ```
    pub fn staleness(&self, now: Instant) -> Option<Duration> {
        self.view().staleness(now)
    }

    /// Registers the tags of a value, and tells whether any of them was bumped after it was true.
    ///
    /// `as_of` is the token that the value was read under. `verified` is up to where Redis has vouched for the value: the watermark that `cachetag_get` gave
    /// *with its hit* (or one that was read before the tags' versions were); `None` for a fill, and for an answer that was stale.
    ///
    /// ```no_run
    /// # fn example(feed: &cachetag_client::feed::Feed, token: cachetag_core::Version) -> Result<(), Box<dyn std::error::Error>> {
    /// use cachetag_client::feed::Touch;
    /// use cachetag_core::Tag;
    ///
    /// let tracked = feed.track(&[Tag::parse("product:42")?], token, None)?; // a fill: Redis has not vouched for it
    /// assert_ne!(tracked.touch(), Touch::Hard, "it was bumped since");
    /// # Ok(()) }
    /// ```
    pub fn track(&self, tags: &[Tag], as_of: Version, verified: Option<Version>) -> Result<Tracked, Refusal> {
        self.ledger.track(tags, as_of, verified)
    }

    /// As [`track`](Self::track), for a value that is not held: what happened to these check keys since it was true, and the view as of which that is known.
    /// If that view is no staler than asked for, a clean value is true up to its position, unless its soft floor is above `as_of`.
    ///
    /// ```no_run
    /// # fn example(feed: &cachetag_client::feed::Feed, token: cachetag_core::Version) -> Result<(), Box<dyn std::error::Error>> {
    /// use cachetag_client::feed::{Key, Touch};
    ///
    /// let (touch, view) = feed.since([Key::Tag("product:42")].into_iter(), token, None)?;
    /// if touch == Touch::Clean {
    ///     println!("true up to {}", view.position);
    /// }
    /// # Ok(()) }
    /// ```
    pub fn since<'a>(
        &self,
        keys: impl Iterator<Item = Key<'a>> + Clone,
        as_of: Version,
        verified: Option<Version>,
    ) -> Result<(Touch, Arc<View>), Refusal> {
        self.ledger.since(keys, as_of, verified)
    }

    /// What the feed has done, and how much it holds.
    ///
    /// ```no_run
    /// # fn example(feed: &cachetag_client::feed::Feed) {
    /// println!("{:?}", feed.stats());
    /// # }
    /// ```
    pub fn stats(&self) -> FeedStats {
        self.ledger.stats()
    }

    /// Waits until the feed is live; whether it is.
    ///
    /// ```no_run
    /// # async fn example(feed: &cachetag_client::feed::Feed) {
    /// if !feed.wait_live(std::time::Duration::from_secs(5)).await {
    ///     eprintln!("no feed yet: every read asks Redis");
    /// }
    /// # }
    /// ```
    pub async fn wait_live(&self, within: Duration) -> bool {
        let mut live = self.ledger.live();
        tokio::time::timeout(within, live.wait_for(|live| *live)).await.is_ok_and(|waited| waited.is_ok())
    }

    /// Whether the feed is live, as a value that can be waited for.
    ///
    /// ```no_run
    /// # async fn example(feed: &cachetag_client::feed::Feed) {
    /// let mut live = feed.live();
    /// while live.changed().await.is_ok() {
    ///     println!("live: {}", *live.borrow());
    /// }
    /// # }
    /// ```
    pub fn live(&self) -> watch::Receiver<bool> {
        self.ledger.live()
    }

    /// The bumps that concern registered tags, from now on. Who reads too slowly loses some: for hints such as warming, never for validity.
    ///
    /// ```no_run
    /// # async fn example(feed: &cachetag_client::feed::Feed) {
    /// let mut changes = feed.changes();
    /// while let Ok(change) = changes.recv().await {
    ///     println!("{change:?}");
    /// }
    /// # }
    /// ```
    pub fn changes(&self) -> broadcast::Receiver<Change> {
        self.ledger.changes()
    }
}

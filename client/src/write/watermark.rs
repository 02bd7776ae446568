//! Waiting until the cache has caught up with a commit.

use std::time::Duration;

use cachetag_core::{Lsn, Version};
use futures_util::future::join_all;
use redis::{RedisError, RedisResult, cmd};
use tokio::time::{Instant, sleep_until, timeout_at};

use super::link::Link;
use crate::options::{AtLeast, timeline_of};

/// A watermark follows its commit by about a millisecond.
const FIRST_PAUSE: Duration = Duration::from_millis(1);
const LONGEST_PAUSE: Duration = Duration::from_millis(20);
/// For a server that does not answer.
const PATIENCE: Duration = Duration::from_secs(2);

/// Where the watermarks of a cache are: one for each shard.
///
/// ```no_run
/// use cachetag_client::write::Watermarks;
///
/// let watermarks = Watermarks::at("redis://cache", "ct")?;
/// let sharded = Watermarks::at("redis://one", "ct0")?.and("redis://two", "ct1")?;
/// # Ok::<(), redis::RedisError>(())
/// ```
#[derive(Debug, Clone)]
pub struct Watermarks {
    shards: Vec<Shard>,
}

#[derive(Debug, Clone)]
struct Shard {
    link: Link,
    /// The hash that holds the state: `{ct}:w`.
    state: String,
}

/// How far the cache was when the waiting ended.
///
/// ```
/// use cachetag_client::write::CatchUp;
///
/// fn line(cache: &CatchUp) -> String {
///     match cache {
///         CatchUp::Late { slowest: Some(version), .. } => format!("at {version}"),
///         CatchUp::Late { .. } => "somewhere".into(),
///         _ => "there".into(),
///     }
/// }
/// ```
#[derive(Debug)]
#[non_exhaustive]
pub enum CatchUp {
    /// Every shard covers the commit: a read through Redis that starts now cannot hit what it changed.
    Done,
    /// The time was over first. Hand the commit to readers as "at least", or wait again.
    Late {
        /// The watermark of the slowest shard; none if one has none or did not tell.
        slowest: Option<Version>,
        /// The last error of a shard that did not tell.
        trouble: Option<RedisError>,
    },
}

impl CatchUp {
    /// Whether the cache covers the commit.
    ///
    /// ```
    /// assert!(cachetag_client::write::CatchUp::Done.is_done());
    /// ```
    pub fn is_done(&self) -> bool {
        matches!(self, CatchUp::Done)
    }
}

impl Watermarks {
    /// The watermark of an instance that is not sharded, or of the first shard: the server, or the sentinels that name it, as for
    /// [`Builder::redis`](crate::Builder::redis), and the namespace, which is `ct` by default.
    ///
    /// ```
    /// # use cachetag_client::write::Watermarks;
    /// let watermarks = Watermarks::at("redis+sentinel://a,b,c/cache", "ct")?;
    /// # Ok::<(), redis::RedisError>(())
    /// ```
    pub fn at(url: &str, namespace: &str) -> RedisResult<Watermarks> {
        Watermarks { shards: Vec::new() }.and(url, namespace)
    }

    /// One more shard.
    ///
    /// ```
    /// # use cachetag_client::write::Watermarks;
    /// let watermarks = Watermarks::at("redis://one", "ct0")?.and("redis://two", "ct1")?;
    /// # Ok::<(), redis::RedisError>(())
    /// ```
    pub fn and(mut self, url: &str, namespace: &str) -> RedisResult<Watermarks> {
        let link = Link::open(url, PATIENCE, PATIENCE)?;
        self.shards.push(Shard { link, state: format!("{{{namespace}}}:w") });
        Ok(self)
    }

    /// Waits until every shard covers a position, at most this long.
    ///
    /// ```no_run
    /// # async fn example(watermarks: cachetag_client::write::Watermarks, commit: cachetag_client::AtLeast) {
    /// use std::time::Duration;
    ///
    /// if watermarks.reach(commit, Duration::from_millis(500)).await.is_done() { /* nobody hits the old value */ }
    /// # }
    /// ```
    pub async fn reach(&self, position: impl Into<AtLeast>, timeout: Duration) -> CatchUp {
        let position = position.into();
        let deadline = Instant::now() + timeout;
        let mut slowest = Some(Version { epoch: cachetag_core::Epoch::MAX, lsn: Lsn(u64::MAX) });
        let (mut late, mut trouble) = (false, None);
        for (reached, seen, error) in join_all(self.shards.iter().map(|shard| shard.reach(position, deadline))).await {
            late |= !reached;
            trouble = trouble.or(error);
            slowest = slowest.zip(seen).map(|(a, b)| if b.lsn < a.lsn { b } else { a });
        }
        if late { CatchUp::Late { slowest, trouble } } else { CatchUp::Done }
    }
}

impl Shard {
    /// Whether it got there, what was seen last, and the error if that came last.
    async fn reach(&self, position: AtLeast, deadline: Instant) -> (bool, Option<Version>, Option<RedisError>) {
        let outcome = self.follow(position, deadline).await;
        if !outcome.0 {
            self.link.doubt().await;
        }
        outcome
    }

    async fn follow(&self, position: AtLeast, deadline: Instant) -> (bool, Option<Version>, Option<RedisError>) {
        let (mut pause, mut seen, mut timeline, mut trouble) = (FIRST_PAUSE, None, None, None);
        loop {
            match timeout_at(deadline, self.watermark()).await {
                Ok(Ok((watermark, source))) => (seen, timeline, trouble) = (watermark, source, None),
                Ok(Err(error)) => trouble = Some(error),
                Err(_) => return (false, seen, trouble),
            }
            if trouble.is_none() && seen.is_some_and(|watermark| position.is_covered_by(watermark, timeline)) {
                return (true, seen, None);
            }
            let next = Instant::now() + pause;
            if next >= deadline {
                return (false, seen, trouble);
            }
            sleep_until(next).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// None before the first one is published; and the timeline that it is of.
    async fn watermark(&self) -> RedisResult<(Option<Version>, Option<u32>)> {
        let (watermark, source): (Option<String>, Option<String>) =
            self.link.call(cmd("HMGET").arg(&self.state).arg(&["watermark", "source"])).await?;
        Ok((watermark.and_then(|text| text.parse().ok()), source.and_then(|source| timeline_of(&source))))
    }
}

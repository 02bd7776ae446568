//! One shard as the engine sees it: Redis behind a breaker, and the feed of its log.

use std::time::{Duration, Instant};

use cachetag_core::{Tag, Version};
use tokio::sync::watch;

use crate::envelope::Envelope;
use crate::error::Error;
use crate::feed::{CheckKey, Feed, FeedOptions, Key, Refusal, Touch, check_keys};
use crate::l2::{self, Check, GetOptions, Got, RawEntry, Shard};
use crate::observe::{Event, MissReason, Observer};
use crate::resilience::{Breaker, BreakerOptions};

/// A shard's Redis and feed.
#[derive(Debug)]
pub(crate) struct Unit {
    pub redis: Shard,
    pub feed: Feed,
    breaker: Breaker,
    observer: Observer,
}

impl Unit {
    /// Follows the feed of a shard.
    pub fn new(
        redis: Shard,
        url: &str,
        options: FeedOptions,
        breaker: BreakerOptions,
        observer: Observer,
    ) -> Result<Unit, Error> {
        let feed = Feed::follow(url, options).map_err(|error| Error::configuration("redis", error.to_string()))?;
        tokio::spawn(count_losses(feed.live(), observer.clone()));
        Ok(Unit { redis, feed, breaker: Breaker::new(breaker), observer })
    }

    /// Calls Redis, unless it is left alone.
    pub async fn ask<T>(&self, call: impl Future<Output = Result<T, l2::Error>>) -> Result<T, MissReason> {
        let Some(permit) = self.breaker.permit(Instant::now()) else { return Err(MissReason::Breaker) };
        match call.await {
            Ok(answer) => {
                permit.success();
                Ok(answer)
            }
            Err(error) => {
                if error.is_failure() {
                    if permit.failure(Instant::now()) {
                        self.observer.event(Event::BreakerOpened);
                    }
                } else {
                    permit.success();
                }
                tracing::debug!(%error, redis = self.redis.url(), "a call to Redis failed");
                Err(if error.is_timeout() { MissReason::Timeout } else { MissReason::Error })
            }
        }
    }

    /// Does the feed vouch for anything that old?
    pub fn is_trusted(&self, max_lag: Duration) -> bool {
        self.feed.staleness(Instant::now()).is_some_and(|staleness| staleness <= max_lag)
    }

    /// A token for a load that did not get one from Redis: the watermark, as long as the feed is trusted.
    pub fn token(&self, max_lag: Duration) -> Option<Version> {
        let view = self.feed.view();
        view.watermark.filter(|_| view.staleness(Instant::now()).is_some_and(|staleness| staleness <= max_lag))
    }

    /// As [`vouch_for`](Self::vouch_for), of an entry of Redis, which names the keys that it checks, at a moment that is not to come.
    pub fn vouch(&self, entry: &RawEntry, max_lag: Duration, now: Instant) -> Result<Version, MissReason> {
        let keys = entry.checks().map(|check| match check {
            Check::Tag(tag) => Key::Tag(tag),
            Check::Members(family) => Key::Members(family),
        });
        self.vouch_by(keys, entry.as_of, max_lag, now)
    }

    /// Up to where a value is true, by the feed; an error if it is not known to be, or softly bumped. That the feed knows of no bump since
    /// `as_of` suffices, whenever the value was fetched.
    pub fn vouch_for(&self, tags: &[Tag], as_of: Version, max_lag: Duration) -> Result<Version, MissReason> {
        let keys = check_keys(tags);
        self.vouch_by(keys.iter().map(CheckKey::as_key), as_of, max_lag, Instant::now())
    }

    fn vouch_by<'a>(
        &self,
        keys: impl Iterator<Item = Key<'a>> + Clone,
        as_of: Version,
        max_lag: Duration,
        now: Instant,
    ) -> Result<Version, MissReason> {
        let (touch, view) = self.feed.since(keys, as_of, None).map_err(|refusal| match refusal {
            Refusal::Epoch => MissReason::Epoch,
            Refusal::Floor => MissReason::Floor,
            Refusal::Bumped => MissReason::Bumped,
            _ => MissReason::Feed,
        })?;
        if view.epoch != as_of.epoch {
            return Err(MissReason::Feed);
        }
        if view.staleness(now).is_none_or(|staleness| staleness > max_lag) {
            return Err(MissReason::Lag);
        }
        if touch != Touch::Clean || view.soft_floor.is_some_and(|floor| floor > as_of) {
            return Err(MissReason::Bumped);
        }
        Ok(as_of.max(view.position))
    }

    /// `cachetag_get`, for a token and a lease, or a verdict where the feed can give none.
    pub async fn get(&self, key: &str, options: &GetOptions) -> Result<Got, MissReason> {
        self.ask(self.redis.get(key, options)).await
    }
}

/// Counts how often a feed that was live is not, until it ends.
async fn count_losses(mut live: watch::Receiver<bool>, observer: Observer) {
    let mut was_live = *live.borrow_and_update();
    while live.changed().await.is_ok() {
        let is_live = *live.borrow_and_update();
        // It changes by turns: live before and live again, it was lost in between.
        if was_live || !is_live {
            observer.event(Event::FeedLost);
        }
        was_live = is_live;
    }
}

/// Decodes a payload by the type's function; a mismatch is a miss with its reason.
pub(crate) fn decode(
    typed: &crate::codec::Typed,
    envelope: &Envelope,
    payload: &[u8],
) -> Result<crate::l1::Decoded, MissReason> {
    (typed.decode)(envelope, payload).map_err(|mismatch| {
        tracing::debug!(%mismatch, "an entry is no value of this application");
        MissReason::from(&mismatch)
    })
}

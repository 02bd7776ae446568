//! What else happens in a cache, counted by name.

use std::fmt;

use serde::Serialize;

use super::reason::names;

names! {
    /// What else happens in a cache.
    ///
    /// ```
    /// use cachetag_client::observe::Event;
    /// assert_eq!(Event::Coalesced.name(), "coalesced");
    /// ```
    Event {
        /// A caller waited for the load of another in this process.
        Coalesced = "coalesced",
        /// A caller waited for the load of another process.
        LeaseWait = "lease_wait",
        /// A stale value was served while it is made anew.
        StaleServed = "stale_served",
        /// A stale value was served because the load failed.
        StaleIfError = "stale_if_error",
        /// An absence was served.
        NegativeHit = "negative_hit",
        /// An entry was made anew before its expiry, by chance.
        EarlyRefresh = "early_refresh",
        /// An entry was made anew in the background: before its expiry, by cost and popularity, or by a call.
        ProactiveRefresh = "proactive_refresh",
        /// A refresh was left to another process, which is at it or has done it.
        RefreshLeft = "refresh_left",
        /// An entry was made anew because a tag was bumped while it was hot.
        WarmRefresh = "warm_refresh",
        /// A nearer layer got a copy on the way back.
        Backfilled = "backfilled",
        /// A value was stored.
        Stored = "stored",
        /// A store was refused: one of its tags was bumped meanwhile.
        RefusedBumped = "refused_bumped",
        /// A store was refused: one of its tags was not registered.
        RefusedUnregistered = "refused_unregistered",
        /// A store was refused: its token is below the floor or of another epoch.
        RefusedEpoch = "refused_epoch",
        /// A store was refused: its snapshot does not cover its token, or nothing vouches for it.
        RefusedUncovered = "refused_uncovered",
        /// A store failed.
        StoreFailed = "store_failed",
        /// A value was not stored: switched off, or outside of the sample.
        StoreSkipped = "store_skipped",
        /// A value was not admitted: too large, or asked for too rarely.
        NotAdmitted = "not_admitted",
        /// A loader failed.
        LoadFailed = "load_failed",
        /// A load found no slot in time, or the loader is switched off.
        LoadRefused = "load_refused",
        /// A breaker opened.
        BreakerOpened = "breaker_opened",
        /// The feed of a shard was lost: the layer in the process was not trusted for a while.
        FeedLost = "feed_lost",
    }
}

names! {
    /// Why an entry left a layer.
    ///
    /// ```
    /// use cachetag_client::observe::Eviction;
    /// assert_eq!(Eviction::ALL.len(), 4);
    /// ```
    Eviction {
        /// The layer was full.
        Size = "size",
        /// Its TTL was over.
        Expired = "expired",
        /// It was no longer valid, or dropped by hand.
        Invalidated = "invalidated",
        /// Another value took its place.
        Replaced = "replaced",
    }
}

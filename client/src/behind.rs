//! What is behind Redis: the third layer, asked and filled.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use cachetag_core::Tag;

use crate::cached::{AnyValue, Found, Source};
use crate::codec::Typed;
use crate::engine::Engine;
use crate::fill::{Item, Placed};
use crate::flight::Terms;
use crate::observe::{Access, Event, Layer, MissReason};
use crate::resilience::{Permit, with_timeout};
use crate::shard::decode;
use crate::third::Stored;

impl Engine {
    /// Asks the third layer. What it has counts only if the feed shows that it is still true.
    pub async fn ask_third(
        &self,
        key: &str,
        number: usize,
        terms: &Terms,
        typed: Typed,
        access: &mut Access<'_>,
    ) -> Option<Found> {
        let layer = self.config.third.as_ref()?;
        let miss = |access: &mut Access<'_>, reason| {
            access.miss(Layer::L3, reason);
            None
        };
        if self.switches.bypasses(Layer::L3) {
            return miss(access, MissReason::Switch);
        }
        let Some(permit) = self.third_breaker.permit(Instant::now()) else { return miss(access, MissReason::Breaker) };
        let asked = Instant::now();
        let stored = match with_timeout(Layer::L3, self.config.third_timeout, layer.get(key)).await {
            Ok(Ok(stored)) => {
                permit.success();
                stored
            }
            Ok(Err(error)) => {
                self.third_failed(permit);
                tracing::warn!(%error, layer = layer.name(), "the third layer failed");
                return miss(access, MissReason::Error);
            }
            Err(_) => {
                self.third_failed(permit);
                return miss(access, MissReason::Timeout);
            }
        };
        let Some(stored) = stored else { return miss(access, MissReason::None) };
        let now = SystemTime::now();
        let Ok(left) = stored.expires_at.duration_since(now) else { return miss(access, MissReason::Expired) };
        let unit = &self.shards[number];
        let valid_to = match unit.vouch_for(&stored.tags, stored.as_of, terms.max_lag) {
            Ok(valid_to) => valid_to,
            Err(reason) => return miss(access, reason),
        };
        if !Engine::covers(terms, valid_to, unit.feed.view().timeline) {
            return miss(access, MissReason::Behind);
        }
        let value: AnyValue = if stored.absent {
            None
        } else {
            match decode(&typed, &self.config.envelope, &stored.payload) {
                Ok(value) => Some(value),
                Err(reason) => return miss(access, reason),
            }
        };
        let cost = Duration::from_millis(stored.cost_ms);
        access.hit(Layer::L3, cost);
        let age = now.duration_since(stored.stored_at).unwrap_or_default();
        let born = Instant::now().checked_sub(age).unwrap_or_else(Instant::now);
        let tags: Arc<[Tag]> = stored.tags.into();
        let item = Item {
            value: value.clone(),
            payload: stored.payload,
            as_of: stored.as_of,
            tags: tags.into(),
            ttl: left,
            fresh_for: None,
            whole: left,
            cost,
            seen: stored.seen,
        };
        // Back into the nearer layers, under the version that it has: Redis checks it like any other.
        if self.put(key, number, &item, None).await != Placed::Refused {
            self.keep(key, number, &item, None, born);
            self.observer.event(Event::Backfilled);
        }
        Some(item.found(Source::Third, valid_to, born, number, asked))
    }

    fn third_failed(&self, permit: Permit) {
        if permit.failure(Instant::now()) {
            self.observer.event(Event::BreakerOpened);
        }
    }

    /// Hands a value to the third layer, as it was put into Redis.
    pub async fn put_third(&self, key: &str, item: Item) {
        let Some(layer) = &self.config.third else { return };
        if self.switches.bypasses(Layer::L3) {
            return;
        }
        let Some(permit) = self.third_breaker.permit(Instant::now()) else { return };
        let now = SystemTime::now();
        let stored = Stored {
            absent: item.value.is_none(),
            payload: item.payload,
            as_of: item.as_of,
            tags: item.tags.get().to_vec(),
            stored_at: now,
            expires_at: now + self.config.layer_ttl.ttl(Layer::L3, item.ttl),
            cost_ms: item.cost.as_millis() as u64,
            seen: item.seen,
        };
        match with_timeout(Layer::L3, self.config.third_timeout, layer.put(key, stored)).await {
            Ok(Ok(())) => permit.success(),
            Ok(Err(error)) => {
                self.third_failed(permit);
                self.observer.event(Event::StoreFailed);
                tracing::warn!(%error, layer = layer.name(), "the third layer failed");
            }
            Err(_) => {
                self.third_failed(permit);
                self.observer.event(Event::StoreFailed);
            }
        }
    }
}

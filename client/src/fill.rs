//! A flight: Redis, the third layer, the loader; and what is stored on the way back.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use cachetag_core::{Tag, Version};
use futures_util::FutureExt;

use crate::adaptive::jittered;
use crate::cached::{AnyValue, Found, Metadata, Source, Tags};
use crate::codec::Typed;
use crate::engine::Engine;
use crate::envelope::body_bytes;
use crate::error::{Error, Kind};
use crate::flight::{Pilot, Terms};
use crate::l1::{self, Candidate, Held, Life};
use crate::l2::{self, LeaseGuard, Put, Stored};
use crate::load::{Ancestry, Load, Plan};
use crate::loader::Loader;
use crate::observe::{Access, Event, Layer};
use crate::options::AtLeast;

/// A key, where it is kept, and what its values are.
#[derive(Clone, Copy)]
pub(crate) struct Place<'a> {
    pub key: &'a str,
    pub shard: usize,
    pub typed: Typed,
}

/// What a flight is for.
pub(crate) struct Quest {
    pub key: Box<str>,
    pub shard: usize,
    pub typed: Typed,
    pub terms: Terms,
    /// The loads that it is part of.
    pub within: Ancestry,
}

impl Quest {
    pub fn place(&self) -> Place<'_> {
        Place { key: &self.key, shard: self.shard, typed: self.typed }
    }
}

/// What the layers keep of a value.
pub(crate) struct Item {
    pub value: AnyValue,
    /// As it is stored; empty for an absence.
    pub payload: Bytes,
    pub as_of: Version,
    pub tags: Tags,
    /// From now on.
    pub ttl: Duration,
    /// From now on.
    pub fresh_for: Option<Duration>,
    /// How long it is good for from when it was stored: until it expires or becomes stale.
    pub whole: Duration,
    pub cost: Duration,
    /// Every commit that its loader may have seen ends here or earlier.
    pub seen: Option<AtLeast>,
}

impl Item {
    /// What a layer behind memory has, which is true up to `valid_to`.
    pub fn found(self, source: Source, valid_to: Version, born: Instant, shard: usize, asked: Instant) -> Found {
        let metadata = Metadata {
            as_of: Some(self.as_of),
            valid_to: Some(valid_to),
            tags: self.tags,
            cost: self.cost,
            size: self.payload.len(),
            seen: self.seen,
            ..Metadata::new(source, shard, born)
        };
        Found { value: self.value, metadata: Arc::new(metadata), asked: Some(asked), stored: true }
    }
}

/// What Redis says to a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Placed {
    /// It has it.
    Stored,
    /// A tag changed meanwhile, or the token counts no more: no other layer may keep it either.
    Refused,
    /// Nothing: it was not asked, or did not answer.
    Unknown,
}

/// What a flight takes along from the layers that it asked.
#[derive(Default)]
pub(crate) struct Luggage {
    /// What a load's value may be stored under.
    pub token: Option<Version>,
    /// The right to load, among all processes.
    pub lease: Option<LeaseGuard>,
    /// What may be served where the loader fails.
    pub spare: Option<Found>,
}

impl Engine {
    /// Leads a flight, and lands it.
    pub async fn lead(self: Arc<Engine>, quest: Quest, loader: Loader, spare: Option<Arc<Held>>, pilot: Pilot) {
        let observer = self.observer.clone();
        let mut access = observer.background(&quest.key);
        access.ask();
        // An absence cannot say that it is old.
        let spare = spare.filter(|held| held.what().kind == l1::Kind::Value).map(|held| outdated(&held, quest.shard));
        let mut luggage = Luggage { spare, ..Luggage::default() };
        if quest.terms.fresh {
            luggage.token = self.token(quest.shard, &quest.terms).await;
        } else {
            match self.ask_layers(&quest, &mut luggage, &mut access).await {
                Some((found, false)) => return pilot.land(Ok(found)),
                // Served at once, and made anew behind everybody's back.
                Some((found, true)) => {
                    pilot.land(Ok(found));
                    self.observer.event(Event::StaleServed);
                    let _ = self.load(&quest, loader, luggage, &mut access).await;
                    return;
                }
                None => {}
            }
        }
        let outcome = self.load(&quest, loader, luggage, &mut access).await;
        pilot.land(outcome);
    }

    /// A token where Redis is not asked for the entry.
    pub async fn token(&self, number: usize, terms: &Terms) -> Option<Version> {
        let unit = &self.shards[number];
        if let Some(token) = unit.token(terms.max_lag) {
            return Some(token);
        }
        if self.switches.bypasses(Layer::L2) {
            return None;
        }
        let state = unit.ask(unit.redis.state()).await.ok()?;
        state.watermark
    }

    /// Runs the loader, stores what it returns and falls back to what is old where it fails.
    pub async fn load(
        &self,
        quest: &Quest,
        loader: Loader,
        luggage: Luggage,
        access: &mut Access<'_>,
    ) -> Result<Found, Error> {
        let key = &*quest.key;
        let Luggage { token, lease, spare } = luggage;
        if let Err(error) = self.may_load(key) {
            return self.instead(spare, error);
        }
        // A load inside of another runs in that one's slot: waiting for one of its own, all slots could be held by loads that wait.
        let slot = match if quest.within.is_empty() { self.loads.acquire().await.map(Some) } else { Ok(None) } {
            Ok(slot) => slot,
            Err(refused) => {
                self.observer.event(Event::LoadRefused);
                let error = Error::new(Kind::Overloaded { key: key.into(), reason: refused.to_string().into() });
                return self.instead(spare, error);
            }
        };
        let load = Load::new(key, quest.shard, token, quest.within.clone());
        let began = Instant::now();
        let running = AssertUnwindSafe(load.scope(loader(load.clone()))).catch_unwind();
        let loaded = match self.config.load_timeout {
            Some(after) => match tokio::time::timeout(after, running).await {
                Ok(loaded) => loaded,
                Err(_) => Ok(Err(Error::new(Kind::Timeout { key: key.into(), after }))),
            },
            None => running.await,
        };
        drop(slot);
        let took = began.elapsed();
        let value = match loaded.unwrap_or_else(|panic| Err(Error::panicked(key, panic))) {
            Ok(value) => value,
            Err(error) => {
                access.load_failed(took);
                self.observer.event(Event::LoadFailed);
                return self.instead(spare, error);
            }
        };
        access.loaded(took);
        Ok(self.store(quest.place(), value, load.plan(), took, lease).await)
    }

    /// Whether the database may be asked: not with the loader switched off.
    pub fn may_load(&self, key: &str) -> Result<(), Error> {
        if !self.switches.bypasses(Layer::Loader) {
            return Ok(());
        }
        self.observer.event(Event::LoadRefused);
        Err(Error::new(Kind::SwitchedOff { key: key.into() }))
    }

    /// What is old, if the cache was told that it is better than an error.
    fn instead(&self, spare: Option<Found>, error: Error) -> Result<Found, Error> {
        let (Some(bound), Some(spare)) = (self.config.stale_if_error, spare) else { return Err(error) };
        if !self.switches.allows_stale_if_error() || spare.metadata.age() > bound {
            return Err(error);
        }
        self.observer.event(Event::StaleIfError);
        tracing::warn!(%error, age_ms = spare.metadata.age().as_millis() as u64, "a stale value is served instead");
        Ok(spare)
    }

    /// Stores a loaded value in all layers that take it.
    pub async fn store(
        &self,
        place: Place<'_>,
        value: AnyValue,
        plan: Plan,
        took: Duration,
        lease: Option<LeaseGuard>,
    ) -> Found {
        let Place { key, shard: number, typed } = place;
        let plan = self.joined(plan, number);
        let cost = plan.cost.unwrap_or(took);
        let tags = Tags::from(plan.tags.iter().cloned().collect::<Arc<[Tag]>>());
        let confidence = plan.sureness();
        let mut metadata = Metadata {
            as_of: plan.as_of,
            valid_to: plan.as_of,
            tags: tags.clone(),
            cost,
            confidence,
            seen: plan.seen,
            ..Metadata::new(Source::Loader, number, Instant::now())
        };
        let refused = match (&plan.refused, plan.as_of) {
            (Some(reason), _) => Some((Event::RefusedUncovered, reason.clone())),
            (None, None) => Some((Event::RefusedUncovered, "nothing vouched for the cache when it was loaded".into())),
            _ if confidence < self.config.min_confidence => Some((
                Event::NotAdmitted,
                format!("its loader is {confidence} sure, min_confidence is {}", self.config.min_confidence),
            )),
            _ if self.switches.is_read_only() || !self.switches.writes(key) => {
                Some((Event::StoreSkipped, "a switch keeps it out".into()))
            }
            _ => None,
        };
        if let Some((event, reason)) = refused {
            self.observer.event(event);
            tracing::debug!(key, reason, "a value is not stored");
            if plan.refused.is_some() {
                // A page that contains it must not be stored under its token either.
                metadata.valid_to = None;
            }
            return Found { value, metadata: Arc::new(metadata), asked: plan.asked, stored: false };
        }
        let Some(payload) = self.encoded(typed, &value) else {
            self.observer.event(Event::StoreFailed);
            return Found { value, metadata: Arc::new(metadata), asked: plan.asked, stored: false };
        };
        metadata.size = payload.len();
        let ttl = self.ttl(key, &value, &plan);
        let fresh_for = plan.fresh_for.or(self.config.fresh_for).filter(|fresh| *fresh < ttl);
        let as_of = plan.as_of.unwrap_or_default();
        let whole = fresh_for.unwrap_or(ttl);
        let item = Item { value: value.clone(), payload, as_of, tags, ttl, fresh_for, whole, cost, seen: plan.seen };
        let placed = self.put(key, number, &item, lease).await;
        let mut stored = placed == Placed::Stored;
        if placed != Placed::Refused {
            stored |= self.keep(key, number, &item, None, Instant::now());
            self.put_third(key, item).await;
        }
        Found { value, metadata: Arc::new(metadata), asked: plan.asked, stored }
    }

    /// The plan of a value of this shard, once what other shards say of its parts is put in this one's terms: it is no newer than they are.
    fn joined(&self, mut plan: Plan, number: usize) -> Plan {
        let Some(mut as_of) = plan.as_of else { return plan };
        for (from, version) in std::mem::take(&mut plan.elsewhere) {
            let (from, to) = (self.shards[from].feed.view(), self.shards[number].feed.view());
            match from.translate(version, &to, as_of.epoch) {
                Ok(version) => as_of = as_of.min(version),
                Err(apart) => {
                    plan.refused.get_or_insert_with(|| format!("a part of it is on another shard, and {apart}"));
                }
            }
        }
        plan.as_of = Some(as_of);
        plan
    }

    /// How long a value is kept.
    fn ttl(&self, key: &str, value: &AnyValue, plan: &Plan) -> Duration {
        let usual = if value.is_some() { self.config.ttl } else { self.config.absent_ttl };
        let ttl = plan.ttl.unwrap_or_else(|| match (&self.config.popularity, value) {
            (Some(policy), Some(_)) => policy.ttl(self.rate_of(key)),
            _ => usual,
        });
        jittered(ttl, self.config.jitter, fastrand::f64()).max(Duration::from_millis(1))
    }

    /// Accesses a second, of late, as far as memory tells.
    fn rate_of(&self, key: &str) -> f64 {
        let held = self.memory.as_ref().and_then(|memory| memory.peek(key));
        held.map_or(0.0, |held| held.rate(Instant::now()))
    }

    /// The payload of a value; empty for an absence.
    fn encoded(&self, typed: Typed, value: &AnyValue) -> Option<Bytes> {
        let Some(value) = value else { return Some(Bytes::new()) };
        match (typed.encode)(&self.config.envelope, &**value as &dyn Any)? {
            Ok(payload) => Some(payload),
            Err(error) => {
                tracing::warn!(%error, "a value cannot be stored");
                None
            }
        }
    }

    /// Puts into Redis.
    pub async fn put(&self, key: &str, number: usize, item: &Item, lease: Option<LeaseGuard>) -> Placed {
        if self.switches.bypasses(Layer::L2) {
            return Placed::Unknown;
        }
        let unit = &self.shards[number];
        let mut put = Put::new(item.payload.clone(), item.as_of, self.config.layer_ttl.ttl(Layer::L2, item.ttl));
        put.tags = item.tags.get().clone();
        put.fresh = item.fresh_for;
        put.cost = Some(item.cost);
        put.absent = item.value.is_none();
        put.seen = item.seen;
        // The guard stays until the answer: if none comes, it gives the lease back.
        put.lease = lease.as_ref().and_then(LeaseGuard::lease);
        let answer = unit.ask(unit.redis.put(key, &put)).await;
        if let (Ok(_), Some(guard)) = (&answer, lease) {
            guard.spend();
        }
        match answer {
            Ok(Stored::Stored(_)) => {
                self.observer.event(Event::Stored);
                Placed::Stored
            }
            Ok(Stored::Refused { reason, tag }) => {
                let event = match reason {
                    l2::Reason::Bumped => Event::RefusedBumped,
                    l2::Reason::Unregistered => Event::RefusedUnregistered,
                    _ => Event::RefusedEpoch,
                };
                self.observer.event(event);
                tracing::debug!(key, ?reason, ?tag, "Redis refuses a value");
                Placed::Refused
            }
            // The feed decides for memory alone.
            Err(_) => {
                self.observer.event(Event::StoreFailed);
                Placed::Unknown
            }
        }
    }

    /// Keeps a copy in memory, if the feed shows that it is still true; whether it does. `verified` is up to where Redis has vouched for it.
    pub fn keep(&self, key: &str, number: usize, item: &Item, verified: Option<Version>, stored_at: Instant) -> bool {
        let Some(memory) = &self.memory else { return false };
        if self.switches.bypasses(Layer::L1) {
            return false;
        }
        let kind = if item.value.is_some() { l1::Kind::Value } else { l1::Kind::Absent };
        let decoded = item.value.clone().unwrap_or_else(|| Arc::new(()));
        let now = Instant::now();
        let expires_at = now + self.config.layer_ttl.ttl(Layer::L1, item.ttl);
        let mut candidate = Candidate::new(decoded, body_bytes(&item.payload), item.as_of, expires_at);
        candidate.kind = kind;
        candidate.verified = verified;
        candidate.tags = item.tags.get().clone();
        candidate.stored_at = stored_at;
        candidate.fresh_until = item.fresh_for.map(|time| now + time);
        candidate.cost = item.cost;
        candidate.seen = item.seen;
        let good_for = item.fresh_for.unwrap_or(item.ttl).min(item.ttl);
        candidate.life = now.checked_add(good_for).map(|ends_at| Life { ends_at, ttl: item.whole });
        let admitted = memory.admit(&self.shards[number].feed, key, candidate);
        if let Err(refused) = &admitted {
            tracing::trace!(key, %refused, "the in-process layer does not take a value");
            if matches!(refused, l1::Refused::TooLarge) {
                self.observer.event(Event::NotAdmitted);
            }
        }
        admitted.is_ok()
    }
}

/// An old copy, for who prefers it to an error.
fn outdated(held: &Arc<Held>, number: usize) -> Found {
    let what = held.what();
    let value = Some(what.value.clone());
    let metadata = Metadata { stale: true, valid_to: None, ..Metadata::of(held, what.as_of, true, number) };
    Found { value, metadata: Arc::new(metadata), asked: None, stored: false }
}

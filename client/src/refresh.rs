//! Making an entry anew before its time, behind everybody's back.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::OwnedSemaphorePermit;

use crate::adaptive::Verdict;
use crate::codec::Typed;
use crate::engine::{Engine, check_key};
use crate::fill::{Luggage, Quest};
use crate::flight::{Pilot, Seat, Terms};
use crate::l1::Held;
use crate::load::Ancestry;
use crate::loader::Loader;
use crate::observe::{Event, Layer};
use crate::options::ReadOptions;
use crate::shard::Unit;

/// How long the right to load lasts where the shard does not say.
const LEASE: Duration = Duration::from_secs(10);

/// The right to load in the background.
pub(crate) type Background = OwnedSemaphorePermit;

/// Why an entry is made anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Why {
    /// The application says so.
    Asked,
    /// It is hot, dear, and near its end.
    Due,
}

impl Engine {
    /// Whether a hit in memory is the one after which its entry is made anew: then with the right to do it. No copy is tried twice: a loader that fails
    /// is not called again by each hit.
    pub fn due(&self, key: &str, held: &Held, now: Instant) -> Option<Background> {
        let policy = self.config.refresh.as_ref()?;
        let life = held.what().life?;
        let remaining = life.ends_at.saturating_duration_since(now);
        // Most hits go no further.
        if !policy.is_near(remaining, life.ttl) || !self.refreshes(key) {
            return None;
        }
        if policy.judge(remaining, life.ttl, held.what().cost, held.rate(now)) != Verdict::Refresh {
            return None;
        }
        let background = Arc::clone(&self.background).try_acquire_owned().ok()?;
        held.claim().then_some(background)
    }

    /// Makes an entry anew that is [due](Engine::due), unless somebody does already.
    pub fn refresh_due(self: &Arc<Engine>, key: &str, typed: Typed, loader: Loader, background: Background) {
        self.depart(key, typed, loader, Why::Due, background);
    }

    /// Makes a key anew in the background, unless somebody does already.
    pub fn refresh(self: &Arc<Engine>, key: &str, typed: Typed, loader: Loader) {
        if !self.refreshes(key) || check_key(key).is_err() {
            return;
        }
        let (engine, key) = (Arc::clone(self), Box::<str>::from(key));
        tokio::spawn(async move {
            // It is never closed.
            if let Ok(background) = Arc::clone(&engine.background).acquire_owned().await {
                engine.depart(&key, typed, loader, Why::Asked, background);
            }
        });
    }

    /// Whether a refresh of this key is allowed, and of any use.
    fn refreshes(&self, key: &str) -> bool {
        let off = self.switches.bypasses(Layer::Loader);
        !off && self.switches.refreshes_in_background() && self.switches.writes(key)
    }

    fn depart(self: &Arc<Engine>, key: &str, typed: Typed, loader: Loader, why: Why, background: Background) {
        let terms = Terms { fresh: true, ..self.terms(&ReadOptions::new()) };
        if let Seat::Pilot(pilot) = self.flights.board(key, None, terms) {
            // Nobody waits for it, not even the load that it may have been asked for in: it takes a slot like any other.
            let within = Ancestry::default();
            let quest = Quest { key: key.into(), shard: self.shard_of(key), typed, terms, within };
            let engine = Arc::clone(self);
            tokio::spawn(async move {
                engine.remake(quest, loader, why, pilot).await;
                drop(background);
            });
        }
    }

    /// Loads under a token and a lease. Where that is not to be, those who have come aboard meanwhile are left to themselves.
    async fn remake(&self, quest: Quest, loader: Loader, why: Why, pilot: Pilot) {
        let Some(luggage) = self.pack(&quest, why).await else { return };
        self.observer.event(Event::ProactiveRefresh);
        let observer = self.observer.clone();
        let outcome = self.load(&quest, loader, luggage, &mut observer.background(&quest.key)).await;
        if let Err(error) = &outcome {
            tracing::debug!(key = &*quest.key, %error, "an entry was not made anew");
        }
        pilot.land(outcome);
    }

    /// What a refresh needs. `None`: another process is at it or has done it, or what is loaded could not be stored.
    async fn pack(&self, quest: &Quest, why: Why) -> Option<Luggage> {
        let unit = &self.shards[quest.shard];
        if self.switches.bypasses(Layer::L2) {
            return Some(Luggage { token: Some(unit.token(quest.terms.max_lag)?), ..Luggage::default() });
        }
        let state = unit.ask(unit.redis.state()).await.ok()?;
        let Some(lease) = unit.ask(unit.redis.lease(&quest.key, state.lease.unwrap_or(LEASE))).await.ok()? else {
            self.observer.event(Event::RefreshLeft);
            return None;
        };
        // Behind the lease: nobody can have made it anew without this seeing it.
        if why == Why::Due && self.is_renewed(unit, quest).await {
            self.observer.event(Event::RefreshLeft);
            return None;
        }
        Some(Luggage { token: Some(self.token(quest.shard, &quest.terms).await?), lease: Some(lease), spare: None })
    }

    /// Has another process made the entry anew since the copy in memory was taken? Then it takes the copy's place.
    async fn is_renewed(&self, unit: &Unit, quest: &Quest) -> bool {
        let Some(policy) = &self.config.refresh else { return false };
        let asked = Instant::now();
        let layers = Terms { fresh: false, ..quest.terms };
        let Ok(judged) = self.read_entry(unit, &quest.key, &layers).await else { return false };
        if policy.is_near(judged.left_fresh(), judged.whole) {
            return false;
        }
        if let Ok(value) = self.value_of(&judged.entry, quest.typed) {
            self.backfill(&quest.key, quest.shard, value, judged, asked);
        }
        true
    }
}

//! Many keys at a time: one round trip for each shard, and one load for all that is missing.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cachetag_core::Version;

use crate::cached::{AnyValue, Found, Metadata};
use crate::codec::Typed;
use crate::engine::{Engine, Recalled, check_key};
use crate::error::{Error, Kind};
use crate::fill::Place;
use crate::flight::Terms;
use crate::load::Load;
use crate::observe::{Event, Layer};

/// What the layers have of one key.
pub(crate) struct Lookup {
    pub found: Option<Found>,
    /// What a load may be stored under.
    pub token: Option<Version>,
}

impl Engine {
    /// What memory and Redis have of these keys, valid under the terms. No lease is taken.
    pub async fn find_many(&self, keys: &[&str], terms: &Terms, typed: Typed) -> Vec<Lookup> {
        // Before anything is judged: nothing is known to be true any later.
        let began = Instant::now();
        let mut lookups: Vec<Lookup> = keys.iter().map(|_| Lookup { found: None, token: None }).collect();
        let mut missing: Vec<Vec<usize>> = vec![Vec::new(); self.shards.len()];
        for (i, key) in keys.iter().enumerate() {
            let mut access = self.observer.access(key);
            match self.recall(key, terms, &mut access) {
                Recalled::Hit { held, valid_to, shard, .. } => {
                    lookups[i].found = Some(Found::held(&held, valid_to, shard));
                }
                Recalled::Miss(_) => missing[self.shard_of(key)].push(i),
            }
        }
        for (number, places) in missing.into_iter().enumerate().filter(|(_, places)| !places.is_empty()) {
            self.find_in_shard(number, &places, keys, terms, typed, &mut lookups).await;
        }
        if let Some(load) = Load::current() {
            let found = lookups.iter().filter_map(|lookup| lookup.found.as_ref());
            found.for_each(|found| load.contains(&found.metadata, Some(began)));
        }
        lookups
    }

    async fn find_in_shard(
        &self,
        number: usize,
        places: &[usize],
        keys: &[&str],
        terms: &Terms,
        typed: Typed,
        lookups: &mut [Lookup],
    ) {
        let unit = &self.shards[number];
        let names: Vec<&str> = places.iter().map(|&i| keys[i]).collect();
        if terms.fresh || self.switches.bypasses(Layer::L2) {
            let token = unit.token(terms.max_lag);
            places.iter().for_each(|&i| lookups[i].token = token);
            return;
        }
        let began = Instant::now();
        let reading = match unit.ask(unit.redis.reading(&names)).await {
            Ok(reading) => reading,
            Err(reason) => {
                names.iter().for_each(|name| self.observer.background(name).miss(Layer::L2, reason));
                let token = unit.token(terms.max_lag);
                places.iter().for_each(|&i| lookups[i].token = token);
                return;
            }
        };
        let judged = self.judge_many(unit, reading, terms).await;
        for ((judged, &i), name) in judged.into_iter().zip(places).zip(&names) {
            let mut access = self.observer.background(name);
            lookups[i].token = judged.token;
            let outcome = match judged.entry {
                Ok(entry) => self.value_of(&entry.entry, typed).map(|value| (value, entry)),
                Err(reason) => Err(reason),
            };
            match outcome {
                Ok((value, entry)) => {
                    access.hit(Layer::L2, entry.entry.cost);
                    lookups[i].found = Some(self.backfill(name, number, value, entry, began));
                }
                Err(reason) => access.miss(Layer::L2, reason),
            }
        }
    }

    /// Gets many keys; what no layer has comes from one call of the loader.
    pub async fn get_many<F, R>(
        &self,
        keys: &[&str],
        terms: &Terms,
        typed: Typed,
        loader: F,
    ) -> Result<Vec<Found>, Error>
    where
        F: FnOnce(Vec<Load>) -> R,
        R: Future<Output = Result<Vec<AnyValue>, Error>>,
    {
        for key in keys {
            check_key(key)?;
        }
        let lookups = self.find_many(keys, terms, typed).await;
        let missing: Vec<usize> = (0..keys.len()).filter(|&i| lookups[i].found.is_none()).collect();
        let within = Load::current().map(|load| load.ancestry()).unwrap_or_default();
        let mut all: Vec<Option<Found>> = Vec::with_capacity(keys.len());
        let mut loads = Vec::with_capacity(missing.len());
        for (lookup, key) in lookups.into_iter().zip(keys) {
            if lookup.found.is_none() {
                loads.push(Load::new(key, self.shard_of(key), lookup.token, within.clone()));
            }
            all.push(lookup.found);
        }
        if !loads.is_empty() {
            let outer = Load::current();
            let (values, took) = self.load_many(keys[missing[0]], within.is_empty(), loads.clone(), loader).await?;
            for ((&i, load), value) in missing.iter().zip(&loads).zip(values) {
                let mut access = self.observer.background(keys[i]);
                access.loaded(took);
                let found = self
                    .store(Place { key: keys[i], shard: self.shard_of(keys[i]), typed }, value, load.plan(), took, None)
                    .await;
                if let Some(outer) = &outer {
                    outer.contains(&found.metadata, found.asked);
                }
                all[i] = Some(found);
            }
        }
        Ok(all.into_iter().flatten().collect())
    }

    async fn load_many<F, R>(
        &self,
        first: &str,
        alone: bool,
        loads: Vec<Load>,
        loader: F,
    ) -> Result<(Vec<AnyValue>, Duration), Error>
    where
        F: FnOnce(Vec<Load>) -> R,
        R: Future<Output = Result<Vec<AnyValue>, Error>>,
    {
        self.may_load(first)?;
        // As in `load`: inside of another load it runs in that one's slot.
        let slot = match if alone { self.loads.acquire().await.map(Some) } else { Ok(None) } {
            Ok(slot) => slot,
            Err(refused) => {
                self.observer.event(Event::LoadRefused);
                return Err(Error::new(Kind::Overloaded { key: first.into(), reason: refused.to_string().into() }));
            }
        };
        let (began, wanted) = (Instant::now(), loads.len());
        let running = loader(loads);
        let values = match self.config.load_timeout {
            Some(after) => tokio::time::timeout(after, running)
                .await
                .unwrap_or_else(|_| Err(Error::new(Kind::Timeout { key: first.into(), after }))),
            None => running.await,
        };
        drop(slot);
        let values = values.inspect_err(|_| self.observer.event(Event::LoadFailed))?;
        if values.len() != wanted {
            let problem = format!(
                "the loader was asked for {wanted} values and returned {}: one for each, in the same order",
                values.len()
            );
            return Err(Error::configuration("get_many", problem));
        }
        Ok((values, began.elapsed()))
    }
}

impl Found {
    /// A copy of the in-process layer.
    pub(crate) fn held(held: &crate::l1::Held, valid_to: Version, shard: usize) -> Found {
        let value = (held.what().kind == crate::l1::Kind::Value).then(|| held.what().value.clone());
        Found { value, metadata: Arc::new(Metadata::of(held, valid_to, false, shard)), asked: None, stored: true }
    }
}

//! Warming a list of keys.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use tokio::task::JoinSet;

use super::Inner;
use super::report::{Outcome, Report};
use crate::cached::Source;
use crate::observe::Layer;
use crate::options::ReadOptions;

impl Inner {
    /// Warms these keys, each once, the first ones first. Dropped, it begins no further load.
    pub async fn warm(self: &Arc<Inner>, mut keys: Vec<String>) -> Report {
        let began = Instant::now();
        let mut known = HashSet::with_capacity(keys.len());
        keys.retain(|key| known.insert(key.clone()));
        let ready = self.ready().await;
        let workers = self.options.concurrency.clamp(1, keys.len().max(1));
        let queue = Arc::new(Mutex::new(keys.into_iter()));
        let mut tasks = JoinSet::new();
        for _ in 0..workers {
            let (inner, queue, ready) = (Arc::clone(self), Arc::clone(&queue), ready.clone());
            tasks.spawn(async move {
                let mut outcomes = Vec::new();
                loop {
                    let next = queue.lock().next();
                    let Some(key) = next else { return outcomes };
                    let outcome =
                        if ready[inner.engine.shard_of(&key)] { inner.one(&key).await } else { Outcome::NotStored };
                    outcomes.push((key, outcome));
                }
            });
        }
        let mut report = Report::default();
        // None panics: a loader's panic is the error of its load.
        while let Some(Ok(outcomes)) = tasks.join_next().await {
            outcomes.into_iter().for_each(|(key, outcome)| report.add(key, outcome));
        }
        report.took = began.elapsed();
        let Report { warmed, present, .. } = report;
        tracing::info!(warmed, present, failed = report.failed.len(), "the cache was warmed");
        report
    }

    /// Which shards have a live feed: without it nothing comes into memory, and a Redis without a daemon takes nothing either.
    async fn ready(&self) -> Vec<bool> {
        let deadline = Instant::now() + self.options.ready_within;
        let mut ready = Vec::with_capacity(self.engine.shards.len());
        for unit in &self.engine.shards {
            ready.push(unit.feed.wait_live(deadline.saturating_duration_since(Instant::now())).await);
        }
        ready
    }

    /// Warms one key, when it is its turn: by the layers if they have it, by its loader if not.
    pub async fn one(&self, key: &str) -> Outcome {
        let Some(registered) = self.loaders.of(key) else { return Outcome::NoLoader };
        let engine = &self.engine;
        if !engine.switches.writes(key) || (engine.switches.bypasses(Layer::L1) && engine.switches.bypasses(Layer::L2))
        {
            return Outcome::NotStored;
        }
        // It is never closed.
        let _slot = self.slots.acquire().await;
        let terms = engine.terms(&ReadOptions::new());
        match engine.fly(key, terms, registered.typed, registered.loader(), None).await {
            Ok(found) if found.metadata.source != Source::Loader => Outcome::Present,
            Ok(found) if found.stored => Outcome::Warmed,
            Ok(_) => Outcome::NotStored,
            Err(error) => Outcome::Failed(error),
        }
    }
}

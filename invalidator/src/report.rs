//! What the daemon says about itself to PostgreSQL, where `cachetag.status()` and `cachetag.doctor()` show it.

use std::rc::Rc;
use std::time::Duration;

use cachetag_core::{Epoch, Lsn, Version};
use serde_json::json;
use tracing::warn;

use crate::config::Config;
use crate::control::Control;
use crate::session::SessionError;
use crate::sink::{Confirmed, LIBRARY_VERSION, Sink};

/// `doctor()` misses a report that is a minute old.
pub const INTERVAL: Duration = Duration::from_secs(20);

/// Sends reports of one session.
#[derive(Debug, Clone)]
pub struct Reporter {
    slot: String,
    namespace: String,
    max_lag: Duration,
    claimant: String,
    epoch: Epoch,
    wal_budget: Option<u64>,
    wal_budget_age: Option<Duration>,
    redis_replicas: u32,
    moved: Option<serde_json::Value>,
    /// Replicas that confirmed when that last changed.
    confirmed: Option<u32>,
}

impl Reporter {
    /// A reporter for the session of `claimant` in `epoch`.
    pub fn new(config: &Config, claimant: &str, epoch: Epoch, moved: Option<serde_json::Value>) -> Self {
        Reporter {
            slot: config.slot.clone(),
            namespace: config.namespace.clone(),
            max_lag: config.max_lag,
            claimant: claimant.into(),
            epoch,
            wal_budget: config.wal_budget,
            wal_budget_age: config.wal_budget_age,
            redis_replicas: config.redis_replicas,
            moved,
            confirmed: None,
        }
    }

    /// How many replicas have confirmed.
    pub fn replicas(&mut self, confirmed: Confirmed) {
        self.confirmed = Some(confirmed.replicas);
    }

    /// Asks Redis for its facts and stores the report.
    pub async fn send(self, sink: Rc<Sink>, control: Rc<Control>, watermark: Option<Lsn>) -> Result<(), SessionError> {
        let facts = sink.facts().await?;
        if facts.eviction_policy.starts_with("allkeys") {
            warn!(
                policy = facts.eviction_policy,
                "this eviction policy can evict cachetag's own state, which costs a new epoch each time; \
                 set maxmemory-policy volatile-lru"
            );
        }
        let report = json!({
            "epoch": self.epoch.get(),
            "watermark": watermark.map(|lsn| Version::new(self.epoch, lsn).to_string()),
            "claimant": self.claimant,
            "slot": self.slot,
            "namespace": self.namespace,
            "redis_version": facts.server,
            "redis": facts,
            "library": LIBRARY_VERSION,
            "max_lag_ms": self.max_lag.as_millis() as u64,
            "wal_budget": self.wal_budget,
            "wal_budget_age_s": self.wal_budget_age.map(|age| age.as_secs()),
            "redis_replicas": self.redis_replicas,
            "redis_replicas_confirmed": self.confirmed,
            "slot_moved": self.moved,
        });
        control.report(&report).await?;
        Ok(())
    }
}

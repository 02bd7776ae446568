//! What the two servers said.

use serde::Serialize;

use crate::control::Transaction;

/// What was said, or why nothing was.
#[derive(Debug, Clone, Serialize)]
#[serde(untagged)]
pub enum Answer<T> {
    /// The server answered.
    Known(T),
    /// It did not, or not in time.
    Unknown {
        /// Why.
        error: String,
    },
}

/// Everything that is judged.
#[derive(Debug, Clone, Serialize)]
pub struct Facts {
    /// What was asked for.
    pub asked: Asked,
    /// PostgreSQL, asked first: what it was told to be safe, Redis must then still hold.
    pub postgres: Answer<PostgresFacts>,
    /// Redis.
    pub redis: Answer<RedisFacts>,
}

/// The configuration, as far as it is judged against.
#[derive(Debug, Clone, Serialize)]
pub struct Asked {
    /// Replication slot.
    pub slot: String,
    /// Namespace in Redis.
    pub namespace: String,
    /// Name of the replication connection.
    pub application_name: String,
    /// WAL that the slot may hold back.
    pub wal_budget: Option<u64>,
    /// Replicas that must hold what is acknowledged.
    pub redis_replicas: u32,
}

/// PostgreSQL's side.
#[derive(Debug, Clone, Default, Serialize)]
pub struct PostgresFacts {
    /// Its version.
    pub version: String,
    /// It is a standby.
    pub in_recovery: bool,
    /// Version of the extension.
    pub extension: Option<String>,
    /// OID and name of the database, as they stand in the identity of a source.
    pub database: String,
    /// Flush position.
    pub flushed: u64,
    /// The slot.
    pub slot: Option<SlotFacts>,
    /// The replication connection, as far as the role may see it.
    pub stream: Option<StreamFacts>,
    /// SQL connections of daemons that stream or try to.
    pub daemons: i64,
    /// Daemons that wait for another one to go.
    pub daemons_waiting: i64,
    /// The oldest transactions in progress.
    pub transactions: Vec<Transaction>,
    /// `synchronous_standby_names`.
    pub synchronous_standby_names: String,
    /// The daemon's last report.
    pub report: Option<serde_json::Value>,
    /// Its age.
    pub report_age_s: Option<i64>,
}

/// The replication slot.
#[derive(Debug, Clone, Default, Serialize)]
pub struct SlotFacts {
    /// The server process that uses it.
    pub active_pid: Option<i32>,
    /// Its client.
    pub client: String,
    /// Why it cannot be used any more.
    pub lost: Option<String>,
    /// Acknowledged up to here; none while it is being created.
    pub confirmed: Option<u64>,
    /// Log that is kept for it.
    pub retained_bytes: u64,
    /// Log that is not acknowledged.
    pub unconfirmed_bytes: u64,
}

/// The replication connection.
#[derive(Debug, Clone, Default, Serialize)]
pub struct StreamFacts {
    /// `streaming`, `catchup`.
    pub state: Option<String>,
    /// `async`, `sync`, `quorum`, `potential`.
    pub sync_state: Option<String>,
    /// Age of the daemon's last message, by the daemon's clock.
    pub reply_age_ms: Option<i64>,
}

/// Redis's side.
#[derive(Debug, Clone, Default, Serialize)]
pub struct RedisFacts {
    /// `redis` or `valkey`, and its version.
    pub server: String,
    /// It can be written to.
    pub is_primary: bool,
    /// Replicas that are connected and in step.
    pub replicas: u32,
    /// Version of the library; none when it is not loaded. Not known when the server does not tell.
    pub library: Answer<Option<String>>,
    /// `maxmemory-policy`; empty when the server does not tell.
    pub eviction_policy: String,
    /// Memory in use.
    pub used_memory: u64,
    /// `maxmemory`, 0: no limit.
    pub maxmemory: u64,
    /// The state; none when there is none.
    pub state: Option<StateFacts>,
}

impl<T: Default> Default for Answer<T> {
    fn default() -> Self {
        Answer::Known(T::default())
    }
}

/// The hash `{ct}:w`.
#[derive(Debug, Clone, Default, Serialize)]
pub struct StateFacts {
    /// The epoch.
    pub epoch: Option<String>,
    /// Everything older is invalid.
    pub floor: Option<String>,
    /// Everything up to here is applied and visible.
    pub watermark: Option<u64>,
    /// Everything up to here is applied.
    pub applied: Option<u64>,
    /// Age of the last proof that the watermark covers all that was flushed, by Redis's clock.
    pub fresh_age_ms: Option<i64>,
    /// What readers accept who name no other bound.
    pub max_lag_ms: Option<i64>,
    /// Who writes.
    pub claimant: Option<String>,
    /// From where.
    pub source: Option<String>,
}

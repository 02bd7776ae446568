//! Do replicas hold what is applied? Asked on a connection of its own, since WAIT blocks the one that it is sent on.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use tokio::time::Instant;

use super::connect::{CONNECT_TIMEOUT, connect};
use super::{RESPONSE_TIMEOUT, SinkError, reply};
use crate::config::{Config, redact};

/// How many replicas have confirmed, of how many that must.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Confirmed {
    /// Confirmed within the time.
    pub replicas: u32,
    /// Must confirm.
    pub wanted: u32,
}

impl Confirmed {
    /// Enough?
    pub fn is_enough(&self) -> bool {
        self.replicas >= self.wanted
    }
}

/// The connection on which replicas are waited for.
#[derive(Clone)]
pub struct Replicas {
    connection: MultiplexedConnection,
    state_key: String,
    claimant: String,
    wanted: u32,
    timeout: Duration,
}

impl Replicas {
    /// Connects, if the configuration asks for replicas at all.
    pub(super) async fn connect(
        config: &Config,
        claimant: &str,
        primary: &MultiplexedConnection,
    ) -> Result<Option<Replicas>, SinkError> {
        if config.redis_replicas == 0 {
            return Ok(None);
        }
        let timeout = config.redis_replicas_timeout;
        // Redis itself ends a WAIT; only then does its silence mean anything.
        let connection = connect(&config.redis, CONNECT_TIMEOUT, timeout + RESPONSE_TIMEOUT).await?;
        // A failover may lie between the two: the new primary's replicas would confirm what only the old one was told.
        if run_id(primary).await? != run_id(&connection).await? {
            return Err(SinkError::Moved { url: redact(&config.redis) });
        }
        Ok(Some(Replicas {
            connection,
            state_key: format!("{{{}}}:w", config.namespace),
            claimant: claimant.into(),
            wanted: config.redis_replicas,
            timeout,
        }))
    }

    /// How many must confirm.
    pub fn wanted(&self) -> u32 {
        self.wanted
    }

    /// How long one of them may take before it is missing.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Waits until the replicas hold everything that Redis had answered to before this call, or the time is over.
    pub async fn wait(mut self) -> Result<Confirmed, SinkError> {
        let began = Instant::now();
        // Replication is ordered: whoever holds this write, the last one of this connection, holds every earlier one of any.
        let mut mark = redis::cmd("FCALL");
        mark.arg("cachetag_mark").arg(1).arg(&self.state_key).arg(&self.claimant);
        reply::applied(mark.query_async(&mut self.connection).await?)?;
        let mut wait = redis::cmd("WAIT");
        wait.arg(self.wanted).arg(self.timeout.as_millis().max(1) as u64);
        let replicas: u32 = wait.query_async(&mut self.connection).await?;
        let confirmed = Confirmed { replicas, wanted: self.wanted };
        if !confirmed.is_enough() {
            tracing::debug!(?confirmed, waited_ms = began.elapsed().as_millis() as u64, "replicas are missing");
        }
        Ok(confirmed)
    }
}

/// The id of the process that answers.
async fn run_id(connection: &MultiplexedConnection) -> Result<String, SinkError> {
    let info: String = redis::cmd("INFO").arg("server").query_async(&mut connection.clone()).await?;
    let id = info.lines().find_map(|line| line.strip_prefix("run_id:"));
    Ok(id.unwrap_or_default().trim().to_owned())
}

//! Redis → PostgreSQL: what may be forgotten.

use cachetag_core::Lsn;
use tokio::time::Instant;
use tracing::{info, warn};

use super::Pipeline;
use crate::broken;
use crate::session::SessionError;
use crate::sink::Confirmed;

impl Pipeline {
    /// What may be acknowledged: what Redis holds and, where replicas must hold it too, what they do.
    pub(super) fn acknowledgeable(&self) -> Option<Lsn> {
        if broken::never_acknowledges() {
            return None;
        }
        let lsn = self.watermark.acknowledge()?;
        Some(if self.replicas.is_some() { lsn.min(self.replicated) } else { lsn })
    }

    /// Asks the replicas for what is applied and not known to be with them. The feed goes on meanwhile.
    pub(super) fn wait_for_replicas(&mut self) {
        if let Some(replicas) = &self.replicas
            && self.waiting.is_none()
            && self.applied > self.replicated
        {
            let (to, wait) = (self.applied, replicas.clone().wait());
            self.waiting = Some(Box::pin(async move { (to, wait.await) }));
        }
    }

    pub(super) async fn on_replicas(&mut self, to: Lsn, confirmed: Confirmed) -> Result<(), SessionError> {
        let missing = !confirmed.is_enough();
        if missing && !self.replica_missing {
            warn!(
                confirmed = confirmed.replicas,
                wanted = confirmed.wanted,
                "replicas of Redis are missing: nothing is acknowledged to PostgreSQL, which keeps its WAL until they are back \
                 or the WAL budget is exceeded; see INFO replication, or lower redis_replicas"
            );
        } else if !missing && self.replica_missing {
            info!(confirmed = confirmed.replicas, "the replicas of Redis are back");
        }
        if missing != self.replica_missing {
            self.replica_missing = missing;
            self.reporter.replicas(confirmed);
        }
        if !missing {
            self.replicated = self.replicated.max(to);
        }
        self.acknowledge().await
    }

    pub(super) async fn acknowledge(&mut self) -> Result<(), SessionError> {
        match self.acknowledgeable() {
            Some(lsn) if lsn > self.acknowledged => self.send_status(false).await,
            _ => Ok(()),
        }
    }

    pub(super) async fn send_status(&mut self, reply_requested: bool) -> Result<(), SessionError> {
        if let Some(lsn) = self.acknowledgeable() {
            self.acknowledged = self.acknowledged.max(lsn);
        }
        let lsn = self.acknowledged;
        if reply_requested {
            self.asked.get_or_insert_with(Instant::now);
        }
        self.source.send_status(lsn, lsn, lsn, reply_requested).await?;
        Ok(())
    }
}

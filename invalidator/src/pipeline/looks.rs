//! Looks at PostgreSQL: what is visible, and what the slot holds back.

use std::time::Duration;

use tokio::time::{Instant, timeout};
use tracing::{error, info, warn};

use super::Pipeline;
use crate::budget::Excess;
use crate::control::{ControlError, Look, Slot, list};
use crate::session::SessionError;
use crate::watermark::Observation;

/// Two looks at PostgreSQL under load are at least this far apart; each costs a snapshot.
pub(super) const LOOK_INTERVAL: Duration = Duration::from_millis(2);
/// A look that found an invisible commit is repeated after this, doubling up to the heartbeat.
pub(super) const LOOK_AGAIN: Duration = Duration::from_millis(1);
/// How often it is told that an old transaction holds the log back.
const HELD_AGAIN: Duration = Duration::from_secs(60);
/// When it is tried again to have the log flushed, after it was refused.
const FLUSH_AGAIN: Duration = Duration::from_secs(60);
/// A question for the position that is not answered within this makes the stream doubtful: the connection is dead, though nobody has said
/// so, or the walsender is busy with a transaction that is not for us.
const DOUBT: Duration = Duration::from_secs(2);
/// A walsender that waits for something to do has read the question. Looked at so often, since this process may have been frozen and the
/// answer be in the socket.
const DOUBTS: u32 = 3;
/// A busy walsender answers after half of wal_sender_timeout (60 s) at the latest: a stream that is silent for this long is gone.
const SILENCE: Duration = Duration::from_secs(90);
/// The daemon is back within seconds of the end of a fault.
const LOOK_TIMEOUT: Duration = Duration::from_secs(3);

impl Pipeline {
    pub(super) fn on_heartbeat(&mut self) -> Result<(), SessionError> {
        self.look_at(Instant::now());
        let silent = self.heard.elapsed();
        if self.has_room() && silent > SILENCE {
            return Err(SessionError::Silent { what: "the replication stream", after: silent });
        }
        Ok(())
    }

    /// Brings the next look forward to `at`.
    pub(super) fn look_at(&mut self, at: Instant) {
        self.look_at = Some(self.look_at.map_or(at, |planned| planned.min(at)));
    }

    pub(super) fn begin_look(&mut self) {
        self.looked = Instant::now();
        let (sink, control, walsender) = (self.sink.clone(), self.control.clone(), self.walsender);
        let doubtful = self.has_room() && self.asked.is_some_and(|asked| asked.elapsed() > DOUBT);
        self.look = Some(Box::pin(async move {
            // Redis's clock first: what PostgreSQL has flushed later than that covers this moment.
            let asked_at = sink.now().await?;
            let look = async {
                let look = control.look(walsender).await?;
                Ok::<_, SessionError>((asked_at, look, doubtful && control.waits(walsender).await?))
            };
            let silent = SessionError::Silent { what: "PostgreSQL's SQL connection", after: LOOK_TIMEOUT };
            timeout(LOOK_TIMEOUT, look).await.unwrap_or(Err(silent))
        }));
    }

    pub(super) async fn on_look(&mut self, (asked_at, look, waits): (u64, Look, bool)) -> Result<(), SessionError> {
        self.see_to_doubt(waits)?;
        self.see_to_writers(&look)?;
        let may_flush = self.flushing.is_none() && self.flush_failed.is_none_or(|at| at.elapsed() > FLUSH_AGAIN);
        if self.unflushed.look(Instant::now(), look.flushed, look.end) && may_flush {
            let control = self.control.clone();
            self.flushing = Some(Box::pin(async move { control.flush().await }));
        }
        self.synchronous = look.synchronous;
        let draining = self.watermark.draining().len();
        self.watermark.observe(&Observation {
            asked_at,
            snapshot: look.snapshot,
            flushed: look.flushed,
            synchronous: look.synchronous,
        });
        if draining > 0 && self.watermark.draining().is_empty() {
            info!("transactions that were running at the start have ended");
        }
        if self.watermark.wants_position() {
            self.send_status(true).await?;
        }
        if self.watermark.waits_for_visibility() {
            self.look_at(self.looked + self.look_again);
            self.look_again = (self.look_again * 2).min(self.heartbeat);
        } else {
            self.look_again = LOOK_AGAIN;
        }
        self.acknowledge().await
    }

    /// Without it hits are refused for some seconds; the stream is none the worse for it.
    pub(super) fn on_flushed(&mut self, flushed: Result<(), ControlError>) -> Result<(), SessionError> {
        match flushed {
            Err(error) if self.control.is_closed() => Err(error.into()),
            Err(error) => {
                self.flush_failed = Some(Instant::now());
                warn!(%error, "on an idle server entries may be bypassed for up to 15 s: let this role call pg_logical_emit_message(boolean, text, text)");
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    /// The walsender waits for something to do, and a question that it must have read is not answered: nobody listens at our end of its
    /// connection, or nobody speaks at its end of ours.
    fn see_to_doubt(&mut self, waits: bool) -> Result<(), SessionError> {
        let Some(asked) = self.asked.filter(|_| waits && self.has_room()) else {
            self.doubts = 0;
            return Ok(());
        };
        self.doubts += 1;
        if self.doubts < DOUBTS {
            return Ok(());
        }
        Err(SessionError::Silent { what: "the replication stream", after: asked.elapsed() })
    }

    /// A transaction that was changing rules when they were read, and has ended without coming along in the stream: its change was
    /// decoded before the start and became visible only now, so the rules are not what the stream was mapped with.
    pub(super) fn see_to_writers(&mut self, look: &Look) -> Result<(), SessionError> {
        if self.writers.iter().all(|&xid| look.snapshot.is_in_progress(xid)) {
            return Ok(());
        }
        // Its commit may still be on the way; it is not once the stream has passed what is flushed now. Nothing is published before.
        let decided_at = *self.writers_decided_at.get_or_insert(look.flushed);
        self.watermark.hold_until(decided_at);
        if self.watermark.received() < decided_at {
            return Ok(());
        }
        Err(SessionError::MetadataIncomplete)
    }

    /// The session ends when the slot holds back too much; the next one moves it.
    pub(super) fn on_slot(&mut self, slot: Option<Slot>) -> Result<(), SessionError> {
        let Some(retained) = slot.and_then(|slot| slot.retained()) else { return Ok(()) };
        match self.budget.look(Instant::now(), retained) {
            // A new slot waits for the transactions that are running, and those may be waiting for this one.
            Some(excess @ Excess::Held { .. }) if self.synchronous => {
                if self.held_told.is_none_or(|told| told.elapsed() > HELD_AGAIN) {
                    self.held_told = Some(Instant::now());
                    let control = self.control.clone();
                    self.weighing = Some(Box::pin(async move {
                        let transactions = list(&control.oldest_transactions().await?);
                        error!(%excess, transactions, "the WAL budget is exceeded, and not because of Redis: end the transaction");
                        Ok(None)
                    }));
                }
                Ok(())
            }
            Some(excess) => Err(SessionError::OverBudget(excess)),
            None => Ok(()),
        }
    }
}

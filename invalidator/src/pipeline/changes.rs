//! Source → mapping → batch: the messages of the stream.

use cachetag_core::{Lsn, MESSAGE_PREFIX, Tag};
use tokio::time::Instant;
use tracing::warn;

use super::Pipeline;
use crate::mapping::{Outcome, TransactionBumps};
use crate::rows::{self, Columns};
use crate::session::SessionError;
use crate::source::{Frame, pgoutput};

/// Frames mapped before the loop looks at everything else.
const FRAMES_A_TURN: usize = 512;

impl Pipeline {
    /// Maps what has been received already, up to a turn's worth.
    pub(super) async fn drain_frames(&mut self) -> Result<(), SessionError> {
        self.heard = Instant::now();
        (self.asked, self.doubts) = (None, 0);
        let mut reply = false;
        self.dry = false;
        for _ in 0..FRAMES_A_TURN {
            if !self.has_room() {
                break;
            }
            let Some(frame) = self.source.try_next_frame()? else {
                self.dry = true;
                break;
            };
            match frame {
                Frame::XLogData(data) => self.on_message(&data.data)?,
                Frame::Keepalive(keepalive) => {
                    self.watermark.passed(keepalive.wal_end);
                    reply |= keepalive.reply_requested;
                }
            }
        }
        if reply {
            self.send_status(false).await?;
        }
        Ok(())
    }

    pub(super) fn on_message(&mut self, bytes: &[u8]) -> Result<(), SessionError> {
        use pgoutput::Message;
        match self.parser.parse(bytes)? {
            Message::Begin(begin) => {
                self.xid = begin.xid;
                self.mapper.begin();
            }
            Message::Commit(commit) => {
                let bumps = self.mapper.commit();
                self.on_commit(self.xid, commit.end_lsn, &bumps);
            }
            Message::StreamStart(start) => self.mapper.begin_block(start.xid, start.first_segment)?,
            Message::StreamStop => self.mapper.end_block(),
            Message::StreamCommit(commit) => {
                let bumps = self.mapper.commit_streamed(commit.xid)?;
                self.on_commit(commit.xid, commit.end_lsn, &bumps);
            }
            Message::StreamAbort(abort) => self.mapper.abort_streamed(abort.xid, abort.subxid),
            Message::Relation(relation) => self.mapper.relation(rows::described(&relation)),
            Message::Insert(insert) => {
                self.within(insert.xid);
                let new = self.offsets.new.index(insert.new);
                let outcome = self.mapper.insert(insert.relation, &Columns(new))?;
                self.on_outcome(insert.relation, outcome);
            }
            Message::Update(update) => {
                self.within(update.xid);
                let new = self.offsets.new.index(update.new);
                let old = update.old.map(|old| self.offsets.old.index(old.tuple()));
                let outcome = self.mapper.update(
                    update.relation,
                    rows::old_row(update.old.as_ref(), &old.map(Columns)),
                    &Columns(new),
                )?;
                self.on_outcome(update.relation, outcome);
            }
            Message::Delete(delete) => {
                self.within(delete.xid);
                let old = Columns(self.offsets.old.index(delete.old.tuple()));
                let outcome = self.mapper.delete(delete.relation, rows::old_row(Some(&delete.old), &Some(old)))?;
                self.on_outcome(delete.relation, outcome);
            }
            Message::Truncate(truncate) => {
                self.within(truncate.xid);
                for relation in truncate.relations {
                    let outcome = self.mapper.truncate(relation)?;
                    self.on_outcome(relation, outcome);
                }
            }
            Message::Logical(message) if message.prefix == MESSAGE_PREFIX.as_bytes() => {
                self.within(message.xid.filter(|_| message.transactional));
                self.on_logical(&message);
            }
            Message::Logical(_) | Message::Origin(_) | Message::Type(_) => {}
            // Two-phase transactions were not asked for: they come whole, when they commit.
            Message::BeginPrepare(_)
            | Message::Prepare(_)
            | Message::CommitPrepared(_)
            | Message::RollbackPrepared(_)
            | Message::StreamPrepare(_) => {
                return Err(SessionError::Unexpected { message: "of a prepared transaction" });
            }
        }
        Ok(())
    }

    /// Inside a block of a streamed transaction, a change names its subtransaction.
    pub(super) fn within(&mut self, subxid: Option<u32>) {
        if let Some(subxid) = subxid {
            self.mapper.within(subxid);
        }
    }

    pub(super) fn on_commit(&mut self, xid: u32, end: Lsn, bumps: &TransactionBumps) {
        if !self.writers.is_empty() {
            self.writers.retain(|&writer| writer as u32 != xid);
            self.writers_decided_at = None;
        }
        self.watermark.commit(end, xid);
        if end > self.skip_to {
            self.batch.push(end, bumps.hard.iter().map(Tag::as_str), bumps.soft.iter().map(Tag::as_str));
        }
    }

    pub(super) fn on_logical(&mut self, message: &pgoutput::LogicalMessage<'_>) {
        if let Outcome::Malformed(reason) = self.mapper.message(message.content) {
            warn!(%reason, "a message with prefix cachetag could not be read: everything is invalidated");
        }
        // Outside of a transaction it counts at its own place in the log, behind every commit before it.
        if !message.transactional {
            let end = Lsn(message.lsn.0 + 1).max(self.watermark.received());
            let bumps = self.mapper.commit();
            self.watermark.passed(end);
            if end > self.skip_to {
                self.batch.push(end, bumps.hard.iter().map(Tag::as_str), bumps.soft.iter().map(Tag::as_str));
            }
        }
    }

    pub(super) fn on_outcome(&mut self, relation: u32, outcome: Outcome) {
        if outcome != Outcome::Unbound || self.watermark.received() < self.metadata_at {
            // Before the position at which rules were read, an unknown table has been untracked since: its removal is still to
            // come, and bumps its family.
            return;
        }
        if self.unbound.insert(relation) {
            warn!(
                relation,
                "a table is published but no rule is bound to it: each of its changes invalidates everything; \
                 run SELECT * FROM cachetag.doctor()"
            );
        }
        self.mapper.bump_everything();
    }
}

//! Batch → sink: the calls to Redis.

use tokio::time::Instant;
use tracing::debug;

use super::looks::LOOK_INTERVAL;
use super::{Call, PACE, Pipeline};
use crate::session::SessionError;
use crate::sink::SinkError;

/// Commits in a batch that make it one of such a stream.
const BUSY_COMMITS: usize = 32;

impl Pipeline {
    /// Sends what can be sent: the batch once the previous one is answered, and the watermark right behind it.
    pub(super) fn start_calls(&mut self) {
        if let Some(to) = self.batch.end()
            && !self.calls.any(|call| matches!(call, Call::Apply { .. }))
            && !self.is_filling()
        {
            self.sent = Instant::now();
            self.busy = self.batch.commits() >= BUSY_COMMITS;
            let call = self.sink.apply(self.epoch, self.position, to, &self.batch);
            self.calls.push(Call::Apply { to, commits: self.batch.commits() }, call);
            self.position = to;
            self.batch.clear();
        }
        if !self.calls.any(|call| matches!(call, Call::Advance { .. })) {
            // With nothing waiting, Redis may move on to whatever the stream has passed.
            let to = match self.batch.end() {
                None => self.position.max(self.watermark.received()),
                Some(_) => self.position,
            };
            let advance = self.watermark.advance(to);
            // Without a watermark too, Redis moves past the position at which rules were read: acknowledgements wait for that, and in
            // strict mode the very transaction that an epoch's first watermark waits for may be waiting for one.
            let passes_metadata = self.watermark.is_held(self.position) && !self.watermark.is_held(to);
            if advance.is_some() || passes_metadata {
                let call = self.sink.advance(self.epoch, self.position, to, advance);
                self.calls.push(Call::Advance { to }, call);
                self.position = to;
            }
        }
    }

    /// Does the batch wait to become larger?
    pub(super) fn is_filling(&self) -> bool {
        self.busy
            && !self.synchronous
            && self.batch.end().is_some()
            && self.batch.tags() < self.max_tags / 4
            && self.sent.elapsed() < PACE
    }

    pub(super) async fn on_reply(&mut self, call: Call, reply: Result<u64, SinkError>) -> Result<(), SessionError> {
        reply?;
        match call {
            Call::Apply { to, commits } => {
                self.applied = to;
                debug!(%to, commits, "applied");
                // By now the commits are most likely visible.
                self.look_at(Instant::now().max(self.looked + LOOK_INTERVAL));
            }
            Call::Advance { to } => self.applied = to,
        }
        self.watermark.applied(self.applied);
        self.acknowledge().await
    }
}

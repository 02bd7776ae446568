//! The end of the log that nobody flushes.
//!
//! PostgreSQL flushes for a commit. What an open transaction, a pruned page or a hint bit writes waits for its WAL writer, which flushes whole
//! pages only: the flush position then lies within a record, where no walsender ever gets to, until somebody commits or the background
//! writer logs who is running (15 s). Until then no watermark covers what is flushed. A commit of the daemon's own that does not wait ends it.

use std::time::Duration;

use cachetag_core::Lsn;
use tokio::time::Instant;

/// By then the WAL writer has flushed what it flushes by itself (`wal_writer_delay` is 200 ms).
const PATIENCE: Duration = Duration::from_millis(300);

/// Since when the flush position has stood before the end of the log.
#[derive(Debug, Default)]
pub(super) struct Unflushed {
    standing: Option<(Lsn, Instant)>,
}

impl Unflushed {
    /// Takes in what PostgreSQL said at `now`; must the end of the log be flushed on purpose? Not again before another `PATIENCE`.
    pub fn look(&mut self, now: Instant, flushed: Lsn, end: Lsn) -> bool {
        if flushed >= end {
            self.standing = None;
            return false;
        }
        match self.standing {
            Some((at, since)) if at == flushed => {
                let is_long = now.duration_since(since) >= PATIENCE;
                if is_long {
                    self.standing = Some((flushed, now));
                }
                is_long
            }
            _ => {
                self.standing = Some((flushed, now));
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_flush_position_that_stands_before_the_end_is_helped() {
        let start = Instant::now();
        let mut unflushed = Unflushed::default();
        let mut look =
            |ms: u64, flushed: u64, end: u64| unflushed.look(start + Duration::from_millis(ms), Lsn(flushed), Lsn(end));
        assert!(!look(0, 100, 100), "everything is flushed");
        assert!(!look(1000, 100, 150), "seen for the first time");
        assert!(!look(1250, 100, 180));
        assert!(look(1300, 100, 180));
        assert!(!look(1500, 100, 180), "the commit is on its way");
        assert!(look(1600, 100, 180), "and was lost, or somebody writes on");
        assert!(!look(2000, 150, 180), "the flush position moves by itself");
        assert!(!look(2250, 160, 300));
        assert!(!look(2700, 300, 300));
        assert!(!look(3100, 300, 310));
    }
}

//! The worker's side of the stream: a consumer group with one consumer.

use std::time::Duration;

use redis::{RedisError, RedisResult, Value, cmd};

use super::entry::{Entry, array, entries, ms_of, read_entries};
use super::queue::WriteBehind;
use super::script::BURY;
use super::session::Failure;
use crate::write::link::Link;

const GROUP: &str = "cachetag";
/// One name for all workers: the lock in PostgreSQL sees to it that there is one at a time.
const CONSUMER: &str = "worker";
/// How much longer than a read may block, Redis may take to answer.
const GRACE: Duration = Duration::from_secs(5);

/// What became of an operation that was given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Burial {
    /// It is among the dead letters.
    Done,
    /// Another worker has settled it meanwhile.
    Settled,
    /// There are too many dead letters.
    Full,
}

pub(super) struct Stream {
    queue: WriteBehind,
    link: Link,
    block: Duration,
}

impl Stream {
    pub(super) fn new(queue: &WriteBehind, block: Duration) -> Stream {
        Stream { queue: queue.clone(), link: queue.link.another(block + GRACE), block }
    }

    /// Makes the group, and with it the stream, unless it is there.
    pub(super) async fn prepare(&self) -> RedisResult<()> {
        let mut create = cmd("XGROUP");
        create.arg("CREATE").arg(&self.queue.operations).arg(GROUP).arg("0").arg("MKSTREAM");
        match self.link.call::<()>(&create).await {
            Err(error) if error.code() != Some("BUSYGROUP") => Err(error),
            _ => Ok(()),
        }
    }

    /// The oldest operations that were delivered and not settled: by a worker that was killed, or by this one before an error.
    pub(super) async fn unsettled(&self, count: usize) -> RedisResult<Vec<Entry>> {
        let mut cursor = "0-0".to_owned();
        loop {
            let mut claim = cmd("XAUTOCLAIM");
            claim.arg(&self.queue.operations).arg(GROUP).arg(CONSUMER).arg(0).arg(&cursor).arg("COUNT").arg(count);
            let answer: Value = self.link.call(&claim).await?;
            let [next, found, ..] = array(&answer) else { return Ok(Vec::new()) };
            let found = entries(found);
            cursor = redis::from_redis_value_ref(next)?;
            // Those that were deleted are left out: there may be more behind them.
            if !found.is_empty() || cursor == "0-0" {
                return Ok(found);
            }
        }
    }

    /// The next operations; none if none come in time.
    pub(super) async fn next(&self, count: usize) -> RedisResult<Vec<Entry>> {
        let mut read = cmd("XREADGROUP");
        read.arg("GROUP").arg(GROUP).arg(CONSUMER).arg("COUNT").arg(count);
        read.arg("BLOCK").arg(self.block.as_millis() as u64).arg("STREAMS").arg(&self.queue.operations).arg(">");
        Ok(read_entries(&self.link.call(&read).await?))
    }

    /// Removes what is committed.
    pub(super) async fn settle(&self, batch: &[Entry]) -> RedisResult<()> {
        let ids: Vec<&str> = batch.iter().map(|entry| entry.id.as_str()).collect();
        let mut pipeline = redis::pipe();
        pipeline.atomic();
        pipeline.cmd("XACK").arg(&self.queue.operations).arg(GROUP).arg(&ids);
        pipeline.cmd("XDEL").arg(&self.queue.operations).arg(&ids);
        self.link.pipeline(&pipeline).await
    }

    /// Moves an operation to the dead letters.
    pub(super) async fn bury(&self, entry: &Entry, failure: &Failure, attempts: u32) -> Result<Burial, RedisError> {
        let mut script = cmd("EVAL");
        script.arg(BURY).arg(2).arg(&self.queue.operations).arg(&self.queue.dead);
        script.arg(GROUP).arg(&entry.id).arg(self.queue.dead_limit);
        for field in &entry.fields {
            script.arg(&field[..]);
        }
        script.arg("error").arg(&failure.error).arg("sqlstate").arg(&failure.sqlstate);
        script.arg("attempts").arg(attempts).arg("acknowledged").arg(&entry.id);
        Ok(match self.link.call::<i64>(&script).await? {
            1 => Burial::Done,
            0 => Burial::Settled,
            _ => Burial::Full,
        })
    }

    /// The milliseconds of the oldest operation that is not settled; far in the future if there is none.
    pub(super) async fn oldest_ms(&self) -> RedisResult<i64> {
        let answer: Value =
            self.link.call(cmd("XRANGE").arg(&self.queue.operations).arg("-").arg("+").arg("COUNT").arg(1)).await?;
        Ok(entries(&answer).first().map_or(i64::MAX, |entry| ms_of(&entry.id)))
    }
}

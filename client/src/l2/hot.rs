//! `{ct}:hot:<name>`: the hottest keys of the last run, a sorted set. A reader's own; the library and the daemon know nothing of it.

use redis::{Cmd, Value};

use super::reply::{text, unexpected};
use super::{Error, Shard};

/// An application that has not run for so long starts cold.
const SECONDS: u64 = 14 * 24 * 3600;

impl Shard {
    /// Adds keys with their scores, of which the higher one counts, and leaves the highest.
    pub(crate) async fn save_hot(&self, name: &str, keys: &[(&str, f64)], keep: usize) -> Result<(), Error> {
        let set = self.hot_key(name);
        let mut pipeline = redis::pipe();
        pipeline.cmd("ZADD").arg(&set).arg("GT");
        for (key, score) in keys {
            pipeline.arg(*score).arg(*key);
        }
        pipeline.cmd("ZREMRANGEBYRANK").arg(&set).arg(0).arg(-1 - i64::try_from(keep).unwrap_or(i64::MAX - 1));
        // A TTL, so that a Redis that evicts only what has one can do so.
        pipeline.cmd("EXPIRE").arg(&set).arg(SECONDS);
        for reply in self.connection.pipeline(&pipeline).await? {
            self.connection.checked(reply)?;
        }
        Ok(())
    }

    /// The keys with the highest scores, with these.
    pub(crate) async fn hot(&self, name: &str, most: usize) -> Result<Vec<(String, f64)>, Error> {
        let Some(last) = most.checked_sub(1) else { return Ok(Vec::new()) };
        let mut call = Cmd::new();
        call.arg("ZRANGE").arg(self.hot_key(name)).arg(0).arg(last).arg("REV").arg("WITHSCORES");
        let reply = self.connection.call(&call).await?;
        let Value::Array(fields) = &reply else { return Err(unexpected("ZRANGE", &reply)) };
        let pair = |pair: &[Value]| Some((text(pair.first()?)?.to_owned(), text(pair.get(1)?)?.parse().ok()?));
        fields.chunks(2).map(|fields| pair(fields).ok_or_else(|| unexpected("ZRANGE", &reply))).collect()
    }

    fn hot_key(&self, name: &str) -> String {
        format!("{}hot:{name}", self.prefix)
    }
}

//! The log that the daemon writes in Redis: what each commit has bumped.

use std::io;

use cachetag_core::Tag;
use redis::aio::MultiplexedConnection;

use crate::Lsn;

/// Streams, each with its records: id, and fields and values in turn.
type Reply = Option<Vec<(String, Vec<(String, Vec<String>)>)>>;

/// How long one XREAD waits; the connection has a bound of its own.
const BLOCK_MS: u32 = 100;

/// A tag that was bumped, and at which position.
#[derive(Debug, Clone)]
pub struct Bump {
    /// The tag.
    pub tag: Tag,
    /// What entries are compared with: no earlier than the end of the commit.
    pub at: Lsn,
}

/// A reader of the log, from its beginning.
#[derive(Debug)]
pub struct Log {
    redis: MultiplexedConnection,
    key: String,
    place: String,
}

impl Log {
    /// A reader of the stream `key`, on a connection that nothing else waits for.
    pub fn new(redis: MultiplexedConnection, key: String) -> Log {
        Log { redis, key, place: "0-0".to_owned() }
    }

    /// What was bumped since the last call, in the log's order; nothing, when there is nothing for a while.
    ///
    /// # Errors
    /// Redis's, or a record that is none.
    pub async fn read(&mut self) -> io::Result<Vec<Bump>> {
        let mut call = redis::cmd("XREAD");
        call.arg("BLOCK").arg(BLOCK_MS).arg("STREAMS").arg(&self.key).arg(&self.place);
        let reply: Reply = match call.query_async(&mut self.redis).await {
            Ok(reply) => reply,
            // A machine that is busy elsewhere; how often this may be, the caller counts.
            Err(error) if error.is_timeout() => None,
            Err(error) => return Err(io::Error::other(error)),
        };
        let mut bumps = Vec::new();
        for (id, fields) in reply.into_iter().flatten().flat_map(|(_, records)| records) {
            let at = id.split('-').next().and_then(|at| at.parse().ok());
            let at = at.ok_or_else(|| io::Error::other(format!("{}: {id} is no id of a record", self.key)))?;
            // A soft bump, too, says that the value may have changed.
            for field in fields.chunks(2).filter(|field| matches!(field[0].as_str(), "hard" | "soft")) {
                for text in field[1].lines().filter(|text| !text.is_empty()) {
                    let tag = Tag::parse(text).map_err(|error| io::Error::other(format!("{}: {error}", self.key)))?;
                    bumps.push(Bump { tag, at });
                }
            }
            self.place = id;
        }
        Ok(bumps)
    }
}

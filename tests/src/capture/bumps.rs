//! What one transaction has bumped, from the log that the daemon writes in Redis.

use cachetag_core::Tag;
use redis::aio::MultiplexedConnection;
use redis::cmd;
use tokio_postgres::Client;

use crate::{Lsn, Stack};

/// Streams, each with its records: id, and fields and values in turn.
type Reply = Option<Vec<(String, Vec<(String, Vec<String>)>)>>;

/// A tag that was bumped, and at which position.
#[derive(Debug, Clone)]
pub struct Bump {
    /// The tag.
    pub tag: Tag,
    /// What entries are compared with: no earlier than the end of the commit.
    pub at: Lsn,
}

/// How long one XREAD waits; the connection has a bound of its own.
const BLOCK_MS: u32 = 100;
/// How often it is repeated before the daemon counts as stuck.
const ATTEMPTS: u32 = 300;

/// A reader of the log.
pub struct Log {
    redis: MultiplexedConnection,
    key: String,
    place: String,
    fences: u64,
}

impl Log {
    /// At the end of the log.
    pub async fn open(stack: &Stack) -> Log {
        let key = stack.cache().await.key("log", "");
        let redis = stack.redis.connect().await.unwrap_or_else(|error| panic!("{error}"));
        Log { redis, key, place: "0-0".to_owned(), fences: 0 }
    }

    /// All that was bumped since the last call, and committed before this one.
    ///
    /// A transaction that bumps nothing leaves no record: a fence is committed behind it, a tag that nobody depends on.
    pub async fn since(&mut self, client: &Client) -> Vec<Bump> {
        let mut bumped = Vec::new();
        let mut fence = self.fence(client).await;
        for _ in 0..ATTEMPTS {
            let read = self.read().await;
            let (is_there, covers) =
                (read.iter().any(|bump| bump.tag.as_str() == fence), read.iter().any(|bump| bump.tag.is_everything()));
            bumped.extend(read.into_iter().filter(|bump| bump.tag.family() != "fence"));
            if is_there {
                return bumped;
            }
            if covers {
                // In one record with `*`, the fence is not named.
                fence = self.fence(client).await;
            }
        }
        panic!("the daemon has not bumped {fence}");
    }

    async fn fence(&mut self, client: &Client) -> String {
        self.fences += 1;
        let fence = format!("fence:{}", self.fences);
        let committed = client.batch_execute(&format!("SELECT cachetag.invalidate('{fence}')")).await;
        committed.unwrap_or_else(|error| panic!("{fence}: {error:?}"));
        fence
    }

    async fn read(&mut self) -> Vec<Bump> {
        let mut call = cmd("XREAD");
        call.arg("BLOCK").arg(BLOCK_MS).arg("STREAMS").arg(&self.key).arg(&self.place);
        let reply: Reply = match call.query_async(&mut self.redis).await {
            Ok(reply) => reply,
            // A machine that is busy elsewhere; how often this may be, the caller counts.
            Err(error) if error.is_timeout() => None,
            Err(error) => panic!("XREAD: {error}"),
        };
        let mut bumps = Vec::new();
        for (id, fields) in reply.into_iter().flatten().flat_map(|(_, records)| records) {
            let at = id.split('-').next().and_then(|at| at.parse().ok()).unwrap_or_else(|| panic!("in the log: {id}"));
            // A soft bump, too, says that the value may have changed.
            for field in fields.chunks(2).filter(|field| matches!(field[0].as_str(), "hard" | "soft")) {
                let texts = field[1].lines().filter(|text| !text.is_empty());
                let parse = |text| Tag::parse(text).unwrap_or_else(|error| panic!("in the log: {error}"));
                bumps.extend(texts.map(|text| Bump { tag: parse(text), at }));
            }
            self.place = id;
        }
        bumps
    }
}

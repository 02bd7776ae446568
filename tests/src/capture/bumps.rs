//! What one transaction has bumped.

use tokio_postgres::Client;

use crate::Stack;
use crate::log::{Bump, Log};

/// The family of the tags behind which everything before has been read. Nobody depends on it.
const FENCE: &str = "fence";
/// How often the log is looked at for a fence before the daemon counts as stuck.
const ATTEMPTS: u32 = 300;

/// Follows the log from transaction to transaction.
pub struct Bumps {
    log: Log,
    fences: u64,
}

impl Bumps {
    /// From the beginning of the log.
    pub async fn follow(stack: &Stack) -> Bumps {
        let key = stack.cache().await.key("log", "");
        let redis = stack.redis.connect().await.unwrap_or_else(|error| panic!("{error}"));
        Bumps { log: Log::new(redis, key), fences: 0 }
    }

    /// All that was bumped since the last call, and committed before this one.
    ///
    /// A transaction that bumps nothing leaves no record: a fence is committed behind it.
    pub async fn since(&mut self, client: &Client) -> Vec<Bump> {
        let mut bumped = Vec::new();
        let mut fence = self.fence(client).await;
        for _ in 0..ATTEMPTS {
            let read = self.log.read().await.unwrap_or_else(|error| panic!("{error}"));
            let (is_there, covers) =
                (read.iter().any(|bump| bump.tag.as_str() == fence), read.iter().any(|bump| bump.tag.is_everything()));
            bumped.extend(read.into_iter().filter(|bump| bump.tag.family() != FENCE));
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
        let fence = format!("{FENCE}:{}", self.fences);
        let committed = client.batch_execute(&format!("SELECT cachetag.invalidate('{fence}')")).await;
        committed.unwrap_or_else(|error| panic!("{fence}: {error:?}"));
        fence
    }
}

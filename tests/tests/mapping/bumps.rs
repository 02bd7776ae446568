//! What a change has bumped, read from the log in Redis.

use std::collections::BTreeSet;

use cachetag_tests::{Stack, StackOptions};
use redis::cmd;

/// Records of the stream: id, and fields and values in turn.
type Records = Vec<(String, Vec<String>)>;

/// A stack with this schema.
pub async fn stack(schema: &str) -> Stack {
    Stack::start(StackOptions::new().schema(schema)).await
}

/// The tags, sorted; a soft one as `~tag`.
pub type Tags = BTreeSet<String>;

/// A set of tags.
pub fn tags<const N: usize>(tags: [&str; N]) -> Tags {
    tags.into_iter().map(str::to_owned).collect()
}

/// A place in the log.
pub async fn log_end(stack: &Stack) -> String {
    let mut cache = stack.cache().await;
    let log = cache.key("log", "");
    let call = cmd("XREVRANGE").arg(log).arg("+").arg("-").arg("COUNT").arg(1).to_owned();
    let reply: Records = call.query_async(cache.connection()).await.expect("XREVRANGE");
    reply.into_iter().next().map_or_else(|| "0-0".to_owned(), |(id, _)| id)
}

/// Everything that was bumped after that place.
pub async fn bumped_since(stack: &Stack, place: &str) -> Tags {
    let mut cache = stack.cache().await;
    let log = cache.key("log", "");
    let call = cmd("XRANGE").arg(log).arg(format!("({place}")).arg("+").to_owned();
    let reply: Records = call.query_async(cache.connection()).await.expect("XRANGE");
    let mut tags = Tags::new();
    for (_, fields) in reply {
        for field in fields.chunks(2) {
            let mark = match field[0].as_str() {
                "hard" => "",
                "soft" => "~",
                _ => continue,
            };
            tags.extend(field[1].lines().filter(|tag| !tag.is_empty()).map(|tag| format!("{mark}{tag}")));
        }
    }
    tags
}

/// Runs the statements in a session of their own (one transaction, without `BEGIN`), and returns everything that they have bumped.
pub async fn bumps(stack: &Stack, sql: &str) -> Tags {
    stack.wait_caught_up_now().await;
    let place = log_end(stack).await;
    let commit = stack.commit(sql).await;
    stack.wait_caught_up(commit).await;
    bumped_since(stack, &place).await
}

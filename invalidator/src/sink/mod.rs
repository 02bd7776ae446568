//! The Redis end: claims the state, applies batches, advances the watermark. Every call names the position that it continues
//! from; Redis refuses it when it is elsewhere, and the session that made the call ends.

mod calls;
pub mod connect;
mod library;
mod replicas;
pub mod reply;

use std::future::Future;
use std::time::Duration;

use cachetag_core::{Epoch, Lsn, Version};
use redis::aio::MultiplexedConnection;
use redis::{Cmd, Value};

use crate::batch::Batch;
use crate::config::{Config, redact};
use crate::watermark::Advance;

pub use calls::Calls;
pub use library::VERSION as LIBRARY_VERSION;
pub use replicas::{Confirmed, Replicas};
pub use reply::State;

use connect::CONNECT_TIMEOUT;

/// A Redis that takes longer than this to answer is treated as gone: the call is made again on a new connection, and continuity
/// is proven anew. Whatever became of the old call, that is cheap.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(3);

/// Why Redis cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    /// The URL is not one.
    #[error("redis {url}: {source}; expected redis://[user:password@]host:port/0, rediss://… or redis+unix:///path")]
    Url {
        /// The URL, password hidden.
        url: String,
        /// What the parser said.
        source: redis::RedisError,
    },
    /// A URL of sentinels is not one.
    #[error(
        "redis {url}: {problem}; expected redis+sentinel://[user:password@]host:port[,host:port…]/name-of-the-primary[/db]"
    )]
    SentinelUrl {
        /// The URL, password hidden.
        url: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The sentinels name no primary that answers as one.
    #[error("redis {url}: the sentinels name no primary {name:?} that can be reached ({source})")]
    Sentinel {
        /// The URL, password hidden.
        url: String,
        /// Name of the primary.
        name: String,
        /// What the last one said.
        source: redis::RedisError,
    },
    /// Nobody answered.
    #[error("redis {url}: no answer")]
    Silent {
        /// The URL, password hidden.
        url: String,
    },
    /// Two connections lead to two servers.
    #[error("redis {url}: the address led to another server a moment ago; a failover is under way")]
    Moved {
        /// The URL, password hidden.
        url: String,
    },
    /// The server is a replica, or has become one.
    #[error("redis {url} is a replica, which cannot be written to; give the primary's address, or redis+sentinel://…")]
    Replica {
        /// The URL, password hidden.
        url: String,
    },
    /// Name or password were refused.
    #[error(
        "redis {url}: authentication failed ({source}); check user and password in the URL against the server's ACL"
    )]
    Authentication {
        /// The URL, password hidden.
        url: String,
        /// What the server said.
        source: redis::RedisError,
    },
    /// Functions are not there.
    #[error("redis {url} has no Functions ({reason}); cachetag needs Redis 7.0 or Valkey 7.2 or newer")]
    NoFunctions {
        /// The URL, password hidden.
        url: String,
        /// What the server said.
        reason: String,
    },
    /// Another version of cachetag has loaded a newer library.
    #[error(
        "redis {url} holds version {found} of the library, this daemon brings {own}; run a daemon at least as new as the library"
    )]
    NewerLibrary {
        /// The URL, password hidden.
        url: String,
        /// Version in Redis.
        found: String,
        /// Version of this daemon.
        own: &'static str,
    },
    /// Another daemon has claimed the state.
    #[error("fenced: {} claimed this Redis", .by.as_deref().unwrap_or("another daemon"))]
    Fenced {
        /// The other claimant.
        by: Option<String>,
    },
    /// Redis is not where this daemon left it.
    #[error(
        "Redis is not where this daemon left it (applied: {}): it was flushed, restored or failed over",
        .applied.as_deref().unwrap_or("nothing")
    )]
    Discontinuity {
        /// What it holds.
        applied: Option<String>,
    },
    /// Other writers fill this namespace.
    #[error(
        "namespace {namespace} of this Redis is being filled by another source ({other}, this one is {own}); give each source its own --namespace"
    )]
    ForeignSource {
        /// The namespace.
        namespace: String,
        /// Who fills it.
        other: String,
        /// Who we are.
        own: String,
    },
    /// The reply is not one that the library gives.
    #[error(
        "unexpected reply from the cachetag library: expected {expected}, got {got}; is another library loaded under that name?"
    )]
    Reply {
        /// What was expected.
        expected: &'static str,
        /// What came.
        got: String,
    },
    /// Anything else that the connection or the server said.
    #[error("redis: {0}")]
    Redis(#[from] redis::RedisError),
}

impl SinkError {
    /// Must a person act before another try can succeed?
    pub fn is_configuration(&self) -> bool {
        matches!(
            self,
            SinkError::Url { .. }
                | SinkError::SentinelUrl { .. }
                | SinkError::Authentication { .. }
                | SinkError::NoFunctions { .. }
                | SinkError::NewerLibrary { .. }
        )
    }
}

/// What the server said about itself; for the report that `doctor()` reads.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
pub struct ServerFacts {
    /// `redis` or `valkey`, and its version.
    pub server: String,
    /// `maxmemory-policy`; empty when the server does not tell.
    pub eviction_policy: String,
    /// `maxmemory` in bytes, 0: no limit.
    pub maxmemory: u64,
}

/// A connection that has not claimed the state yet.
pub struct Sink {
    connection: MultiplexedConnection,
    url: String,
    state_key: String,
    claimant: String,
}

impl Sink {
    /// Connects and sees to the library.
    pub async fn connect(config: &Config, claimant: &str) -> Result<Sink, SinkError> {
        let url = redact(&config.redis);
        let connection = connect::connect(&config.redis, CONNECT_TIMEOUT, RESPONSE_TIMEOUT).await?;
        let sink =
            Sink { connection, url, state_key: format!("{{{}}}:w", config.namespace), claimant: claimant.to_string() };
        sink.see_to_library().await?;
        Ok(sink)
    }

    /// The connection that waits for replicas, if the configuration wants any.
    pub async fn replicas(&self, config: &Config) -> Result<Option<Replicas>, SinkError> {
        Replicas::connect(config, &self.claimant, &self.connection).await
    }

    async fn see_to_library(&self) -> Result<(), SinkError> {
        library::see_to(self.connection.clone()).await.map_err(|error| self.named(error))
    }

    /// The error with the server's name and, where there is one, the remedy.
    fn named(&self, error: library::LibraryError) -> SinkError {
        let url = self.url.clone();
        match error {
            library::LibraryError::Newer(found) => SinkError::NewerLibrary { url, found, own: library::VERSION },
            library::LibraryError::NoFunctions(reason) => SinkError::NoFunctions { url, reason },
            library::LibraryError::Redis(source) if is_authentication(&source) => {
                SinkError::Authentication { url, source }
            }
            library::LibraryError::Redis(source) if source.code() == Some("READONLY") => SinkError::Replica { url },
            library::LibraryError::Redis(source) => SinkError::Redis(source),
        }
    }

    /// What the server says about itself. What it refuses to tell (CONFIG is often forbidden) stays empty.
    pub async fn facts(&self) -> Result<ServerFacts, SinkError> {
        let mut connection = self.connection.clone();
        let info: String = redis::cmd("INFO").arg("server").query_async(&mut connection).await?;
        let field = |name: &str| info.lines().find_map(|l| l.strip_prefix(name)?.strip_prefix(':').map(str::trim));
        let server = match (field("valkey_version"), field("redis_version")) {
            (Some(version), _) => format!("valkey {version}"),
            (None, Some(version)) => format!("redis {version}"),
            (None, None) => "unknown".into(),
        };
        let memory: Vec<String> = redis::cmd("CONFIG")
            .arg("GET")
            .arg("maxmemory*")
            .query_async::<Value>(&mut connection)
            .await
            .ok()
            .and_then(|v| reply::array(v).ok())
            .map(|items| items.into_iter().filter_map(reply::text).collect())
            .unwrap_or_default();
        let setting =
            |name: &str| memory.chunks(2).find(|c| c[0] == name).and_then(|c| c.get(1)).cloned().unwrap_or_default();
        Ok(ServerFacts {
            server,
            eviction_policy: setting("maxmemory-policy"),
            maxmemory: setting("maxmemory").parse().unwrap_or(0),
        })
    }

    /// Takes the state over: calls of an earlier claimant are refused from here on.
    pub async fn claim(&self, source: &str, config: &Config) -> Result<State, SinkError> {
        let mut cmd = self.call("cachetag_claim");
        cmd.arg(source).arg(config.max_lag.as_millis() as u64).arg(config.lease.as_millis() as u64);
        // FUNCTION has loaded the library, but FCALL is a command of its own, which may be missing or forbidden all the same.
        let claimed = self.send(cmd).await.map_err(|error| self.named(error.into()))?;
        reply::state(claimed)
    }

    /// Looks at the state without claiming it.
    pub async fn peek(&self) -> Result<State, SinkError> {
        let mut cmd = redis::cmd("HGETALL");
        cmd.arg(&self.state_key);
        let mut state = reply::state(self.send(cmd).await?)?;
        state.now = self.now().await?;
        Ok(state)
    }

    /// Opens a new epoch at `lsn`, not below `min_epoch`; returns its floor.
    pub async fn reset(&self, source: &str, lsn: Lsn, min_epoch: Epoch) -> Result<Version, SinkError> {
        let mut cmd = self.call("cachetag_reset");
        cmd.arg(source).arg(format!("{:020}", lsn.0)).arg(min_epoch.to_string());
        reply::reset(self.send(cmd).await?)
    }

    /// Redis's clock in ms.
    pub async fn now(&self) -> Result<u64, SinkError> {
        let mut connection = self.connection.clone();
        let (seconds, micros): (u64, u64) = redis::cmd("TIME").query_async(&mut connection).await?;
        Ok(seconds * 1000 + micros / 1000)
    }

    /// Applies a batch that continues from `from`. The call is encoded at once, the reply is awaited by the future.
    pub fn apply(
        &self,
        epoch: Epoch,
        from: Lsn,
        to: Lsn,
        batch: &Batch,
    ) -> impl Future<Output = Result<u64, SinkError>> + use<> {
        let mut cmd = self.call("cachetag_apply");
        cmd.arg(version_of(epoch, from).to_string()).arg(version_of(epoch, to).to_string());
        for group in batch.groups() {
            cmd.arg(version_of(epoch, group.lsn).to_string()).arg(group.hard.len()).arg(group.soft.len());
            for tag in group.hard.iter().chain(&group.soft) {
                cmd.arg(*tag);
            }
        }
        let sent = self.send(cmd);
        async move { reply::applied(sent.await?) }
    }

    /// Publishes a watermark, and moves `applied` on to `to` when nothing came in between.
    pub fn advance(
        &self,
        epoch: Epoch,
        from: Lsn,
        to: Lsn,
        advance: Option<Advance>,
    ) -> impl Future<Output = Result<u64, SinkError>> + use<> {
        let mut cmd = self.call("cachetag_advance");
        cmd.arg(version_of(epoch, from).to_string()).arg(version_of(epoch, to).to_string());
        match advance {
            Some(a) => {
                cmd.arg(version_of(epoch, a.watermark).to_string());
                match a.fresh_at {
                    Some(ms) => cmd.arg(ms),
                    None => cmd.arg(""),
                };
            }
            None => {
                cmd.arg("").arg("");
            }
        }
        let sent = self.send(cmd);
        async move { reply::applied(sent.await?) }
    }

    fn call(&self, function: &str) -> Cmd {
        let mut cmd = redis::cmd("FCALL");
        cmd.arg(function).arg(1).arg(&self.state_key).arg(&self.claimant);
        cmd
    }

    fn send(&self, cmd: Cmd) -> impl Future<Output = Result<Value, redis::RedisError>> + use<> {
        let mut connection = self.connection.clone();
        async move { cmd.query_async(&mut connection).await }
    }
}

fn version_of(epoch: Epoch, lsn: Lsn) -> Version {
    Version { epoch, lsn }
}

fn is_authentication(error: &redis::RedisError) -> bool {
    error.kind() == redis::ErrorKind::AuthenticationFailed
        || matches!(error.code(), Some("WRONGPASS" | "NOAUTH" | "NOPERM"))
        || error.to_string().contains("invalid username-password")
}

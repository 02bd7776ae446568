//! The public interface in Redis, typed: what an application in any language does by FCALL.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{Cmd, RedisResult, Value, cmd};

/// The library that the daemon loads, for tests that run without one.
const LIBRARY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../redis/cachetag.lua");

/// What `cachetag_get` says of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Valid.
    Hit,
    /// May still be served while one caller refreshes it.
    Stale,
    /// Valid, and this caller should refresh it before it expires.
    Early,
    /// Nothing to serve.
    Miss,
    /// Nothing to serve, and another caller is computing it.
    Wait,
    /// The cache cannot tell: ask the database and store nothing.
    Bypass,
}

/// The answer of `cachetag_get` and `cachetag_peek`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Get {
    /// The verdict.
    pub state: State,
    /// The cached value; none for a stored "absent" too.
    pub payload: Option<Vec<u8>>,
    /// What to hand to `put`; empty for `bypass`.
    pub token: String,
    /// Not empty for the one caller that should recompute.
    pub lease: String,
    /// Milliseconds since the entry was stored, -1 when nothing is served.
    pub age_ms: i64,
}

impl Get {
    /// The payload as text.
    pub fn text(&self) -> Option<&str> {
        self.payload.as_deref().map(|bytes| std::str::from_utf8(bytes).expect("the payload of a test is text"))
    }

    /// A valid value is served.
    pub fn is_hit(&self) -> bool {
        matches!(self.state, State::Hit | State::Early)
    }

    /// Nothing is served, and the token allows to fill.
    pub fn is_miss(&self) -> bool {
        matches!(self.state, State::Miss | State::Wait)
    }
}

/// Options of a `get`.
#[derive(Debug, Clone, Default)]
pub struct GetOptions {
    /// Bound of staleness; the daemon's default without it.
    pub max_lag: Option<Duration>,
    /// A version or an LSN (`X/Y`) that the answer must cover.
    pub at_least: Option<String>,
    /// Eagerness of early refreshes.
    pub beta: Option<f64>,
    /// Do not take a lease.
    pub no_lease: bool,
}

/// Options of a `put`.
#[derive(Debug, Clone, Default)]
pub struct PutOptions {
    /// From then on the entry is `stale`.
    pub fresh: Option<Duration>,
    /// What it cost to compute.
    pub cost: Option<Duration>,
    /// The value does not exist.
    pub absent: bool,
    /// The lease that the miss gave.
    pub lease: Option<String>,
}

/// The answer of `cachetag_put`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Put {
    /// Stored with this version.
    Stored(String),
    /// Not stored.
    Refused {
        /// `bumped`, `unregistered`, `floor`, `epoch` or `bypass`.
        reason: String,
        /// The tag that is the cause, if one is.
        tag: String,
    },
}

impl Put {
    /// Whether the entry was stored.
    pub fn is_stored(&self) -> bool {
        matches!(self, Put::Stored(_))
    }

    /// Why it was not.
    pub fn reason(&self) -> Option<&str> {
        match self {
            Put::Stored(_) => None,
            Put::Refused { reason, .. } => Some(reason),
        }
    }
}

/// The answer of `cachetag_explain`: fields by name, nested values rendered as text.
pub type Explain = BTreeMap<String, String>;

/// One connection to Redis with the calls of an application, in one namespace.
#[derive(Debug, Clone)]
pub struct Cache {
    connection: MultiplexedConnection,
    namespace: String,
}

impl Cache {
    /// The calls on this connection, in namespace `ct` (keys `{ct}:…`).
    pub fn new(connection: MultiplexedConnection) -> Cache {
        Cache { connection, namespace: "ct".to_owned() }
    }

    /// The same in another namespace.
    pub fn namespace(mut self, namespace: impl Into<String>) -> Cache {
        self.namespace = namespace.into();
        self
    }

    /// The connection, for anything else.
    pub fn connection(&mut self) -> &mut MultiplexedConnection {
        &mut self.connection
    }

    /// The Redis key of a kind (`e`, `t`, `a`, `l`) and name, or of `log` and `w` without a name.
    pub fn key(&self, kind: &str, name: &str) -> String {
        let colon = if name.is_empty() { "" } else { ":" };
        format!("{{{}}}:{kind}{colon}{name}", self.namespace)
    }

    /// Loads `redis/cachetag.lua`, replacing what is there.
    pub async fn load_library(&mut self) -> RedisResult<()> {
        let path = Path::new(LIBRARY);
        let source = std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        cmd("FUNCTION").arg("LOAD").arg("REPLACE").arg(source).exec_async(&mut self.connection).await
    }

    /// `cachetag_get` with the defaults.
    pub async fn get(&mut self, key: &str) -> RedisResult<Get> {
        self.get_with(key, &GetOptions::default()).await
    }

    /// `cachetag_get`.
    pub async fn get_with(&mut self, key: &str, options: &GetOptions) -> RedisResult<Get> {
        let mut call = self.fcall("FCALL", "cachetag_get", key);
        get_arguments(&mut call, options);
        self.answer_of_get(call).await
    }

    /// `cachetag_peek`.
    pub async fn peek(&mut self, key: &str, options: &GetOptions) -> RedisResult<Get> {
        let mut call = self.fcall("FCALL_RO", "cachetag_peek", key);
        get_arguments(&mut call, options);
        self.answer_of_get(call).await
    }

    /// `cachetag_put` without options.
    pub async fn put<T: AsRef<str>>(
        &mut self,
        key: &str,
        payload: &str,
        token: &str,
        ttl: Duration,
        tags: &[T],
    ) -> RedisResult<Put> {
        self.put_with(key, payload, token, ttl, tags, &PutOptions::default()).await
    }

    /// `cachetag_put`.
    pub async fn put_with<T: AsRef<str>>(
        &mut self,
        key: &str,
        payload: &str,
        token: &str,
        ttl: Duration,
        tags: &[T],
        options: &PutOptions,
    ) -> RedisResult<Put> {
        let mut call = self.fcall("FCALL", "cachetag_put", key);
        call.arg(payload).arg(token).arg(ttl.as_millis() as u64).arg("TAGS").arg(tags.len());
        for tag in tags {
            call.arg(tag.as_ref());
        }
        if let Some(fresh) = options.fresh {
            call.arg("FRESH").arg(fresh.as_millis() as u64);
        }
        if let Some(cost) = options.cost {
            call.arg("COST").arg(cost.as_millis() as u64);
        }
        if options.absent {
            call.arg("ABSENT");
        }
        if let Some(lease) = &options.lease {
            call.arg("LEASE").arg(lease);
        }
        let answer: Vec<String> = call.query_async(&mut self.connection).await?;
        let mut fields = answer.into_iter();
        let kind = fields.next().unwrap_or_default();
        let (first, second) = (fields.next().unwrap_or_default(), fields.next().unwrap_or_default());
        match kind.as_str() {
            "stored" => Ok(Put::Stored(first)),
            "refused" => Ok(Put::Refused { reason: first, tag: second }),
            _ => panic!("cachetag_put answered `{kind}`"),
        }
    }

    /// `cachetag_drop`: whether there was an entry.
    pub async fn drop(&mut self, key: &str) -> RedisResult<bool> {
        self.fcall("FCALL", "cachetag_drop", key).query_async(&mut self.connection).await
    }

    /// `cachetag_explain`.
    pub async fn explain(&mut self, key: &str) -> RedisResult<Explain> {
        let call = self.fcall("FCALL_RO", "cachetag_explain", key);
        let answer: Vec<Value> = call.query_async(&mut self.connection).await?;
        Ok(answer.chunks(2).map(|pair| (render(&pair[0]), pair.get(1).map(render).unwrap_or_default())).collect())
    }

    /// The daemon's state, `{ct}:w`; empty before the first claim.
    pub async fn state(&mut self) -> RedisResult<BTreeMap<String, String>> {
        cmd("HGETALL").arg(self.key("w", "")).query_async(&mut self.connection).await
    }

    fn fcall(&self, command: &str, function: &str, key: &str) -> Cmd {
        let mut call = cmd(command);
        call.arg(function).arg(1).arg(self.key("e", key));
        call
    }

    async fn answer_of_get(&mut self, call: Cmd) -> RedisResult<Get> {
        type Answer = (String, Option<Vec<u8>>, Option<String>, Option<String>, i64);
        let (state, payload, token, lease, age_ms): Answer = call.query_async(&mut self.connection).await?;
        let state = match state.as_str() {
            "hit" => State::Hit,
            "stale" => State::Stale,
            "early" => State::Early,
            "miss" => State::Miss,
            "wait" => State::Wait,
            "bypass" => State::Bypass,
            _ => panic!("cachetag_get answered `{state}`"),
        };
        Ok(Get { state, payload, token: token.unwrap_or_default(), lease: lease.unwrap_or_default(), age_ms })
    }
}

fn get_arguments(call: &mut Cmd, options: &GetOptions) {
    if let Some(max_lag) = options.max_lag {
        call.arg("MAXLAG").arg(max_lag.as_millis() as u64);
    }
    if let Some(at_least) = &options.at_least {
        call.arg("ATLEAST").arg(at_least);
    }
    if let Some(beta) = options.beta {
        call.arg("BETA").arg(beta);
    }
    if options.no_lease {
        call.arg("NOLEASE");
    }
}

fn render(value: &Value) -> String {
    match value {
        Value::Nil => String::new(),
        Value::BulkString(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        Value::SimpleString(text) => text.clone(),
        Value::Int(number) => number.to_string(),
        Value::Array(values) => values.iter().map(render).collect::<Vec<_>>().join(" "),
        other => format!("{other:?}"),
    }
}

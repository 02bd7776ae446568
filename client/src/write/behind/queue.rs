//! The queue: where operations are put, and acknowledged.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{Cmd, RedisError, Value, cmd};

use super::entry::{array, encode};
use super::error::{EnqueueError, OpenError};
use super::operation::Operation;
use super::script::ENQUEUE;
use crate::write::link::Link;

/// How long a connection and an answer may take.
const TIMEOUT: Duration = Duration::from_secs(2);
const LIMIT: u64 = 100_000;
const MAX_BYTES: usize = 1024 * 1024;
/// The table of applied operations has an index on the key.
const MAX_KEY_BYTES: usize = 1024;
/// The first versions of Redis and of Valkey with WAITAOF.
const DISK_ACKS: (u32, u32) = (7, 2);

/// What an acknowledgement waits for, beyond Redis's answer. The [table](super) says what that is worth.
///
/// `Replicas` and `Disk` occupy the queue's connection while they wait: put many operations into one [`WriteBehind::enqueue_all`].
///
/// ```
/// use std::time::Duration;
/// use cachetag_client::write::behind::{Acks, WriteBehind};
///
/// let acks = Acks::Replicas { count: 1, timeout: Duration::from_millis(200) };
/// let builder = WriteBehind::builder("redis+sentinel://a,b,c/queue").acks(acks);
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Acks {
    /// Redis's answer alone, which with `appendfsync always` comes after the fsync.
    #[default]
    Server,
    /// So many replicas have it (WAIT).
    Replicas {
        /// How many.
        count: u32,
        /// How long it may take them.
        timeout: Duration,
    },
    /// The primary's disk and those of so many replicas have it (WAITAOF).
    Disk {
        /// How many replicas.
        replicas: u32,
        /// How long it may take.
        timeout: Duration,
    },
}

/// How a queue is set up; see [`WriteBehind::builder`].
///
/// ```
/// # use cachetag_client::write::behind::WriteBehind;
/// let builder = WriteBehind::builder("redis://queue").name("prices").limit(10_000);
/// ```
#[derive(Debug, Clone)]
pub struct Builder {
    url: String,
    name: String,
    limit: u64,
    dead_limit: u64,
    max_bytes: usize,
    acks: Acks,
    timeout: Duration,
}

/// A queue of operations in Redis. Clones share one connection.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use cachetag_client::write::behind::{Operation, WriteBehind};
///
/// let queue = WriteBehind::builder("redis://queue").name("prices").open().await?;
/// let operation = Operation::statement("set_price").param(42).param("9.90");
/// match queue.enqueue(&operation).await {
///     Ok(_) => {}
///     Err(error) if error.may_be_enqueued() => { queue.enqueue(&operation).await?; } // the same value: the same key
///     Err(error) => return Err(error.into()),
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct WriteBehind {
    pub(super) link: Link,
    pub(super) name: String,
    /// The stream of operations.
    pub(super) operations: String,
    /// The stream of dead letters.
    pub(super) dead: String,
    pub(super) limit: u64,
    pub(super) dead_limit: u64,
    max_bytes: usize,
    acks: Acks,
}

impl Builder {
    /// Names the queue (`default`): its keys are `cachetag:{name}:writes` and `cachetag:{name}:dead`.
    ///
    /// ```
    /// # use cachetag_client::write::behind::WriteBehind;
    /// let builder = WriteBehind::builder("redis://queue").name("prices");
    /// ```
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// How many operations may wait (100,000); more are refused.
    ///
    /// ```
    /// # use cachetag_client::write::behind::WriteBehind;
    /// let builder = WriteBehind::builder("redis://queue").limit(10_000);
    /// ```
    pub fn limit(mut self, limit: u64) -> Self {
        self.limit = limit;
        self
    }

    /// How many dead letters may lie there (as many); then the worker waits until somebody has looked at them.
    ///
    /// ```
    /// # use cachetag_client::write::behind::WriteBehind;
    /// let builder = WriteBehind::builder("redis://queue").dead_limit(1_000);
    /// ```
    pub fn dead_limit(mut self, limit: u64) -> Self {
        self.dead_limit = limit;
        self
    }

    /// The largest operation (1 MiB).
    ///
    /// ```
    /// # use cachetag_client::write::behind::WriteBehind;
    /// let builder = WriteBehind::builder("redis://queue").max_bytes(64 * 1024);
    /// ```
    pub fn max_bytes(mut self, bytes: usize) -> Self {
        self.max_bytes = bytes;
        self
    }

    /// What an acknowledgement waits for.
    ///
    /// ```
    /// use cachetag_client::write::behind::Acks;
    /// # use cachetag_client::write::behind::WriteBehind;
    /// let builder = WriteBehind::builder("redis://queue").acks(Acks::Server);
    /// ```
    pub fn acks(mut self, acks: Acks) -> Self {
        self.acks = acks;
        self
    }

    /// How long Redis may take to answer (2 s), not counting what the acknowledgements may take.
    ///
    /// ```
    /// # use cachetag_client::write::behind::WriteBehind;
    /// let builder = WriteBehind::builder("redis://queue").timeout(std::time::Duration::from_millis(500));
    /// ```
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Connects, and looks whether Redis can keep what it acknowledges.
    ///
    /// ```no_run
    /// # use cachetag_client::write::behind::{Operation, WriteBehind};
    /// # async fn example(queue: WriteBehind) -> Result<(), Box<dyn std::error::Error>> {
    /// let queue = WriteBehind::builder("redis://queue").open().await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn open(self) -> Result<WriteBehind, OpenError> {
        let waits = match self.acks {
            Acks::Server => Duration::ZERO,
            Acks::Replicas { timeout, .. } | Acks::Disk { timeout, .. } => timeout,
        };
        let queue = WriteBehind {
            link: Link::open(&self.url, self.timeout, self.timeout + waits)?,
            operations: format!("cachetag:{{{}}}:writes", self.name),
            dead: format!("cachetag:{{{}}}:dead", self.name),
            name: self.name,
            limit: self.limit,
            dead_limit: self.dead_limit,
            max_bytes: self.max_bytes,
            acks: self.acks,
        };
        queue.connection().await?;
        Ok(queue)
    }
}

impl WriteBehind {
    /// A queue in this Redis: a URL as for [`Builder::redis`](crate::Builder::redis). Of sentinels, the primary that they name is followed; what a failover may
    /// cost is what the promoted replica lacks, so that [`Acks::Replicas`] goes with them.
    ///
    /// ```
    /// # use cachetag_client::write::behind::WriteBehind;
    /// let builder = WriteBehind::builder("redis://queue");
    /// ```
    pub fn builder(url: impl Into<String>) -> Builder {
        Builder {
            url: url.into(),
            name: "default".to_owned(),
            limit: LIMIT,
            dead_limit: LIMIT,
            max_bytes: MAX_BYTES,
            acks: Acks::Server,
            timeout: TIMEOUT,
        }
    }

    /// Its name.
    ///
    /// ```no_run
    /// # use cachetag_client::write::behind::{Operation, WriteBehind};
    /// # async fn example(queue: WriteBehind) -> Result<(), Box<dyn std::error::Error>> {
    /// println!("{}", queue.name());
    /// # Ok(())
    /// # }
    /// ```
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A connection to a Redis that can keep what it acknowledges: looked at each time that it is another one, as after a failover.
    async fn connection(&self) -> Result<MultiplexedConnection, OpenError> {
        self.link.vetted(async |connection| self.check(connection).await).await
    }

    async fn check(&self, connection: &mut MultiplexedConnection) -> Result<(), OpenError> {
        let info: String = cmd("INFO").query_async(connection).await?;
        let policy = field(&info, "maxmemory_policy:");
        if policy.starts_with("allkeys") {
            return Err(OpenError::Evicting { policy: policy.to_owned() });
        }
        let persistent = field(&info, "aof_enabled:") == "1";
        let version = Some(field(&info, "valkey_version:")).filter(|version| !version.is_empty());
        let version = version.unwrap_or_else(|| field(&info, "redis_version:"));
        if matches!(self.acks, Acks::Disk { .. }) && !(persistent && has_disk_acks(version)) {
            let aof = if persistent { "yes" } else { "no" };
            return Err(OpenError::NoDiskAcks { version: version.to_owned(), aof });
        }
        if !persistent && !matches!(self.acks, Acks::Replicas { .. }) {
            tracing::warn!(queue = %self.name, "appendonly is off: acknowledged writes live as long as the Redis process");
        }
        Ok(())
    }

    /// Puts an operation into the queue. `Ok` is the acknowledgement; the text is the operation's stream id.
    ///
    /// ```no_run
    /// # use cachetag_client::write::behind::{Operation, WriteBehind};
    /// # async fn example(queue: WriteBehind) -> Result<(), Box<dyn std::error::Error>> {
    /// let id = queue.enqueue(&Operation::statement("set_price").param(42).param("9.90")).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn enqueue(&self, operation: &Operation) -> Result<String, EnqueueError> {
        let ids = self.enqueue_all(std::slice::from_ref(operation)).await?;
        Ok(ids.into_iter().next().unwrap_or_default())
    }

    /// Puts operations into the queue, next to each other and in this order: all of them or none.
    ///
    /// ```no_run
    /// # use cachetag_client::write::behind::{Operation, WriteBehind};
    /// # async fn example(queue: WriteBehind) -> Result<(), Box<dyn std::error::Error>> {
    /// let operations: Vec<_> = (1..=3).map(|id| Operation::statement("touch").param(id)).collect();
    /// assert_eq!(queue.enqueue_all(&operations).await?.len(), 3);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn enqueue_all(&self, operations: &[Operation]) -> Result<Vec<String>, EnqueueError> {
        if operations.is_empty() {
            return Ok(Vec::new());
        }
        let mut script = cmd("EVAL");
        script.arg(ENQUEUE).arg(1).arg(&self.operations).arg(self.limit);
        for operation in operations {
            let key = operation.idempotency_key().len();
            if key > MAX_KEY_BYTES {
                return Err(EnqueueError::KeyTooLong { bytes: key, limit: MAX_KEY_BYTES });
            }
            let values = encode(operation);
            let bytes = values.iter().map(String::len).sum();
            if bytes > self.max_bytes {
                return Err(EnqueueError::TooLarge { bytes, limit: self.max_bytes });
            }
            script.arg(&values[..]);
        }
        let connection = self.connection().await?;
        let (answer, held) = self.send(connection, &script).await.map_err(judged)?;
        let answer = array(&answer);
        if let [Value::Int(0), Value::Int(length)] = answer {
            let (queue, length, limit) = (self.name.clone(), length.unsigned_abs(), self.limit);
            metrics::counter!("cachetag_write_behind_refused_total", "queue" => queue.clone()).increment(1);
            return Err(EnqueueError::Full { queue, length, limit });
        }
        if held.is_err() {
            // It has lost its replicas, or they have lost it.
            self.link.doubt().await;
        }
        held?;
        metrics::counter!("cachetag_write_behind_enqueued_total", "queue" => self.name.clone())
            .increment(operations.len() as u64);
        let id = |value: &Value| redis::from_redis_value_ref(value).unwrap_or_default();
        Ok(answer.iter().skip(1).map(id).collect())
    }

    /// The script's answer, and whether enough others have it too.
    async fn send(
        &self,
        connection: MultiplexedConnection,
        script: &Cmd,
    ) -> Result<(Value, Result<(), EnqueueError>), RedisError> {
        let (wait, wanted, holders) = match self.acks {
            Acks::Server => return Ok((self.link.call_on(connection, script).await?, Ok(()))),
            Acks::Replicas { count, timeout } => {
                let mut wait = cmd("WAIT");
                wait.arg(count).arg(timeout.as_millis() as u64);
                (wait, count, "replicas")
            }
            Acks::Disk { replicas, timeout } => {
                let mut wait = cmd("WAITAOF");
                wait.arg(1).arg(replicas).arg(timeout.as_millis() as u64);
                (wait, replicas + 1, "disks")
            }
        };
        let mut pipeline = redis::pipe();
        pipeline.add_command(script.clone()).add_command(wait);
        let (answer, held): (Value, Value) = self.link.pipeline_on(connection, &pipeline).await?;
        let number = |value: &Value| if let Value::Int(number) = value { number.unsigned_abs() } else { 0 };
        // WAITAOF counts the local disk and the replicas' apart.
        let got = if let Value::Array(parts) = &held { parts.iter().map(number).sum() } else { number(&held) };
        let wanted = u64::from(wanted);
        Ok((answer, if got >= wanted { Ok(()) } else { Err(EnqueueError::NotHeld { got, wanted, holders }) }))
    }

    /// How many operations are not applied yet.
    ///
    /// ```no_run
    /// # use cachetag_client::write::behind::{Operation, WriteBehind};
    /// # async fn example(queue: WriteBehind) -> Result<(), Box<dyn std::error::Error>> {
    /// println!("{} operations wait", queue.len().await?);
    /// # Ok(())
    /// # }
    /// ```
    pub async fn len(&self) -> Result<u64, RedisError> {
        self.link.call(cmd("XLEN").arg(&self.operations)).await
    }

    /// Whether everything is applied.
    ///
    /// ```no_run
    /// # use cachetag_client::write::behind::{Operation, WriteBehind};
    /// # async fn example(queue: WriteBehind) -> Result<(), Box<dyn std::error::Error>> {
    /// if queue.is_empty().await? { println!("everything is applied") }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn is_empty(&self) -> Result<bool, RedisError> {
        Ok(self.len().await? == 0)
    }
}

fn judged(error: RedisError) -> EnqueueError {
    match error.code() {
        Some("OOM") => EnqueueError::OutOfMemory(error),
        // A script that failed half-way may have written; only these come before it begins.
        Some(
            "NOAUTH" | "NOPERM" | "LOADING" | "READONLY" | "WRONGTYPE" | "MISCONF" | "NOREPLICAS" | "MOVED" | "BUSY"
            | "CLUSTERDOWN",
        ) => EnqueueError::Refused(error),
        _ => EnqueueError::Unknown(error),
    }
}

fn field<'a>(info: &'a str, name: &str) -> &'a str {
    info.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim()
}

fn has_disk_acks(version: &str) -> bool {
    let mut parts = version.split('.').map(|part| part.parse().unwrap_or(0));
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0)) >= DISK_ACKS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_with_disk_acks() {
        assert!(!has_disk_acks("7.0.15") && !has_disk_acks("6.2.9") && !has_disk_acks(""));
        assert!(has_disk_acks("7.2.4") && has_disk_acks("8.0.1"));
    }

    #[test]
    fn info_is_read() {
        let info = "# Server\r\nredis_version:7.0.15\r\naof_enabled:1\r\n";
        assert_eq!(
            (field(info, "redis_version:"), field(info, "aof_enabled:"), field(info, "x:")),
            ("7.0.15", "1", "")
        );
    }
}

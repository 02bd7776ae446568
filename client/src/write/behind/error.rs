//! Why an operation was not acknowledged.

use redis::RedisError;

/// Why a queue cannot be used.
///
/// ```
/// use cachetag_client::write::behind::OpenError;
///
/// fn remedy(error: &OpenError) -> &str {
///     if matches!(error, OpenError::Evicting { .. }) { "set maxmemory-policy" } else { "see the message" }
/// }
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The URL is no URL, or Redis does not answer.
    #[error("Redis: {0}")]
    Redis(#[from] RedisError),
    /// Redis may evict the queue.
    #[error(
        "maxmemory-policy is {policy}: Redis may evict the queue, and acknowledged writes with it; set volatile-lru, volatile-lfu, volatile-ttl or noeviction"
    )]
    Evicting {
        /// The policy.
        policy: String,
    },
    /// Redis cannot give the acknowledgements that were asked for.
    #[error(
        "Redis {version} with appendonly {aof} cannot acknowledge from disk: Acks::Disk needs Redis 7.2 or Valkey 7.2, and appendonly yes"
    )]
    NoDiskAcks {
        /// Redis's version.
        version: String,
        /// Whether the AOF is on.
        aof: &'static str,
    },
}

/// Why an operation was not acknowledged.
///
/// ```
/// use cachetag_client::write::behind::EnqueueError;
///
/// fn should_slow_down(error: &EnqueueError) -> bool {
///     matches!(error, EnqueueError::Full { .. } | EnqueueError::OutOfMemory(_))
/// }
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EnqueueError {
    /// The worker does not keep up, or does not run.
    #[error(
        "queue {queue} is full: {length} of at most {limit} operations wait; does its worker run? Slow down, or raise the limit"
    )]
    Full {
        /// The queue's name.
        queue: String,
        /// How many operations wait.
        length: u64,
        /// How many may.
        limit: u64,
    },
    /// The operation is too large.
    #[error("an operation of {bytes} bytes, at most {limit}: store the bulk elsewhere, or raise max_bytes")]
    TooLarge {
        /// Its size.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// The idempotency key is too long.
    #[error("an idempotency key of {bytes} bytes, at most {limit}: use a hash of it")]
    KeyTooLong {
        /// Its length.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// It is in Redis, but not in as many places as an acknowledgement needs.
    #[error(
        "enqueued, but held by {got} of {wanted} {holders} in time: it will be applied unless Redis is lost; to be sure, enqueue the same operation again (its key makes that harmless)"
    )]
    NotHeld {
        /// How many have it.
        got: u64,
        /// How many should.
        wanted: u64,
        /// Who: replicas or disks.
        holders: &'static str,
    },
    /// Redis has no memory left.
    #[error("Redis is out of memory and took nothing: raise maxmemory, or lower the limit of the queue ({0})")]
    OutOfMemory(#[source] RedisError),
    /// Redis refused.
    #[error("Redis refused, nothing is enqueued: {0}")]
    Refused(#[source] RedisError),
    /// The Redis behind the queue is another one now, or has another configuration, and cannot keep what it acknowledges.
    #[error("nothing is enqueued: {0}")]
    Unfit(#[source] OpenError),
    /// The answer was lost.
    #[error("not known whether it is enqueued: {0}; enqueue the same operation again (its key makes that harmless)")]
    Unknown(#[source] RedisError),
}

impl From<OpenError> for EnqueueError {
    fn from(error: OpenError) -> EnqueueError {
        match error {
            OpenError::Redis(error) => EnqueueError::Unknown(error),
            error => EnqueueError::Unfit(error),
        }
    }
}

impl EnqueueError {
    /// Whether the operation may be applied although it was not acknowledged.
    ///
    /// ```
    /// use cachetag_client::write::behind::EnqueueError;
    ///
    /// fn again(error: &EnqueueError) -> bool {
    ///     error.may_be_enqueued() // the same value, under the same key: harmless
    /// }
    /// ```
    pub fn may_be_enqueued(&self) -> bool {
        matches!(self, EnqueueError::NotHeld { .. } | EnqueueError::Unknown(_))
    }
}

//! How a feed is followed.

use std::time::Duration;

/// How a feed is followed.
///
/// ```
/// use std::time::Duration;
/// use cachetag_client::feed::FeedOptions;
///
/// let options = FeedOptions::new().namespace("ct0").heartbeat(Duration::from_millis(50));
/// assert_eq!(options, options.clone());
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FeedOptions {
    pub(super) namespace: String,
    pub(super) heartbeat: Duration,
    pub(super) timeout: Duration,
    pub(super) max_back_off: Duration,
    pub(super) ring_records: usize,
    pub(super) ring_bytes: usize,
    pub(super) preload: usize,
}

impl FeedOptions {
    /// Namespace `ct`, a look at least every 100 ms, two seconds for an answer, 10,000 records and 16 MiB of log in memory.
    pub fn new() -> FeedOptions {
        FeedOptions {
            namespace: "ct".to_owned(),
            heartbeat: Duration::from_millis(100),
            timeout: Duration::from_secs(2),
            max_back_off: Duration::from_secs(1),
            ring_records: 10_000,
            ring_bytes: 16 << 20,
            preload: 1_000,
        }
    }

    /// The instance: keys are `{namespace}:…`.
    pub fn namespace(mut self, namespace: impl Into<String>) -> FeedOptions {
        self.namespace = namespace.into();
        self
    }

    /// The longest time between two looks, at least a millisecond. It adds to how stale hits may be, and is a quarter of the instance's `max_lag` at most.
    pub fn heartbeat(mut self, heartbeat: Duration) -> FeedOptions {
        self.heartbeat = heartbeat.max(Duration::from_millis(1));
        self
    }

    /// How long Redis may take to answer, or to connect, before the connection is given up.
    pub fn timeout(mut self, timeout: Duration) -> FeedOptions {
        self.timeout = timeout;
        self
    }

    /// The longest wait between two attempts to connect.
    pub fn max_back_off(mut self, max_back_off: Duration) -> FeedOptions {
        self.max_back_off = max_back_off;
        self
    }

    /// How much of the log is kept in memory: the older a value may be when it comes in.
    pub fn ring(mut self, records: usize, bytes: usize) -> FeedOptions {
        (self.ring_records, self.ring_bytes) = (records, bytes);
        self
    }

    /// How many of the log's records are read at the start, so that values from before it can come in.
    pub fn preload(mut self, records: usize) -> FeedOptions {
        self.preload = records;
        self
    }
}

impl Default for FeedOptions {
    fn default() -> FeedOptions {
        FeedOptions::new()
    }
}

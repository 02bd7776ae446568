//! The task that follows the log: one connection of its own, on which nothing else waits, because `XREAD BLOCK` holds up all that comes behind it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;
use redis::{ErrorKind, Pipeline, RedisError, Value, cmd};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::ledger::{Ledger, Next, heartbeat};
use super::options::FeedOptions;
use crate::target::Target;

/// The first wait before connecting again; it doubles.
const BACK_OFF: Duration = Duration::from_millis(20);
/// Records of one look: a record holds ten thousand tags at most, so a look takes some megabytes at worst.
const RECORDS: usize = 128;
/// How far a look is shrunk that does not come through.
const MAX_SHRINK: usize = 1024;

/// Ends with the last handle.
#[derive(Debug)]
pub(super) struct Task(JoinHandle<()>);

impl Task {
    /// Starts it on the present runtime.
    pub(super) fn spawn(target: Target, options: FeedOptions, ledger: Arc<Ledger>) -> Task {
        Task(tokio::spawn(Follower { target, options, ledger }.run()))
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Why a connection is given up.
#[derive(Debug, thiserror::Error)]
enum Cut {
    #[error("{0}")]
    Redis(#[from] RedisError),
    #[error("Redis did not answer within {} ms", .0.as_millis())]
    Timeout(Duration),
}

struct Follower {
    target: Target,
    options: FeedOptions,
    ledger: Arc<Ledger>,
}

/// However the task ends, nothing is vouched for afterwards.
struct Detach(Arc<Ledger>);

impl Drop for Detach {
    fn drop(&mut self) {
        self.0.detach();
    }
}

impl Follower {
    async fn run(self) {
        let (mut back_off, mut shrink) = (BACK_OFF, 1);
        loop {
            let mut looked = false;
            let cut = {
                let _detach = Detach(Arc::clone(&self.ledger));
                match self.connect().await {
                    Ok(connection) => self.follow(connection, shrink, &mut looked).await,
                    Err(cut) => cut,
                }
            };
            (back_off, shrink) = if looked { (BACK_OFF, 1) } else { (back_off, (shrink * 4).min(MAX_SHRINK)) };
            tracing::debug!(reason = %cut, back_off_ms = back_off.as_millis(), "the feed is not connected");
            // Between half and all of it: a thousand processes that lost one Redis do not come back at one moment.
            sleep(back_off.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
            back_off = (back_off * 2).min(self.options.max_back_off.max(BACK_OFF));
        }
    }

    async fn connect(&self) -> Result<MultiplexedConnection, Cut> {
        let limit = self.options.timeout;
        // Each call has its own limit, below: that of a blocking read is another.
        within(limit, self.target.connect(limit, None)).await
    }

    /// Follows until the connection fails. Cancel-safe: what was not taken in will be asked for again.
    async fn follow(&self, mut connection: MultiplexedConnection, shrink: usize, looked: &mut bool) -> Cut {
        let prefix = format!("{{{}}}:", self.options.namespace);
        loop {
            let question = self.ledger.question(RECORDS, shrink);
            // Before anything is sent: what the look will show is no older than this.
            let sent = Instant::now();
            let answer = match self.ask(&mut connection, &question.commands(&prefix)).await {
                Ok(answer) => answer,
                Err(cut) => return cut,
            };
            let next = self.ledger.take(question.read(&answer), sent);
            *looked = true;
            let beat = heartbeat(self.options.heartbeat, self.ledger.view().max_lag);
            match next {
                Next::Again => {}
                Next::Idle(lost) => {
                    tracing::debug!(reason = %lost, "the feed waits");
                    sleep(beat).await;
                }
                Next::Wait(position) => {
                    let log = format!("{prefix}log");
                    let mut wait = cmd("XREAD");
                    wait.arg("COUNT").arg(1).arg("BLOCK").arg(beat.as_millis() as u64);
                    wait.arg("STREAMS").arg(log).arg(format!("{}-0", position.lsn.0));
                    // What it returns is only a reason to look.
                    let limit = beat + self.options.timeout;
                    match within(limit, wait.query_async::<Value>(&mut connection)).await {
                        // Refused, not broken: the feed goes on by its heartbeat alone.
                        Err(Cut::Redis(error))
                            if matches!(error.kind(), ErrorKind::Server(_) | ErrorKind::Extension) =>
                        {
                            tracing::debug!(%error, "the feed cannot wait for records");
                            sleep(beat).await;
                        }
                        Err(cut) => return cut,
                        Ok(_) => {}
                    }
                }
            }
        }
    }

    async fn ask(&self, connection: &mut MultiplexedConnection, commands: &Pipeline) -> Result<Value, Cut> {
        let values: Vec<Value> = within(self.options.timeout, commands.query_async(connection)).await?;
        Ok(Value::Array(values))
    }
}

async fn within<T>(limit: Duration, call: impl Future<Output = Result<T, RedisError>>) -> Result<T, Cut> {
    match timeout(limit, call).await {
        Ok(answered) => Ok(answered?),
        Err(_) => Err(Cut::Timeout(limit)),
    }
}

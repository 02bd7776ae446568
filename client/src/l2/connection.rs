//! One connection to a shard's Redis, shared by all clones, that comes back by itself.
//!
//! It is made when a call needs it. Who comes while it is being made waits for that one attempt; after a failed attempt calls fail at once
//! until the back-off is over. A connection is given up when it breaks, when the server says that it is no primary any more, and when
//! several calls in a row have not been answered: then the sentinels, or the name, may by now lead elsewhere.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use redis::aio::MultiplexedConnection;
use redis::{Cmd, Pipeline, RedisError, RedisResult, Value};
use tokio::sync::watch;

use super::error::{is_demoted, of_call};
use super::reply::unexpected;
use super::{Error, Timeouts};
use crate::target::{Target, redact};

/// Calls in a row without an answer before the connection is taken for dead.
const PATIENCE: u32 = 3;
const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(2);
/// A server that says it is no primary is left no more often than this.
const DEMOTED_LIFE: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Connection {
    target: Target,
    shown: String,
    timeouts: Timeouts,
    slot: Arc<Mutex<Slot>>,
}

#[derive(Debug)]
enum Slot {
    /// Not tried yet, or just lost.
    Idle {
        failures: u32,
    },
    /// One attempt is under way; whoever needs it waits for its end.
    Dialing(watch::Receiver<()>),
    Live(Live),
    /// The last attempt failed.
    Down {
        until: Instant,
        failures: u32,
        last: Arc<RedisError>,
    },
}

#[derive(Debug)]
struct Live {
    connection: MultiplexedConnection,
    /// When it was made; also tells it from its successors.
    born: Instant,
    /// Calls in a row that were not answered.
    silent: u32,
}

#[derive(Clone, Copy)]
enum Request<'a> {
    One(&'a Cmd),
    Many(&'a Pipeline),
    /// A transaction.
    Atomic(&'a Pipeline),
}

impl Connection {
    /// Nothing is connected yet.
    pub fn new(url: &str, timeouts: Timeouts) -> Result<Connection, Error> {
        let shown = redact(url);
        let target = Target::parse(url).map_err(|problem| Error::Url { url: shown.clone(), problem })?;
        Ok(Connection { target, shown, timeouts, slot: Arc::new(Mutex::new(Slot::Idle { failures: 0 })) })
    }

    /// The URL without its password.
    pub fn url(&self) -> &str {
        &self.shown
    }

    /// Connects unless it is connected.
    pub async fn ready(&self) -> Result<(), Error> {
        self.live().await.map(|_| ())
    }

    /// Is it connected, as far as is known?
    pub fn is_up(&self) -> bool {
        matches!(&*self.slot.lock(), Slot::Live(_))
    }

    /// Sends a command. An error that Redis answers is an error here.
    pub async fn call(&self, command: &Cmd) -> Result<Value, Error> {
        self.checked(self.send(Request::One(command)).await?)
    }

    /// Sends commands in one round trip. An error that Redis answers to one of them is a value here.
    pub async fn pipeline(&self, pipeline: &Pipeline) -> Result<Vec<Value>, Error> {
        if pipeline.is_empty() {
            return Ok(Vec::new());
        }
        match self.send(Request::Many(pipeline)).await? {
            Value::Array(values) if values.len() == pipeline.len() => Ok(values),
            other => Err(unexpected("a pipeline", &other)),
        }
    }

    /// Sends commands of a transaction, which are executed in one step. An error that Redis answers to one of them is a value here.
    pub async fn transaction(&self, pipeline: &Pipeline) -> Result<Vec<Value>, Error> {
        match self.checked(self.send(Request::Atomic(pipeline)).await?)? {
            Value::Array(values) if values.len() == pipeline.len() => Ok(values),
            other => Err(unexpected("EXEC", &other)),
        }
    }

    /// The error for a value that is one of Redis's errors; the value otherwise.
    pub fn checked(&self, value: Value) -> Result<Value, Error> {
        value.extract_error().map_err(|source| of_call(source, self.timeouts.response))
    }

    /// Sends; again on a new connection if the one that was there turns out to be broken. Every call of ours may be executed twice.
    async fn send(&self, request: Request<'_>) -> Result<Value, Error> {
        let mut is_retry = false;
        loop {
            let (mut connection, born) = self.live().await?;
            let result = match request {
                Request::One(command) => connection.send_packed_command(command).await,
                Request::Many(pipeline) => {
                    connection.send_packed_commands(pipeline, 0, pipeline.len()).await.map(Value::Array)
                }
                // Behind the answers to MULTI and to each command, which are only queued, comes that to EXEC.
                Request::Atomic(pipeline) => connection
                    .send_packed_commands(pipeline, pipeline.len() + 1, 1)
                    .await
                    .map(|mut values| values.pop().unwrap_or(Value::Nil)),
            };
            let broke = self.observe(born, &result);
            match result {
                Ok(value) => return Ok(value),
                Err(_) if broke && !is_retry => is_retry = true,
                Err(source) => return Err(of_call(source, self.timeouts.response)),
            }
        }
    }

    /// Learns from a result; gives the connection up if it must be. Says whether it broke, for which another may be tried at once.
    fn observe(&self, born: Instant, result: &RedisResult<Value>) -> bool {
        let mut slot = self.slot.lock();
        let live = match &mut *slot {
            Slot::Live(live) if live.born == born => live,
            // Another call has seen the same before.
            _ => return result.as_ref().err().is_some_and(is_broken),
        };
        let (give_up, broke) = match result {
            Ok(value) => {
                live.silent = 0;
                (says_demoted(value) && live.born.elapsed() >= DEMOTED_LIFE, false)
            }
            Err(error) if error.is_timeout() => {
                live.silent += 1;
                (live.silent >= PATIENCE, false)
            }
            Err(error) => (is_broken(error), is_broken(error)),
        };
        if give_up {
            tracing::info!(url = self.shown, broke, silent = live.silent, "a connection to Redis is given up");
            *slot = Slot::Idle { failures: 0 };
        }
        broke
    }

    async fn live(&self) -> Result<(MultiplexedConnection, Instant), Error> {
        // Dialing may succeed and the connection break before this caller is woken: a few rounds, not for ever.
        for _ in 0..4 {
            let mut attempt = match &mut *self.slot.lock() {
                Slot::Live(live) => return Ok((live.connection.clone(), live.born)),
                Slot::Dialing(attempt) => attempt.clone(),
                slot => self.dial(slot)?,
            };
            // An error means that the attempt is over too.
            let _ = attempt.changed().await;
            match &*self.slot.lock() {
                Slot::Live(live) => return Ok((live.connection.clone(), live.born)),
                Slot::Down { last, .. } => return Err(self.connect_error(RedisError::clone(last))),
                Slot::Idle { .. } | Slot::Dialing(_) => {}
            }
        }
        Err(self.connect_error(std::io::Error::from(std::io::ErrorKind::ConnectionReset).into()))
    }

    fn connect_error(&self, source: RedisError) -> Error {
        Error::Connect { url: self.shown.clone(), source }
    }

    /// Begins an attempt, unless the last one was too short ago. It runs by itself, so that no caller who goes away ends it for others.
    fn dial(&self, slot: &mut Slot) -> Result<watch::Receiver<()>, Error> {
        let failures = match slot {
            Slot::Down { until, failures, last } => {
                let retry_in = until.saturating_duration_since(Instant::now());
                if !retry_in.is_zero() {
                    return Err(Error::Down { url: self.shown.clone(), retry_in, last: last.to_string() });
                }
                *failures
            }
            Slot::Idle { failures } => *failures,
            Slot::Live(_) | Slot::Dialing(_) => 0,
        };
        let (done, attempt) = watch::channel(());
        let (target, timeouts, shown) = (self.target.clone(), self.timeouts, self.shown.clone());
        let shared = Arc::downgrade(&self.slot);
        let ended = Ended { slot: shared.clone(), failures, done };
        tokio::spawn(async move {
            let connected = target.connect(timeouts.connect, Some(timeouts.response)).await;
            if let Some(slot) = shared.upgrade() {
                *slot.lock() = match connected {
                    Ok(connection) => Slot::Live(Live { connection, born: Instant::now(), silent: 0 }),
                    Err(last) => {
                        tracing::debug!(url = shown, error = %last, failures, "cannot connect to Redis");
                        let until = Instant::now() + backoff(failures);
                        Slot::Down { until, failures: failures.saturating_add(1), last: Arc::new(last) }
                    }
                };
            }
            drop(ended);
        });
        *slot = Slot::Dialing(attempt.clone());
        Ok(attempt)
    }
}

/// Wakes those who wait for an attempt when it is over, also if its runtime was shut down in the middle of it.
struct Ended {
    slot: std::sync::Weak<Mutex<Slot>>,
    failures: u32,
    done: watch::Sender<()>,
}

impl Drop for Ended {
    fn drop(&mut self) {
        if let Some(slot) = self.slot.upgrade() {
            let mut slot = slot.lock();
            if matches!(&*slot, Slot::Dialing(_)) {
                *slot = Slot::Idle { failures: self.failures };
            }
        }
        self.done.send_replace(());
    }
}

/// Twice as long after each failure, and somewhere in its upper half: clients that were cut off together do not come back together.
fn backoff(failures: u32) -> Duration {
    let most = BACKOFF_MIN.saturating_mul(1 << failures.min(10)).min(BACKOFF_MAX);
    most.mul_f64(0.5 + fastrand::f64() / 2.0)
}

/// The connection is of no use any more, and what was sent may not have arrived.
fn is_broken(error: &RedisError) -> bool {
    !error.is_timeout()
        && (error.is_io_error() || error.is_unrecoverable_error() || error.kind() == redis::ErrorKind::Parse)
}

/// Does it say that this is no primary?
fn says_demoted(value: &Value) -> bool {
    match value {
        Value::ServerError(error) => is_demoted(error.kind()),
        // Of a pipeline.
        Value::Array(values) => {
            values.iter().any(|value| matches!(value, Value::ServerError(_)) && says_demoted(value))
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_back_off_grows_to_its_bound() {
        for failures in [0, 1, 5, 40] {
            let most = (BACKOFF_MIN * 2u32.pow(failures.min(10))).min(BACKOFF_MAX);
            let wait = backoff(failures);
            assert!(wait >= most / 2 && wait <= most, "{failures}: {wait:?}");
        }
    }

    #[tokio::test]
    async fn who_comes_too_soon_after_a_failure_is_told_when() {
        // Nobody listens on port 1.
        let connection = Connection::new("redis://127.0.0.1:1", Timeouts::default()).unwrap();
        let first = connection.ready().await.unwrap_err();
        assert!(matches!(first, Error::Connect { .. }) && first.is_connection(), "{first}");
        let second = connection.ready().await.unwrap_err();
        assert!(matches!(second, Error::Down { .. }) && second.is_connection(), "{second}");
        tokio::time::sleep(BACKOFF_MIN).await;
        assert!(matches!(connection.ready().await.unwrap_err(), Error::Connect { .. }));
    }

    #[tokio::test]
    async fn many_wait_for_one_attempt() {
        let connection = Connection::new("redis://127.0.0.1:1", Timeouts::default()).unwrap();
        let (a, b) = tokio::join!(connection.ready(), connection.ready());
        assert!(matches!(a, Err(Error::Connect { .. })) && matches!(b, Err(Error::Connect { .. })));
        assert!(matches!(&*connection.slot.lock(), Slot::Down { failures: 1, .. }));
    }
}

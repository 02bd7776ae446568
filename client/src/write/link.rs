//! A connection to Redis that is opened again after it was lost.

use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{Cmd, ErrorKind, FromRedisValue, Pipeline, RedisError, RedisResult};
use tokio::sync::Mutex;

use crate::target::Target;

/// What a server answers that has become something else than the primary: the sentinels, or the name, may by now lead elsewhere.
const DEMOTED: [&str; 3] = ["READONLY", "MASTERDOWN", "UNBLOCKED"];

/// One connection for all clones. A call that fails is not tried again here: only the caller knows what that would mean.
#[derive(Debug, Clone)]
pub(super) struct Link {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    target: Target,
    config: Config,
    connection: Mutex<Option<Opened>>,
}

#[derive(Debug)]
struct Opened {
    connection: MultiplexedConnection,
    /// Whether the server behind it is as its user needs it.
    is_vetted: bool,
}

/// How long to wait for what.
#[derive(Debug, Clone, Copy)]
struct Config {
    connect: Duration,
    answer: Duration,
}

impl Link {
    /// A link that opens its connection at the first call, and waits this long for each answer. The URL may be one of sentinels.
    pub(super) fn open(url: &str, connect: Duration, answer: Duration) -> RedisResult<Link> {
        let invalid = |problem| RedisError::from((ErrorKind::InvalidClientConfig, "the URL of Redis", problem));
        Ok(Link::new(Target::parse(url).map_err(invalid)?, connect, answer))
    }

    fn new(target: Target, connect: Duration, answer: Duration) -> Link {
        Link { inner: Arc::new(Inner { target, config: Config { connect, answer }, connection: Mutex::new(None) }) }
    }

    /// A link of its own to the same place: for calls that block.
    pub(super) fn another(&self, answer: Duration) -> Link {
        Link::new(self.inner.target.clone(), self.inner.config.connect, answer)
    }

    /// The answers are those of a server that may be the primary no more, as one that is cut off does not know: the sentinels, if there are some, are
    /// asked again before the next call.
    pub(super) async fn doubt(&self) {
        if matches!(self.inner.target, Target::Sentinel { .. }) {
            *self.inner.connection.lock().await = None;
        }
    }

    async fn connection(&self) -> RedisResult<MultiplexedConnection> {
        let mut slot = self.inner.connection.lock().await;
        Ok(self.opened(&mut slot).await?.connection.clone())
    }

    /// The connection, whose server is looked at each time that it may be another one.
    pub(super) async fn vetted<E: From<RedisError>>(
        &self,
        vet: impl AsyncFnOnce(&mut MultiplexedConnection) -> Result<(), E>,
    ) -> Result<MultiplexedConnection, E> {
        let mut slot = self.inner.connection.lock().await;
        let opened = self.opened(&mut slot).await?;
        if !opened.is_vetted {
            if let Err(error) = vet(&mut opened.connection).await {
                *slot = None;
                return Err(error);
            }
            opened.is_vetted = true;
        }
        Ok(opened.connection.clone())
    }

    async fn opened<'s>(&self, slot: &'s mut Option<Opened>) -> RedisResult<&'s mut Opened> {
        let opened = match slot.take() {
            Some(opened) => opened,
            None => {
                let Config { connect, answer } = self.inner.config;
                Opened { connection: self.inner.target.connect(connect, Some(answer)).await?, is_vetted: false }
            }
        };
        Ok(slot.insert(opened))
    }

    /// A connection on which something went wrong is not used again, unless the server itself has said what, and is still the one that was asked for.
    async fn judged<T>(&self, answer: RedisResult<T>) -> RedisResult<T> {
        if let Err(error) = &answer
            && error.code().is_none_or(|code| DEMOTED.contains(&code))
        {
            *self.inner.connection.lock().await = None;
        }
        answer
    }

    /// Sends one command.
    pub(super) async fn call<T: FromRedisValue>(&self, command: &Cmd) -> RedisResult<T> {
        self.call_on(self.connection().await?, command).await
    }

    /// Sends one command on a connection that this link has given.
    pub(super) async fn call_on<T: FromRedisValue>(
        &self,
        mut connection: MultiplexedConnection,
        command: &Cmd,
    ) -> RedisResult<T> {
        let answer = command.query_async(&mut connection).await;
        self.judged(answer).await
    }

    /// Sends several commands at once.
    pub(super) async fn pipeline<T: FromRedisValue>(&self, commands: &Pipeline) -> RedisResult<T> {
        self.pipeline_on(self.connection().await?, commands).await
    }

    /// Sends several commands at once on a connection that this link has given.
    pub(super) async fn pipeline_on<T: FromRedisValue>(
        &self,
        mut connection: MultiplexedConnection,
        commands: &Pipeline,
    ) -> RedisResult<T> {
        let answer = commands.query_async(&mut connection).await;
        self.judged(answer).await
    }
}

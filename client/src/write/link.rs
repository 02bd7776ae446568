//! A connection to Redis that is opened again after it was lost.

use std::sync::Arc;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Cmd, FromRedisValue, Pipeline, RedisResult};
use tokio::sync::Mutex;

/// One connection for all clones. A call that fails is not tried again here: only the caller knows what that would mean.
#[derive(Debug, Clone)]
pub(super) struct Link {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    client: redis::Client,
    config: Config,
    connection: Mutex<Option<MultiplexedConnection>>,
}

/// How long to wait for what.
#[derive(Debug, Clone, Copy)]
struct Config {
    connect: Duration,
    answer: Duration,
}

impl Link {
    /// A link that opens its connection at the first call, and waits this long for each answer.
    pub(super) fn new(client: redis::Client, connect: Duration, answer: Duration) -> Link {
        Link { inner: Arc::new(Inner { client, config: Config { connect, answer }, connection: Mutex::new(None) }) }
    }

    /// A link of its own to the same server: for calls that block.
    pub(super) fn another(&self, answer: Duration) -> Link {
        Link::new(self.inner.client.clone(), self.inner.config.connect, answer)
    }

    async fn connection(&self) -> RedisResult<MultiplexedConnection> {
        let mut slot = self.inner.connection.lock().await;
        if let Some(connection) = &*slot {
            return Ok(connection.clone());
        }
        let Config { connect, answer } = self.inner.config;
        let config =
            AsyncConnectionConfig::new().set_connection_timeout(Some(connect)).set_response_timeout(Some(answer));
        let connection = self.inner.client.get_multiplexed_async_connection_with_config(&config).await?;
        Ok(slot.insert(connection).clone())
    }

    /// A connection after which something went wrong is not used again, unless the server itself has said what.
    async fn judged<T>(&self, answer: RedisResult<T>) -> RedisResult<T> {
        if let Err(error) = &answer
            && error.code().is_none()
        {
            *self.inner.connection.lock().await = None;
        }
        answer
    }

    /// Sends one command.
    pub(super) async fn call<T: FromRedisValue>(&self, command: &Cmd) -> RedisResult<T> {
        let answer = command.query_async(&mut self.connection().await?).await;
        self.judged(answer).await
    }

    /// Sends several commands at once.
    pub(super) async fn pipeline<T: FromRedisValue>(&self, commands: &Pipeline) -> RedisResult<T> {
        let answer = commands.query_async(&mut self.connection().await?).await;
        self.judged(answer).await
    }
}

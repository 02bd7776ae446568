//! A Redis of the test's own, with the library in it, and the part of the daemon.

use std::time::Duration;

use cachetag_client::l2::{GetOptions, Put, Shard, Stored, Timeouts};
use cachetag_core::{Epoch, Lsn, Tag, Version};
use cachetag_tests::{Cache, Folder, Redis, User};
use redis::aio::MultiplexedConnection;
use redis::{FromRedisValue, cmd};

pub const TTL: Duration = Duration::from_secs(600);
/// The machine may be busy: what must not time out waits this long.
pub const PATIENT: Timeouts = Timeouts { connect: Duration::from_secs(20), response: Duration::from_secs(20) };

pub struct Server {
    pub redis: Redis,
    pub connection: MultiplexedConnection,
    pub epoch: Epoch,
    pub applied: u64,
    _folder: Folder,
}

impl Server {
    /// The epoch begins at LSN 100, which is also the watermark; max_lag is an hour, a lease lasts a minute.
    pub async fn start() -> Server {
        let mut server = Server::bare().await;
        server.open().await;
        server
    }

    /// Without the library.
    pub async fn bare() -> Server {
        let folder = Folder::temporary("cachetag-test").unwrap();
        let home = folder.private("redis", User::for_servers().unwrap().as_ref()).unwrap();
        let redis = Redis::builder(home).args(["--enable-debug-command", "yes"]).start().await.unwrap();
        let connection = connect(&redis).await;
        Server { redis, connection, epoch: Epoch::ZERO, applied: 0, _folder: folder }
    }

    /// Loads the library, claims the state and opens an epoch; again after a restart.
    pub async fn open(&mut self) {
        self.connection = connect(&self.redis).await;
        Cache::new(self.connection.clone()).load_library().await.unwrap();
        self.daemon::<redis::Value>("cachetag_claim", &["played", "source", "3600000", "60000"]).await;
        self.reset().await;
        self.advance(100).await;
    }

    /// Opens an epoch at LSN 100, without a watermark.
    pub async fn reset(&mut self) {
        let (_, version, _): (String, String, u64) =
            self.daemon("cachetag_reset", &["played", "source", "100", "0"]).await;
        self.epoch = version.parse::<Version>().unwrap().epoch;
        self.applied = 100;
    }

    /// Publishes a watermark, with the present time.
    pub async fn advance(&mut self, watermark: u64) {
        let (seconds, micros): (u64, u64) = cmd("TIME").query_async(&mut self.connection).await.unwrap();
        let now = (seconds * 1000 + micros / 1000).to_string();
        let (from, to) =
            (self.version(self.applied).to_string(), self.version(watermark.max(self.applied)).to_string());
        let watermark = self.version(watermark).to_string();
        let _: (String, u64, u64) = self.daemon("cachetag_advance", &["played", &from, &to, &watermark, &now]).await;
    }

    /// Applies one batch that bumps tags at `to`.
    pub async fn bump(&mut self, to: u64, hard: &[&str], soft: &[&str]) {
        let (from, to_text) = (self.version(self.applied).to_string(), self.version(to).to_string());
        let (nhard, nsoft) = (hard.len().to_string(), soft.len().to_string());
        let mut args = vec!["played", &from, &to_text, &to_text, &nhard, &nsoft];
        args.extend(hard);
        args.extend(soft);
        let (said, ..): (String, u64, u64) = self.daemon("cachetag_apply", &args).await;
        assert_eq!(said, "applied");
        self.applied = to;
    }

    /// The version of an LSN in the present epoch.
    pub fn version(&self, lsn: u64) -> Version {
        Version::new(self.epoch, Lsn(lsn))
    }

    /// A client that waits long.
    pub async fn shard(&self) -> Shard {
        self.shard_with(PATIENT).await
    }

    pub async fn shard_with(&self, timeouts: Timeouts) -> Shard {
        Shard::connect(&self.redis.url(), "ct", timeouts).await.unwrap()
    }

    async fn daemon<T: FromRedisValue>(&mut self, function: &str, args: &[&str]) -> T {
        let mut call = cmd("FCALL");
        call.arg(function).arg(1).arg("{ct}:w").arg(args);
        call.query_async(&mut self.connection).await.unwrap()
    }
}

async fn connect(redis: &Redis) -> MultiplexedConnection {
    let mut connection = redis.connect().await.unwrap();
    connection.set_response_timeout(PATIENT.response);
    connection
}

/// An entry with tags.
pub fn entry(payload: &'static str, token: Version, tags: &[&str]) -> Put {
    let mut put = Put::new(payload, token, TTL);
    put.tags = tags.iter().map(|tag| Tag::parse(tag).unwrap()).collect();
    put
}

/// Misses and stores.
pub async fn fill(shard: &Shard, key: &str, payload: &'static str, tags: &[&str]) {
    let options = GetOptions { no_lease: true, ..GetOptions::default() };
    let token = shard.get(key, &options).await.unwrap().token.unwrap();
    assert_eq!(shard.put(key, &entry(payload, token, tags)).await.unwrap(), Stored::Stored(token));
}

//! The two private servers of `cachetag dev`, and what is made in them before the daemon starts.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use super::folder::Folder;
use super::installation::Installation;
use super::loaded::Loaded;
use super::postgres::Postgres;
use super::redis::Redis;
use super::user::User;
use super::{DevArgs, DevError};

/// The database in which everything happens.
const DATABASE: &str = "app";
/// The hash in Redis that holds the daemon's state.
const STATE_KEY: &str = "{ct}:w";
/// How often the servers are looked at while all is well.
const WATCH: Duration = Duration::from_millis(200);
/// How often the watermark is looked for.
const READY_POLL: Duration = Duration::from_millis(20);

/// Both servers and the folder that they work in; the fields are dropped in this order.
pub(super) struct Servers {
    redis: Redis,
    postgres: Postgres,
    _folder: Folder,
}

impl Servers {
    pub(super) async fn start(args: &DevArgs) -> Result<Servers, DevError> {
        let folder = match &args.data_dir {
            Some(path) => Folder::at(path)?,
            None => Folder::temporary("cachetag-dev")?,
        };
        let user = User::for_servers()?;
        let home = folder.private("postgres", user.as_ref())?;
        let installation = Installation::find()?;
        // Before the first server starts: neither the commit floor nor the extension is there without its files.
        if let Some(missing) = installation.extension_missing() {
            return Err(missing);
        }
        let mut builder = Postgres::builder(home.join("data"));
        if let Some(library) = installation.library() {
            builder = builder.setting("shared_preload_libraries", library);
        }
        builder = builder.installation(installation);
        if let Some(port) = args.postgres_port {
            builder = builder.port(port);
        }
        let postgres = builder.start().await?;
        let mut builder = Redis::builder(folder.private("redis", user.as_ref())?);
        if let Some(port) = args.redis_port {
            builder = builder.port(port);
        }
        let redis = builder.start().await?;

        postgres.create_database(DATABASE).await?;
        postgres.create_extension(DATABASE).await?;
        if let Some(file) = &args.load {
            let mut loaded = Loaded::read(folder.path())?;
            if loaded.is_new(file)? {
                postgres.psql_file(DATABASE, file).await?;
                loaded.record(file)?;
            }
        }
        Ok(Servers { redis, postgres, _folder: folder })
    }

    pub(super) fn postgres_url(&self) -> String {
        self.postgres.url(DATABASE)
    }

    pub(super) fn redis_url(&self) -> String {
        self.redis.url()
    }

    /// Waits until the daemon has published a watermark. Redis started empty, so any watermark is this daemon's.
    pub(super) async fn wait_for_watermark(&mut self, timeout: Duration) -> Result<(), DevError> {
        let deadline = Instant::now() + timeout;
        let mut connection = self.redis.connect().await?;
        while Instant::now() < deadline {
            self.check()?;
            let published: bool = redis::cmd("HEXISTS")
                .arg(STATE_KEY)
                .arg("watermark")
                .query_async(&mut connection)
                .await
                .map_err(DevError::redis("look for the watermark"))?;
            if published {
                return Ok(());
            }
            tokio::time::sleep(READY_POLL).await;
        }
        Err(DevError::Daemon(format!("it published no watermark within {} s", timeout.as_secs()).into()))
    }

    /// Waits until one of the servers ends by itself: the error that tells which.
    pub(super) async fn wait_for_an_end(&mut self) -> Result<Infallible, DevError> {
        loop {
            self.check()?;
            tokio::time::sleep(WATCH).await;
        }
    }

    /// Stops both in order.
    pub(super) async fn stop(mut self) {
        self.redis.stop().await;
        self.postgres.stop().await;
    }

    fn check(&mut self) -> Result<(), DevError> {
        match self.postgres.exited().or_else(|| self.redis.exited()) {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }
}

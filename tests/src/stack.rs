//! One test's own PostgreSQL, Redis and daemon.

use std::time::Duration;

use cachetag_invalidator::dev::{DevError, Folder, Installation, Postgres, Redis, User};
use tokio_postgres::{Client, SimpleQueryMessage};

use crate::cache::{Cache, Explain, Get, GetOptions, Put};
use crate::daemon::{Daemon, DaemonOptions};
use crate::fault::Proxies;
use crate::template::template;
use crate::wait::{Lsn, eventually, lsn, lsn_of_version};

/// The database in which everything happens.
pub const DATABASE: &str = "app";
/// Far above what a loaded machine needs; a test that waits this long has failed.
const PATIENCE: Duration = Duration::from_secs(30);
/// A daemon that streams is a synchronous standby within milliseconds.
const STRICT_PATIENCE: Duration = Duration::from_secs(10);
/// Long enough that no entry of a test expires by itself.
const TTL: Duration = Duration::from_secs(600);
/// Lines of the daemon's log that a failed test prints.
const LOG_LINES: usize = 60;

/// Small and able to do everything that a test may want to do.
const SETTINGS: &[(&str, &str)] =
    &[("shared_buffers", "16MB"), ("max_prepared_transactions", "20"), ("autovacuum_naptime", "10s")];

/// `DEBUG SLEEP` and replicas at once.
const REDIS_ARGS: &[&str] = &["--enable-debug-command", "yes", "--repl-diskless-sync-delay", "0"];

/// What a test needs.
#[derive(Debug, Clone)]
pub struct StackOptions {
    extension: bool,
    preload: bool,
    settings: Vec<(String, String)>,
    redis_args: Vec<String>,
    schema: Vec<String>,
    daemon: Option<DaemonOptions>,
    wait_ready: bool,
    proxied: bool,
    installation: Option<Installation>,
}

impl StackOptions {
    /// The extension is created and preloaded, and the daemon runs and has published its first watermark.
    pub fn new() -> Self {
        StackOptions {
            extension: true,
            preload: true,
            settings: Vec::new(),
            redis_args: Vec::new(),
            schema: Vec::new(),
            daemon: Some(DaemonOptions::new()),
            wait_ready: true,
            proxied: false,
            installation: None,
        }
    }

    /// Only the two servers: no extension, no daemon.
    pub fn servers_only() -> Self {
        StackOptions { extension: false, preload: false, daemon: None, ..Self::new() }
    }

    /// Does not put the library into `shared_preload_libraries`.
    pub fn without_preload(mut self) -> Self {
        self.preload = false;
        self
    }

    /// Starts no daemon; [`Stack::start_daemon`] may later.
    pub fn without_daemon(mut self) -> Self {
        self.daemon = None;
        self
    }

    /// Starts the daemon this way.
    pub fn daemon(mut self, options: DaemonOptions) -> Self {
        self.daemon = Some(options);
        self
    }

    /// The daemon and the load reach both servers through proxies, [`Stack::proxies`].
    pub fn proxied(mut self) -> Self {
        self.proxied = true;
        self
    }

    /// Runs this server instead of the one that is found.
    pub fn installation(mut self, installation: Installation) -> Self {
        self.installation = Some(installation);
        self
    }

    /// Does not wait for the first watermark.
    pub fn without_waiting(mut self) -> Self {
        self.wait_ready = false;
        self
    }

    /// Adds a line to PostgreSQL's configuration.
    pub fn setting(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.settings.push((name.into(), value.into()));
        self
    }

    /// Adds arguments to Redis's command line.
    pub fn redis_args<S: Into<String>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.redis_args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Runs this SQL before the daemon starts.
    pub fn schema(mut self, sql: impl Into<String>) -> Self {
        self.schema.push(sql.into());
        self
    }
}

impl Default for StackOptions {
    fn default() -> Self {
        Self::new()
    }
}

/// Everything that one test runs. Dropping it ends and removes it all. The fields are dropped in this order.
#[derive(Debug)]
pub struct Stack {
    daemon: Option<Daemon>,
    proxies: Option<Proxies>,
    /// The test's Redis: kill it, restart it.
    pub redis: Redis,
    /// The test's PostgreSQL: kill it, restart it, reconfigure it.
    pub postgres: Postgres,
    folder: Folder,
    /// How many folders of further servers there are.
    homes: u32,
}

impl Stack {
    /// Starts what the options say; panics with the reason if something does not start.
    pub async fn start(options: StackOptions) -> Stack {
        Self::try_start(options).await.unwrap_or_else(|error| panic!("{error}"))
    }

    async fn try_start(options: StackOptions) -> Result<Stack, DevError> {
        let installation = options.installation.map_or_else(Installation::find, Ok)?;
        let folder = Folder::temporary("cachetag-test")?;
        let user = User::for_servers()?;
        let home = folder.private("postgres", user.as_ref())?;
        let mut builder = Postgres::builder(home.join("data"))
            .template(template(&installation).await)
            .installation(installation.clone());
        for (name, value) in SETTINGS {
            builder = builder.setting(*name, *value);
        }
        if let (true, Some(library)) = (options.preload, installation.library()) {
            builder = builder.setting("shared_preload_libraries", library);
        }
        for (name, value) in &options.settings {
            builder = builder.setting(name, value);
        }
        let postgres = builder.start().await?;
        let home = folder.private("redis", user.as_ref())?;
        let redis = Redis::builder(home).args(REDIS_ARGS.iter().copied()).args(options.redis_args).start().await?;
        if options.extension {
            postgres.create_extension(DATABASE).await?;
        }
        let proxies = options.proxied.then(|| Proxies::start(postgres.port(), redis.port()));
        let mut stack = Stack { daemon: None, proxies, redis, postgres, folder, homes: 0 };
        for sql in &options.schema {
            stack.sql(sql).await;
        }
        if let Some(daemon) = options.daemon {
            stack.start_daemon(daemon);
            if options.wait_ready {
                stack.wait_ready().await;
            }
        }
        Ok(stack)
    }

    /// Starts the daemon (again, with other options, if it has ended).
    pub fn start_daemon(&mut self, options: DaemonOptions) -> &mut Daemon {
        let log = self.folder.path().join("daemon.log");
        self.daemon = None;
        let daemon = self.another_daemon(&log, options);
        self.daemon.insert(daemon)
    }

    /// Starts a daemon beside the stack's own, on the same way to the servers.
    pub fn another_daemon(&self, log: &std::path::Path, options: DaemonOptions) -> Daemon {
        let (mut postgres, mut redis) = (self.postgres_url(), self.redis_url());
        if let Some(proxies) = &self.proxies {
            (postgres, redis) = (proxies.postgres.url(&postgres), proxies.redis.url(&redis));
        }
        Daemon::start(&postgres, &redis, log, options)
    }

    /// The daemon; panics if none was started.
    pub fn daemon(&mut self) -> &mut Daemon {
        self.daemon.as_mut().expect("this stack was started without a daemon")
    }

    /// The proxies; panics if the stack was started without.
    pub fn proxies(&self) -> &Proxies {
        self.proxies.as_ref().expect("this stack was started without StackOptions::proxied")
    }

    /// A new folder for the data of a further server, which belongs to the servers' user.
    pub fn new_home(&mut self) -> std::path::PathBuf {
        self.homes += 1;
        let user = User::for_servers().unwrap_or_else(|error| panic!("{error}"));
        let home = self.folder.private(&format!("server{}", self.homes), user.as_ref());
        home.unwrap_or_else(|error| panic!("{error}"))
    }

    /// Puts another PostgreSQL in the place of the present one, also behind the proxies; returns the former.
    pub fn replace_postgres(&mut self, postgres: Postgres) -> Postgres {
        let proxies = self.proxies();
        proxies.postgres.retarget(postgres.port());
        proxies.app_postgres.retarget(postgres.port());
        std::mem::replace(&mut self.postgres, postgres)
    }

    /// Puts another Redis in the place of the present one, also behind the proxies; returns the former.
    pub fn replace_redis(&mut self, redis: Redis) -> Redis {
        let proxies = self.proxies();
        proxies.redis.retarget(redis.port());
        proxies.app_redis.retarget(redis.port());
        std::mem::replace(&mut self.redis, redis)
    }

    /// A folder of the test, removed with it.
    pub fn folder(&self) -> &std::path::Path {
        self.folder.path()
    }

    /// The database's URL, past any proxy.
    pub fn postgres_url(&self) -> String {
        self.postgres.url(DATABASE)
    }

    /// Redis's URL, past any proxy.
    pub fn redis_url(&self) -> String {
        self.redis.url()
    }

    /// The way of an application to the database: through its proxy, if there is one.
    pub fn app_postgres_url(&self) -> String {
        let url = self.postgres_url();
        self.proxies.as_ref().map_or_else(|| url.clone(), |proxies| proxies.app_postgres.url(&url))
    }

    /// The way of an application to Redis: through its proxy, if there is one.
    pub fn app_redis_url(&self) -> String {
        let url = self.redis_url();
        self.proxies.as_ref().map_or_else(|| url.clone(), |proxies| proxies.app_redis.url(&url))
    }

    // PostgreSQL

    /// A new connection as superuser, closed when the client is dropped.
    pub async fn connect(&self) -> Client {
        self.postgres.connect(DATABASE).await.unwrap_or_else(|error| panic!("{error}"))
    }

    /// Runs statements in a session of their own (several without `BEGIN` are one transaction).
    pub async fn sql(&self, sql: &str) {
        self.rows(sql).await;
    }

    /// Runs statements and returns the rows of all of them, every value as text.
    pub async fn rows(&self, sql: &str) -> Vec<Vec<Option<String>>> {
        let messages = self.connect().await.simple_query(sql).await;
        let messages = messages.unwrap_or_else(|error| panic!("{error:?}, in: {sql}"));
        let row = |message| match message {
            SimpleQueryMessage::Row(row) => Some((0..row.len()).map(|i| row.get(i).map(str::to_owned)).collect()),
            _ => None,
        };
        messages.into_iter().filter_map(row).collect()
    }

    /// The first column of all rows; NULL is the empty string.
    pub async fn values(&self, sql: &str) -> Vec<String> {
        self.rows(sql).await.into_iter().map(|row| row.into_iter().next().flatten().unwrap_or_default()).collect()
    }

    /// The first value of the first row.
    pub async fn value(&self, sql: &str) -> String {
        let values = self.values(sql).await;
        values.into_iter().next().unwrap_or_else(|| panic!("no row: {sql}"))
    }

    /// Runs statements and returns a position that covers their commit.
    pub async fn commit(&self, sql: &str) -> Lsn {
        self.sql(sql).await;
        self.flushed().await
    }

    /// The position up to which PostgreSQL has flushed.
    pub async fn flushed(&self) -> Lsn {
        lsn(&self.value("SELECT pg_current_wal_flush_lsn()").await)
    }

    // Redis

    /// A connection with the calls of an application.
    pub async fn cache(&self) -> Cache {
        Cache::new(self.redis.connect().await.unwrap_or_else(|error| panic!("{error}")))
    }

    /// `cachetag_get` with the defaults.
    pub async fn get(&self, key: &str) -> Get {
        self.get_with(key, &GetOptions::default()).await
    }

    /// `cachetag_get`.
    pub async fn get_with(&self, key: &str, options: &GetOptions) -> Get {
        self.cache().await.get_with(key, options).await.unwrap_or_else(|error| panic!("cachetag_get: {error}"))
    }

    /// `cachetag_put`, to stay for ten minutes.
    pub async fn put(&self, key: &str, payload: &str, token: &str, tags: &[&str]) -> Put {
        let answer = self.cache().await.put(key, payload, token, TTL, tags).await;
        answer.unwrap_or_else(|error| panic!("cachetag_put: {error}"))
    }

    /// Misses and fills: the token of a `get` goes into a `put`, which must be stored.
    pub async fn fill(&self, key: &str, payload: &str, tags: &[&str]) {
        let missed = self.get_with(key, &GetOptions { no_lease: true, ..GetOptions::default() }).await;
        assert!(missed.is_miss(), "filling {key}, which is not a miss: {missed:?}");
        let put = self.put(key, payload, &missed.token, tags).await;
        assert!(put.is_stored(), "filling {key}: {put:?}");
    }

    /// `cachetag_explain`.
    pub async fn explain(&self, key: &str) -> Explain {
        self.cache().await.explain(key).await.unwrap_or_else(|error| panic!("cachetag_explain: {error}"))
    }

    // Waiting

    /// Makes commits wait for the daemon, and waits until they do.
    pub async fn make_strict(&self) {
        self.sql("ALTER SYSTEM SET synchronous_standby_names = 'cachetag'").await;
        self.sql("SELECT pg_reload_conf()").await;
        let state = "SELECT coalesce(max(sync_state), '') FROM pg_stat_replication WHERE application_name = 'cachetag'";
        let is_strict = async || (self.value(state).await == "sync").then_some(());
        eventually("strict mode", STRICT_PATIENCE, is_strict).await;
    }

    /// Waits for any watermark.
    pub async fn wait_ready(&self) {
        self.wait_caught_up(0).await;
    }

    /// Waits until everything that is flushed now is covered by the watermark.
    pub async fn wait_caught_up_now(&self) {
        let flushed = self.flushed().await;
        self.wait_caught_up(flushed).await;
    }

    /// Waits until the watermark has reached a position; panics if the daemon ends instead, or after half a minute.
    pub async fn wait_caught_up(&self, position: Lsn) {
        let mut cache = self.cache().await;
        eventually("the watermark's advance", PATIENCE, async || {
            if let Some(daemon) = &self.daemon {
                assert!(daemon.is_running(), "the daemon has ended");
            }
            let watermark = cache.state().await.ok()?.remove("watermark")?;
            (lsn_of_version(&watermark) >= position).then_some(())
        })
        .await;
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        if let (Some(daemon), true) = (&self.daemon, std::thread::panicking()) {
            let log = daemon.log();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!("the end of the daemon's log:\n{}", lines[lines.len().saturating_sub(LOG_LINES)..].join("\n"));
        }
    }
}

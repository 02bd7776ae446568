//! A private Redis (or Valkey) server in a folder.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

use redis::aio::MultiplexedConnection;

use super::DevError;
use super::port::{free_port, is_free};
use super::process::{POLL, Process};
use super::user::User;

/// Names the server's program; overrides the search on the path.
const SERVER_VARIABLE: &str = "CACHETAG_REDIS_SERVER";
/// Programs that will do, best known first.
const SERVERS: [&str; 2] = ["redis-server", "valkey-server"];
/// The first major version with functions.
const OLDEST: u32 = 7;
/// It loads nothing from disk: a start takes milliseconds.
const START_TIMEOUT: Duration = Duration::from_secs(20);
/// It saves nothing to disk, so neither does a stop take long.
const STOP_GRACE: Duration = Duration::from_secs(5);
/// Another process may take a free port between our look and the server's bind.
const PORT_ATTEMPTS: u32 = 5;

/// How a private server is set up; see [`Redis::builder`].
#[derive(Debug)]
pub struct Builder {
    folder: PathBuf,
    program: Option<PathBuf>,
    port: Option<u16>,
    args: Vec<String>,
}

/// A running private server. It keeps nothing on disk. Dropping it stops it at once.
#[derive(Debug)]
pub struct Redis {
    program: PathBuf,
    user: Option<User>,
    folder: PathBuf,
    port: u16,
    args: Vec<String>,
    process: Option<Process>,
}

impl Builder {
    /// Runs this program; without it `CACHETAG_REDIS_SERVER`, or `redis-server` or `valkey-server` on the path.
    pub fn program(mut self, program: impl Into<PathBuf>) -> Self {
        self.program = Some(program.into());
        self
    }

    /// Listens on this port; without it on a free one.
    pub fn port(mut self, port: u16) -> Self {
        self.port = Some(port);
        self
    }

    /// Adds arguments of the server's command line, such as `["--maxmemory", "10mb"]`.
    pub fn args<S: Into<String>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Starts the server and waits until it answers.
    pub async fn start(self) -> Result<Redis, DevError> {
        let program = match self.program {
            Some(program) => program,
            None => find_program()?,
        };
        // Redis runs as root if it must; where the servers' user exists and can reach the program, it need not.
        let user = User::for_servers().unwrap_or(None).filter(|user| user.can_reach(&program).is_ok());
        let mut redis = Redis { program, user, folder: self.folder, port: 0, args: self.args, process: None };
        if let Some(port) = self.port {
            if !is_free(port) {
                return Err(DevError::PortTaken { port });
            }
            redis.port = port;
            redis.launch().await?;
            return Ok(redis);
        }
        for attempt in 1.. {
            redis.port = free_port()?;
            match redis.launch().await {
                Err(DevError::Exited { tail, .. })
                    if attempt < PORT_ATTEMPTS && tail.contains("Address already in use") => {}
                result => return result.map(|()| redis),
            }
        }
        unreachable!("the loop returns")
    }
}

impl Redis {
    /// A server that works in `folder`, which must exist and belong to the servers' user. Its log is `redis.log` there.
    pub fn builder(folder: impl Into<PathBuf>) -> Builder {
        Builder { folder: folder.into(), program: None, port: None, args: Vec::new() }
    }

    /// The port of 127.0.0.1 that it listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The connection URL.
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// The folder that it works in; `dump.rdb` there is what it starts from.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The arguments that it was given, beyond those of every private server.
    pub fn args(&self) -> &[String] {
        &self.args
    }

    /// The server's log.
    pub fn log(&self) -> PathBuf {
        self.folder.join("redis.log")
    }

    /// A connection of its own.
    pub async fn connect(&self) -> Result<MultiplexedConnection, DevError> {
        let client = redis::Client::open(self.url()).map_err(DevError::redis("read the address"))?;
        client.get_multiplexed_async_connection().await.map_err(DevError::redis("connect"))
    }

    /// Stops the server in order.
    pub async fn stop(&mut self) -> Option<ExitStatus> {
        self.process.take()?.end(libc::SIGTERM, STOP_GRACE).await
    }

    /// Ends the server as a crash would.
    pub async fn kill(&mut self) -> Option<ExitStatus> {
        self.process.take()?.end(libc::SIGKILL, STOP_GRACE).await
    }

    /// Starts a stopped server again, on the same port. It comes back empty, unless somebody has told it to save.
    pub async fn start_again(&mut self) -> Result<(), DevError> {
        if self.process.is_none() { self.launch().await } else { Ok(()) }
    }

    /// Stops the server and starts it again, empty.
    pub async fn restart(&mut self) -> Result<(), DevError> {
        self.stop().await;
        self.launch().await
    }

    /// How the server ended, if it did so by itself.
    pub fn exited(&mut self) -> Option<DevError> {
        let process = self.process.as_mut()?;
        let status = process.exited()?;
        Some(process.ended(status))
    }

    /// Sends a signal, such as SIGSTOP and SIGCONT.
    pub fn signal(&mut self, signal: i32) {
        if let Some(process) = &mut self.process {
            process.signal(signal);
        }
    }

    async fn launch(&mut self) -> Result<(), DevError> {
        let mut command = Command::new(&self.program);
        command.args(["--port", &self.port.to_string(), "--bind", "127.0.0.1", "--dir"]).arg(&self.folder);
        command.args(["--save", "", "--appendonly", "no", "--maxmemory-policy", "volatile-lru", "--daemonize", "no"]);
        command.args(&self.args).current_dir(&self.folder);
        let process = Process::spawn("redis-server", command, &self.log(), self.user.as_ref(), libc::SIGKILL)?;
        let process = self.process.insert(process);
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            if let Some(status) = process.exited() {
                let error = process.ended(status);
                self.process = None;
                return Err(error);
            }
            match server_info(self.port).await {
                // Another server may have won the port: ours is about to give up then.
                Ok(info) if field(&info, "process_id:") == process.id().to_string() => {
                    return check_version(&self.program, field(&info, "redis_version:"));
                }
                _ if Instant::now() < deadline => tokio::time::sleep(POLL).await,
                _ => {
                    let error = process.not_ready(START_TIMEOUT);
                    self.process = None;
                    return Err(error);
                }
            }
        }
    }
}

async fn server_info(port: u16) -> redis::RedisResult<String> {
    let client = redis::Client::open(("127.0.0.1", port))?;
    let mut connection = client.get_multiplexed_async_connection().await?;
    redis::cmd("INFO").arg("server").query_async(&mut connection).await
}

fn field<'a>(info: &'a str, name: &str) -> &'a str {
    info.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim()
}

fn check_version(program: &Path, version: &str) -> Result<(), DevError> {
    let major: u32 = version.split('.').next().and_then(|major| major.parse().ok()).unwrap_or(0);
    if major >= OLDEST {
        return Ok(());
    }
    Err(DevError::ServerTooOld { program: program.display().to_string(), found: version.to_owned(), needed: "Redis 7" })
}

fn find_program() -> Result<PathBuf, DevError> {
    if let Some(program) = std::env::var_os(SERVER_VARIABLE).filter(|program| !program.is_empty()) {
        return Ok(program.into());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = SERVERS
        .iter()
        .find_map(|name| std::env::split_paths(&path).map(|folder| folder.join(name)).find(|file| file.is_file()));
    found.ok_or_else(|| DevError::ProgramMissing {
        program: "the Redis server",
        remedy: format!("install `redis-server` (7 or newer) or `valkey-server`, or set {SERVER_VARIABLE}"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_old_server_is_named() {
        let error = check_version(Path::new("/usr/bin/redis-server"), "6.2.14").expect_err("old").to_string();
        assert!(error.contains("6.2.14") && error.contains("/usr/bin/redis-server"), "{error}");
        check_version(Path::new("r"), "7.0.15").expect("new enough");
        check_version(Path::new("r"), "").expect_err("no version");
    }
}

//! `cachetag dev`: a private PostgreSQL and a private Redis in a folder, the daemon beside them. Nothing to install as a service, nothing left running.
//!
//! The end-to-end tests use the same servers.

mod error;
mod folder;
mod installation;
mod loaded;
mod port;
mod postgres;
mod process;
mod redis;
mod servers;
mod signals;
mod user;

use std::future::Future;
use std::io::Write;
use std::path::PathBuf;
use std::pin::pin;
use std::time::Duration;

use tokio::sync::oneshot;

pub use error::DevError;
pub use folder::Folder;
pub use installation::Installation;
pub use postgres::{Builder as PostgresBuilder, Postgres};
pub use process::Process;
pub use redis::{Builder as RedisBuilder, Redis};
pub use signals::stop_signal;
pub use user::User;

use crate::config::parse_duration;
use servers::Servers;

/// How long the daemon may take to finish what it is doing once it is told to stop.
const DAEMON_GRACE: Duration = Duration::from_secs(5);
/// The first watermark follows the claim and the creation of a slot, which waits for transactions in progress.
const READY_TIMEOUT: Duration = Duration::from_secs(60);

/// Arguments of `cachetag dev`.
#[derive(Debug, Clone, clap::Args)]
pub struct DevArgs {
    /// Keep the data in this folder; without it in a temporary one that is removed at the end
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Port of the private PostgreSQL [default: a free one]
    #[arg(long, value_name = "PORT")]
    pub postgres_port: Option<u16>,
    /// Port of the private Redis [default: a free one]
    #[arg(long, value_name = "PORT")]
    pub redis_port: Option<u16>,
    /// Run this SQL file before the daemon starts (once for a data folder that stays)
    #[arg(long, value_name = "FILE.sql")]
    pub load: Option<PathBuf>,
    /// Oldest answer that readers accept unless they say otherwise, such as 2s or 500ms
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = parse_duration)]
    pub max_lag: Duration,
}

/// What the daemon beside the private servers is told.
#[derive(Debug)]
pub struct DaemonTarget {
    /// Connection URL of the database.
    pub postgres_url: String,
    /// Connection URL of Redis.
    pub redis_url: String,
    /// Default bound of staleness for readers.
    pub max_lag: Duration,
    /// Completes when the daemon should end.
    pub stop: oneshot::Receiver<()>,
}

/// Runs both servers and the daemon until `shutdown` completes, or one of the three ends by itself (an error).
///
/// Prints `postgres=<url>`, `redis=<url>` and `ready` on standard output, a line each, once the first watermark is published: from
/// then on a cached value can be a hit.
pub async fn run<D, F, E>(args: DevArgs, start_daemon: D, shutdown: impl Future<Output = ()>) -> Result<(), DevError>
where
    D: FnOnce(DaemonTarget) -> F,
    F: Future<Output = Result<(), E>>,
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let mut shutdown = pin!(shutdown);
    let mut servers = tokio::select! {
        servers = Servers::start(&args) => servers?,
        () = &mut shutdown => return Ok(()),
    };
    let (stop_daemon, stop) = oneshot::channel();
    let (postgres_url, redis_url) = (servers.postgres_url(), servers.redis_url());
    let mut daemon = pin!(start_daemon(DaemonTarget {
        postgres_url: postgres_url.clone(),
        redis_url: redis_url.clone(),
        max_lag: args.max_lag,
        stop
    }));
    let announced = async {
        servers.wait_for_watermark(READY_TIMEOUT).await?;
        announce(&postgres_url, &redis_url);
        servers.wait_for_an_end().await
    };
    let result = tokio::select! {
        error = announced => error.map(|never| match never {}),
        ended = &mut daemon => Err(DevError::Daemon(match ended {
            Ok(()) => "it stopped without being told to".into(),
            Err(error) => error.into(),
        })),
        () = &mut shutdown => Ok(()),
    };
    if result.is_ok() {
        // Told or dropped, it is all the same to the daemon.
        let _ = stop_daemon.send(());
        let _ = tokio::time::timeout(DAEMON_GRACE, daemon).await;
    }
    servers.stop().await;
    result
}

/// Nobody may be listening, which is no reason to end.
fn announce(postgres_url: &str, redis_url: &str) {
    let mut out = std::io::stdout().lock();
    let _ = writeln!(out, "postgres={postgres_url}\nredis={redis_url}\nready");
    let _ = out.flush();
}

#[cfg(test)]
mod tests;

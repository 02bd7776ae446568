//! What can go wrong while private servers are set up: every message names the thing and the remedy.

use std::io;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

/// An error of the private servers or of what runs beside them.
#[derive(Debug, thiserror::Error)]
pub enum DevError {
    /// A program that is needed is not on this machine.
    #[error("{program} was not found; {remedy}")]
    ProgramMissing {
        /// What was looked for.
        program: &'static str,
        /// Where to get it or how to point at it.
        remedy: String,
    },
    /// A program is there and could not be started.
    #[error("could not start {program}: {source}")]
    Spawn {
        /// Path or name of the program.
        program: String,
        /// What the operating system said.
        source: io::Error,
    },
    /// A file or folder could not be read, written, created or removed.
    #[error("could not {action} {}: {source}", path.display())]
    File {
        /// A verb: "create", "read", ….
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// What the operating system said.
        source: io::Error,
    },
    /// Root starts the servers as another user, who does not exist.
    #[error(
        "PostgreSQL refuses to run as root, and there is no user `{name}` to run it as; install the PostgreSQL server package or run as an ordinary user"
    )]
    UserMissing {
        /// The user that was looked for.
        name: &'static str,
    },
    /// Root starts the servers as another user, who may not enter the data folder.
    #[error(
        "the servers run as user `{user}`, who may not enter {}; choose a data folder that this user can reach, or run as an ordinary user", path.display()
    )]
    FolderClosed {
        /// The user of the servers.
        user: String,
        /// The folder that shuts this user out.
        path: PathBuf,
    },
    /// Another process uses the data folder.
    #[error("{} is in use by {by}; stop it first or choose another data folder", path.display())]
    FolderInUse {
        /// The data folder.
        path: PathBuf,
        /// Who uses it.
        by: String,
    },
    /// The data folder was made by another major version of PostgreSQL.
    #[error("{} was made by PostgreSQL {found}, the server is {server}; choose another data folder or set CACHETAG_PG_BIN", path.display())]
    DataVersion {
        /// The data folder.
        path: PathBuf,
        /// Major version that made the folder.
        found: String,
        /// Major version of the server.
        server: String,
    },
    /// A server is too old for cachetag.
    #[error("{program} is version {found}; cachetag needs {needed} or newer")]
    ServerTooOld {
        /// Which server.
        program: String,
        /// Its version.
        found: String,
        /// The oldest version that will do.
        needed: &'static str,
    },
    /// No free port was found, or the one asked for is taken.
    #[error("port {port} of 127.0.0.1 is taken; free it or choose another")]
    PortTaken {
        /// The port.
        port: u16,
    },
    /// A server or a tool ended by itself.
    #[error("{program} ended ({status}); the end of {}:\n{tail}", log.display())]
    Exited {
        /// Which program.
        program: String,
        /// How it ended.
        status: ExitStatus,
        /// Its log file.
        log: PathBuf,
        /// Last lines of the log.
        tail: String,
    },
    /// A server runs and does not become ready.
    #[error("{program} was not ready after {} s; the end of {}:\n{tail}", after.as_secs(), log.display())]
    NotReady {
        /// Which program.
        program: String,
        /// How long it was waited for.
        after: Duration,
        /// Its log file.
        log: PathBuf,
        /// Last lines of the log.
        tail: String,
    },
    /// The extension's files are not in this server.
    #[error(
        "the extension cachetag is not installed in this PostgreSQL server ({} is missing); run `make install PG_CONFIG={}`", missing.display(), pg_config.display()
    )]
    ExtensionMissing {
        /// The file that should be there.
        missing: PathBuf,
        /// The `pg_config` of the server.
        pg_config: PathBuf,
    },
    /// PostgreSQL answered with an error.
    #[error("PostgreSQL, {action}: {}", describe(source))]
    Postgres {
        /// What was being done.
        action: String,
        /// The driver's error.
        source: tokio_postgres::Error,
    },
    /// Redis answered with an error.
    #[error("Redis, {action}: {source}")]
    Redis {
        /// What was being done.
        action: String,
        /// The driver's error.
        source: redis::RedisError,
    },
    /// The daemon failed, or ended although nobody told it to.
    #[error("the daemon ended: {0}")]
    Daemon(Box<dyn std::error::Error + Send + Sync>),
}

impl DevError {
    pub(super) fn file(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> DevError {
        let path = path.to_path_buf();
        move |source| DevError::File { action, path, source }
    }

    pub(super) fn postgres(action: impl Into<String>) -> impl FnOnce(tokio_postgres::Error) -> DevError {
        let action = action.into();
        move |source| DevError::Postgres { action, source }
    }

    pub(super) fn redis(action: impl Into<String>) -> impl FnOnce(redis::RedisError) -> DevError {
        let action = action.into();
        move |source| DevError::Redis { action, source }
    }
}

/// The driver prints only "db error": the server's own words are in its source.
fn describe(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(server) => match server.hint() {
            Some(hint) => format!("{} (hint: {hint})", server.message()),
            None => server.message().to_owned(),
        },
        None => error.to_string(),
    }
}

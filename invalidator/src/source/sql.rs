//! The ordinary SQL connection: the same server, the same TLS, another protocol state.

use std::io;

use cachetag_core::RENDER_SETTINGS;
use tokio::time::timeout;
use tokio_postgres::config::SslMode;
use tokio_postgres::{Client, Config, NoTls};

use super::startup::server_options;
use super::stream::Stream;
use super::{ConnectOptions, ServerError, SourceError};

/// Why the SQL connection could not be made.
pub type SqlError = SourceError;

const SESSION_SETTINGS: &[(&str, &str)] = &[
    // In strict mode this daemon is the standby that commits wait for: its own must not.
    ("synchronous_commit", "local"),
    ("idle_session_timeout", "0"),
    ("lock_timeout", "5000"),
    ("statement_timeout", "30000"),
];

/// Connects; the connection is driven by a task that ends with the client.
pub async fn connect(options: &ConnectOptions) -> Result<Client, SqlError> {
    let mut config = Config::new();
    config
        .user(&options.user)
        .dbname(&options.database)
        .application_name(format!("{}-sql", options.application_name))
        .options(server_options(&options.server_options, RENDER_SETTINGS.iter().chain(SESSION_SETTINGS)))
        // The stream below is encrypted already, if it is to be.
        .ssl_mode(SslMode::Disable);
    if let Some(password) = &options.password {
        config.password(password);
    }
    let open = async {
        let stream = Stream::connect(options).await?;
        config.connect_raw(stream, NoTls).await.map_err(|error| refused(options, error))
    };
    let (client, connection) = match timeout(options.timeout, open).await {
        Ok(connected) => connected?,
        Err(_) => return Err(SourceError::Timeout { server: options.server(), after: options.timeout }),
    };
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "the SQL connection ended");
        }
    });
    Ok(client)
}

fn refused(options: &ConnectOptions, error: tokio_postgres::Error) -> SourceError {
    if let Some(error) = error.as_db_error() {
        return SourceError::Server { doing: "connecting for SQL", error: Box::new(ServerError::from(error)) };
    }
    let server = options.server();
    let text = error.to_string();
    let source = std::error::Error::source(&error);
    let detail = source.map(ToString::to_string).filter(|detail| !text.contains(detail));
    let problem = detail.map_or_else(|| text.clone(), |detail| format!("{text}: {detail}"));
    // A failed SCRAM proof is an I/O error too, in form; it is not the network's.
    if problem.contains("password missing") || text.starts_with("authentication error") {
        return SourceError::Authentication {
            server,
            problem: format!("{problem}; check user and password (PGPASSWORD)"),
        };
    }
    let kind =
        source.and_then(|source| source.downcast_ref::<io::Error>()).map_or(io::ErrorKind::Other, io::Error::kind);
    SourceError::Io { server, source: io::Error::new(kind, problem) }
}

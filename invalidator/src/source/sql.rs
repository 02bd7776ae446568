//! The ordinary SQL connection: the same server, the same TLS, another protocol state.

use tokio_postgres::{Client, NoTls};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::options::{ConnectOptions, TlsMode};
use super::{SourceError, tls};

/// Why the SQL connection could not be made.
#[derive(Debug, thiserror::Error)]
pub enum SqlError {
    /// The server refused, or could not be reached.
    #[error("postgres at {server}: {}", describe(.source))]
    Connect {
        /// Where.
        server: String,
        /// What happened.
        source: tokio_postgres::Error,
    },
    /// TLS could not be set up.
    #[error(transparent)]
    Tls(#[from] SourceError),
}

impl SqlError {
    /// Must a person act before another try can succeed?
    pub fn is_configuration(&self) -> bool {
        match self {
            SqlError::Connect { source, .. } => {
                matches!(source.code().map(|c| c.code()), Some("28P01" | "28000" | "3D000" | "42501"))
                    || describe(source).contains("password missing")
            }
            SqlError::Tls(_) => true,
        }
    }
}

fn describe(error: &tokio_postgres::Error) -> String {
    let text = match (error.as_db_error(), std::error::Error::source(error)) {
        (Some(db), _) => format!("{} ({})", db.message(), db.code().code()),
        (None, Some(source)) => format!("{error}: {source}"),
        (None, None) => error.to_string(),
    };
    match error.code().map(|c| c.code()) {
        Some("28P01" | "28000") => format!("{text}; check user, password and pg_hba.conf"),
        Some("3D000") => format!("{text}; create the database, or correct its name"),
        _ => text,
    }
}

/// Connects; the connection is driven by a task that ends with the client.
pub async fn connect(options: &ConnectOptions) -> Result<Client, SqlError> {
    let mut config = options.config.clone();
    config.application_name(format!("{}-sql", options.application_name));
    config.connect_timeout(options.timeout);
    // In strict mode this daemon is the standby that commits wait for: its own must not.
    config.options("-c synchronous_commit=local -c lock_timeout=5000 -c statement_timeout=30000");
    let failed = |source| SqlError::Connect { server: options.server(), source };
    if options.tls == TlsMode::Disable {
        config.ssl_mode(tokio_postgres::config::SslMode::Disable);
        let (client, connection) = config.connect(NoTls).await.map_err(failed)?;
        spawn(connection);
        return Ok(client);
    }
    config.ssl_mode(match options.tls {
        TlsMode::Prefer => tokio_postgres::config::SslMode::Prefer,
        _ => tokio_postgres::config::SslMode::Require,
    });
    let tls = MakeRustlsConnect::new(tls::client_config(options)?);
    let (client, connection) = config.connect(tls).await.map_err(failed)?;
    spawn(connection);
    Ok(client)
}

fn spawn<S, T>(connection: tokio_postgres::Connection<S, T>)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
    T: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "the SQL connection ended");
        }
    });
}

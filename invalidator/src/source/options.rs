//! Where the server is and how to talk to it; the same for the replication connection and the SQL connection.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use tokio_postgres::Config;
use tokio_postgres::config::Host;

use super::SourceError;

/// How much the server has to prove.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TlsMode {
    Disable,
    /// TLS when the server offers it.
    Prefer,
    /// TLS, whoever it is; with a root certificate as [`TlsMode::VerifyCa`], as libpq does.
    Require,
    /// A certificate of a known authority.
    VerifyCa,
    /// A certificate of a known authority, for this host.
    VerifyFull,
}

/// Parsed connection settings.
#[derive(Clone)]
pub struct ConnectOptions {
    pub(super) config: Config,
    pub(super) host: Host,
    pub(super) port: u16,
    pub(super) user: String,
    pub(super) database: String,
    pub(super) tls: TlsMode,
    pub(super) root_certificate: Option<PathBuf>,
    pub(super) application_name: String,
    pub(super) timeout: Duration,
}

impl ConnectOptions {
    /// Reads `postgres://user:password@host:port/database?sslmode=…&sslrootcert=…` or `host=… port=… …`. A password that is not
    /// there is taken from `PGPASSWORD`.
    ///
    /// # Errors
    /// Anything that is not a connection string, names several hosts, or misses host, user or database.
    pub fn parse(text: &str) -> Result<Self, SourceError> {
        let (rest, ours) = take_tls_settings(text);
        let mut config: Config = rest.parse().map_err(|e: tokio_postgres::Error| {
            SourceError::Options(std::error::Error::source(&e).map_or_else(|| e.to_string(), ToString::to_string))
        })?;
        let missing = |what: &str| SourceError::Options(format!("no {what} is given"));
        let host = match config.get_hosts() {
            [host] => host.clone(),
            [] => return Err(missing("host")),
            _ => return Err(SourceError::Options("several hosts are given; give the primary's".into())),
        };
        let user = config.get_user().ok_or_else(|| missing("user"))?.to_string();
        let database = config.get_dbname().unwrap_or(&user).to_string();
        config.dbname(&database);
        if config.get_password().is_none()
            && let Ok(password) = std::env::var("PGPASSWORD")
        {
            config.password(password);
        }
        let mut tls = TlsMode::Prefer;
        let mut root_certificate = None;
        for (name, value) in ours {
            match (name, value.as_str()) {
                ("sslmode", "disable") => tls = TlsMode::Disable,
                ("sslmode", "allow" | "prefer") => tls = TlsMode::Prefer,
                ("sslmode", "require") => tls = TlsMode::Require,
                ("sslmode", "verify-ca") => tls = TlsMode::VerifyCa,
                ("sslmode", "verify-full") => tls = TlsMode::VerifyFull,
                ("sslrootcert", path) => root_certificate = Some(PathBuf::from(path)),
                (_, other) => {
                    return Err(SourceError::Options(format!(
                        "sslmode {other:?} is not one of disable, prefer, require, verify-ca, verify-full"
                    )));
                }
            }
        }
        if tls == TlsMode::Require && root_certificate.is_some() {
            tls = TlsMode::VerifyCa;
        }
        if matches!(host, Host::Unix(_)) {
            tls = TlsMode::Disable;
        }
        let port = config.get_ports().first().copied().unwrap_or(5432);
        let timeout = config.get_connect_timeout().copied().unwrap_or(Duration::from_secs(5));
        Ok(ConnectOptions {
            config,
            host,
            port,
            user,
            database,
            tls,
            root_certificate,
            application_name: "cachetag".into(),
            timeout,
        })
    }

    /// The name under which the replication connection shows itself, for `synchronous_standby_names`.
    pub fn with_application_name(mut self, name: &str) -> Self {
        self.application_name = name.into();
        self
    }

    /// The database's name.
    pub fn database(&self) -> &str {
        &self.database
    }

    /// Host and port, for messages.
    pub(super) fn server(&self) -> String {
        match &self.host {
            Host::Tcp(host) => format!("{host}:{}", self.port),
            Host::Unix(folder) => format!("{}/.s.PGSQL.{}", folder.display(), self.port),
        }
    }
}

impl fmt::Debug for ConnectOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ConnectOptions({}@{}/{}, {:?})", self.user, self.server(), self.database, self.tls)
    }
}

/// Takes `sslmode` and `sslrootcert` out, since the parser behind does not know all their values.
fn take_tls_settings(text: &str) -> (String, Vec<(&'static str, String)>) {
    const OURS: [&str; 2] = ["sslmode", "sslrootcert"];
    if !OURS.iter().any(|name| text.contains(name)) {
        return (text.to_string(), Vec::new());
    }
    let mut ours = Vec::new();
    let mut keep = |pair: &str| match pair.split_once('=') {
        Some((name, value)) => match OURS.iter().find(|ours| **ours == name.trim()) {
            Some(name) => {
                ours.push((*name, percent_decoded(value.trim().trim_matches('\''))));
                false
            }
            None => true,
        },
        None => true,
    };
    let rest = if let Some((base, query)) = text.split_once('?').filter(|_| text.contains("://")) {
        let kept: Vec<&str> = query.split('&').filter(|pair| keep(pair)).collect();
        if kept.is_empty() { base.to_string() } else { format!("{base}?{}", kept.join("&")) }
    } else if text.contains("://") {
        text.to_string()
    } else {
        text.split_whitespace().filter(|pair| keep(pair)).collect::<Vec<_>>().join(" ")
    };
    (rest, ours)
}

fn percent_decoded(text: &str) -> String {
    let mut out = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&byte, tail)) = rest.split_first() {
        let hex = tail.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        match hex.filter(|_| byte == b'%').and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(value) => {
                out.push(value);
                rest = &tail[2..];
            }
            None => {
                out.push(byte);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_both_forms() {
        let url = ConnectOptions::parse("postgres://ann:secret@db.example:6543/shop?sslmode=verify-full&sslrootcert=%2Fca.pem")
            .unwrap();
        assert_eq!((url.server().as_str(), url.database(), url.tls), ("db.example:6543", "shop", TlsMode::VerifyFull));
        assert_eq!(url.root_certificate, Some(PathBuf::from("/ca.pem")));
        let pairs = ConnectOptions::parse("host=/run/pg user=ann dbname=shop sslmode=require").unwrap();
        assert_eq!((pairs.server().as_str(), pairs.tls), ("/run/pg/.s.PGSQL.5432", TlsMode::Disable));
        assert!(!format!("{url:?}").contains("secret"));
    }

    #[test]
    fn says_what_is_missing() {
        for (text, word) in [
            ("postgres://h/d", "user"),
            ("user=u", "host"),
            ("postgres://u@a,b/d", "several hosts"),
            ("postgres://u@h/d?sslmode=maybe", "maybe"),
            ("nonsense", "connection string"),
        ] {
            let error = ConnectOptions::parse(text).unwrap_err().to_string();
            assert!(error.contains(word), "{text}: {error}");
        }
    }
}

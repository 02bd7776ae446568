//! Where the server is and how to talk to it; the same for the replication connection and the SQL connection.

use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::{SourceError, dsn, pgpass};

/// Where a server listens for local clients when nobody says otherwise: Debian's choice.
const DEFAULT_SOCKET_FOLDER: &str = "/var/run/postgresql";
/// Short: a server that was away is tried again soon after it is back.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(3);

/// How much the server has to prove before it is talked to; libpq's `sslmode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TlsMode {
    /// No TLS.
    Disable,
    /// TLS when the server offers it; proves nothing.
    Prefer,
    /// TLS, whoever it is; with a root certificate as [`TlsMode::VerifyCa`], as libpq does.
    Require,
    /// A certificate of a trusted authority.
    VerifyCa,
    /// A certificate of a trusted authority, for this host.
    VerifyFull,
}

/// Where the server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Host {
    /// A host name or an address.
    Tcp(String),
    /// The folder of its Unix socket.
    Unix(PathBuf),
}

/// Connection settings, read from a connection string.
#[derive(Clone)]
pub struct ConnectOptions {
    pub(super) host: Host,
    /// Spares the name service; the name is still what the certificate must have.
    pub(super) address: Option<IpAddr>,
    pub(super) port: u16,
    pub(super) user: String,
    pub(super) password: Option<String>,
    pub(super) database: String,
    pub(super) tls: TlsMode,
    /// Authorities to trust; otherwise the system's.
    pub(super) root_certificate: Option<PathBuf>,
    /// Certificate and key to show to the server.
    pub(super) client_certificate: Option<(PathBuf, PathBuf)>,
    pub(super) application_name: String,
    /// For everything up to the first command.
    pub(super) timeout: Duration,
    /// The user's own `options`; ours follow them and win.
    pub(super) server_options: String,
}

impl ConnectOptions {
    /// Reads `postgres://user:password@host:port/database?name=value` or `name=value` pairs, with libpq's names:
    /// `host`, `hostaddr`, `port`, `user`, `password`, `passfile`, `dbname`, `sslmode`, `sslrootcert` (a file, or `system`), `sslcert`,
    /// `sslkey`, `connect_timeout`, `application_name`, `options`.
    ///
    /// What is missing comes from `PGHOST`, `PGPORT`, `PGUSER`, `PGPASSWORD`, `PGDATABASE`, `PGSSLMODE`, `PGSSLROOTCERT`; a password
    /// still missing, from `PGPASSFILE` or `~/.pgpass`.
    ///
    /// ```
    /// use cachetag_invalidator::source::ConnectOptions;
    ///
    /// let options = ConnectOptions::parse("postgres://ann:secret@db.example/shop?sslmode=verify-full")?;
    /// assert_eq!(format!("{options:?}"), "ConnectOptions(ann@db.example:5432/shop, VerifyFull)");
    /// # Ok::<(), cachetag_invalidator::source::SourceError>(())
    /// ```
    ///
    /// # Errors
    /// Anything that is not a connection string, names several hosts, has a setting that is not known here, or names no user.
    pub fn parse(text: &str) -> Result<Self, SourceError> {
        Self::parse_with(text, |name| std::env::var(name).ok())
    }

    pub(super) fn parse_with(text: &str, env: impl Fn(&str) -> Option<String>) -> Result<Self, SourceError> {
        let mut all = Self::parse_all_with(text, env)?;
        match (all.pop(), all.is_empty()) {
            (Some(only), true) => Ok(only),
            _ => Err(SourceError::Options("several hosts are given; give the primary's alone".into())),
        }
    }

    /// The same for a string that may name several hosts (`postgres://a,b:5433/db`, `host=a,b port=5432,5433`), one of which is the
    /// primary: the settings for each, in their order.
    ///
    /// # Errors
    /// As [`Self::parse`], and when ports or `hostaddr` do not go with the hosts.
    pub fn parse_all(text: &str) -> Result<Vec<Self>, SourceError> {
        Self::parse_all_with(text, |name| std::env::var(name).ok())
    }

    pub(super) fn parse_all_with(text: &str, env: impl Fn(&str) -> Option<String>) -> Result<Vec<Self>, SourceError> {
        let mut settings = dsn::parse(text).map_err(SourceError::Options)?;
        let is_missing = |settings: &dsn::Settings, name: &str| {
            let names: &[&str] = if name == "host" { &["host", "hostaddr"] } else { &[name] };
            !settings.iter().any(|(known, _)| names.contains(&known.as_str()))
        };
        for (name, variable) in Known::VARIABLES {
            if let Some(value) = env(variable).filter(|value| !value.is_empty())
                && is_missing(&settings, name)
            {
                settings.push((name.into(), value));
            }
        }
        let last = |name: &str| settings.iter().rev().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
        let hosts: Vec<&str> = last("host").unwrap_or_default().split(',').collect();
        let ports: Vec<&str> = last("port").unwrap_or_default().split(',').collect();
        if ports.len() != 1 && ports.len() != hosts.len() {
            return Err(SourceError::Options(format!("{} hosts and {} ports are given", hosts.len(), ports.len())));
        }
        if hosts.len() > 1 && last("hostaddr").is_some() {
            return Err(SourceError::Options(
                "hostaddr goes with one host; leave it out where several are given".into(),
            ));
        }
        let options = |(i, host): (usize, &&str)| {
            let mut known = Known::default();
            let port = if ports.len() == 1 { ports[0] } else { ports[i] };
            for (name, value) in settings.iter().filter(|(name, _)| name != "host" && name != "port") {
                known.set(name, value.clone())?;
            }
            for (name, value) in [("host", *host), ("port", port)].into_iter().filter(|(_, value)| !value.is_empty()) {
                known.set(name, value.into())?;
            }
            known.finish(&env)
        };
        hosts.iter().enumerate().map(options).collect()
    }

    /// The password, if there is one.
    pub fn password(&self) -> Option<&str> {
        self.password.as_deref()
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

    /// The role's name.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// Host and port, for messages.
    pub fn server(&self) -> String {
        match &self.host {
            Host::Tcp(host) if host.contains(':') => format!("[{host}]:{}", self.port),
            Host::Tcp(host) => format!("{host}:{}", self.port),
            Host::Unix(_) => self.socket().display().to_string(),
        }
    }

    /// Path of the Unix socket; of no use for a TCP host.
    pub(super) fn socket(&self) -> PathBuf {
        let folder = match &self.host {
            Host::Unix(folder) => folder.as_path(),
            Host::Tcp(_) => Path::new(""),
        };
        folder.join(format!(".s.PGSQL.{}", self.port))
    }
}

impl fmt::Debug for ConnectOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ConnectOptions({}@{}/{}, {:?})", self.user, self.server(), self.database, self.tls)
    }
}

/// Settings as they are found, before defaults and what follows from one another.
#[derive(Default)]
struct Known {
    host: Option<String>,
    hostaddr: Option<IpAddr>,
    port: Option<u16>,
    user: Option<String>,
    password: Option<String>,
    passfile: Option<PathBuf>,
    dbname: Option<String>,
    sslmode: Option<TlsMode>,
    sslrootcert: Option<String>,
    sslcert: Option<PathBuf>,
    sslkey: Option<PathBuf>,
    connect_timeout: Option<Duration>,
    application_name: Option<String>,
    options: Option<String>,
}

impl Known {
    const VARIABLES: [(&str, &str); 7] = [
        ("host", "PGHOST"),
        ("port", "PGPORT"),
        ("user", "PGUSER"),
        ("password", "PGPASSWORD"),
        ("dbname", "PGDATABASE"),
        ("sslmode", "PGSSLMODE"),
        ("sslrootcert", "PGSSLROOTCERT"),
    ];

    fn set(&mut self, name: &str, value: String) -> Result<(), SourceError> {
        let wrong = |expected: &str| Err(SourceError::Options(format!("{name}={value:?} is not {expected}")));
        match name {
            "host" => self.host = Some(value),
            "hostaddr" => match value.parse() {
                Ok(address) => self.hostaddr = Some(address),
                Err(_) => return wrong("one IP address"),
            },
            "port" => match value.parse() {
                Ok(port) if port > 0 => self.port = Some(port),
                _ => return wrong("a port number"),
            },
            "user" => self.user = Some(value),
            "password" => self.password = Some(value),
            "passfile" => self.passfile = Some(value.into()),
            "dbname" => self.dbname = Some(value),
            "sslmode" => {
                self.sslmode = Some(match value.as_str() {
                    "disable" => TlsMode::Disable,
                    "allow" | "prefer" => TlsMode::Prefer,
                    "require" => TlsMode::Require,
                    "verify-ca" => TlsMode::VerifyCa,
                    "verify-full" => TlsMode::VerifyFull,
                    _ => return wrong("one of disable, prefer, require, verify-ca, verify-full"),
                });
            }
            "sslrootcert" => self.sslrootcert = Some(value),
            "sslcert" => self.sslcert = Some(value.into()),
            "sslkey" => self.sslkey = Some(value.into()),
            "connect_timeout" => match value.parse::<i64>() {
                // libpq's way to say "as long as it takes"; a daemon always has an end in sight.
                Ok(seconds) if seconds <= 0 => {}
                Ok(seconds) => self.connect_timeout = Some(Duration::from_secs(seconds.unsigned_abs())),
                Err(_) => return wrong("a number of seconds"),
            },
            "application_name" | "fallback_application_name" => self.application_name = Some(value),
            "options" => self.options = Some(value),
            // These choose what is so anyway, or what is not theirs to choose here.
            "client_encoding"
            | "gssencmode"
            | "sslsni"
            | "keepalives"
            | "keepalives_idle"
            | "keepalives_interval"
            | "keepalives_count"
            | "tcp_user_timeout"
            | "target_session_attrs" => {}
            _ => {
                return Err(SourceError::Options(format!(
                    "the setting {name:?} is not known here; known are host, hostaddr, port, user, password, passfile, dbname, \
                     sslmode, sslrootcert, sslcert, sslkey, connect_timeout, application_name, options"
                )));
            }
        }
        Ok(())
    }

    fn finish(self, env: impl Fn(&str) -> Option<String>) -> Result<ConnectOptions, SourceError> {
        let user = self.user.or_else(|| env("USER")).filter(|user| !user.is_empty()).ok_or_else(|| {
            SourceError::Options("no user is given; name the role in the URL, as user=… or in PGUSER".into())
        })?;
        let database = self.dbname.unwrap_or_else(|| user.clone());
        let port = self.port.unwrap_or(5432);
        let host = match (self.host, self.hostaddr) {
            (Some(host), _) if host.starts_with('/') => Host::Unix(host.into()),
            (Some(host), _) => Host::Tcp(host),
            (None, Some(address)) => Host::Tcp(address.to_string()),
            (None, None) => Host::Unix(DEFAULT_SOCKET_FOLDER.into()),
        };
        let mut tls = self.sslmode.unwrap_or(TlsMode::Prefer);
        let mut root_certificate = self.sslrootcert.map(PathBuf::from);
        if root_certificate.as_deref() == Some(Path::new("system")) {
            // Any public authority may have signed for any host: only the name makes such a certificate worth something.
            root_certificate = None;
            tls = TlsMode::VerifyFull;
        }
        if tls == TlsMode::Require && root_certificate.is_some() {
            tls = TlsMode::VerifyCa;
        }
        if matches!(host, Host::Unix(_)) {
            tls = TlsMode::Disable;
        }
        let client_certificate = match (self.sslcert, self.sslkey) {
            (Some(certificate), Some(key)) => Some((certificate, key)),
            (None, None) => None,
            _ => return Err(SourceError::Options("sslcert and sslkey are only of use together; give both".into())),
        };
        let passfile = self.passfile.or_else(|| env("PGPASSFILE").map(PathBuf::from));
        let passfile = passfile.or_else(|| env("HOME").map(|home| Path::new(&home).join(".pgpass")));
        let password = self.password.filter(|password| !password.is_empty()).or_else(|| {
            let name = match &host {
                Host::Tcp(name) => name,
                Host::Unix(folder) if folder == Path::new(DEFAULT_SOCKET_FOLDER) => "localhost",
                Host::Unix(folder) => folder.to_str()?,
            };
            pgpass::password(&passfile?, [name, &port.to_string(), &database, &user])
        });
        Ok(ConnectOptions {
            host,
            address: self.hostaddr,
            port,
            user,
            password,
            database,
            tls,
            root_certificate,
            client_certificate,
            application_name: self.application_name.unwrap_or_else(|| "cachetag".into()),
            timeout: self.connect_timeout.unwrap_or(DEFAULT_TIMEOUT),
            server_options: self.options.unwrap_or_default(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> ConnectOptions {
        ConnectOptions::parse_with(text, |_| None).unwrap_or_else(|e| panic!("{text}: {e}"))
    }

    #[test]
    fn reads_both_forms() {
        let url = parse("postgres://ann:secret@db.example:6543/shop?sslmode=verify-full&sslrootcert=%2Fca.pem");
        assert_eq!((url.server().as_str(), url.database(), url.tls), ("db.example:6543", "shop", TlsMode::VerifyFull));
        assert_eq!(url.root_certificate, Some(PathBuf::from("/ca.pem")));
        assert_eq!(url.password.as_deref(), Some("secret"));
        let pairs = parse("host=/run/pg user=ann sslmode=require connect_timeout=3 password='a b'");
        assert_eq!((pairs.server().as_str(), pairs.tls), ("/run/pg/.s.PGSQL.5432", TlsMode::Disable));
        assert_eq!((pairs.database(), pairs.timeout), ("ann", Duration::from_secs(3)));
        assert_eq!(pairs.password.as_deref(), Some("a b"));
    }

    #[test]
    fn several_hosts() {
        let servers = |text: &str| {
            let all = ConnectOptions::parse_all_with(text, |_| None).unwrap_or_else(|e| panic!("{text}: {e}"));
            all.iter().map(ConnectOptions::server).collect::<Vec<_>>()
        };
        assert_eq!(servers("postgres://u@a,b:5433/d?target_session_attrs=read-write"), ["a:5432", "b:5433"]);
        assert_eq!(servers("host=a,b port=6000 user=u"), ["a:6000", "b:6000"]);
        assert_eq!(servers("host=a,/run/pg port=1,2 user=u"), ["a:1", "/run/pg/.s.PGSQL.2"]);
        assert_eq!(servers("postgres://u@a/d"), ["a:5432"]);
        for (text, word) in [("host=a,b port=1,2,3 user=u", "3 ports"), ("host=a,b hostaddr=::1 user=u", "hostaddr")] {
            let error = ConnectOptions::parse_all_with(text, |_| None).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
        let env = |name: &str| (name == "PGHOST").then(|| "x,y".to_owned());
        assert_eq!(ConnectOptions::parse_all_with("user=u", env).unwrap().len(), 2);
    }

    #[test]
    fn what_follows_from_what() {
        assert_eq!(parse("user=u host=h").tls, TlsMode::Prefer);
        assert_eq!(parse("user=u host=h sslmode=require").tls, TlsMode::Require);
        assert_eq!(parse("user=u host=h sslmode=require sslrootcert=/ca").tls, TlsMode::VerifyCa);
        let system = parse("user=u host=h sslmode=require sslrootcert=system");
        assert_eq!((system.tls, system.root_certificate), (TlsMode::VerifyFull, None));
        assert_eq!(parse("user=u hostaddr=::1").server(), "[::1]:5432");
        assert_eq!(parse("user=u").host, Host::Unix(DEFAULT_SOCKET_FOLDER.into()));
        assert_eq!(parse("user=u").application_name, "cachetag");
        assert_eq!(parse("user=u").with_application_name("x").application_name, "x");
    }

    #[test]
    fn the_environment_fills_gaps_only() {
        let env = |name: &str| match name {
            "PGUSER" => Some("env-user".to_owned()),
            "PGPASSWORD" => Some("env-password".to_owned()),
            "PGPORT" => Some("1".to_owned()),
            "PGHOST" => Some("env-host".to_owned()),
            _ => None,
        };
        let options = ConnectOptions::parse_with("postgres://url-host:2/d", env).unwrap();
        assert_eq!((options.user(), options.server().as_str()), ("env-user", "url-host:2"));
        assert_eq!(options.password.as_deref(), Some("env-password"));
        let options = ConnectOptions::parse_with("user=u password=p", env).unwrap();
        assert_eq!((options.user(), options.server().as_str()), ("u", "env-host:1"));
        assert_eq!(options.password.as_deref(), Some("p"));
    }

    #[test]
    fn the_password_file_is_the_last_resort() {
        use std::os::unix::fs::PermissionsExt;
        let folder = std::env::temp_dir().join(format!("cachetag-pgpass-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let file = folder.join(".pgpass");
        std::fs::write(&file, "h:5432:d:u:from-file\n").unwrap();
        let home = folder.to_str().unwrap().to_owned();
        let env = |name: &str| (name == "HOME").then(|| home.clone());
        let password = || ConnectOptions::parse_with("postgres://u@h/d", env).unwrap().password;
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
        assert_eq!(password(), None);
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(password().as_deref(), Some("from-file"));
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn says_what_is_wrong_and_never_the_password() {
        for (text, word) in [
            ("postgres://:secret@h/d", "user"),
            ("postgres://u:secret@a,b/d", "several hosts"),
            ("host=a,b user=u password=secret", "several hosts"),
            ("postgres://u:secret@h/d?sslmode=maybe", "maybe"),
            ("postgres://u:secret@h:port/d", "port"),
            ("postgres://u:secret@h/d?hostaddr=h", "hostaddr"),
            ("postgres://u:secret@h/d?connect_timeout=soon", "connect_timeout"),
            ("postgres://u:secret@h/d?sslcert=/c", "sslkey"),
            ("postgres://u:secret@h/d?load_balance_hosts=random", "load_balance_hosts"),
            ("nonsense", "name=value"),
        ] {
            let error = ConnectOptions::parse_with(text, |_| None).unwrap_err();
            assert!(error.is_configuration());
            let error = error.to_string();
            assert!(error.contains(word) && !error.contains("secret"), "{text}: {error}");
        }
        assert!(!format!("{:?}", parse("user=u password=secret")).contains("secret"));
    }
}

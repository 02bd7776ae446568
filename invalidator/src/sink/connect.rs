//! From a URL to a connection to the primary: one server, or the primary that the sentinels name.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::io::tcp::{TcpSettings, socket2::TcpKeepalive};
use redis::sentinel::{SentinelClientBuilder, SentinelServerType};
use redis::{AsyncConnectionConfig, Client, ConnectionAddr, IntoConnectionInfo, RedisError};

use super::{SinkError, is_authentication};
use crate::config::redact;

const SENTINEL_SCHEME: &str = "redis+sentinel://";
const SENTINEL_PORT: u16 = 26379;
/// Whoever does not answer at all is not there: a primary that is will have been connected to long before.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// A peer that vanished without a word is found out in some seconds, whether anything is being sent or not.
const USER_TIMEOUT: Duration = Duration::from_secs(4);

/// Where Redis is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A server.
    Server(String),
    /// The primary of a name, which sentinels know.
    Sentinel {
        /// Their addresses.
        sentinels: Vec<(String, u16)>,
        /// The name.
        name: String,
        /// User and password, of the primary and of the sentinels.
        login: Option<(Option<String>, String)>,
        /// Number of the database.
        db: i64,
    },
}

impl Target {
    /// Reads a URL; the error says what is wrong with a URL of sentinels.
    pub fn parse(url: &str) -> Result<Target, String> {
        let Some(rest) = url.strip_prefix(SENTINEL_SCHEME) else {
            return Ok(Target::Server(url.into()));
        };
        let (login, rest) = match rest.rsplit_once('@') {
            Some((login, rest)) => (Some(login), rest),
            None => (None, rest),
        };
        let (hosts, path) = rest.split_once('/').ok_or("the name of the primary is missing behind the hosts")?;
        let (name, db) = path.split_once('/').unwrap_or((path, ""));
        if name.is_empty() {
            return Err("the name of the primary is missing behind the hosts".into());
        }
        if name.contains('?') || db.contains('?') {
            return Err("parameters behind a question mark are not known here".into());
        }
        let db = match db {
            "" => 0,
            text => text.parse().map_err(|_| format!("{text:?} is not the number of a database"))?,
        };
        let sentinels = hosts.split(',').map(address).collect::<Result<Vec<_>, _>>()?;
        let login = login.map(login_of).transpose()?;
        Ok(Target::Sentinel { sentinels, name: name.into(), login, db })
    }
}

fn address(text: &str) -> Result<(String, u16), String> {
    let (host, port) = match text.strip_prefix('[') {
        // An IPv6 address has colons of its own.
        Some(rest) => {
            let (host, port) = rest.split_once(']').ok_or_else(|| format!("{text:?} lacks its closing bracket"))?;
            (host, port.strip_prefix(':').unwrap_or(port))
        }
        None => text.rsplit_once(':').unwrap_or((text, "")),
    };
    if host.is_empty() {
        return Err("the host of a sentinel is empty".into());
    }
    let port = match port {
        "" => SENTINEL_PORT,
        text => text.parse().map_err(|_| format!("{text:?} is not the port of a sentinel"))?,
    };
    Ok((host.into(), port))
}

/// `user:password` or `:password`, percent-encoded as in any URL: the redis crate's own parser reads it.
fn login_of(text: &str) -> Result<(Option<String>, String), String> {
    // What is wrong with it is not repeated: it holds a password.
    let info = format!("redis://{text}@localhost/").into_connection_info();
    let info = info.map_err(|_| "user and password before the @ are not percent-encoded".to_string())?;
    let redis = info.redis_settings();
    match redis.password() {
        Some(password) => Ok((redis.username().map(str::to_owned), password.to_owned())),
        None => Err("before the @ there is no password; expected user:password or :password".into()),
    }
}

/// Connects to the server, or to the primary that the sentinels name. A call that is not answered within `response_timeout` fails.
pub async fn connect(
    url: &str,
    connect_timeout: Duration,
    response_timeout: Duration,
) -> Result<MultiplexedConnection, SinkError> {
    let shown = redact(url);
    let invalid = |source| SinkError::Url { url: shown.clone(), source };
    let failed = |source: RedisError| match is_authentication(&source) {
        true => SinkError::Authentication { url: shown.clone(), source },
        false => SinkError::Redis(source),
    };
    let config = AsyncConnectionConfig::new()
        .set_connection_timeout(Some(connect_timeout))
        .set_response_timeout(Some(response_timeout));
    match Target::parse(url).map_err(|problem| SinkError::SentinelUrl { url: shown.clone(), problem })? {
        Target::Server(url) => {
            let info = url.as_str().into_connection_info().map_err(invalid)?.set_tcp_settings(tcp_settings());
            let client = Client::open(info).map_err(invalid)?;
            client.get_multiplexed_async_connection_with_config(&config).await.map_err(failed)
        }
        Target::Sentinel { sentinels, name, login, db } => {
            let addresses = sentinels.into_iter().map(|(host, port)| ConnectionAddr::Tcp(host, port));
            let mut builder = SentinelClientBuilder::new(addresses, &name, SentinelServerType::Master)
                .map_err(invalid)?
                .set_client_to_redis_db(db)
                .set_client_to_redis_tcp_settings(tcp_settings())
                .set_client_to_sentinel_tcp_settings(tcp_settings());
            if let Some((user, password)) = login {
                if let Some(user) = user {
                    builder = builder.set_client_to_redis_username(user);
                }
                builder = builder.set_client_to_redis_password(password);
            }
            let mut client = builder.build().map_err(invalid)?;
            let found = tokio::time::timeout(
                connect_timeout + response_timeout,
                client.get_async_connection_with_config(&config),
            );
            match found.await {
                Ok(found) => found.map_err(|source| SinkError::Sentinel { url: shown.clone(), name, source }),
                Err(_) => Err(SinkError::Silent { url: shown }),
            }
        }
    }
}

fn tcp_settings() -> TcpSettings {
    let probes = TcpKeepalive::new().with_time(Duration::from_secs(2)).with_interval(Duration::from_secs(1));
    TcpSettings::default().set_nodelay(true).set_keepalive(probes.with_retries(2)).set_user_timeout(USER_TIMEOUT)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sentinel(sentinels: &[(&str, u16)], name: &str, login: Option<(Option<&str>, &str)>, db: i64) -> Target {
        Target::Sentinel {
            sentinels: sentinels.iter().map(|&(host, port)| (host.into(), port)).collect(),
            name: name.into(),
            login: login.map(|(user, password)| (user.map(Into::into), password.into())),
            db,
        }
    }

    #[test]
    fn sentinel_urls() {
        assert_eq!(
            Target::parse("redis+sentinel://a:1,b/mymaster"),
            Ok(sentinel(&[("a", 1), ("b", SENTINEL_PORT)], "mymaster", None, 0))
        );
        assert_eq!(
            Target::parse("redis+sentinel://ann:s%40cret@[::1]:7/m/3"),
            Ok(sentinel(&[("::1", 7)], "m", Some((Some("ann"), "s@cret")), 3))
        );
        assert_eq!(
            Target::parse("redis+sentinel://:secret@a/m/"),
            Ok(sentinel(&[("a", SENTINEL_PORT)], "m", Some((None, "secret")), 0))
        );
        assert_eq!(Target::parse("redis://a"), Ok(Target::Server("redis://a".into())));
    }

    #[test]
    fn wrong_ones_say_why_without_the_password() {
        for (url, word) in [
            ("redis+sentinel://u:secret@a", "name of the primary"),
            ("redis+sentinel://u:secret@a/", "name of the primary"),
            ("redis+sentinel://u:secret@a/m/x", "number of a database"),
            ("redis+sentinel://u:secret@a:x/m", "port of a sentinel"),
            ("redis+sentinel://u:secret@a,/m", "empty"),
            ("redis+sentinel://u:secret@[::1/m", "bracket"),
            ("redis+sentinel://user@a/m", "no password"),
            ("redis+sentinel://u:secret@a/m?x=1", "question mark"),
        ] {
            let error = Target::parse(url).unwrap_err();
            assert!(error.contains(word) && !error.contains("secret"), "{url}: {error}");
        }
    }
}

//! From a URL to a connection to the primary: one server, or the primary that sentinels name.

use redis::aio::MultiplexedConnection;
use redis::io::tcp::{TcpSettings, socket2::TcpKeepalive};
use redis::sentinel::{SentinelClient, SentinelClientBuilder, SentinelServerType};
use redis::{AsyncConnectionConfig, Client, ConnectionAddr, IntoConnectionInfo, RedisError};
use std::time::Duration;

const SENTINEL_SCHEME: &str = "redis+sentinel://";
const SENTINEL_PORT: u16 = 26379;
/// A peer that vanished without a word is found out in some seconds, whether anything is being sent or not.
const USER_TIMEOUT: Duration = Duration::from_secs(4);

/// Where Redis is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    /// A server.
    Server(String),
    /// The primary of a name, which sentinels know.
    Sentinel { sentinels: Vec<(String, u16)>, name: String, login: Option<(Option<String>, String)>, db: i64 },
}

impl Target {
    /// Reads a URL; the error says what is wrong with it, without the password.
    pub fn parse(url: &str) -> Result<Target, String> {
        let Some(rest) = url.strip_prefix(SENTINEL_SCHEME) else {
            let client = Client::open(url).map_err(|error| error.to_string());
            return client.map(|_| Target::Server(url.into()));
        };
        let (login, rest) = match rest.rsplit_once('@') {
            Some((login, rest)) => (Some(login), rest),
            None => (None, rest),
        };
        let (hosts, path) = rest.split_once('/').unwrap_or((rest, ""));
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

    /// Connects to the server, or to the primary that the sentinels name now. `response` is how long an answer on the connection may take.
    pub async fn connect(
        &self,
        connect: Duration,
        response: Option<Duration>,
    ) -> Result<MultiplexedConnection, RedisError> {
        let config = AsyncConnectionConfig::new().set_connection_timeout(Some(connect)).set_response_timeout(response);
        match self {
            Target::Server(url) => {
                let info = url.as_str().into_connection_info()?.set_tcp_settings(tcp_settings());
                Client::open(info)?.get_multiplexed_async_connection_with_config(&config).await
            }
            Target::Sentinel { .. } => {
                let mut client = self.sentinel_client()?;
                let found = client.get_async_connection_with_config(&config);
                // Several sentinels may be silent, one after the other: the whole is bounded too.
                match tokio::time::timeout(connect + response.unwrap_or(connect), found).await {
                    Ok(found) => found,
                    Err(elapsed) => Err(std::io::Error::from(elapsed).into()),
                }
            }
        }
    }

    fn sentinel_client(&self) -> Result<SentinelClient, RedisError> {
        let Target::Sentinel { sentinels, name, login, db } = self else {
            return Err((redis::ErrorKind::InvalidClientConfig, "no sentinels").into());
        };
        let addresses = sentinels.iter().map(|(host, port)| ConnectionAddr::Tcp(host.clone(), *port));
        let mut builder = SentinelClientBuilder::new(addresses, name, SentinelServerType::Master)?
            .set_client_to_redis_db(*db)
            .set_client_to_redis_tcp_settings(tcp_settings())
            .set_client_to_sentinel_tcp_settings(tcp_settings());
        if let Some((user, password)) = login {
            if let Some(user) = user {
                builder = builder.set_client_to_redis_username(user.clone());
            }
            builder = builder.set_client_to_redis_password(password.clone());
        }
        builder.build()
    }
}

/// The URL without what is before its `@`.
pub(crate) fn redact(url: &str) -> String {
    match (url.find("://"), url.rfind('@')) {
        (Some(scheme), Some(at)) if scheme < at => format!("{}://…{}", &url[..scheme], &url[at..]),
        (_, Some(at)) => format!("…{}", &url[at..]),
        _ => url.to_owned(),
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
    fn urls_of_sentinels() {
        for (url, target) in [
            ("redis+sentinel://a:1,b/mymaster", sentinel(&[("a", 1), ("b", SENTINEL_PORT)], "mymaster", None, 0)),
            (
                "redis+sentinel://ann:s%40cret@[::1]:7/m/3",
                sentinel(&[("::1", 7)], "m", Some((Some("ann"), "s@cret")), 3),
            ),
            ("redis+sentinel://:secret@a/m/", sentinel(&[("a", SENTINEL_PORT)], "m", Some((None, "secret")), 0)),
        ] {
            assert_eq!(Target::parse(url), Ok(target));
        }
        assert_eq!(Target::parse("redis://a"), Ok(Target::Server("redis://a".into())));
        assert_eq!(Target::parse("rediss://a:1/2"), Ok(Target::Server("rediss://a:1/2".into())));
    }

    #[test]
    fn wrong_ones_say_why_without_the_password() {
        for (url, word) in [
            ("redis+sentinel://u:secret@a", "name of the primary"),
            ("redis+sentinel://u:secret@a/m/x", "number of a database"),
            ("redis+sentinel://u:secret@a:x/m", "port of a sentinel"),
            ("redis+sentinel://u:secret@a,/m", "empty"),
            ("redis+sentinel://u:secret@[::1/m", "bracket"),
            ("redis+sentinel://user@a/m", "no password"),
            ("redis+sentinel://u:secret@a/m?x=1", "question mark"),
            ("http://u:secret@a/", "URL"),
        ] {
            let error = Target::parse(url).unwrap_err();
            assert!(error.contains(word) && !error.contains("secret"), "{url}: {error}");
        }
    }

    #[test]
    fn passwords_are_not_shown() {
        assert_eq!(redact("redis://u:p@a:1/2"), "redis://…@a:1/2");
        assert_eq!(redact("redis://u:p@ss@a"), "redis://…@a");
        assert_eq!(redact("secret@a"), "…@a");
        assert_eq!(redact("redis://a:1"), "redis://a:1");
    }
}

//! What can go wrong between the application and Redis.

use std::time::Duration;

use redis::{ErrorKind, RedisError, ServerErrorKind};

/// Why a call has no answer. A refused put is an answer, and so is a bypass: neither is here.
///
/// ```
/// use cachetag_client::l2::{Shard, Timeouts};
///
/// let error = Shard::open("redis://:secret@", "ct", Timeouts::default()).unwrap_err();
/// assert!(!error.is_failure(), "a breaker has nothing to do with a wrong URL");
/// assert!(!error.to_string().contains("secret"));
/// ```
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The URL is none.
    #[error(
        "{url}: {problem}; expected redis://, rediss://, redis+unix:// or redis+sentinel://[user:password@]host:port,…/name[/db]"
    )]
    Url {
        /// The URL, without its password.
        url: String,
        /// What is wrong with it.
        problem: String,
    },
    /// The namespace cannot be one.
    #[error(
        "namespace {namespace:?}: expected a text without braces that is not empty, as in the daemon's configuration"
    )]
    Namespace {
        /// What was given.
        namespace: String,
    },
    /// No connection could be made.
    #[error("cannot connect to {url}: {source}")]
    Connect {
        /// The URL, without its password.
        url: String,
        /// Why.
        source: RedisError,
    },
    /// No connection could be made a moment ago, and it is too soon to try again.
    #[error("{url} is down, the next attempt is in {} ms: {last}", retry_in.as_millis())]
    Down {
        /// The URL, without its password.
        url: String,
        /// When a call will try again.
        retry_in: Duration,
        /// Why the last attempt failed.
        last: String,
    },
    /// The connection broke, and the call with it.
    #[error("the connection broke: {source}")]
    Broken {
        /// How.
        source: RedisError,
    },
    /// No answer came in time. The call may still be executed.
    #[error("no answer within {} ms", after.as_millis())]
    Timeout {
        /// The response timeout.
        after: Duration,
    },
    /// The library is not in this Redis, or is an older one.
    #[error(
        "the library cachetag in Redis lacks what was called ({detail}): start the daemon of this version, which loads it"
    )]
    LibraryMissing {
        /// Redis's words.
        detail: String,
    },
    /// The library refuses the call: it is malformed, or a key holds what is not ours.
    #[error("CACHETAG {detail}")]
    Call {
        /// The library's words, which name the argument.
        detail: String,
    },
    /// Redis refuses the call.
    #[error("Redis refuses: {code} {detail}")]
    Server {
        /// Redis's code: `OOM`, `READONLY`, `LOADING`, `NOPERM`, ….
        code: String,
        /// Its words.
        detail: String,
    },
    /// Redis answered what no version of the library answers.
    #[error("unexpected answer to {call}: {got}")]
    Reply {
        /// What was called.
        call: &'static str,
        /// The answer, shortened.
        got: String,
    },
}

impl Error {
    /// No answer came in time.
    pub fn is_timeout(&self) -> bool {
        matches!(self, Error::Timeout { .. }) || matches!(self, Error::Connect { source, .. } if source.is_timeout())
    }

    /// There is no connection, or it broke.
    pub fn is_connection(&self) -> bool {
        matches!(self, Error::Connect { .. } | Error::Down { .. } | Error::Broken { .. })
    }

    /// Redis is full: nothing is stored until it has room. Reading goes on.
    pub fn is_oom(&self) -> bool {
        self.has_code(&["OOM"])
    }

    /// The functions are not there: no daemon has loaded them yet, or only an older one.
    pub fn is_library_missing(&self) -> bool {
        matches!(self, Error::LibraryMissing { .. })
    }

    /// Redis takes no writes: it is a replica, cannot save, or lacks replicas.
    pub fn is_readonly(&self) -> bool {
        self.has_code(&["READONLY", "MISCONF", "NOREPLICAS"])
    }

    /// Redis is there and not ready: it loads its data, runs another's long script, or its cluster is down.
    pub fn is_busy(&self) -> bool {
        self.has_code(&["LOADING", "BUSY", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN"])
    }

    /// The namespace's slot is on another node of the cluster.
    pub fn is_moved(&self) -> bool {
        self.has_code(&["MOVED", "ASK"])
    }

    /// User or password are wrong, or may not do this.
    pub fn is_denied(&self) -> bool {
        self.has_code(&["NOAUTH", "WRONGPASS", "NOPERM"])
            || matches!(self, Error::Connect { source, .. } if source.kind() == ErrorKind::AuthenticationFailed)
    }

    /// The call itself is wrong, or one key is: the next call of another kind may well succeed.
    pub fn is_call(&self) -> bool {
        matches!(self, Error::Call { .. } | Error::Url { .. } | Error::Namespace { .. })
            || self.has_code(&["WRONGTYPE"])
    }

    /// Does it say something about the health of this Redis? What a circuit breaker counts: everything but what is wrong with one call or
    /// one key, and a full Redis, which still reads.
    pub fn is_failure(&self) -> bool {
        !self.is_call() && !self.is_oom()
    }

    fn has_code(&self, codes: &[&str]) -> bool {
        matches!(self, Error::Server { code, .. } if codes.contains(&code.as_str()))
    }
}

/// An error that Redis answered.
pub(super) fn of_server(code: &str, detail: Option<&str>) -> Error {
    let detail = detail.unwrap_or_default().to_owned();
    let lower = detail.to_lowercase();
    if code == "CACHETAG" {
        Error::Call { detail }
    } else if code == "ERR" && (lower.contains("function not found") || lower.contains("unknown command")) {
        Error::LibraryMissing { detail }
    } else {
        Error::Server { code: code.to_owned(), detail }
    }
}

/// An error of the redis crate on a connection that was there.
pub(super) fn of_call(source: RedisError, response_timeout: Duration) -> Error {
    if source.is_timeout() {
        return Error::Timeout { after: response_timeout };
    }
    match (source.kind(), source.code()) {
        (ErrorKind::Server(_) | ErrorKind::Extension, Some(code)) => of_server(code, source.detail()),
        _ => Error::Broken { source },
    }
}

/// Has the server become something else than the primary that was asked for?
pub(super) fn is_demoted(kind: Option<ServerErrorKind>) -> bool {
    matches!(kind, Some(ServerErrorKind::ReadOnly | ServerErrorKind::MasterDown))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_redis_says_is_told_apart() {
        let error = of_server("ERR", Some("Function not found"));
        assert!(error.is_library_missing() && error.is_failure() && error.to_string().contains("start the daemon"));
        assert!(of_server("ERR", Some("unknown command 'FCALL', with args beginning with: ")).is_library_missing());
        let error = of_server("OOM", Some("command not allowed when used memory > 'maxmemory'."));
        assert!(error.is_oom() && !error.is_failure());
        assert!(of_server("READONLY", None).is_readonly() && of_server("MISCONF", None).is_readonly());
        assert!(of_server("LOADING", None).is_busy() && of_server("MOVED", Some("866 a:1")).is_moved());
        let error = of_server("CACHETAG", Some("token: expected a version"));
        assert!(error.is_call() && !error.is_failure());
        assert_eq!(error.to_string(), "CACHETAG token: expected a version");
        assert!(of_server("NOPERM", None).is_denied());
    }
}

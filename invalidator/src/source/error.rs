//! What can go wrong on the replication connection, and what to do about it.

use fallible_iterator::FallibleIterator;
use postgres_protocol::message::backend::ErrorResponseBody;

use super::wire::FrameError;

/// An error of the server, field by field.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ServerError {
    /// SQLSTATE.
    pub code: String,
    /// The primary message.
    pub message: String,
    /// More about it.
    pub detail: Option<String>,
    /// What the server suggests.
    pub hint: Option<String>,
}

impl ServerError {
    pub(super) fn read(body: &ErrorResponseBody) -> std::io::Result<ServerError> {
        let mut error = ServerError::default();
        let mut fields = body.fields();
        while let Some(field) = fields.next()? {
            let value = String::from_utf8_lossy(field.value_bytes()).into_owned();
            match field.type_() {
                b'C' => error.code = value,
                b'M' => error.message = value,
                b'D' => error.detail = Some(value),
                b'H' => error.hint = Some(value),
                _ => {}
            }
        }
        Ok(error)
    }

    /// What a person can do about the errors that this daemon is known to meet.
    fn remedy(&self) -> Option<&'static str> {
        let says = |text: &str| self.message.contains(text);
        Some(match self.code.as_str() {
            "28P01" | "28000" => "check user, password and pg_hba.conf (a replication connection needs its database listed there)",
            "53400" => "raise max_replication_slots, or drop a slot that nobody uses (SELECT * FROM pg_replication_slots)",
            "53300" => "raise max_wal_senders (or max_connections), or end a client that nobody needs",
            "42501" => "give the role the REPLICATION attribute: ALTER ROLE … REPLICATION",
            "3D000" => "create the database, or correct its name",
            "55000" if says("wal_level") => "set wal_level = logical and restart PostgreSQL",
            "55000" if says("recovery") => "connect to the primary: this server is a standby",
            "55006" => "another daemon holds the slot; this one waits until it is free",
            _ => return None,
        })
    }
}

impl std::fmt::Display for ServerError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} ({})", self.message, self.code)?;
        for more in [&self.detail, &self.hint].into_iter().flatten() {
            write!(f, "; {more}")?;
        }
        match self.remedy() {
            Some(remedy) => write!(f, "; {remedy}"),
            None => Ok(()),
        }
    }
}

/// Why the replication connection cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The connection string is not one.
    #[error("postgres connection string: {0}; expected postgres://user@host:port/database or key=value pairs")]
    Options(String),
    /// A certificate or a TLS setting cannot be used.
    #[error("TLS with postgres: {0}")]
    Tls(String),
    /// The server could not be reached, or the connection broke.
    #[error("postgres at {server}: {source}")]
    Io {
        /// Where.
        server: String,
        /// What happened.
        source: std::io::Error,
    },
    /// It took too long.
    #[error("postgres at {server}: no connection within {} s", .after.as_secs())]
    Timeout {
        /// Where.
        server: String,
        /// How long.
        after: std::time::Duration,
    },
    /// The server asks for a way of authentication that is not known here, or for a password that was not given.
    #[error("postgres at {server}: {problem}")]
    Authentication {
        /// Where.
        server: String,
        /// What is missing.
        problem: String,
    },
    /// The server answered with an error.
    #[error("postgres, {doing}: {error}")]
    Server {
        /// What was being done.
        doing: &'static str,
        /// The server's words.
        error: Box<ServerError>,
    },
    /// The server ended the stream.
    #[error("postgres ended the replication stream")]
    Ended,
    /// The server's message does not belong here.
    #[error("postgres sent {got} where {expected} was expected")]
    Protocol {
        /// What was expected.
        expected: &'static str,
        /// What came.
        got: String,
    },
    /// A replication frame is malformed.
    #[error("replication stream: {0}")]
    Frame(#[from] FrameError),
}

impl SourceError {
    fn code(&self) -> Option<&str> {
        match self {
            SourceError::Server { error, .. } => Some(&error.code),
            _ => None,
        }
    }

    /// Name, password or permission were refused.
    pub fn is_authentication(&self) -> bool {
        matches!(self, SourceError::Authentication { .. })
            || matches!(self.code(), Some("28P01" | "28000" | "42501" | "3D000"))
    }

    /// A setting has to be changed before another try can succeed.
    pub fn is_configuration(&self) -> bool {
        matches!(self, SourceError::Options(_) | SourceError::Tls(_))
            || matches!(self.code(), Some("53400" | "0A000"))
            || matches!(self, SourceError::Server { error, .. } if error.code == "55000"
                && (error.message.contains("wal_level") || error.message.contains("recovery")))
    }

    /// Another process uses the slot.
    pub fn is_slot_active(&self) -> bool {
        self.code() == Some("55006")
    }

    /// There is no such slot.
    pub fn is_slot_missing(&self) -> bool {
        matches!(self, SourceError::Server { error, .. } if error.code == "42704" && error.message.contains("slot"))
    }

    /// The WAL that the slot needs is gone.
    pub fn is_slot_lost(&self) -> bool {
        matches!(self, SourceError::Server { error, .. }
            if (error.code == "55000" && (error.message.contains("can no longer") || error.message.contains("invalidated")))
                || (error.code == "58P01" && error.message.contains("already been removed")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(code: &str, message: &str) -> SourceError {
        let error = ServerError { code: code.into(), message: message.into(), ..Default::default() };
        SourceError::Server { doing: "testing", error: Box::new(error) }
    }

    #[test]
    fn errors_are_told_apart() {
        assert!(server("28P01", "password authentication failed for user \"x\"").is_authentication());
        assert!(server("55006", "replication slot \"cachetag\" is active for PID 1").is_slot_active());
        assert!(server("42704", "replication slot \"cachetag\" does not exist").is_slot_missing());
        assert!(server("55000", "can no longer get changes from replication slot \"cachetag\"").is_slot_lost());
        assert!(server("53400", "all replication slots are in use").is_configuration());
        assert!(server("55000", "logical decoding requires wal_level >= logical").is_configuration());
        assert!(!server("57P01", "terminating connection").is_configuration());
    }

    #[test]
    fn the_text_names_the_remedy() {
        assert!(server("53400", "all replication slots are in use").to_string().contains("max_replication_slots"));
        assert!(server("28P01", "password authentication failed").to_string().contains("pg_hba.conf"));
    }
}

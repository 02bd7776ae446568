//! What can go wrong between here and PostgreSQL.

use std::io;
use std::time::Duration;

use thiserror::Error;

use super::server_error::ServerError;
use super::wire::FrameError;

/// Why a connection cannot be made or used. The predicates tell what follows from it; the text tells a person what to do.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum SourceError {
    /// The connection string is not one.
    #[error("postgres connection string: {0}; expected postgres://user@host:port/database or name=value pairs")]
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
        source: io::Error,
    },
    /// It took too long.
    #[error("postgres at {server}: no connection within {} s; is this the right address (connect_timeout sets the patience)?", .after.as_secs())]
    Timeout {
        /// Where.
        server: String,
        /// How long.
        after: Duration,
    },
    /// The server asks for a way of authentication that is not known here, or for a password that was not given, or it failed to prove
    /// that it knows the password.
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
    /// The connection streams, or an earlier command was given up before its answer, which would be taken for this one's.
    #[error("postgres: this connection is busy with an earlier command; open another one")]
    Busy,
    /// A replication frame is malformed.
    #[error("replication stream: {0}")]
    Frame(#[from] FrameError),
}

impl SourceError {
    /// The server's own error.
    pub fn server_error(&self) -> Option<&ServerError> {
        match self {
            SourceError::Server { error, .. } => Some(error),
            _ => None,
        }
    }

    fn server_says(&self, predicate: impl FnOnce(&ServerError) -> bool) -> bool {
        self.server_error().is_some_and(predicate)
    }

    /// The same again, a little later, may succeed: the network, a restart, a lack of resources, a slot in use.
    pub fn is_transient(&self) -> bool {
        matches!(self, SourceError::Io { .. } | SourceError::Timeout { .. } | SourceError::Ended | SourceError::Busy)
            || self.server_says(ServerError::is_transient)
    }

    /// Name, password, permission or database were refused.
    pub fn is_authentication(&self) -> bool {
        matches!(self, SourceError::Authentication { .. }) || self.server_says(ServerError::is_authentication)
    }

    /// Somebody has to change something, here or on the server, before another try can succeed: a setting, a certificate, the credentials.
    /// A lack of WAL senders is transient as well: somebody else's may end.
    pub fn is_configuration(&self) -> bool {
        matches!(self, SourceError::Options(_) | SourceError::Tls(_))
            || self.is_authentication()
            || self.server_says(ServerError::is_configuration)
    }

    /// The stream holds what cannot be sent or read: the next session meets it again. Neither the connection's end nor what a person or time
    /// will change.
    pub fn is_of_the_stream(&self) -> bool {
        match self {
            SourceError::Frame(_) | SourceError::Protocol { .. } => true,
            SourceError::Server { error, .. } => {
                !self.is_transient()
                    && !self.is_configuration()
                    && !error.is_slot_missing()
                    && !error.is_slot_lost()
                    // The database was dropped.
                    && error.code != "57P04"
            }
            _ => false,
        }
    }

    /// Another process uses the slot.
    pub fn is_slot_active(&self) -> bool {
        self.server_says(ServerError::is_slot_active)
    }

    /// There is no such slot.
    pub fn is_slot_missing(&self) -> bool {
        self.server_says(ServerError::is_slot_missing)
    }

    /// There is a slot of this name already.
    pub fn is_slot_duplicate(&self) -> bool {
        self.server_says(ServerError::is_slot_duplicate)
    }

    /// The WAL that the slot needs is gone: it has to be replaced, and nobody knows what was missed.
    pub fn is_slot_lost(&self) -> bool {
        self.server_says(ServerError::is_slot_lost)
    }

    /// The stream stands at a place where the publication does not exist. No retry gets past it: the slot has to be replaced.
    pub fn is_publication_missing(&self) -> bool {
        self.server_says(ServerError::is_publication_missing)
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
        assert!(server("42710", "replication slot \"cachetag\" already exists").is_slot_duplicate());
        assert!(server("53400", "all replication slots are in use").is_configuration());
        assert!(server("55000", "logical decoding requires wal_level >= logical").is_configuration());
        assert!(server("0A000", "logical decoding cannot be used while in recovery").is_configuration());
        let closing = server("57P01", "terminating connection due to administrator command");
        assert!(closing.is_transient() && !closing.is_configuration());
        assert!(server("53300", "sorry, too many clients already").is_transient());
        assert!(!server("53400", "all replication slots are in use").is_transient());
        assert!(!server("XX000", "cache lookup failed").is_transient());
    }

    #[test]
    fn what_comes_again_with_the_stream_is_told_apart() {
        for (code, message) in [
            ("XX000", "could not map filenode \"base/1/2\" to relation OID"),
            ("XX000", "invalid memory alloc request size 1073741825"),
            ("XX001", "could not read block 0 in file \"base/1/2\""),
            ("22021", "invalid byte sequence for encoding"),
            ("54000", "out of memory"),
            ("42704", "publication \"cachetag\" does not exist"),
        ] {
            assert!(server(code, message).is_of_the_stream(), "{code} {message}");
        }
        for (code, message) in [
            ("57P01", "terminating connection due to administrator command"),
            ("57P04", "database was dropped"),
            ("53200", "out of memory"),
            ("55006", "replication slot \"s\" is active for PID 1"),
            ("42704", "replication slot \"s\" does not exist"),
            ("55000", "can no longer get changes from replication slot \"s\""),
            ("55000", "logical decoding requires wal_level >= logical"),
            ("28000", "no pg_hba.conf entry for host"),
            ("58030", "could not read file: Input/output error"),
        ] {
            assert!(!server(code, message).is_of_the_stream(), "{code} {message}");
        }
        assert!(!SourceError::Ended.is_of_the_stream());
    }

    #[test]
    fn the_text_names_the_remedy() {
        for (code, message, remedy) in [
            ("53400", "all replication slots are in use", "max_replication_slots"),
            ("53300", "number of requested standby connections exceeds max_wal_senders", "raise max_wal_senders"),
            ("28000", "no pg_hba.conf entry for host", "pg_hba.conf"),
            ("42501", "must be superuser or replication role to start walsender", "REPLICATION"),
            ("55000", "logical decoding requires wal_level >= logical", "wal_level = logical"),
            ("0A000", "logical decoding cannot be used while in recovery", "primary"),
            ("55000", "can no longer get changes from replication slot \"s\"", "max_slot_wal_keep_size"),
        ] {
            let text = server(code, message).to_string();
            assert!(text.contains(message) && text.contains(code), "{text}");
            assert!(text.rsplit("; ").next().unwrap().contains(remedy), "{text}");
        }
    }
}

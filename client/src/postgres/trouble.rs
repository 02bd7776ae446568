//! What an error of PostgreSQL means for who would try again.

use tokio_postgres::Error;
use tokio_postgres::error::{Severity, SqlState};

/// What to do about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// The server or the connection is gone, or will not serve now: connect again. It says nothing of the statement.
    Away,
    /// Another try may succeed: a conflict with others, a resource that ran out.
    Transient,
    /// Another try fails in the same way.
    Permanent,
}

impl Trouble {
    /// By the SQLSTATE; an error that did not come from the server is one of the connection.
    pub(crate) fn of(error: &Error) -> Trouble {
        error.code().map_or(Trouble::Away, |code| Trouble::of_code(code.code()))
    }

    fn of_code(code: &str) -> Trouble {
        match code {
            // Shutdown, crash, starting up, dropped database, idle too long; too many connections; a primary that is one no more.
            "57P01" | "57P02" | "57P03" | "57P04" | "57P05" | "25P03" | "53300" | "25006" => Trouble::Away,
            _ if code.starts_with("08") => Trouble::Away,
            // Lock timeouts, cancelled, in use; a plan or a prepared statement that a change of the schema or a pooler made invalid.
            "55P03" | "55006" | "57014" | "0A000" | "26000" => Trouble::Transient,
            // Serialization and deadlocks, resources, the system, internal errors.
            _ if ["40", "53", "58", "XX"].iter().any(|class| code.starts_with(class)) => Trouble::Transient,
            _ => Trouble::Permanent,
        }
    }
}

/// Whether the server itself says that a COMMIT was not done. Anything else may have been: the answer was lost, or something between gave it.
pub(crate) fn surely_not_committed(error: &Error) -> bool {
    let Some(db) = error.as_db_error() else { return false };
    // PostgreSQL ends a transaction that is past its commit record by nothing milder than FATAL.
    let fatal = matches!(db.parsed_severity(), Some(Severity::Fatal | Severity::Panic))
        || matches!(db.severity(), "FATAL" | "PANIC");
    let code = db.code();
    let doubtful = ["08", "57P", "58", "XX"].iter().any(|class| code.code().starts_with(class));
    !fatal && !doubtful && *code != SqlState::T_R_STATEMENT_COMPLETION_UNKNOWN
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_told_apart() {
        for code in ["08006", "57P01", "57P03", "53300", "25006"] {
            assert_eq!(Trouble::of_code(code), Trouble::Away, "{code}");
        }
        for code in ["40001", "40P01", "55P03", "57014", "53100", "XX000"] {
            assert_eq!(Trouble::of_code(code), Trouble::Transient, "{code}");
        }
        for code in ["23505", "22P02", "42P01", "42501", "P0001", "25P02"] {
            assert_eq!(Trouble::of_code(code), Trouble::Permanent, "{code}");
        }
    }
}

//! What can go wrong between a loader and PostgreSQL.

use cachetag_core::{TagError, VersionError};
use tokio_postgres::error::SqlState;

/// Why a helper for PostgreSQL failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PostgresError {
    /// The application's query, or the connection, failed.
    #[error("PostgreSQL: {}", full(.0))]
    Query(#[source] tokio_postgres::Error),
    /// The extension is not in this database.
    #[error("the extension cachetag is not in this database, or this role may not use it: CREATE EXTENSION cachetag ({})", full(.0))]
    ExtensionMissing(#[source] tokio_postgres::Error),
    /// The installed extension cannot capture.
    #[error(
        "the extension cachetag in this database has no function {function}: its version cannot find the tags of queries by itself; \
         update it (ALTER EXTENSION cachetag UPDATE), or select the tags as a column {column}",
        column = super::TAGS_COLUMN
    )]
    CaptureMissing {
        /// The function that is not there.
        function: &'static str,
    },
    /// The column of tags is of a type that holds no tags.
    #[error("column {column} is of type {found}: tags are text or text[], as cachetag.tag() and cachetag.tag_agg() give them", column = super::TAGS_COLUMN)]
    TagsColumn {
        /// The type's name.
        found: String,
    },
    /// What a column of tags holds is no tag.
    #[error("column {column}: {source}; build tags with cachetag.tag()", column = super::TAGS_COLUMN)]
    Tag {
        /// What is wrong with it.
        #[source]
        source: TagError,
    },
    /// The extension answered with something that is no version.
    #[error("{0}: does the extension fit this client?")]
    Version(#[from] VersionError),
}

impl PostgresError {
    /// Tells an extension that is not there from other errors of a call of one of its functions.
    pub(super) fn of_extension(error: tokio_postgres::Error) -> PostgresError {
        let missing = [SqlState::UNDEFINED_FUNCTION, SqlState::INVALID_SCHEMA_NAME, SqlState::INSUFFICIENT_PRIVILEGE];
        match error.code() {
            Some(code) if missing.contains(code) => PostgresError::ExtensionMissing(error),
            _ => PostgresError::Query(error),
        }
    }
}

/// The error with what PostgreSQL says of it, which its own text leaves out.
pub(crate) fn full(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(db) => {
            let detail = db.detail().map(|detail| format!("; {detail}")).unwrap_or_default();
            format!("{} ({}){detail}", db.message(), db.code().code())
        }
        None => error.to_string(),
    }
}

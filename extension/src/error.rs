//! Errors with their SQLSTATE and a hint, raised at the boundary.

use std::fmt::Display;

use pgrx::pg_sys::panic::ErrorReport;
use pgrx::{PgLogLevel, PgSqlErrorCode};

/// What is wrong with a call.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    #[error("{0}")]
    Tag(#[from] cachetag_core::TagError),
    #[error("{0}")]
    Template(#[from] cachetag_core::TemplateError),
    #[error("{0}")]
    Predicate(#[from] cachetag_core::PredicateError),
    #[error("token {token:?} is not a version")]
    Token { token: String },
    #[error("table {relation} is not tracked")]
    NotTracked { relation: String },
    #[error("the row has no column {column:?}, which a rule of {relation} needs")]
    NoColumn { column: String, relation: String },
    #[error("the argument is not JSON: {0}")]
    Json(#[from] serde_json::Error),
    #[error("the number of literals does not match the predicate's")]
    Literals,
    #[error("{0}")]
    Spi(#[from] pgrx::spi::SpiError),
    #[error("an aggregate's function was called outside of an aggregate")]
    NoAggregate,
}

impl Error {
    fn code(&self) -> PgSqlErrorCode {
        match self {
            Error::Tag(_) | Error::Template(_) | Error::Predicate(_) | Error::Token { .. } | Error::Json(_) => {
                PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE
            }
            Error::NotTracked { .. } => PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            Error::NoColumn { .. } => PgSqlErrorCode::ERRCODE_UNDEFINED_COLUMN,
            Error::Literals | Error::Spi(_) | Error::NoAggregate => PgSqlErrorCode::ERRCODE_INTERNAL_ERROR,
        }
    }

    fn hint(&self) -> Option<String> {
        Some(match self {
            Error::Tag(_) => "Build tags with cachetag.tag(family, part, …): it encodes what needs to be.".into(),
            Error::Template(_) => "A template is a tag with column names in braces, such as product:{id}.".into(),
            Error::Predicate(_) => {
                "A predicate is column = 'x', <>, [NOT] IN (…), IS [NOT] NULL, joined by AND.".into()
            }
            Error::Token { .. } => "Pass the token that cachetag_get gave, as it is.".into(),
            Error::NotTracked { relation } => {
                format!("What depends on it would never be invalidated. Run: SELECT cachetag.track('{relation}', …);")
            }
            Error::NoColumn { .. } => {
                "Pass whole rows of the table, or select the columns that its templates name.".into()
            }
            Error::Json(_) | Error::Literals | Error::Spi(_) | Error::NoAggregate => return None,
        })
    }
}

/// Raises the error in PostgreSQL, or passes the value on.
pub(crate) fn raise<T, E: Into<Error>>(result: Result<T, E>) -> T {
    match result {
        Ok(value) => value,
        Err(error) => report(&error.into()),
    }
}

fn report(error: &Error) -> ! {
    let mut report = ErrorReport::new(error.code(), shown(error), "cachetag");
    if let Some(hint) = error.hint() {
        report = report.set_hint(hint);
    }
    report.report(PgLogLevel::ERROR);
    unreachable!("an ERROR does not return")
}

fn shown(error: &dyn Display) -> String {
    error.to_string()
}

//! Why rules or dependencies could not be read.

use cachetag_core::{PredicateError, TagError, TemplateError};

use super::operation::OperationsError;
use super::text::TextError;

/// A row of the catalog that this daemon cannot read. Going on without it would miss invalidations: the caller opens a new epoch.
#[derive(Debug, thiserror::Error)]
#[error("cachetag.{table}, row {id}, column {column}: {problem}")]
pub struct MappingError {
    pub(super) table: &'static str,
    pub(super) id: String,
    pub(super) column: &'static str,
    pub(super) problem: Problem,
}

#[derive(Debug, thiserror::Error)]
pub(super) enum Problem {
    #[error("the column is missing or NULL; is the extension of another version than the daemon?")]
    Missing,
    #[error(transparent)]
    Text(#[from] TextError),
    #[error(transparent)]
    Template(#[from] TemplateError),
    #[error(transparent)]
    Predicate(#[from] PredicateError),
    #[error(transparent)]
    Operations(#[from] OperationsError),
    #[error(transparent)]
    Tag(#[from] TagError),
}

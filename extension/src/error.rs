//! What the functions of the extension refuse, and how PostgreSQL hears of it.

use cachetag_core::{KeyTemplateError, PredicateError, TagError, TemplateError, VersionError};
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::{PgSqlErrorCode, function_name, spi};

/// Everything that goes wrong here, in the words of whoever called the function.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Tag(#[from] TagError),
    #[error(transparent)]
    Template(#[from] TemplateError),
    #[error(transparent)]
    KeyTemplate(#[from] KeyTemplateError),
    #[error(transparent)]
    Predicate(#[from] PredicateError),
    #[error("malformed token: {0}")]
    Token(VersionError),
    #[error("column \"{column}\" of table {table} does not exist")]
    NoSuchColumn { column: String, table: String, columns: String },
    #[error("a predicate cannot compare column \"{column}\", which is of type {type_name}")]
    PredicateType { column: String, type_name: String },
    #[error("a predicate cannot compare column \"{column}\": its collation is not deterministic")]
    PredicateCollation { column: String },
    #[error("the row has no column \"{column}\", which the rules of table {table} need")]
    RowColumn { column: String, table: String },
    #[error("column \"{column}\" is of type {found} in the row and of type {expected} in table {table}")]
    RowType { column: String, table: String, found: String, expected: String },
    #[error("the types of the arguments are not known")]
    UnknownArguments,
    #[error("this function is an event trigger and cannot be called")]
    NotAnEventTrigger,
    #[error("max_depth must be at least 1, not {0}")]
    MaxDepth(i32),
    #[error("the commit floor is not known: cachetag is not preloaded")]
    NotPreloaded,
    #[error("the snapshot of this transaction may be older than the token")]
    OldSnapshot,
    #[error("no capture is running")]
    NoCapture,
    #[error("a capture is running already")]
    CaptureRuns,
    #[error("the query is NULL or no text")]
    NoQuery,
    #[error(transparent)]
    Spi(#[from] spi::Error),
}

/// The result of everything that can be refused.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    fn sqlstate(&self) -> PgSqlErrorCode {
        use PgSqlErrorCode::*;
        match self {
            Error::Tag(_) | Error::Token(_) => ERRCODE_INVALID_TEXT_REPRESENTATION,
            Error::Template(_) | Error::KeyTemplate(_) | Error::Predicate(_) => ERRCODE_SYNTAX_ERROR,
            Error::NoSuchColumn { .. } | Error::RowColumn { .. } => ERRCODE_UNDEFINED_COLUMN,
            Error::PredicateType { .. } | Error::PredicateCollation { .. } => ERRCODE_FEATURE_NOT_SUPPORTED,
            Error::RowType { .. } => ERRCODE_DATATYPE_MISMATCH,
            Error::UnknownArguments => ERRCODE_INDETERMINATE_DATATYPE,
            Error::MaxDepth(_) => ERRCODE_INVALID_PARAMETER_VALUE,
            Error::NotAnEventTrigger => ERRCODE_E_R_I_E_EVENT_TRIGGER_PROTOCOL_VIOLATED,
            Error::NotPreloaded | Error::OldSnapshot | Error::NoCapture | Error::CaptureRuns => {
                ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE
            }
            Error::NoQuery => ERRCODE_NULL_VALUE_NOT_ALLOWED,
            Error::Spi(_) => ERRCODE_INTERNAL_ERROR,
        }
    }

    fn hint(&self) -> Option<String> {
        let hint = match self {
            Error::Tag(_) => "cachetag.tag(family, parts...) writes a tag as it has to be.".into(),
            Error::Template(_) => {
                "A template is a tag with column names in braces, for example 'product:{id}' or 'products'.".into()
            }
            Error::KeyTemplate(_) => {
                "A key template is a cache key with names in braces, for example 'page:product:{id}'.".into()
            }
            Error::Predicate(_) => "A predicate is comparisons of columns with literals joined by AND, for example \
                 'status IN (''new'', ''paid'') AND deleted_at IS NULL'."
                .into(),
            Error::Token(_) => {
                "Pass the token of the cache's answer as it is: ten digits, a dot, twenty digits.".into()
            }
            Error::NoSuchColumn { columns, .. } => format!("The table has the columns {columns}."),
            Error::PredicateType { .. } => "Values of the type may be equal and look different. Use a column of type boolean, \
                 integer, oid, text, varchar, uuid, date or of an enum, or leave the predicate out."
                .into(),
            Error::PredicateCollation { .. } => {
                "Values that look different may be equal. Leave the column out of the predicate.".into()
            }
            Error::RowColumn { .. } => {
                "Pass the whole row, for example cachetag.tags_of('products', p) FROM products p, or select the column too."
                    .into()
            }
            Error::RowType { expected, .. } => {
                format!("Its text could be another than the table's. Cast it to {expected}, or pass the row of the table.")
            }
            Error::UnknownArguments => "Call the function from SQL with arguments of known types.".into(),
            Error::MaxDepth(_) => "A dependency with max_depth 1 is followed from the changed tag only.".into(),
            Error::NotPreloaded => {
                "Add libcachetag to shared_preload_libraries, as the first of them, and restart the server. Without it, use the token as it is."
                    .into()
            }
            Error::OldSnapshot => {
                "In REPEATABLE READ, SHOW cachetag.floor as the first statement after BEGIN, or use READ COMMITTED.".into()
            }
            Error::NoCapture => "SELECT cachetag.capture_begin(); in this session, then the queries.".into(),
            Error::CaptureRuns => "End it with cachetag.capture_end() first.".into(),
            Error::NoQuery => "Pass one SELECT and its parameters, for example cachetag.capture('SELECT * FROM t WHERE id = $1', 42).".into(),
            Error::NotAnEventTrigger | Error::Spi(_) => return None,
        };
        Some(hint)
    }
}

impl From<Error> for ErrorReport {
    fn from(error: Error) -> ErrorReport {
        let report = ErrorReport::new(error.sqlstate(), error.to_string(), function_name!());
        match error.hint() {
            Some(hint) => report.set_hint(hint),
            None => report,
        }
    }
}

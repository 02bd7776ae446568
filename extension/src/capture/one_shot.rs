//! A capture of a single query, and one that explains itself.

use std::ffi::CString;

use pgrx::AnyElement;
use pgrx::prelude::*;

use super::session::{self, Capture};
use super::{advice, begin};
use crate::error::{Error, Result};
use crate::key::{Argument, arguments};

type Report = pg_sys::panic::ErrorReport;

/// Ends the capture of one query, whatever becomes of the query.
struct Ending;

impl Drop for Ending {
    fn drop(&mut self) {
        session::end();
    }
}

type Captured = TableIterator<
    'static,
    (
        name!(rows, Option<AnyElement>),
        name!(tags, Vec<String>),
        name!(as_of, Option<String>),
        name!(cacheable, bool),
        name!(reasons, Vec<String>),
        name!(depends_on_session, Vec<String>),
    ),
>;

/// `capture(query, parameters…)`: the rows of a query and what they depend on.
#[pg_extern(sql = false)]
fn capture_query(fcinfo: pg_sys::FunctionCallInfo) -> Result<Captured, Report> {
    // SAFETY: declared in SQL with a text, then VARIADIC "any" or nothing.
    let (query, arguments) = unsafe { (pgrx::fcinfo::pg_getarg::<&str>(fcinfo, 0), arguments(fcinfo, 1)?) };
    Ok(captured(None, query, arguments)?)
}

/// `capture_as_of(token, query, parameters…)`: the same, to be stored under a token.
#[pg_extern(sql = false)]
fn capture_query_as_of(fcinfo: pg_sys::FunctionCallInfo) -> Result<Captured, Report> {
    // SAFETY: declared in SQL with two texts, then VARIADIC "any" or nothing.
    let (token, query, arguments) = unsafe {
        (pgrx::fcinfo::pg_getarg::<&str>(fcinfo, 0), pgrx::fcinfo::pg_getarg::<&str>(fcinfo, 1), arguments(fcinfo, 2)?)
    };
    Ok(captured(token, query, arguments)?)
}

fn captured(token: Option<&str>, query: Option<&str>, arguments: Option<Vec<Argument>>) -> Result<Captured> {
    let (rows, capture) = run(token, query, arguments, false)?;
    let reasons = capture.all_reasons();
    let session = capture.session.iter().cloned().collect();
    Ok(TableIterator::once((rows, capture.tags(), capture.as_of, reasons.is_empty(), reasons, session)))
}

type Explained = TableIterator<
    'static,
    (
        name!(relation, Option<pg_sys::Oid>),
        name!(tags, Vec<String>),
        name!(reason, Option<String>),
        name!(finer, Option<String>),
    ),
>;

/// `explain_tags(query, parameters…)`: for each read of a table its tags, why they are no finer, and the rule that would make them so.
#[pg_extern(sql = false)]
fn explain_tags(fcinfo: pg_sys::FunctionCallInfo) -> Result<Explained, Report> {
    // SAFETY: declared in SQL with a text, then VARIADIC "any" or nothing.
    let (query, arguments) = unsafe { (pgrx::fcinfo::pg_getarg::<&str>(fcinfo, 0), arguments(fcinfo, 1)?) };
    let (_, capture) = run(None, query, arguments, true)?;
    let mut rows = Vec::new();
    for (place, scan) in capture.scans.iter().enumerate() {
        let finer = scan.finer.as_ref().map(|template| advice::track_sql(scan.relation, template));
        rows.push((Some(scan.relation), capture.tags_of(place), scan.reason.clone(), finer));
    }
    for reason in &capture.reasons {
        // What is said of a table has been said with it.
        if !capture.scans.iter().any(|scan| scan.reason.as_ref().is_some_and(|said| reason.ends_with(said.as_str()))) {
            rows.push((None, Vec::new(), Some(reason.clone()), None));
        }
    }
    rows.extend(
        capture.session.iter().map(|what| (None, Vec::new(), Some(format!("depends on {what} of the session")), None)),
    );
    Ok(TableIterator::new(rows))
}

/// `advise()`: rules that would make what this session has captured finer, what concerns most scans first.
#[pg_extern(sql = false)]
#[allow(clippy::type_complexity)]
fn advise() -> TableIterator<
    'static,
    (
        name!(relation, pg_sys::Oid),
        name!(template, String),
        name!(scans, i64),
        name!(example, String),
        name!(sql, String),
    ),
> {
    let rows = advice::all().into_iter().map(|(relation, template, scans, example)| {
        let sql = advice::track_sql(relation, &template);
        (relation, template, scans, example, sql)
    });
    TableIterator::new(rows.collect::<Vec<_>>())
}

fn run(
    token: Option<&str>,
    query: Option<&str>,
    arguments: Option<Vec<Argument>>,
    explain: bool,
) -> Result<(Option<AnyElement>, Capture)> {
    let query = query.ok_or(Error::NoQuery)?.trim().trim_end_matches(';');
    let arguments = arguments.unwrap_or_default();
    // On lines of its own: the query may end in a comment.
    let text = format!("SELECT coalesce(jsonb_agg(to_jsonb(q)), '[]') FROM (\n{query}\n) AS q");
    let text = CString::new(text).map_err(|_| Error::NoQuery)?;
    if session::is_active() {
        return Err(Error::CaptureRuns);
    }
    begin(token, Default::default(), true)?;
    if explain {
        session::with(Capture::explain);
    }
    let ending = Ending;
    let rows = execute(&text, &arguments)?;
    std::mem::forget(ending);
    let capture = session::end().ok_or(Error::NoCapture)?;
    Ok((rows, capture))
}

/// Runs the query with a snapshot of its own, which in READ COMMITTED is a new one, and gives its only value.
fn execute(query: &std::ffi::CStr, arguments: &[Argument]) -> Result<Option<AnyElement>> {
    let count = i32::try_from(arguments.len()).unwrap_or(i32::MAX);
    let is_unknown = |type_oid| type_oid == pg_sys::UNKNOWNOID;
    let mut types = Vec::with_capacity(arguments.len());
    let mut values = Vec::with_capacity(arguments.len());
    let mut nulls = Vec::with_capacity(arguments.len());
    for argument in arguments {
        // A literal without a type is a C string: take it for a text.
        let value = match argument.datum {
            // SAFETY: a value of type unknown is a C string.
            Some(datum) if is_unknown(argument.type_oid) => unsafe {
                Some(pg_sys::Datum::from(pg_sys::cstring_to_text(datum.cast_mut_ptr())))
            },
            other => other,
        };
        types.push(if is_unknown(argument.type_oid) { pg_sys::TEXTOID } else { argument.type_oid });
        values.push(value.unwrap_or(pg_sys::Datum::null()));
        nulls.push(if value.is_some() { b' ' } else { b'n' } as std::ffi::c_char);
    }
    // SAFETY: the arrays have an element for each parameter and live through the call. The value is copied into the caller's memory before SPI's goes.
    unsafe {
        pg_sys::SPI_connect();
        let code = pg_sys::SPI_execute_with_args(
            query.as_ptr(),
            count,
            types.as_mut_ptr(),
            values.as_mut_ptr(),
            nulls.as_ptr(),
            false,
            0,
        );
        let mut rows = None;
        if code == pg_sys::SPI_OK_SELECT as i32 && pg_sys::SPI_processed > 0 {
            let table = pg_sys::SPI_tuptable;
            let mut is_null = false;
            let value = pg_sys::SPI_getbinval(*(*table).vals, (*table).tupdesc, 1, &mut is_null);
            if !is_null {
                let copy = pg_sys::SPI_datumTransfer(value, false, -1);
                rows = AnyElement::from_polymorphic_datum(copy, false, pg_sys::JSONBOID);
            }
        }
        pg_sys::SPI_finish();
        Ok(rows)
    }
}

//! Automatic tags: which tags the result of unchanged queries depends on.
//!
//! ```text
//! hooks ─▶ statement (one execution) ─▶ record, watch (values met), memo (met before) ─▶ session
//!              └─▶ plan (once a plan) ─▶ cover (what conditions say), reads (which columns) ─▶ choice (which rule speaks for that)
//!                    └─▶ expression, functions (what is not rows)
//! ```
//!
//! Sound by construction: what is not known to be covered by a tag makes the result one that may not be cached.

mod advice;
mod choice;
mod cover;
mod equality;
mod expression;
mod function_names;
mod functions;
mod hash;
mod hooks;
mod memo;
mod nodes;
mod one_shot;
mod plan;
mod reads;
mod record;
mod row_types;
mod session;
mod statement;
mod watch;

use pgrx::prelude::*;

use crate::broken::{Guard, forgets};
use crate::error::{Error, Result};
use crate::snapshot;
use crate::token::{self, Raised};
use session::Capture;

pub use hooks::init;

/// Begins a capture; one that is running is forgotten.
#[pg_extern(sql = false)]
fn capture_begin(token: Option<&str>, keyed_by: Option<Vec<Option<String>>>) -> Result<(), pg_sys::panic::ErrorReport> {
    let keyed_by = keyed_by.into_iter().flatten().flatten().collect();
    Ok(begin(token, keyed_by, false)?)
}

fn begin(token: Option<&str>, keyed_by: std::collections::BTreeSet<String>, is_one_shot: bool) -> Result<()> {
    session::end();
    let mut capture = Capture::keyed_by(keyed_by);
    match token::raise(token)? {
        Raised::To(version) => capture.as_of = version.map(|version| version.to_string()),
        Raised::Not(reason) => capture.refuse(reason),
    }
    // Rules and definitions that changed before `as_of` are known from here on; later changes invalidate what is stored under it.
    // SAFETY: reads messages of other backends, as every lock does.
    unsafe { pg_sys::AcceptInvalidationMessages() };
    if hooks::may_hold() {
        let query = c"SELECT pg_catalog.count(*)::pg_catalog.text FROM pg_catalog.pg_cursors WHERE is_holdable AND $1 IS NOT NULL";
        let rows = snapshot::select(query, pg_sys::InvalidOid, snapshot::Seen::ByStatement)?;
        match rows.first().and_then(|row| row.first()) {
            Some(Some(count)) if count == "0" => hooks::holds_none(),
            _ => capture.refuse("a cursor WITH HOLD is open, whose rows were there before"),
        }
    }
    hooks::on_begin(is_one_shot);
    session::begin(capture);
    Ok(())
}

/// Ends the capture and says what the result depends on.
#[pg_extern(sql = false)]
#[allow(clippy::type_complexity)]
fn capture_end() -> Result<
    TableIterator<
        'static,
        (
            name!(tags, Vec<String>),
            name!(as_of, Option<String>),
            name!(cacheable, bool),
            name!(reasons, Vec<String>),
            name!(depends_on_session, Vec<String>),
        ),
    >,
    pg_sys::panic::ErrorReport,
> {
    let mut capture = session::end().ok_or(Error::NoCapture)?;
    if forgets(Guard::Version)
        && let Raised::To(Some(version)) = token::raise(capture.as_of.as_deref())?
    {
        capture.as_of = Some(version.to_string());
    }
    let reasons = capture.all_reasons();
    let session = capture.session.iter().cloned().collect();
    Ok(TableIterator::once((capture.tags(), capture.as_of, reasons.is_empty(), reasons, session)))
}

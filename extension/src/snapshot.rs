//! Queries on what is committed now, whatever snapshot the transaction has.
//!
//! A REPEATABLE READ transaction does not see the rules that others have added since it began. Its rows are nevertheless published under them, and
//! what a backend keeps of the rules must not be older than the message that told it to forget them.

use std::ffi::CStr;

use pgrx::{pg_sys, spi};

use crate::error::{Error, Result};

/// Which state of the database a query sees.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// Everything committed by now and what this transaction has done, as the server sees its own catalog.
    Now,
    /// What the statement that called us sees.
    ByStatement,
}

/// A row in text; `None` is NULL.
pub type Row = Vec<Option<String>>;

/// Runs a query that reads only. `$1` is an oid.
pub fn select(query: &CStr, oid: pg_sys::Oid, seen: Seen) -> Result<Vec<Row>> {
    run(query, oid, seen, true)
}

/// Runs a query for what it does. `$1` is an oid. Inside a utility command there is no statement whose snapshot it could take.
pub fn call(query: &CStr, oid: pg_sys::Oid) -> Result<()> {
    run(query, oid, Seen::ByStatement, false).map(drop)
}

fn run(query: &CStr, oid: pg_sys::Oid, seen: Seen, read_only: bool) -> Result<Vec<Row>> {
    let mut types = [pg_sys::OIDOID];
    let mut values = [pg_sys::Datum::from(oid)];
    // SAFETY: the arrays have the one element that the query's parameter takes and live through the call. The snapshot is pushed and popped in this
    // function; if an error unwinds past it, the abort pops it and ends SPI. Rows are copied before SPI_finish frees them.
    unsafe {
        if seen == Seen::Now {
            pg_sys::PushActiveSnapshot(pg_sys::GetCatalogSnapshot(pg_sys::InvalidOid));
        }
        pg_sys::SPI_connect();
        let code = pg_sys::SPI_execute_with_args(
            query.as_ptr(),
            1,
            types.as_mut_ptr(),
            values.as_mut_ptr(),
            std::ptr::null(),
            read_only,
            0,
        );
        let rows = if code == pg_sys::SPI_OK_SELECT as i32 { Ok(copy_rows()) } else { Err(code) };
        pg_sys::SPI_finish();
        if seen == Seen::Now {
            pg_sys::PopActiveSnapshot();
        }
        rows.map_err(|code| Error::Spi(spi::Spi::check_status(code).err().unwrap_or(spi::Error::NoTupleTable)))
    }
}

/// # Safety
///
/// A query has just been run through SPI, with rows for its result.
unsafe fn copy_rows() -> Vec<Row> {
    // SAFETY: SPI keeps table and description until it is finished; the numbers stay in their range.
    unsafe {
        let table = pg_sys::SPI_tuptable;
        let description = (*table).tupdesc;
        let text = |tuple, column| {
            let value = pg_sys::SPI_getvalue(tuple, description, column);
            (!value.is_null()).then(|| CStr::from_ptr(value).to_string_lossy().into_owned())
        };
        (0..pg_sys::SPI_processed as usize)
            .map(|at| {
                let tuple = *(*table).vals.add(at);
                (1..=(*description).natts).map(|column| text(tuple, column)).collect()
            })
            .collect()
    }
}

/// The oid of a table of the extension.
pub fn own_table(name: &CStr) -> pg_sys::Oid {
    // SAFETY: look-ups by name that give InvalidOid for what is missing.
    unsafe {
        let schema = pg_sys::get_namespace_oid(c"cachetag".as_ptr(), true);
        pg_sys::get_relname_relid(name.as_ptr(), schema)
    }
}

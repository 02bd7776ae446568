//! Which role calls, and whether what a session reads may be stored under a token.

use cachetag_core::Version;
use pgrx::prelude::*;

use crate::error::{Error, raise};

/// The role that calls, as SET ROLE left it; not the owner of a SECURITY DEFINER function on the way.
#[pg_extern(sql = false)]
fn caller() -> pg_sys::Oid {
    // SAFETY: reads a variable of this backend.
    unsafe { pg_sys::GetOuterUserId() }
}

/// See the SQL comment on `cachetag.covers`.
#[pg_extern(sql = false)]
fn covers(token: &str) -> bool {
    let version: Version = raise(token.parse().map_err(|_| Error::Token { token: token.chars().take(80).collect() }));
    // SAFETY: all of these read this backend's or shared state and have no precondition beyond a running transaction.
    unsafe {
        if pg_sys::RecoveryInProgress() {
            // A standby's snapshots see what has been replayed; one that is held for the transaction was taken before now.
            return !holds_snapshot() && pg_sys::GetXLogReplayRecPtr(std::ptr::null_mut()) >= version.lsn.0;
        }
        // Own writes are visible to nobody else yet; a token from beyond the end belongs to another history.
        !holds_snapshot()
            && pg_sys::GetTopTransactionIdIfAny() == pg_sys::InvalidTransactionId
            && version.lsn.0 <= pg_sys::GetXLogInsertRecPtr()
    }
}

/// Do all statements of the transaction read from one snapshot? This very call has taken it then, perhaps long after another one.
unsafe fn holds_snapshot() -> bool {
    // SAFETY: reads a variable of this backend.
    unsafe { pg_sys::XactIsoLevel >= pg_sys::XACT_REPEATABLE_READ as i32 }
}

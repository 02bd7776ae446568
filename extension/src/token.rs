//! Tokens: may what this session reads now be stored under one?

use cachetag_core::Version;
use pgrx::prelude::*;

use crate::error::Error;

/// Is every snapshot that this transaction reads with taken after the token was given, and does it see every commit up to the token?
///
/// `false` for a transaction that has written (it sees what nobody else does yet), for one whose only snapshot may be older than the token
/// (REPEATABLE READ and above), for a standby that has not replayed as far, and for a server whose log ends before the token: another history.
#[pg_extern(sql = false)]
fn covers(token: &str) -> Result<bool, pg_sys::panic::ErrorReport> {
    let token: Version = token.parse().map_err(Error::Token)?;
    // SAFETY: plain reads of the state of this backend and of shared memory.
    let reached = unsafe {
        if pg_sys::GetTopTransactionIdIfAny() != pg_sys::InvalidTransactionId
            || pg_sys::XactIsoLevel >= pg_sys::XACT_REPEATABLE_READ as i32
        {
            return Ok(false);
        }
        if pg_sys::RecoveryInProgress() {
            pg_sys::GetXLogReplayRecPtr(std::ptr::null_mut())
        } else {
            pg_sys::GetXLogInsertRecPtr()
        }
    };
    Ok(token.lsn.0 <= reached)
}

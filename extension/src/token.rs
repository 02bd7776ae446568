//! Tokens: may what this session reads now be stored under one?

use cachetag_core::{Epoch, Lsn, Version};
use pgrx::prelude::*;

use crate::error::{Error, Result};
use crate::floor;
use crate::snapshot::{self, Seen};

/// Under which version what the session reads from now on may be stored.
pub enum Raised {
    /// This one; `None` if there was no token.
    To(Option<Version>),
    /// None.
    Not(&'static str),
}

/// Is every snapshot that this transaction reads with taken after the token was given, and does it see every commit up to the token?
///
/// `false` for a transaction that has written (it sees what nobody else does yet), for one whose only snapshot may be older than the token
/// (REPEATABLE READ and above, unless SHOW cachetag.floor has proved the contrary), for a standby that has not replayed as far or has not heard of the token's
/// epoch, and for a server whose log ends before the token: another history.
#[pg_extern(sql = false)]
fn covers(token: &str) -> Result<bool, pg_sys::panic::ErrorReport> {
    let token = parse(token)?;
    Ok(!has_written() && reached().is_ok_and(|reached| token.lsn <= reached) && has_heard_of(token.epoch)?)
}

/// The token raised to the newest version under which what this session reads from now on may be stored; `None` if not even the token may be used.
#[pg_extern(sql = false)]
fn as_of(token: &str) -> Result<Option<String>, pg_sys::panic::ErrorReport> {
    if floor::current() == Err(floor::Unknown::NotPreloaded) {
        return Err(Error::NotPreloaded.into());
    }
    if is_repeatable() && floor::shown().is_none() {
        return Err(Error::OldSnapshot.into());
    }
    match raise(Some(token))? {
        Raised::To(Some(version)) if !has_written() => Ok(Some(version.to_string())),
        _ => Ok(None),
    }
}

/// Raises a token to the commit floor; without preload it stays what it is. In REPEATABLE READ the floor is the one that was shown before the snapshot, even
/// if it is lower than the token.
pub fn raise(token: Option<&str>) -> Result<Raised> {
    let token = token.map(parse).transpose()?;
    let reached = match reached() {
        Ok(reached) => reached,
        Err(reason) => return Ok(Raised::Not(reason)),
    };
    let Some(token) = token else { return Ok(Raised::To(None)) };
    if !has_heard_of(token.epoch)? {
        return Ok(Raised::Not(
            "this standby has not heard of the token's epoch yet, or was left behind by a failover",
        ));
    }
    let lsn = if is_repeatable() {
        reached
    } else if token.lsn > reached {
        return Ok(Raised::Not("this server has not got as far as the token, or its log is another one"));
    } else {
        floor::current().map_or(token.lsn, |floor| floor.max(token.lsn))
    };
    Ok(Raised::To(Some(Version::new(token.epoch, lsn))))
}

fn parse(token: &str) -> Result<Version> {
    token.parse().map_err(Error::Token)
}

fn has_written() -> bool {
    // SAFETY: a read of the state of this backend.
    unsafe { pg_sys::GetTopTransactionIdIfAny() != pg_sys::InvalidTransactionId }
}

fn is_repeatable() -> bool {
    // SAFETY: a read of the state of this backend.
    unsafe { pg_sys::XactIsoLevel >= pg_sys::XACT_REPEATABLE_READ as i32 }
}

/// May this server have got as far in the history of an epoch as its log says? A standby that holds commits which a failover has lost is ahead of the
/// promoted server, in another history. The daemon reports an epoch before it vouches for anything in it, so whoever follows that history knows it.
fn has_heard_of(epoch: Epoch) -> Result<bool> {
    // SAFETY: a read of shared memory.
    if unsafe { !pg_sys::RecoveryInProgress() } {
        return Ok(true);
    }
    let query = c"SELECT cachetag._newest_epoch()::pg_catalog.text WHERE $1 IS NOT NULL";
    let rows = snapshot::select(query, pg_sys::InvalidOid, Seen::Now)?;
    let newest = rows.into_iter().flatten().flatten().next().and_then(|text| text.parse::<u64>().ok());
    Ok(newest.is_some_and(|newest| newest >= epoch.get()))
}

/// The position up to which what this transaction reads from now on is complete, given that a token is one of commits that were visible when it was given.
fn reached() -> Result<Lsn, &'static str> {
    if is_repeatable() {
        return floor::shown().ok_or(
            "the transaction is REPEATABLE READ, and its snapshot may be older than the token: SHOW cachetag.floor before its first query",
        );
    }
    // SAFETY: plain reads of shared memory.
    Ok(Lsn(unsafe {
        if pg_sys::RecoveryInProgress() {
            pg_sys::GetXLogReplayRecPtr(std::ptr::null_mut())
        } else {
            pg_sys::GetXLogInsertRecPtr()
        }
    }))
}

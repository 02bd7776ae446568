//! Messages about a transaction as a whole: its begin and end, its origin, its two phases.

use super::ParseError;
use super::reader::Reader;
use crate::source::{Lsn, PgTime};

/// A transaction follows; all its changes come before its [`Commit`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Begin {
    /// Where the commit record begins: the [`Commit::commit_lsn`] to come.
    pub final_lsn: Lsn,
    /// When it was committed.
    pub commit_time: PgTime,
    /// Its id.
    pub xid: u32,
}

impl Begin {
    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Begin, ParseError> {
        Ok(Begin {
            final_lsn: reader.lsn("final LSN")?,
            commit_time: reader.time("commit time")?,
            xid: reader.u32("transaction id")?,
        })
    }
}

/// The transaction is complete.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Commit {
    /// Where the commit record begins.
    pub commit_lsn: Lsn,
    /// Where the commit record ends: the position that versions are made of and that is confirmed to the server.
    pub end_lsn: Lsn,
    /// When it was committed.
    pub commit_time: PgTime,
}

impl Commit {
    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Commit, ParseError> {
        no_flags(reader)?;
        Ok(Commit {
            commit_lsn: reader.lsn("commit LSN")?,
            end_lsn: reader.lsn("end LSN")?,
            commit_time: reader.time("commit time")?,
        })
    }
}

/// The transaction was itself replicated from another server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin<'a> {
    /// Its commit position over there.
    pub commit_lsn: Lsn,
    /// Name of the origin, in bytes: whatever the other side chose.
    pub name: &'a [u8],
}

impl<'a> Origin<'a> {
    pub(super) fn read(reader: &mut Reader<'a>) -> Result<Origin<'a>, ParseError> {
        Ok(Origin { commit_lsn: reader.lsn("commit LSN")?, name: reader.c_string("origin name")? })
    }
}

/// A step of a two-phase transaction (protocol version 3): the begin of a prepared one, PREPARE, COMMIT PREPARED.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TwoPhase<'a> {
    /// Where the record of this step begins.
    pub lsn: Lsn,
    /// Where it ends.
    pub end_lsn: Lsn,
    /// When it happened.
    pub time: PgTime,
    /// The transaction's id.
    pub xid: u32,
    /// The global identifier that the user gave, in bytes.
    pub gid: &'a [u8],
}

impl<'a> TwoPhase<'a> {
    pub(super) fn read_begin(reader: &mut Reader<'a>) -> Result<TwoPhase<'a>, ParseError> {
        Ok(TwoPhase {
            lsn: reader.lsn("LSN")?,
            end_lsn: reader.lsn("end LSN")?,
            time: reader.time("time")?,
            xid: reader.u32("transaction id")?,
            gid: reader.c_string("global transaction id")?,
        })
    }

    pub(super) fn read(reader: &mut Reader<'a>) -> Result<TwoPhase<'a>, ParseError> {
        no_flags(reader)?;
        TwoPhase::read_begin(reader)
    }
}

/// ROLLBACK PREPARED (protocol version 3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RollbackPrepared<'a> {
    /// Where the PREPARE record ends.
    pub prepare_end_lsn: Lsn,
    /// Where the record of the rollback ends.
    pub rollback_end_lsn: Lsn,
    /// When it was prepared.
    pub prepare_time: PgTime,
    /// When it was rolled back.
    pub rollback_time: PgTime,
    /// The transaction's id.
    pub xid: u32,
    /// The global identifier that the user gave, in bytes.
    pub gid: &'a [u8],
}

impl<'a> RollbackPrepared<'a> {
    pub(super) fn read(reader: &mut Reader<'a>) -> Result<RollbackPrepared<'a>, ParseError> {
        no_flags(reader)?;
        Ok(RollbackPrepared {
            prepare_end_lsn: reader.lsn("prepare end LSN")?,
            rollback_end_lsn: reader.lsn("rollback end LSN")?,
            prepare_time: reader.time("prepare time")?,
            rollback_time: reader.time("rollback time")?,
            xid: reader.u32("transaction id")?,
            gid: reader.c_string("global transaction id")?,
        })
    }
}

/// A byte that every version so far defines as 0; another value means a protocol that we do not speak.
pub(super) fn no_flags(reader: &mut Reader<'_>) -> Result<(), ParseError> {
    match reader.u8("flags")? {
        0 => Ok(()),
        flags => Err(reader.unexpected("flags", flags)),
    }
}

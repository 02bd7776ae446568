//! Blocks of a transaction that is still in progress (protocol version 2 with `streaming`).

use super::ParseError;
use super::reader::Reader;
use super::transaction::no_flags;
use crate::source::{Lsn, PgTime};

/// A block of changes of one transaction follows, up to Stream Stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamStart {
    /// The top-level transaction.
    pub xid: u32,
    /// Is this its first block?
    pub first_segment: bool,
}

impl StreamStart {
    pub(super) fn read(reader: &mut Reader<'_>) -> Result<StreamStart, ParseError> {
        let xid = reader.u32("transaction id")?;
        let first_segment = match reader.u8("first segment")? {
            0 => false,
            1 => true,
            byte => return Err(reader.unexpected("first segment", byte)),
        };
        Ok(StreamStart { xid, first_segment })
    }
}

/// A streamed transaction is committed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamCommit {
    /// The top-level transaction.
    pub xid: u32,
    /// Where the commit record begins.
    pub commit_lsn: Lsn,
    /// Where the commit record ends.
    pub end_lsn: Lsn,
    /// When it was committed.
    pub commit_time: PgTime,
}

impl StreamCommit {
    pub(super) fn read(reader: &mut Reader<'_>) -> Result<StreamCommit, ParseError> {
        let xid = reader.u32("transaction id")?;
        no_flags(reader)?;
        Ok(StreamCommit {
            xid,
            commit_lsn: reader.lsn("commit LSN")?,
            end_lsn: reader.lsn("end LSN")?,
            commit_time: reader.time("commit time")?,
        })
    }
}

/// A streamed transaction, or one subtransaction of it, is rolled back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamAbort {
    /// The top-level transaction.
    pub xid: u32,
    /// What is rolled back: a subtransaction, or `xid` itself.
    pub subxid: u32,
}

impl StreamAbort {
    pub(super) fn read(reader: &mut Reader<'_>) -> Result<StreamAbort, ParseError> {
        Ok(StreamAbort { xid: reader.u32("transaction id")?, subxid: reader.u32("subtransaction id")? })
    }
}

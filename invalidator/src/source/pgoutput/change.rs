//! Changes of rows, and logical messages, which take their place in a transaction as rows do.

use super::ParseError;
use super::reader::Reader;
use super::tuple::Tuple;
use crate::source::Lsn;

/// What is known of a row before its change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OldTuple<'a> {
    /// The columns of the replica identity; every other column is NULL here, whatever it was.
    Key(Tuple<'a>),
    /// The whole row (`REPLICA IDENTITY FULL`).
    Full(Tuple<'a>),
}

impl<'a> OldTuple<'a> {
    /// The columns, whichever they are.
    pub fn tuple(&self) -> Tuple<'a> {
        match self {
            OldTuple::Key(tuple) | OldTuple::Full(tuple) => *tuple,
        }
    }
}

/// A new row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Insert<'a> {
    /// The transaction, inside a stream block.
    pub xid: Option<u32>,
    /// Oid of the table.
    pub relation: u32,
    /// The row.
    pub new: Tuple<'a>,
}

impl<'a> Insert<'a> {
    pub(super) fn read(reader: &mut Reader<'a>, in_stream: bool) -> Result<Insert<'a>, ParseError> {
        let xid = reader.stream_xid(in_stream)?;
        let relation = reader.u32("relation oid")?;
        match reader.u8("tuple kind")? {
            b'N' => Ok(Insert { xid, relation, new: Tuple::read(reader)? }),
            kind => Err(reader.unexpected("tuple kind", kind)),
        }
    }
}

/// A changed row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Update<'a> {
    /// The transaction, inside a stream block.
    pub xid: Option<u32>,
    /// Oid of the table.
    pub relation: u32,
    /// The row before; absent when the replica identity is a key and the key did not change.
    pub old: Option<OldTuple<'a>>,
    /// The row after.
    pub new: Tuple<'a>,
}

impl<'a> Update<'a> {
    pub(super) fn read(reader: &mut Reader<'a>, in_stream: bool) -> Result<Update<'a>, ParseError> {
        let xid = reader.stream_xid(in_stream)?;
        let relation = reader.u32("relation oid")?;
        let mut kind = reader.u8("tuple kind")?;
        let old = match kind {
            b'K' => Some(OldTuple::Key(Tuple::read(reader)?)),
            b'O' => Some(OldTuple::Full(Tuple::read(reader)?)),
            _ => None,
        };
        if old.is_some() {
            kind = reader.u8("tuple kind")?;
        }
        match kind {
            b'N' => Ok(Update { xid, relation, old, new: Tuple::read(reader)? }),
            kind => Err(reader.unexpected("tuple kind", kind)),
        }
    }
}

/// A deleted row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Delete<'a> {
    /// The transaction, inside a stream block.
    pub xid: Option<u32>,
    /// Oid of the table.
    pub relation: u32,
    /// The row before.
    pub old: OldTuple<'a>,
}

impl<'a> Delete<'a> {
    pub(super) fn read(reader: &mut Reader<'a>, in_stream: bool) -> Result<Delete<'a>, ParseError> {
        let xid = reader.stream_xid(in_stream)?;
        let relation = reader.u32("relation oid")?;
        let old = match reader.u8("tuple kind")? {
            b'K' => OldTuple::Key(Tuple::read(reader)?),
            b'O' => OldTuple::Full(Tuple::read(reader)?),
            kind => return Err(reader.unexpected("tuple kind", kind)),
        };
        Ok(Delete { xid, relation, old })
    }
}

/// Emptied tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Truncate<'a> {
    /// The transaction, inside a stream block.
    pub xid: Option<u32>,
    /// Was it CASCADE?
    pub cascade: bool,
    /// Was it RESTART IDENTITY?
    pub restart_identity: bool,
    /// The tables.
    pub relations: Oids<'a>,
}

impl<'a> Truncate<'a> {
    pub(super) fn read(reader: &mut Reader<'a>, in_stream: bool) -> Result<Truncate<'a>, ParseError> {
        let xid = reader.stream_xid(in_stream)?;
        let count = reader.length("relation count")?;
        let options = reader.u8("options")?;
        let bytes = reader.take(count.saturating_mul(size_of::<u32>()), "relation oids")?;
        let relations = Oids { oids: bytes.as_chunks().0 };
        Ok(Truncate { xid, cascade: options & 1 != 0, restart_identity: options & 2 != 0, relations })
    }
}

/// Iterator over the tables of a [`Truncate`]; a copy begins anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Oids<'a> {
    oids: &'a [[u8; 4]],
}

impl Iterator for Oids<'_> {
    type Item = u32;

    fn next(&mut self) -> Option<u32> {
        let (first, rest) = self.oids.split_first()?;
        self.oids = rest;
        Some(u32::from_be_bytes(*first))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.oids.len(), Some(self.oids.len()))
    }
}

impl ExactSizeIterator for Oids<'_> {}

/// What `pg_logical_emit_message` wrote. Every application's messages arrive: the prefix says whose it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogicalMessage<'a> {
    /// The transaction, inside a stream block.
    pub xid: Option<u32>,
    /// Part of its transaction; otherwise it was sent at once, and may stand outside of any.
    pub transactional: bool,
    /// Where it stands in the WAL.
    pub lsn: Lsn,
    /// The prefix, in bytes: a foreign one need not be UTF-8.
    pub prefix: &'a [u8],
    /// The content.
    pub content: &'a [u8],
}

impl<'a> LogicalMessage<'a> {
    pub(super) fn read(reader: &mut Reader<'a>, in_stream: bool) -> Result<LogicalMessage<'a>, ParseError> {
        let xid = reader.stream_xid(in_stream)?;
        let transactional = reader.u8("flags")? & 1 != 0;
        let lsn = reader.lsn("LSN")?;
        let prefix = reader.c_string("prefix")?;
        let length = reader.length("content length")?;
        let content = reader.take(length, "content")?;
        Ok(LogicalMessage { xid, transactional, lsn, prefix, content })
    }
}

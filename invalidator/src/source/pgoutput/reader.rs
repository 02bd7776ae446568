//! A cursor over the bytes of one message; every read names its field, so that an error can.

use super::ParseError;
use crate::source::{Lsn, PgTime};

/// Cursor; never reads past the end, never copies.
#[derive(Debug, Clone)]
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    message: &'static str,
}

impl<'a> Reader<'a> {
    /// Begins at byte `at` of a message whose name, for errors, is `message`.
    pub(super) fn new(bytes: &'a [u8], at: usize, message: &'static str) -> Reader<'a> {
        Reader { bytes, at, message }
    }

    /// Offset of the next byte.
    pub(super) fn at(&self) -> usize {
        self.at
    }

    /// What was read since byte `start`.
    pub(super) fn since(&self, start: usize) -> &'a [u8] {
        self.bytes.get(start..self.at).unwrap_or(&[])
    }

    /// The next `count` bytes.
    #[inline]
    pub(super) fn take(&mut self, count: usize, field: &'static str) -> Result<&'a [u8], ParseError> {
        match self.bytes.get(self.at..).and_then(|rest| rest.get(..count)) {
            Some(taken) => {
                self.at += count;
                Ok(taken)
            }
            None => Err(self.truncated(field)),
        }
    }

    #[inline]
    fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], ParseError> {
        match self.bytes.get(self.at..).and_then(|rest| rest.first_chunk::<N>()) {
            Some(taken) => {
                self.at += N;
                Ok(*taken)
            }
            None => Err(self.truncated(field)),
        }
    }

    #[inline]
    pub(super) fn u8(&mut self, field: &'static str) -> Result<u8, ParseError> {
        self.array::<1>(field).map(|[byte]| byte)
    }

    #[inline]
    pub(super) fn u32(&mut self, field: &'static str) -> Result<u32, ParseError> {
        self.array(field).map(u32::from_be_bytes)
    }

    #[inline]
    pub(super) fn i32(&mut self, field: &'static str) -> Result<i32, ParseError> {
        self.array(field).map(i32::from_be_bytes)
    }

    /// A 32-bit length or count.
    #[inline]
    pub(super) fn length(&mut self, field: &'static str) -> Result<usize, ParseError> {
        let offset = self.at;
        let value = self.i32(field)?;
        usize::try_from(value).map_err(|_| ParseError::Negative { message: self.message, field, value, offset })
    }

    /// A 16-bit count.
    #[inline]
    pub(super) fn count(&mut self, field: &'static str) -> Result<u16, ParseError> {
        let offset = self.at;
        let value = i16::from_be_bytes(self.array(field)?);
        u16::try_from(value).map_err(|_| ParseError::Negative {
            message: self.message,
            field,
            value: i32::from(value),
            offset,
        })
    }

    #[inline]
    pub(super) fn lsn(&mut self, field: &'static str) -> Result<Lsn, ParseError> {
        self.array(field).map(|bytes| Lsn(u64::from_be_bytes(bytes)))
    }

    #[inline]
    pub(super) fn time(&mut self, field: &'static str) -> Result<PgTime, ParseError> {
        self.array(field).map(|bytes| PgTime(i64::from_be_bytes(bytes)))
    }

    /// The bytes before the next NUL, which is consumed.
    pub(super) fn c_string(&mut self, field: &'static str) -> Result<&'a [u8], ParseError> {
        let rest = self.bytes.get(self.at..).unwrap_or(&[]);
        match rest.iter().position(|&byte| byte == 0) {
            Some(length) => {
                self.at += length + 1;
                Ok(&rest[..length])
            }
            None => Err(self.truncated(field)),
        }
    }

    /// A NUL-terminated name.
    pub(super) fn name(&mut self, field: &'static str) -> Result<&'a str, ParseError> {
        let offset = self.at;
        let message = self.message;
        std::str::from_utf8(self.c_string(field)?).map_err(|_| ParseError::NotUtf8 { message, field, offset })
    }

    /// The transaction that a message inside a stream block names first.
    #[inline]
    pub(super) fn stream_xid(&mut self, in_stream: bool) -> Result<Option<u32>, ParseError> {
        if in_stream { self.u32("transaction id").map(Some) } else { Ok(None) }
    }

    /// The error for a byte, just read, that is none of its alternatives.
    pub(super) fn unexpected(&self, field: &'static str, byte: u8) -> ParseError {
        ParseError::Unexpected { message: self.message, field, byte, offset: self.at.saturating_sub(1) }
    }

    /// Everything must have been read.
    #[inline]
    pub(super) fn finish(self) -> Result<(), ParseError> {
        match self.bytes.len().saturating_sub(self.at) {
            0 => Ok(()),
            count => Err(ParseError::Leftover { message: self.message, offset: self.at, count }),
        }
    }

    #[cold]
    fn truncated(&self, field: &'static str) -> ParseError {
        ParseError::Truncated { message: self.message, field, offset: self.at }
    }
}

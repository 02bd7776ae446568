//! Frames inside CopyData once replication has begun: changes, keepalives, and the status that goes back. Pure.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::{Lsn, PgTime};

const XLOG_DATA: u8 = b'w';
const KEEPALIVE: u8 = b'k';
const STATUS_UPDATE: u8 = b'r';

/// A message of the output plugin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct XLogData {
    /// Where it stands in the log; 0 for messages that have no place of their own.
    pub wal_start: Lsn,
    /// The server's position when it was sent.
    pub wal_end: Lsn,
    /// The server's clock.
    pub clock: PgTime,
    /// The message.
    pub data: Bytes,
}

/// The server's position: every commit up to it has been sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keepalive {
    /// Up to where everything has been sent.
    pub wal_end: Lsn,
    /// The server's clock.
    pub clock: PgTime,
    /// The server wants a status now.
    pub reply_requested: bool,
}

/// What the server sends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// A message of the output plugin.
    XLogData(XLogData),
    /// A position.
    Keepalive(Keepalive),
}

/// The bytes are not a frame.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// Too short, or with something behind it.
    #[error("a frame of kind {kind:?} has {length} bytes")]
    Length {
        /// Its first byte.
        kind: char,
        /// How many bytes it has.
        length: usize,
    },
    /// No such kind.
    #[error("unknown replication frame {kind:?}")]
    Kind {
        /// Its first byte.
        kind: char,
    },
}

impl Frame {
    /// Parses the contents of one CopyData message.
    pub fn parse(mut bytes: Bytes) -> Result<Frame, FrameError> {
        let length = bytes.len();
        let Some(&kind) = bytes.first() else {
            return Err(FrameError::Length { kind: '\0', length });
        };
        let wrong = Err(FrameError::Length { kind: kind.into(), length });
        match kind {
            XLOG_DATA if length >= 25 => {
                bytes.advance(1);
                Ok(Frame::XLogData(XLogData {
                    wal_start: Lsn(bytes.get_u64()),
                    wal_end: Lsn(bytes.get_u64()),
                    clock: PgTime(bytes.get_i64()),
                    data: bytes,
                }))
            }
            KEEPALIVE if length == 18 => {
                bytes.advance(1);
                Ok(Frame::Keepalive(Keepalive {
                    wal_end: Lsn(bytes.get_u64()),
                    clock: PgTime(bytes.get_i64()),
                    reply_requested: bytes.get_u8() != 0,
                }))
            }
            XLOG_DATA | KEEPALIVE => wrong,
            _ => Err(FrameError::Kind { kind: kind.into() }),
        }
    }
}

/// A standby status update.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Status {
    /// Received up to here.
    pub written: Lsn,
    /// Safe up to here: the slot may forget what is before it.
    pub flushed: Lsn,
    /// Applied up to here.
    pub applied: Lsn,
    /// This machine's clock.
    pub clock: PgTime,
    /// A keepalive is wanted in return.
    pub reply_requested: bool,
}

impl Status {
    /// Appends the whole CopyData message.
    pub fn encode(&self, out: &mut BytesMut) {
        out.put_u8(b'd');
        out.put_u32(4 + 34);
        out.put_u8(STATUS_UPDATE);
        for lsn in [self.written, self.flushed, self.applied] {
            out.put_u64(lsn.0);
        }
        out.put_i64(self.clock.0);
        out.put_u8(u8::from(self.reply_requested));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_change() {
        let bytes = b"w\0\0\0\0\x01\x02\x03\x04\0\0\0\0\x05\x06\x07\x08\0\0\0\0\0\0\0\x09BODY";
        let frame = Frame::parse(Bytes::from_static(bytes)).unwrap();
        let expected = XLogData {
            wal_start: Lsn(0x0102_0304),
            wal_end: Lsn(0x0506_0708),
            clock: PgTime(9),
            data: Bytes::from_static(b"BODY"),
        };
        assert_eq!(frame, Frame::XLogData(expected));
    }

    #[test]
    fn a_keepalive() {
        let bytes = b"k\0\0\0\0\x01\x02\x03\x04\0\0\0\0\0\0\0\x09\x01";
        let expected = Keepalive { wal_end: Lsn(0x0102_0304), clock: PgTime(9), reply_requested: true };
        assert_eq!(Frame::parse(Bytes::from_static(bytes)), Ok(Frame::Keepalive(expected)));
    }

    #[test]
    fn a_status() {
        let mut out = BytesMut::new();
        let status =
            Status { written: Lsn(1), flushed: Lsn(2), applied: Lsn(3), clock: PgTime(4), reply_requested: true };
        status.encode(&mut out);
        let expected: &[u8] =
            b"d\0\0\0\x26r\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\x03\0\0\0\0\0\0\0\x04\x01";
        assert_eq!(&out[..], expected);
    }

    #[test]
    fn anything_else_is_refused() {
        assert!(matches!(Frame::parse(Bytes::new()), Err(FrameError::Length { .. })));
        assert!(matches!(Frame::parse(Bytes::from_static(b"w123")), Err(FrameError::Length { .. })));
        assert!(matches!(Frame::parse(Bytes::from_static(b"k123456789012345678")), Err(FrameError::Length { .. })));
        assert!(matches!(Frame::parse(Bytes::from_static(b"x")), Err(FrameError::Kind { kind: 'x' })));
    }

    proptest! {
        #[test]
        fn never_panics(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = Frame::parse(Bytes::from(bytes));
        }
    }
}

//! The messages of PostgreSQL's logical replication (output plugin `pgoutput`), protocol versions 1 to 3.
//!
//! Bytes in, a message of slices out: no I/O, no allocation, no panic on any input. A message must be complete and have nothing after
//! it; the frames around it are [`super::wire`]'s.

mod change;
mod error;
mod reader;
mod relation;
mod stream;
#[cfg(test)]
pub(crate) mod tests;
mod transaction;
mod tuple;

pub use change::{Delete, Insert, LogicalMessage, Oids, OldTuple, Truncate, Update};
pub use error::ParseError;
pub use relation::{Relation, RelationColumn, RelationColumns, ReplicaIdentity, Type};
pub use stream::{StreamAbort, StreamCommit, StreamStart};
pub use transaction::{Begin, Commit, Origin, RollbackPrepared, TwoPhase};
pub use tuple::{Columns, Offsets, Row, Tuple, Value};

use reader::Reader;

const BEGIN: u8 = b'B';
const COMMIT: u8 = b'C';
const ORIGIN: u8 = b'O';
const RELATION: u8 = b'R';
const TYPE: u8 = b'Y';
const INSERT: u8 = b'I';
const UPDATE: u8 = b'U';
const DELETE: u8 = b'D';
const TRUNCATE: u8 = b'T';
const MESSAGE: u8 = b'M';
const STREAM_START: u8 = b'S';
const STREAM_STOP: u8 = b'E';
const STREAM_COMMIT: u8 = b'c';
const STREAM_ABORT: u8 = b'A';
const BEGIN_PREPARE: u8 = b'b';
const PREPARE: u8 = b'P';
const COMMIT_PREPARED: u8 = b'K';
const ROLLBACK_PREPARED: u8 = b'r';
const STREAM_PREPARE: u8 = b'p';

/// One message of the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs, reason = "each variant is documented at its struct")]
pub enum Message<'a> {
    Begin(Begin),
    Commit(Commit),
    Origin(Origin<'a>),
    Relation(Relation<'a>),
    Type(Type<'a>),
    Insert(Insert<'a>),
    Update(Update<'a>),
    Delete(Delete<'a>),
    Truncate(Truncate<'a>),
    Logical(LogicalMessage<'a>),
    StreamStart(StreamStart),
    /// The block that Stream Start began is over; the transaction is not.
    StreamStop,
    StreamCommit(StreamCommit),
    StreamAbort(StreamAbort),
    BeginPrepare(TwoPhase<'a>),
    Prepare(TwoPhase<'a>),
    CommitPrepared(TwoPhase<'a>),
    RollbackPrepared(RollbackPrepared<'a>),
    /// PREPARE of a streamed transaction.
    StreamPrepare(TwoPhase<'a>),
}

/// Parses one complete message.
///
/// `in_stream`: does it stand between Stream Start and Stream Stop? There, changes name their transaction first, and nothing in the
/// bytes tells. [`Parser`] keeps count.
///
/// # Errors
/// Whatever is not exactly one message of the protocol, see [`ParseError`].
pub fn parse(bytes: &[u8], in_stream: bool) -> Result<Message<'_>, ParseError> {
    let &tag = bytes.first().ok_or(ParseError::Empty)?;
    match tag {
        INSERT => whole(bytes, "Insert", |r| Insert::read(r, in_stream).map(Message::Insert)),
        UPDATE => whole(bytes, "Update", |r| Update::read(r, in_stream).map(Message::Update)),
        DELETE => whole(bytes, "Delete", |r| Delete::read(r, in_stream).map(Message::Delete)),
        BEGIN => whole(bytes, "Begin", |r| Begin::read(r).map(Message::Begin)),
        COMMIT => whole(bytes, "Commit", |r| Commit::read(r).map(Message::Commit)),
        ORIGIN => whole(bytes, "Origin", |r| Origin::read(r).map(Message::Origin)),
        RELATION => whole(bytes, "Relation", |r| Relation::read(r, in_stream).map(Message::Relation)),
        TYPE => whole(bytes, "Type", |r| Type::read(r, in_stream).map(Message::Type)),
        TRUNCATE => whole(bytes, "Truncate", |r| Truncate::read(r, in_stream).map(Message::Truncate)),
        MESSAGE => whole(bytes, "Message", |r| LogicalMessage::read(r, in_stream).map(Message::Logical)),
        STREAM_START => whole(bytes, "Stream Start", |r| StreamStart::read(r).map(Message::StreamStart)),
        STREAM_STOP => whole(bytes, "Stream Stop", |_| Ok(Message::StreamStop)),
        STREAM_COMMIT => whole(bytes, "Stream Commit", |r| StreamCommit::read(r).map(Message::StreamCommit)),
        STREAM_ABORT => whole(bytes, "Stream Abort", |r| StreamAbort::read(r).map(Message::StreamAbort)),
        BEGIN_PREPARE => whole(bytes, "Begin Prepare", |r| TwoPhase::read_begin(r).map(Message::BeginPrepare)),
        PREPARE => whole(bytes, "Prepare", |r| TwoPhase::read(r).map(Message::Prepare)),
        COMMIT_PREPARED => whole(bytes, "Commit Prepared", |r| TwoPhase::read(r).map(Message::CommitPrepared)),
        ROLLBACK_PREPARED => {
            whole(bytes, "Rollback Prepared", |r| RollbackPrepared::read(r).map(Message::RollbackPrepared))
        }
        STREAM_PREPARE => whole(bytes, "Stream Prepare", |r| TwoPhase::read(r).map(Message::StreamPrepare)),
        tag => Err(ParseError::UnknownTag { tag, offset: 0 }),
    }
}

/// Reads what follows the tag and sees to it that nothing is left.
#[inline]
fn whole<'a>(
    bytes: &'a [u8],
    name: &'static str,
    read: impl FnOnce(&mut Reader<'a>) -> Result<Message<'a>, ParseError>,
) -> Result<Message<'a>, ParseError> {
    let mut reader = Reader::new(bytes, 1, name);
    let message = read(&mut reader)?;
    reader.finish()?;
    Ok(message)
}

/// Parses a sequence of messages, remembering whether a stream block is open.
#[derive(Debug, Clone, Default)]
pub struct Parser {
    in_stream: bool,
}

impl Parser {
    /// A parser at the beginning of a replication stream.
    pub fn new() -> Parser {
        Parser::default()
    }

    /// Is a stream block open?
    pub fn in_stream(&self) -> bool {
        self.in_stream
    }

    /// Parses the next message.
    ///
    /// # Errors
    /// As [`parse`], and for a stream block inside another or an end without a begin. An error leaves the parser as it was.
    #[inline]
    pub fn parse<'a>(&mut self, bytes: &'a [u8]) -> Result<Message<'a>, ParseError> {
        let message = parse(bytes, self.in_stream)?;
        match message {
            Message::StreamStart(_) if self.in_stream => Err(ParseError::Misplaced { message: "Stream Start" }),
            Message::StreamStop if !self.in_stream => Err(ParseError::Misplaced { message: "Stream Stop" }),
            Message::StreamStart(_) => {
                self.in_stream = true;
                Ok(message)
            }
            Message::StreamStop => {
                self.in_stream = false;
                Ok(message)
            }
            _ => Ok(message),
        }
    }
}

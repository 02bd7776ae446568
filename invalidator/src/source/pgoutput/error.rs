//! What can be wrong with the bytes of a message.

use thiserror::Error;

/// A message that is not what the protocol says. `offset` counts bytes from the start of the message.
///
/// None of these happens between a healthy server and a healthy connection: they mean another protocol version, another
/// output plugin, or corruption, and the stream cannot be trusted any further.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ParseError {
    /// No bytes at all.
    #[error("a pgoutput message is empty: it has no tag at byte 0")]
    Empty,
    /// A tag that protocol versions 1 to 3 do not know.
    #[error(
        "unknown pgoutput message '{}' (0x{tag:02X}) at byte {offset}: is the slot's output plugin pgoutput, with proto_version 3 or lower?",
        tag.escape_ascii()
    )]
    UnknownTag {
        /// The byte that was found.
        tag: u8,
        /// Where it was found.
        offset: usize,
    },
    /// The message ends before the field does.
    #[error("pgoutput {message} message is truncated: {field} at byte {offset} is cut off")]
    Truncated {
        /// Name of the message.
        message: &'static str,
        /// Name of the field.
        field: &'static str,
        /// Where the field begins.
        offset: usize,
    },
    /// Bytes after the last field.
    #[error("pgoutput {message} message has {count} bytes too many after byte {offset}")]
    Leftover {
        /// Name of the message.
        message: &'static str,
        /// Where the message should have ended.
        offset: usize,
        /// How many bytes follow.
        count: usize,
    },
    /// A byte that selects among alternatives and is none of them.
    #[error(
        "pgoutput {message} message has '{}' (0x{byte:02X}) as {field} at byte {offset}",
        byte.escape_ascii()
    )]
    Unexpected {
        /// Name of the message.
        message: &'static str,
        /// Name of the field.
        field: &'static str,
        /// The byte that was found.
        byte: u8,
        /// Where it was found.
        offset: usize,
    },
    /// A length or a count below zero.
    #[error("pgoutput {message} message has {value} as {field} at byte {offset}")]
    Negative {
        /// Name of the message.
        message: &'static str,
        /// Name of the field.
        field: &'static str,
        /// The value that was found.
        value: i32,
        /// Where it was found.
        offset: usize,
    },
    /// A name that is not UTF-8 although the session's `client_encoding` is.
    #[error(
        "pgoutput {message} message: {field} at byte {offset} is not UTF-8; the database's encoding is probably SQL_ASCII: \
         rename the object or move the database to UTF8"
    )]
    NotUtf8 {
        /// Name of the message.
        message: &'static str,
        /// Name of the field.
        field: &'static str,
        /// Where the field begins.
        offset: usize,
    },
    /// A stream block that begins inside another, or ends without having begun.
    #[error("pgoutput {message} message at a place where no such message can be")]
    Misplaced {
        /// Name of the message.
        message: &'static str,
    },
}

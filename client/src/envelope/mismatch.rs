//! Why a payload is a miss, and why a value has no payload.

use thiserror::Error;

/// Why a payload is a miss.
///
/// ```
/// use cachetag_client::envelope::Mismatch;
/// assert_eq!(Mismatch::Schema { found: 1, wanted: 2 }.to_string(), "the entry is of schema 1, not 2");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum Mismatch {
    /// Of another schema.
    #[error("the entry is of schema {found}, not {wanted}")]
    Schema {
        /// The schema of the entry.
        found: u32,
        /// The schema of the reader.
        wanted: u32,
    },
    /// Of another format.
    #[error("the entry is {found}, not {wanted}")]
    Format {
        /// The format of the entry.
        found: &'static str,
        /// The format of the reader.
        wanted: &'static str,
    },
    /// With a stamp that this version does not know.
    #[error("the entry has a stamp that this version does not know ({field} {value})")]
    Stamp {
        /// What is unknown about it.
        field: &'static str,
        /// What it holds there.
        value: u8,
    },
    /// Cut short, or changed on the way.
    #[error("the entry is damaged: {what}")]
    Damaged {
        /// What gave it away.
        what: &'static str,
    },
    /// With a body that is longer than allowed.
    #[error("the entry decompresses to {bytes} bytes, more than the {limit} that are allowed")]
    TooLong {
        /// The length of the body.
        bytes: usize,
        /// The longest body allowed.
        limit: usize,
    },
    /// Not a value of the type that was asked for.
    #[error("the entry is no {format} of the type asked for")]
    Value {
        /// The format of the entry.
        format: &'static str,
    },
}

/// Why a value has no payload.
///
/// ```
/// use cachetag_client::envelope::{EncodeError, Envelope};
/// let error = Envelope::default().max_body(2).encode("long").unwrap_err();
/// assert_eq!(error.to_string(), "the value takes 6 bytes, more than the 2 that are allowed: raise max_body, or store less");
/// ```
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum EncodeError {
    /// JSON cannot express it.
    #[error("JSON cannot express the value: {0}")]
    Json(serde_json::Error),
    /// postcard cannot express it.
    #[error("postcard cannot express the value: {0}; take Format::Json for such types")]
    Postcard(postcard::Error),
    /// zstd failed.
    #[error("zstd cannot compress the value: {0}")]
    Compression(std::io::Error),
    /// It is longer than a reader would take.
    #[error("the value takes {bytes} bytes, more than the {limit} that are allowed: raise max_body, or store less")]
    TooLong {
        /// The length of the body.
        bytes: usize,
        /// The longest body allowed.
        limit: usize,
    },
}

//! What is stored of a value: format, schema version and compression, stamped.
//!
//! A payload is one of two things:
//!
//! - **plain JSON**, with nothing around it: JSON of schema 0 that was not worth compressing. Every language reads and writes it.
//! - **stamped**: sixteen bytes that name the format, the schema and the compression (see [`Stamp`]), then the body. The first of them can
//!   begin no JSON text, so the two are never confused.
//!
//! What does not match the reader's [`Envelope`] is a miss with a reason ([`Mismatch`]): never an error of the caller's, never a wrong value.

mod compression;
mod format;
mod mismatch;
#[cfg(test)]
mod properties;
mod stamp;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

pub use format::Format;
pub use mismatch::{EncodeError, Mismatch};
pub use stamp::{Compression, MAGIC, STAMP_BYTES, Stamp};

/// Bodies of fewer bytes are not compressed: a packet of the network carries them anyway.
pub const COMPRESS_FROM: usize = 1024;

/// The longest body that is made of a compressed payload, in bytes, unless told otherwise.
pub const MAX_BODY: usize = 64 << 20;

/// zstd's level of compression, unless told otherwise: fast enough to pay off on a local network.
const LEVEL: i32 = 1;

/// How values become payloads, and payloads values. Cheap to copy; the same for all readers and writers of a key.
///
/// ```
/// use cachetag_client::envelope::{Envelope, Format, Mismatch};
///
/// // The default is plain JSON, for every language.
/// assert_eq!(Envelope::default().encode(&["a", "b"])?, r#"["a","b"]"#);
///
/// // A value of another schema is a miss.
/// let old = Envelope::default().format(Format::Postcard).schema(1);
/// let new = Envelope::default().format(Format::Postcard).schema(2);
/// let payload = old.encode(&(1u32, "one"))?;
/// assert_eq!(old.decode::<(u32, String)>(&payload), Ok((1, "one".into())));
/// assert_eq!(new.decode::<(u32, String)>(&payload), Err(Mismatch::Schema { found: 1, wanted: 2 }));
/// # Ok::<(), cachetag_client::envelope::EncodeError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Envelope {
    format: Format,
    schema: u32,
    compress_from: Option<usize>,
    level: i32,
    max_body: usize,
}

/// How long the body of a payload is without compression: about what the value takes in memory. That of a damaged payload means nothing.
pub(crate) fn body_bytes(payload: &[u8]) -> usize {
    stamp::body_bytes(payload).unwrap_or(payload.len())
}

impl Default for Envelope {
    /// JSON of schema 0, compressed from [`COMPRESS_FROM`] bytes on.
    fn default() -> Envelope {
        Envelope {
            format: Format::Json,
            schema: 0,
            compress_from: Some(COMPRESS_FROM),
            level: LEVEL,
            max_body: MAX_BODY,
        }
    }
}

impl Envelope {
    /// The format of the body.
    ///
    /// ```
    /// use cachetag_client::envelope::{Envelope, Format};
    /// let binary = Envelope::default().format(Format::Postcard);
    /// assert!(binary.encode(&300u32)?.len() < 20);
    /// # Ok::<(), cachetag_client::envelope::EncodeError>(())
    /// ```
    #[must_use]
    pub fn format(self, format: Format) -> Envelope {
        Envelope { format, ..self }
    }

    /// The version of the value's type, chosen by the application: raise it when the type changes its meaning or its binary form, and
    /// what was stored before is a miss.
    ///
    /// ```
    /// use cachetag_client::envelope::Envelope;
    /// let second = Envelope::default().schema(2);
    /// assert!(second.decode::<u32>(b"7").is_err()); // plain JSON is schema 0
    /// ```
    #[must_use]
    pub fn schema(self, schema: u32) -> Envelope {
        Envelope { schema, ..self }
    }

    /// Compress bodies of this many bytes and more; `None`: none. A body that would not get smaller stays as it is.
    ///
    /// ```
    /// use cachetag_client::envelope::Envelope;
    /// let text = "again and ".repeat(1000);
    /// assert!(Envelope::default().encode(&text)?.len() < 100);
    /// assert!(Envelope::default().compress_from(None).encode(&text)?.len() > 10_000);
    /// # Ok::<(), cachetag_client::envelope::EncodeError>(())
    /// ```
    #[must_use]
    pub fn compress_from(self, bytes: Option<usize>) -> Envelope {
        Envelope { compress_from: bytes, ..self }
    }

    /// zstd's level of compression: 1, the default, is the fastest of the ordinary ones.
    ///
    /// ```
    /// let smaller = cachetag_client::envelope::Envelope::default().level(9);
    /// ```
    #[must_use]
    pub fn level(self, level: i32) -> Envelope {
        Envelope { level, ..self }
    }

    /// The longest body, in bytes: longer ones are not encoded, and a payload that claims to decompress to more is a miss, so that a
    /// poisoned entry cannot fill the memory.
    ///
    /// ```
    /// use cachetag_client::envelope::{EncodeError, Envelope};
    /// let small = Envelope::default().max_body(8);
    /// assert!(matches!(small.encode("too long for eight"), Err(EncodeError::TooLong { .. })));
    /// ```
    #[must_use]
    pub fn max_body(self, bytes: usize) -> Envelope {
        // The stamp holds the length in four bytes.
        Envelope { max_body: bytes.min(u32::MAX as usize), ..self }
    }

    /// The payload of a value.
    ///
    /// ```
    /// use cachetag_client::envelope::Envelope;
    /// assert_eq!(Envelope::default().encode(&Some(42))?, "42");
    /// # Ok::<(), cachetag_client::envelope::EncodeError>(())
    /// ```
    pub fn encode<T: Serialize + ?Sized>(&self, value: &T) -> Result<Bytes, EncodeError> {
        let body = self.format.serialize(value)?;
        if body.len() > self.max_body {
            return Err(EncodeError::TooLong { bytes: body.len(), limit: self.max_body });
        }
        let worth_trying = self.compress_from.is_some_and(|from| body.len() >= from);
        let smaller = if worth_trying { compression::compress(&body, self.level)? } else { None };
        let (compression, stored) = match &smaller {
            Some(smaller) => (Compression::Zstd, smaller),
            None => (Compression::None, &body),
        };
        if compression == Compression::None && self.is_plain() {
            return Ok(Bytes::from(body));
        }
        let stamp = Stamp { format: self.format, schema: self.schema, compression, body_bytes: body.len() as u32 };
        Ok(stamp.before(stored))
    }

    /// The value of a payload, or why it is a miss.
    ///
    /// ```
    /// use cachetag_client::envelope::{Envelope, Mismatch};
    /// assert_eq!(Envelope::default().decode::<Vec<u8>>(b" [1, 2] "), Ok(vec![1, 2]));
    /// assert_eq!(Envelope::default().decode::<Vec<u8>>(b"[1, 2"), Err(Mismatch::Value { format: "json" }));
    /// ```
    pub fn decode<T: DeserializeOwned>(&self, payload: &[u8]) -> Result<T, Mismatch> {
        if payload.first() != Some(&MAGIC) {
            self.expect(Format::Json, 0)?;
            return self.format.deserialize(payload);
        }
        let (stamp, stored) = Stamp::parse(payload)?;
        self.expect(stamp.format, stamp.schema)?;
        match stamp.compression {
            Compression::None => self.format.deserialize(stored),
            Compression::Zstd => {
                self.format.deserialize(&compression::decompress(stored, stamp.body_bytes as usize, self.max_body)?)
            }
        }
    }

    fn is_plain(&self) -> bool {
        self.format == Format::Json && self.schema == 0
    }

    fn expect(&self, format: Format, schema: u32) -> Result<(), Mismatch> {
        if format != self.format {
            Err(Mismatch::Format { found: format.name(), wanted: self.format.name() })
        } else if schema != self.schema {
            Err(Mismatch::Schema { found: schema, wanted: self.schema })
        } else {
            Ok(())
        }
    }
}

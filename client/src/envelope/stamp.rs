//! The sixteen bytes before a body.

use bytes::{BufMut, Bytes, BytesMut};
use xxhash_rust::xxh3::xxh3_64;

use super::format::Format;
use super::mismatch::Mismatch;

/// The first byte of a stamped payload. It occurs nowhere in UTF-8, so no JSON text begins with it.
pub const MAGIC: u8 = 0xFF;

/// The length of a stamp.
pub const STAMP_BYTES: usize = 16;

/// The layout of the stamp itself; another one is a miss.
const LAYOUT: u8 = 1;

/// How a body is compressed.
///
/// ```
/// use cachetag_client::envelope::Compression;
/// assert_ne!(Compression::None, Compression::Zstd);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Compression {
    /// Not at all.
    None,
    /// One zstd frame.
    Zstd,
}

/// What the stamp of a payload says.
///
/// | bytes | hold |
/// | --- | --- |
/// | 0 | [`MAGIC`] |
/// | 1 | the layout of the stamp: 1 |
/// | 2 | the format: 1 JSON, 2 postcard |
/// | 3 | the compression: 0 none, 1 zstd |
/// | 4 to 7 | the schema, big-endian |
/// | 8 to 11 | the length of the body before compression, big-endian |
/// | 12 to 15 | the lower half of XXH3-64 of what follows the stamp, big-endian |
///
/// ```
/// use cachetag_client::envelope::{Envelope, Stamp};
/// let payload = Envelope::default().schema(3).encode(&true)?;
/// let (stamp, body) = Stamp::parse(&payload).unwrap();
/// assert_eq!((stamp.schema, body), (3, &b"true"[..]));
/// # Ok::<(), cachetag_client::envelope::EncodeError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// The format of the body.
    pub format: Format,
    /// The application's version of the type.
    pub schema: u32,
    /// How the body is compressed.
    pub compression: Compression,
    /// The length of the body before compression.
    pub body_bytes: u32,
}

impl Stamp {
    /// The stamp of a payload and what follows it, undamaged.
    ///
    /// ```
    /// use cachetag_client::envelope::{Mismatch, Stamp};
    /// assert_eq!(Stamp::parse(b"\xFF\x09 from a later version"), Err(Mismatch::Stamp { field: "layout", value: 9 }));
    /// ```
    pub fn parse(payload: &[u8]) -> Result<(Stamp, &[u8]), Mismatch> {
        const SHORT: Mismatch = Mismatch::Damaged { what: "the stamp is cut short" };
        // The layout first: another one may have another length.
        let &[magic, layout, ..] = payload else { return Err(SHORT) };
        if magic != MAGIC {
            return Err(Mismatch::Stamp { field: "magic", value: magic });
        }
        if layout != LAYOUT {
            return Err(Mismatch::Stamp { field: "layout", value: layout });
        }
        let Some((stamp, stored)) = payload.split_first_chunk::<STAMP_BYTES>() else { return Err(SHORT) };
        let &[_, _, format, compression, s0, s1, s2, s3, b0, b1, b2, b3, c0, c1, c2, c3] = stamp;
        let stamp = Stamp {
            format: Format::of_code(format).ok_or(Mismatch::Stamp { field: "format", value: format })?,
            compression: match compression {
                0 => Compression::None,
                1 => Compression::Zstd,
                value => return Err(Mismatch::Stamp { field: "compression", value }),
            },
            schema: u32::from_be_bytes([s0, s1, s2, s3]),
            body_bytes: u32::from_be_bytes([b0, b1, b2, b3]),
        };
        if check(stored) != u32::from_be_bytes([c0, c1, c2, c3]) {
            return Err(Mismatch::Damaged { what: "its checksum is another" });
        }
        if stamp.compression == Compression::None && stored.len() != stamp.body_bytes as usize {
            return Err(Mismatch::Damaged { what: "the body has another length" });
        }
        Ok((stamp, stored))
    }

    /// A payload: this stamp, then what is stored of the body.
    pub(super) fn before(self, stored: &[u8]) -> Bytes {
        let mut payload = BytesMut::with_capacity(STAMP_BYTES + stored.len());
        payload.put_slice(&[MAGIC, LAYOUT, self.format.code()]);
        payload.put_u8(match self.compression {
            Compression::None => 0,
            Compression::Zstd => 1,
        });
        payload.put_u32(self.schema);
        payload.put_u32(self.body_bytes);
        payload.put_u32(check(stored));
        payload.put_slice(stored);
        payload.freeze()
    }
}

/// The length of the body before compression, as a stamp says it, if there is one.
pub(super) fn body_bytes(payload: &[u8]) -> Option<usize> {
    match payload.first_chunk::<STAMP_BYTES>()? {
        &[MAGIC, LAYOUT, _, _, _, _, _, _, b0, b1, b2, b3, ..] => Some(u32::from_be_bytes([b0, b1, b2, b3]) as usize),
        _ => None,
    }
}

/// A binary body has no redundancy of its own: changed bytes could pass for another value.
fn check(stored: &[u8]) -> u32 {
    xxh3_64(stored) as u32
}

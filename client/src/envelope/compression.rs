//! zstd, kept only where it helps, and bounded on the way back.

use super::mismatch::{EncodeError, Mismatch};

/// The compressed body, if it is smaller.
pub(super) fn compress(body: &[u8], level: i32) -> Result<Option<Vec<u8>>, EncodeError> {
    let compressed = zstd::bulk::compress(body, level).map_err(EncodeError::Compression)?;
    Ok((compressed.len() < body.len()).then_some(compressed))
}

/// The body of `bytes` bytes; never takes more memory than `limit`.
pub(super) fn decompress(stored: &[u8], bytes: usize, limit: usize) -> Result<Vec<u8>, Mismatch> {
    if bytes > limit {
        return Err(Mismatch::TooLong { bytes, limit });
    }
    // The buffer is of the stamped length, and zstd refuses to write beyond it, whatever the frame claims.
    match zstd::bulk::decompress(stored, bytes) {
        Ok(body) if body.len() == bytes => Ok(body),
        Ok(_) => Err(Mismatch::Damaged { what: "the body has another length" }),
        Err(_) => Err(Mismatch::Damaged { what: "zstd cannot read it" }),
    }
}

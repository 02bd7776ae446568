//! The formats of a body.

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::mismatch::{EncodeError, Mismatch};

/// The format of a body.
///
/// ```
/// use cachetag_client::envelope::Format;
/// assert_eq!(Format::default(), Format::Json);
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Format {
    /// Readable in every language, and by people.
    #[default]
    Json,
    /// Binary, small and fast, for Rust alone. It is not self-describing: bytes of one type can pass for another (an `i32` for a `u32`), so
    /// raise the schema whenever the type changes; and do not use it for types with `#[serde(untagged)]`, `flatten` or `skip_serializing_if`, nor for
    /// `serde_json::Value`.
    Postcard,
}

impl Format {
    /// The name, as in reasons and numbers.
    ///
    /// ```
    /// assert_eq!(cachetag_client::envelope::Format::Postcard.name(), "postcard");
    /// ```
    pub fn name(self) -> &'static str {
        match self {
            Format::Json => "json",
            Format::Postcard => "postcard",
        }
    }

    pub(super) fn code(self) -> u8 {
        match self {
            Format::Json => 1,
            Format::Postcard => 2,
        }
    }

    pub(super) fn of_code(code: u8) -> Option<Format> {
        match code {
            1 => Some(Format::Json),
            2 => Some(Format::Postcard),
            _ => None,
        }
    }

    pub(super) fn serialize<T: Serialize + ?Sized>(self, value: &T) -> Result<Vec<u8>, EncodeError> {
        match self {
            Format::Json => serde_json::to_vec(value).map_err(EncodeError::Json),
            Format::Postcard => postcard::to_stdvec(value).map_err(EncodeError::Postcard),
        }
    }

    pub(super) fn deserialize<T: DeserializeOwned>(self, body: &[u8]) -> Result<T, Mismatch> {
        let other = |_| Mismatch::Value { format: self.name() };
        match self {
            Format::Json => serde_json::from_slice(body).map_err(|_| other(())),
            Format::Postcard => match postcard::take_from_bytes(body) {
                Ok((value, [])) => Ok(value),
                // What is left over says that the bytes are of another type.
                Ok(_) | Err(_) => Err(other(())),
            },
        }
    }
}

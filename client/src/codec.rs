//! Values of any type, as the layers see them.

use std::any::Any;
use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::envelope::{EncodeError, Envelope, Mismatch};
use crate::l1::Decoded;

/// How a type is encoded and decoded, so that what lies below the public calls need not be generic.
#[derive(Clone, Copy)]
pub(crate) struct Typed {
    pub encode: fn(&Envelope, &dyn Any) -> Option<Result<Bytes, EncodeError>>,
    pub decode: fn(&Envelope, &[u8]) -> Result<Decoded, Mismatch>,
}

impl Typed {
    pub fn of<T: Serialize + DeserializeOwned + Send + Sync + 'static>() -> Typed {
        Typed {
            // None if the value is of another type, which cannot be: it comes from a loader of the same call.
            encode: |envelope, value| value.downcast_ref::<T>().map(|value| envelope.encode(value)),
            decode: |envelope, payload| Ok(Arc::new(envelope.decode::<T>(payload)?)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_encoded_is_decoded() {
        let typed = Typed::of::<Vec<String>>();
        let envelope = Envelope::default();
        let payload = (typed.encode)(&envelope, &vec!["a".to_owned()]).unwrap().unwrap();
        let decoded = (typed.decode)(&envelope, &payload).unwrap();
        assert_eq!(*decoded.downcast::<Vec<String>>().unwrap(), ["a"]);
        assert!((typed.encode)(&envelope, &7u8).is_none());
        assert!((typed.decode)(&envelope, b"{").is_err());
    }
}

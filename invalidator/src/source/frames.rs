//! Messages of PostgreSQL's protocol in a buffer of received bytes: one read, many messages, each a slice of the buffer.

use bytes::{Buf, Bytes, BytesMut};

/// One read takes at most about this much.
const READ_CAPACITY: usize = 256 * 1024;
/// A buffer that a large row has made larger than this is given back.
const KEPT_CAPACITY: usize = 4 * READ_CAPACITY;
/// Tag and length.
const HEADER: usize = 5;

/// Before the server has proved anything, a message is short.
pub(super) const STARTUP_LIMIT: usize = 64 * 1024;
/// PostgreSQL's own limit: a row does not get any longer.
pub(super) const LIMIT: usize = 0x3fff_ffff;

/// A message of the protocol.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Message {
    pub(super) tag: u8,
    pub(super) body: Bytes,
}

/// A length that no message has; it is read as bytes of something else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BadLength(pub(super) u32);

/// Bytes that have been received and not been taken yet.
#[derive(Debug)]
pub(super) struct Frames {
    buffer: BytesMut,
    limit: usize,
}

impl Frames {
    pub(super) fn new() -> Frames {
        Frames { buffer: BytesMut::new(), limit: STARTUP_LIMIT }
    }

    /// Messages up to this length are accepted from now on.
    pub(super) fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
    }

    /// Size of the first message with its header, once it is there as a whole.
    fn first(&self) -> Result<Option<usize>, BadLength> {
        let Some([_, a, b, c, d]) = self.buffer.first_chunk::<HEADER>() else { return Ok(None) };
        let length = u32::from_be_bytes([*a, *b, *c, *d]);
        // The length counts itself and not the tag.
        match length as usize {
            size @ 4.. if size <= self.limit => Ok((self.buffer.len() > size).then_some(size + 1)),
            _ => Err(BadLength(length)),
        }
    }

    /// Is a whole message there?
    pub(super) fn has_message(&self) -> Result<bool, BadLength> {
        Ok(self.first()?.is_some())
    }

    /// Takes the first message, if it is there as a whole.
    #[inline]
    pub(super) fn next(&mut self) -> Result<Option<Message>, BadLength> {
        let Some(size) = self.first()? else { return Ok(None) };
        let mut message = self.buffer.split_to(size);
        let tag = message[0];
        message.advance(HEADER);
        Ok(Some(Message { tag, body: message.freeze() }))
    }

    /// Room for what is received next. Grows with what has come, not with what a header announces.
    pub(super) fn space(&mut self) -> &mut BytesMut {
        if self.buffer.capacity() - self.buffer.len() < READ_CAPACITY / 4 {
            self.buffer.reserve(READ_CAPACITY);
            if self.buffer.capacity() > KEPT_CAPACITY && self.buffer.len() < READ_CAPACITY {
                let mut smaller = BytesMut::with_capacity(2 * READ_CAPACITY);
                smaller.extend_from_slice(&self.buffer);
                self.buffer = smaller;
            }
        }
        &mut self.buffer
    }

    /// Forgets everything that was received.
    pub(super) fn clear(&mut self) {
        self.buffer.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frames(bytes: &[u8]) -> Frames {
        let mut frames = Frames::new();
        frames.space().extend_from_slice(bytes);
        frames
    }

    #[test]
    fn messages_one_after_the_other() {
        let mut frames = frames(b"Z\0\0\0\x05Id\0\0\0\x04C\0\0\0\x06a");
        assert_eq!(frames.next(), Ok(Some(Message { tag: b'Z', body: Bytes::from_static(b"I") })));
        assert_eq!(frames.has_message(), Ok(true));
        assert_eq!(frames.next(), Ok(Some(Message { tag: b'd', body: Bytes::new() })));
        assert_eq!(frames.has_message(), Ok(false));
        assert_eq!(frames.next(), Ok(None));
        frames.space().extend_from_slice(b"b");
        assert_eq!(frames.next(), Ok(Some(Message { tag: b'C', body: Bytes::from_static(b"ab") })));
        assert_eq!(frames.next(), Ok(None));
    }

    #[test]
    fn lengths_that_cannot_be() {
        assert_eq!(frames(b"H\0\0\0\x03").next(), Err(BadLength(3)));
        // What an HTTP server answers.
        assert_eq!(frames(b"HTTP/1.1 400").next(), Err(BadLength(0x5454_502F)));
        let mut long = frames(&[b'D', 0, 1, 0, 1]);
        assert_eq!(long.next(), Err(BadLength(0x1_0001)));
        long.set_limit(LIMIT);
        assert_eq!(long.next(), Ok(None));
        assert!(long.space().capacity() < 2 * READ_CAPACITY, "nothing is reserved on the word of a header");
    }

    #[test]
    fn a_large_message_does_not_keep_its_memory() {
        let mut frames = Frames::new();
        frames.set_limit(LIMIT);
        let size = 8 * KEPT_CAPACITY;
        frames.space().extend_from_slice(&[b"d".as_slice(), &u32::try_from(size + 4).unwrap().to_be_bytes()].concat());
        for _ in 0..8 {
            assert_eq!(frames.next(), Ok(None));
            frames.space().extend_from_slice(&vec![7; KEPT_CAPACITY]);
        }
        let message = frames.next().unwrap().unwrap();
        assert_eq!(message.body.len(), size);
        drop(message);
        // Whether memory is reclaimed shows once the buffer is full again.
        for _ in 0..64 {
            let space = frames.space();
            let room = space.capacity() - space.len();
            space.extend_from_slice(&vec![0; room]);
            frames.clear();
        }
        assert!(frames.space().capacity() <= KEPT_CAPACITY);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_in_arbitrary_pieces(pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..20), 0..20)) {
            let mut frames = Frames::new();
            for piece in pieces {
                frames.space().extend_from_slice(&piece);
                while let Ok(Some(_)) = frames.next() {}
            }
        }
    }
}

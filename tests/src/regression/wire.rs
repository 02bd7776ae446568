//! PostgreSQL's messages, whole ones, in both directions.

use std::io;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

/// Read at once.
const CHUNK: usize = 64 * 1024;
/// No message of a test is longer; a wrong length is not waited for.
const MAX_MESSAGE: usize = 1 << 30;
/// Sent on at once, at the latest when it is so much.
const MAX_HELD: usize = 256 * 1024;

/// One message with its tag and its length.
#[derive(Debug)]
pub(super) struct Message(BytesMut);

impl Message {
    /// What kind of message it is.
    pub(super) fn tag(&self) -> u8 {
        self.0[0]
    }

    /// Without tag and length.
    pub(super) fn body(&self) -> &[u8] {
        &self.0[5..]
    }

    /// As it was received.
    pub(super) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// The text at the beginning of the body.
    pub(super) fn text(&self) -> String {
        let body = self.body();
        let end = body.iter().position(|&byte| byte == 0).unwrap_or(body.len());
        String::from_utf8_lossy(&body[..end]).into_owned()
    }

    /// One field of an error or a notice, by its code.
    pub(super) fn field(&self, code: u8) -> Option<String> {
        let fields = self.body().split(|&byte| byte == 0);
        let found = fields.filter(|field| !field.is_empty()).find(|field| field[0] == code)?;
        Some(String::from_utf8_lossy(&found[1..]).into_owned())
    }

    /// The values of a row in text.
    pub(super) fn row(&self) -> Option<Vec<Option<String>>> {
        let mut body = self.body();
        let count = body.try_get_u16().ok()?;
        let mut row = Vec::with_capacity(count.into());
        for _ in 0..count {
            let length = body.try_get_i32().ok()?;
            let Ok(length) = usize::try_from(length) else {
                row.push(None);
                continue;
            };
            row.push(Some(String::from_utf8_lossy(body.get(..length)?).into_owned()));
            body.advance(length);
        }
        Some(row)
    }
}

/// What comes in on one side.
#[derive(Debug)]
pub(super) struct Incoming {
    socket: OwnedReadHalf,
    bytes: BytesMut,
}

impl Incoming {
    pub(super) fn new(socket: OwnedReadHalf) -> Incoming {
        Incoming { socket, bytes: BytesMut::with_capacity(CHUNK) }
    }

    /// The next message; none at the end. It may be given up at any time: what has come stays.
    pub(super) async fn next(&mut self) -> io::Result<Option<Message>> {
        loop {
            if let Some(message) = self.whole()? {
                return Ok(Some(message));
            }
            if !self.more().await? {
                return Ok(None);
            }
        }
    }

    /// A message that is there already.
    pub(super) fn whole(&mut self) -> io::Result<Option<Message>> {
        let Some(length) = self.bytes.get(1..5) else { return Ok(None) };
        let length = checked(u32::from_be_bytes([length[0], length[1], length[2], length[3]]) as usize)? + 1;
        Ok((self.bytes.len() >= length).then(|| Message(self.bytes.split_to(length))))
    }

    /// The packet that a connection begins with, which has no tag: its code, and all of it.
    pub(super) async fn startup(&mut self) -> io::Result<Option<(u32, BytesMut)>> {
        loop {
            if let Some(head) = self.bytes.get(..8) {
                let word = |at: usize| u32::from_be_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
                let (length, code) = (checked(word(0) as usize)?, word(4));
                if self.bytes.len() >= length {
                    return Ok(Some((code, self.bytes.split_to(length))));
                }
            }
            if !self.more().await? {
                return Ok(None);
            }
        }
    }

    async fn more(&mut self) -> io::Result<bool> {
        self.bytes.reserve(CHUNK);
        Ok(self.socket.read_buf(&mut self.bytes).await? > 0)
    }
}

/// What goes out on one side, in pieces as large as what came in.
#[derive(Debug)]
pub(super) struct Outgoing {
    socket: OwnedWriteHalf,
    bytes: BytesMut,
}

impl Outgoing {
    pub(super) fn new(socket: OwnedWriteHalf) -> Outgoing {
        Outgoing { socket, bytes: BytesMut::new() }
    }

    /// Holds bytes until the next [`flush`](Self::flush).
    pub(super) async fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.bytes.extend_from_slice(bytes);
        if self.bytes.len() > MAX_HELD { self.flush().await } else { Ok(()) }
    }

    /// Sends what is held.
    pub(super) async fn flush(&mut self) -> io::Result<()> {
        let sent = self.socket.write_all(&self.bytes).await;
        self.bytes.clear();
        sent
    }

    /// A query in the simple protocol.
    pub(super) async fn query(&mut self, sql: &str) -> io::Result<()> {
        let length = u32::try_from(sql.len() + 5).map_err(io::Error::other)?;
        self.put(b"Q").await?;
        self.put(&length.to_be_bytes()).await?;
        self.put(sql.as_bytes()).await?;
        self.put(b"\0").await?;
        self.flush().await
    }
}

fn checked(length: usize) -> io::Result<usize> {
    if (4..=MAX_MESSAGE).contains(&length) {
        Ok(length)
    } else {
        Err(io::Error::other(format!("a message of {length} bytes")))
    }
}

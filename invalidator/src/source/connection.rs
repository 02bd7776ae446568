//! The replication connection: startup, a few commands of the walsender, then CopyBoth.

use std::time::Duration;

use bytes::{Buf, BytesMut};
use postgres_protocol::message::backend::Message;
use postgres_protocol::message::frontend;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use cachetag_core::RENDER_SETTINGS;

use super::error::ServerError;
use super::options::ConnectOptions;
use super::stream::Stream;
use super::wire::Status;
use super::{Frame, Lsn, PgTime, SourceError, auth};

/// One read takes at most this much; frames are slices of what was read.
const READ_CAPACITY: usize = 128 * 1024;
/// PostgreSQL's own limit of a message; a longer one is not a message.
const MAX_MESSAGE: usize = 0x3fff_ffff;
const GOOD_BYE: Duration = Duration::from_secs(2);

/// Answer to IDENTIFY_SYSTEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SystemIdentity {
    /// Id of the cluster.
    pub system_id: String,
    /// Timeline of its WAL.
    pub timeline: u32,
    /// Its flush position.
    pub position: Lsn,
}

/// What START_REPLICATION asks for.
#[derive(Debug, Clone)]
pub struct StartOptions {
    slot: String,
    publication: String,
    protocol: u32,
    streaming: bool,
}

impl StartOptions {
    /// Whole transactions of the publication `cachetag`, logical messages included, from where the slot stands.
    pub fn new(slot: &str) -> Self {
        StartOptions { slot: slot.into(), publication: "cachetag".into(), protocol: 1, streaming: false }
    }

    /// Another publication.
    pub fn publication(mut self, name: &str) -> Self {
        self.publication = name.into();
        self
    }

    /// Large transactions before their commit (protocol version 2).
    pub fn streaming(mut self) -> Self {
        (self.protocol, self.streaming) = (2, true);
        self
    }

    fn command(&self) -> String {
        let publication = identifier(&self.publication).replace('\'', "''");
        let streaming = if self.streaming { ", streaming 'on'" } else { "" };
        format!(
            "START_REPLICATION SLOT {} LOGICAL 0/0 (proto_version '{}', publication_names '{publication}', messages 'true'{streaming})",
            identifier(&self.slot),
            self.protocol
        )
    }
}

fn identifier(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// See the module's documentation.
pub struct ReplicationConnection {
    stream: Stream,
    /// Received and not parsed yet.
    buffer: BytesMut,
    out: BytesMut,
    server: String,
    user: String,
}

impl ReplicationConnection {
    /// Connects and authenticates.
    pub async fn connect(options: &ConnectOptions) -> Result<Self, SourceError> {
        match timeout(options.timeout, Self::open(options)).await {
            Ok(connected) => connected,
            Err(_) => Err(SourceError::Timeout { server: options.server(), after: options.timeout }),
        }
    }

    async fn open(options: &ConnectOptions) -> Result<Self, SourceError> {
        let mut connection = ReplicationConnection {
            stream: Stream::connect(options).await?,
            buffer: BytesMut::new(),
            out: BytesMut::new(),
            server: options.server(),
            user: options.user.clone(),
        };
        // Values are rendered under fixed settings, whatever the role's or the database's are.
        let settings: String = RENDER_SETTINGS.iter().map(|(name, value)| format!("-c {name}={value} ")).collect();
        let parameters = [
            ("user", options.user.as_str()),
            ("database", &options.database),
            ("replication", "database"),
            ("application_name", &options.application_name),
            ("client_encoding", "UTF8"),
            ("options", settings.trim_end()),
        ];
        connection.write(|out| frontend::startup_message(parameters, out)).await?;
        auth::authenticate(&mut connection, options.config.get_password()).await?;
        loop {
            if let Message::ReadyForQuery(_) = connection.message("connecting").await? {
                return Ok(connection);
            }
        }
    }

    /// IDENTIFY_SYSTEM.
    pub async fn identify_system(&mut self) -> Result<SystemIdentity, SourceError> {
        let row = self.query("IDENTIFY_SYSTEM", "identifying the system").await?;
        let field = |i: usize| row.get(i).cloned().flatten().unwrap_or_default();
        let unexpected = |got: String| SourceError::Protocol { expected: "system id, timeline and position", got };
        Ok(SystemIdentity {
            system_id: field(0),
            timeline: field(1).parse().map_err(|_| unexpected(field(1)))?,
            position: field(2).parse().map_err(|_| unexpected(field(2)))?,
        })
    }

    /// Creates a logical slot for pgoutput; waits for the transactions that are running. Returns its consistent point.
    pub async fn create_slot(&mut self, name: &str) -> Result<Lsn, SourceError> {
        let command = format!("CREATE_REPLICATION_SLOT {} LOGICAL pgoutput NOEXPORT_SNAPSHOT", identifier(name));
        let row = self.query(&command, "creating the replication slot").await?;
        let point = row.get(1).cloned().flatten().unwrap_or_default();
        point.parse().map_err(|_| SourceError::Protocol { expected: "a consistent point", got: point })
    }

    /// Begins to stream.
    pub async fn start_replication(&mut self, options: &StartOptions) -> Result<(), SourceError> {
        const DOING: &str = "starting replication";
        let command = options.command();
        self.write(|out| frontend::query(&command, out)).await?;
        loop {
            // CopyBothResponse has no place in postgres-protocol: it is recognised by its tag.
            if self.next_tag().await? == b'W' {
                self.take_raw().await?;
                return Ok(());
            }
            self.message(DOING).await?;
        }
    }

    /// Waits until a whole frame has been received. Cancel-safe: bytes stay in the buffer.
    pub async fn ready(&mut self) -> Result<(), SourceError> {
        while self.frame_length()?.is_none() {
            self.read().await?;
        }
        Ok(())
    }

    /// The next frame, if it has been received already.
    pub fn try_next_frame(&mut self) -> Result<Option<Frame>, SourceError> {
        loop {
            let Some(length) = self.frame_length()? else { return Ok(None) };
            let tag = self.buffer[0];
            if tag == b'd' {
                let mut frame = self.buffer.split_to(length);
                frame.advance(5);
                return Ok(Some(Frame::parse(frame.freeze())?));
            }
            match self.parse("streaming")? {
                Some(Message::CopyDone) | None => return Err(SourceError::Ended),
                Some(Message::NoticeResponse(_) | Message::ParameterStatus(_)) => {}
                Some(other) => return Err(SourceError::Protocol { expected: "a frame", got: auth::kind(&other) }),
            }
        }
    }

    /// Tells the server up to where we are. `flushed` is what the slot may forget.
    pub async fn send_status(
        &mut self,
        written: Lsn,
        flushed: Lsn,
        applied: Lsn,
        reply_requested: bool,
    ) -> Result<(), SourceError> {
        let status = Status { written, flushed, applied, clock: PgTime::now(), reply_requested };
        self.write(|out| {
            status.encode(out);
            Ok(())
        })
        .await
    }

    /// Ends the stream politely: the slot is free at once.
    pub async fn finish(&mut self) -> Result<(), SourceError> {
        self.write(|out| {
            frontend::copy_done(out);
            frontend::terminate(out);
            Ok(())
        })
        .await?;
        let closed = timeout(GOOD_BYE, async {
            loop {
                self.buffer.clear();
                if self.read().await.is_err() {
                    return;
                }
            }
        });
        // Whether the server closed in time changes nothing: its process ends with the socket.
        let _ = closed.await;
        Ok(())
    }

    pub(super) fn server(&self) -> &str {
        &self.server
    }

    pub(super) fn user(&self) -> &str {
        &self.user
    }

    /// Runs a command that returns at most one row, as text.
    async fn query(&mut self, command: &str, doing: &'static str) -> Result<Vec<Option<String>>, SourceError> {
        use fallible_iterator::FallibleIterator;
        self.write(|out| frontend::query(command, out)).await?;
        let mut row = Vec::new();
        loop {
            match self.message(doing).await? {
                Message::ReadyForQuery(_) => return Ok(row),
                Message::DataRow(body) => {
                    let malformed = |_| SourceError::Protocol { expected: "a row", got: "a malformed one".into() };
                    let buffer = body.buffer();
                    let mut ranges = body.ranges();
                    row.clear();
                    while let Some(range) = ranges.next().map_err(malformed)? {
                        row.push(range.map(|r| String::from_utf8_lossy(&buffer[r]).into_owned()));
                    }
                }
                _ => {}
            }
        }
    }

    pub(super) async fn write(
        &mut self,
        encode: impl FnOnce(&mut BytesMut) -> std::io::Result<()>,
    ) -> Result<(), SourceError> {
        self.out.clear();
        let encoded = encode(&mut self.out);
        let written = match encoded {
            Ok(()) => match self.stream.write_all(&self.out).await {
                Ok(()) => self.stream.flush().await,
                error => error,
            },
            error => error,
        };
        written.map_err(|source| self.io(source))
    }

    /// The next protocol message; an error of the server is an error here.
    pub(super) async fn message(&mut self, doing: &'static str) -> Result<Message, SourceError> {
        loop {
            match self.parse(doing)? {
                Some(Message::NoticeResponse(_) | Message::ParameterStatus(_) | Message::BackendKeyData(_)) => {}
                Some(message) => return Ok(message),
                None => self.read().await?,
            }
        }
    }

    fn parse(&mut self, doing: &'static str) -> Result<Option<Message>, SourceError> {
        match Message::parse(&mut self.buffer) {
            Ok(Some(Message::ErrorResponse(body))) => {
                let error = ServerError::read(&body).map_err(|source| self.io(source))?;
                Err(SourceError::Server { doing, error: Box::new(error) })
            }
            Ok(message) => Ok(message),
            Err(source) => Err(self.io(source)),
        }
    }

    async fn next_tag(&mut self) -> Result<u8, SourceError> {
        self.ready().await?;
        Ok(self.buffer[0])
    }

    async fn take_raw(&mut self) -> Result<(), SourceError> {
        if let Some(length) = self.frame_length()? {
            self.buffer.advance(length);
        }
        Ok(())
    }

    /// Length of the first message with its tag, once it is there as a whole.
    fn frame_length(&self) -> Result<Option<usize>, SourceError> {
        let Some(header) = self.buffer.first_chunk::<5>() else { return Ok(None) };
        let length = u32::from_be_bytes([header[1], header[2], header[3], header[4]]) as usize;
        if !(4..=MAX_MESSAGE).contains(&length) {
            return Err(SourceError::Protocol { expected: "a message", got: format!("a length of {length}") });
        }
        Ok((self.buffer.len() > length).then_some(length + 1))
    }

    async fn read(&mut self) -> Result<(), SourceError> {
        // Frames that are still alive keep the old block; `reserve` then takes a new one of this size, and one that a large row had
        // made larger is given back with it.
        if self.buffer.capacity() - self.buffer.len() < READ_CAPACITY / 8 {
            self.buffer.reserve(READ_CAPACITY);
        }
        match self.stream.read_buf(&mut self.buffer).await {
            Ok(0) => Err(self.io(std::io::ErrorKind::UnexpectedEof.into())),
            Ok(_) => Ok(()),
            Err(source) => Err(self.io(source)),
        }
    }

    fn io(&self, source: std::io::Error) -> SourceError {
        SourceError::Io { server: self.server.clone(), source }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_quoted() {
        let command = StartOptions::new("s\"lot").publication("o'p").streaming().command();
        assert_eq!(
            command,
            "START_REPLICATION SLOT \"s\"\"lot\" LOGICAL 0/0 \
             (proto_version '2', publication_names '\"o''p\"', messages 'true', streaming 'on')"
        );
    }
}

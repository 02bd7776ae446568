//! The replication connection: messages over a stream, then CopyBoth. Its commands are in [`super::commands`].

use std::collections::HashMap;
use std::time::Duration;

use bytes::BytesMut;
use postgres_protocol::message::frontend;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;
use tracing::{info, warn};

use super::frames::{BadLength, Frames, Message};
use super::server_error::ServerError;
use super::startup::{self, unexpected};
use super::stream::Stream;
use super::wire::Status;
use super::{ConnectOptions, Frame, Lsn, PgTime, SourceError};

/// How long the server may take to close a stream that was ended.
const GOOD_BYE: Duration = Duration::from_secs(2);

/// What the connection is in the middle of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Idle,
    /// An answer is due.
    Busy,
    /// CopyBoth.
    Streaming,
}

/// A connection to a walsender.
///
/// ```no_run
/// # async fn example() -> Result<(), cachetag_invalidator::source::SourceError> {
/// use cachetag_invalidator::source::{ConnectOptions, Frame, Lsn, ReplicationConnection, StartOptions};
///
/// let options = ConnectOptions::parse("postgres://cachetag@db.example/shop")?;
/// let mut connection = ReplicationConnection::connect(&options).await?;
/// connection.create_slot("cachetag").await?;
/// connection.start_replication(&StartOptions::new("cachetag")).await?;
/// loop {
///     connection.ready().await?;
///     while let Some(frame) = connection.try_next_frame()? {
///         match frame {
///             Frame::XLogData(data) => println!("{} bytes at {}", data.data.len(), data.wal_start),
///             Frame::Keepalive(keepalive) => println!("everything up to {} was sent", keepalive.wal_end),
///         }
///     }
///     let (received, safe) = (Lsn(0), Lsn(0));
///     connection.send_status(received, safe, safe, false).await?;
/// }
/// # }
/// ```
pub struct ReplicationConnection {
    stream: Stream,
    /// Received and not taken yet.
    frames: Frames,
    /// To be sent; what a cancelled send left here goes out with the next.
    out: BytesMut,
    state: State,
    /// For messages.
    server: String,
    /// What the server reported of its settings.
    parameters: HashMap<String, String>,
}

impl ReplicationConnection {
    /// Connects and authenticates.
    ///
    /// # Errors
    /// Whatever keeps a session from being ready for commands; [`SourceError::Timeout`] if that takes longer than `connect_timeout`.
    pub async fn connect(options: &ConnectOptions) -> Result<Self, SourceError> {
        let open = async {
            let mut connection = ReplicationConnection {
                stream: Stream::connect(options).await?,
                frames: Frames::new(),
                out: BytesMut::new(),
                state: State::Idle,
                server: options.server(),
                parameters: HashMap::new(),
            };
            startup::run(&mut connection, options).await?;
            Ok(connection)
        };
        match timeout(options.timeout, open).await {
            Ok(connected) => connected,
            Err(_) => Err(SourceError::Timeout { server: options.server(), after: options.timeout }),
        }
    }

    /// A setting that the server reports by itself: `server_version`, `server_encoding`, `TimeZone` …
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.get(name).map(String::as_str)
    }

    /// Waits until [`Self::try_next_frame`] has something to say. Cancel-safe: what was received stays in the buffer.
    pub async fn ready(&mut self) -> Result<(), SourceError> {
        while !self.frames.has_message().map_err(|e| self.bad_length(e))? {
            self.fill().await?;
        }
        Ok(())
    }

    /// The next frame of the stream, if it has been received already.
    ///
    /// # Errors
    /// The server's own error, [`SourceError::Ended`] when it ended the stream in good order.
    pub fn try_next_frame(&mut self) -> Result<Option<Frame>, SourceError> {
        while let Some(message) = self.frames.next().map_err(|e| self.bad_length(e))? {
            match message.tag {
                b'd' => return Ok(Some(Frame::parse(message.body)?)),
                // CopyDone, CommandComplete: the server shuts down.
                b'c' | b'C' => return Err(SourceError::Ended),
                _ => {
                    if let Some(message) = self.absorb(message, "streaming")? {
                        return Err(unexpected("a frame of the stream", message.tag));
                    }
                }
            }
        }
        Ok(None)
    }

    /// The next frame of the stream. Cancel-safe, as [`Self::ready`] is.
    pub async fn recv(&mut self) -> Result<Frame, SourceError> {
        loop {
            if let Some(frame) = self.try_next_frame()? {
                return Ok(frame);
            }
            self.ready().await?;
        }
    }

    /// Tells the server up to where we are. `flushed` is what the slot may forget, and what a commit waits for in strict mode. With
    /// `reply_requested` the server answers at once with a keepalive. Cancel-safe: a status is sent as a whole, if need be with the next.
    pub async fn send_status(
        &mut self,
        written: Lsn,
        flushed: Lsn,
        applied: Lsn,
        reply_requested: bool,
    ) -> Result<(), SourceError> {
        Status { written, flushed, applied, clock: PgTime::now(), reply_requested }.encode(&mut self.out);
        self.flush().await
    }

    /// Ends the connection politely and waits a little for the server to do so too: the slot is free at once.
    pub async fn finish(&mut self) -> Result<(), SourceError> {
        let streaming = self.state == State::Streaming;
        let goodbye = async {
            self.send(|out| {
                if streaming {
                    frontend::copy_done(out);
                }
                frontend::terminate(out);
                Ok(())
            })
            .await?;
            // Whatever is still coming is thrown away, so that the server gets to read.
            while self.fill().await.is_ok() {
                self.frames.clear();
            }
            Ok(())
        };
        // Whether the server closed in time changes nothing: its process ends with the socket.
        timeout(GOOD_BYE, goodbye).await.unwrap_or(Ok(()))
    }

    // --- for the startup and the commands -------------------------------------------------------------------------------

    /// A command is about to be sent.
    pub(super) fn begin(&mut self) -> Result<(), SourceError> {
        if self.state != State::Idle {
            return Err(SourceError::Busy);
        }
        self.state = State::Busy;
        Ok(())
    }

    /// The command has been answered.
    pub(super) fn end(&mut self) {
        self.state = State::Idle;
    }

    /// The command was answered by the beginning of a stream.
    pub(super) fn begin_stream(&mut self) {
        self.state = State::Streaming;
    }

    /// What is to be sent by the next [`Self::flush`].
    pub(super) fn out(&mut self) -> &mut BytesMut {
        &mut self.out
    }

    /// Messages up to this length are accepted from now on.
    pub(super) fn set_limit(&mut self, limit: usize) {
        self.frames.set_limit(limit);
    }

    pub(super) async fn send(
        &mut self,
        encode: impl FnOnce(&mut BytesMut) -> std::io::Result<()>,
    ) -> Result<(), SourceError> {
        encode(&mut self.out).map_err(|source| self.io(source))?;
        self.flush().await
    }

    /// Sends everything in `out`. Cancel-safe: what is not sent stays there.
    pub(super) async fn flush(&mut self) -> Result<(), SourceError> {
        while !self.out.is_empty() {
            match self.stream.write_buf(&mut self.out).await {
                Ok(0) => return Err(self.io(std::io::ErrorKind::WriteZero.into())),
                Ok(_) => {}
                Err(source) => return Err(self.io(source)),
            }
        }
        self.stream.flush().await.map_err(|source| self.io(source))
    }

    /// The next message that is an answer; an error of the server is an error here.
    pub(super) async fn receive(&mut self, doing: &'static str) -> Result<Message, SourceError> {
        loop {
            match self.frames.next().map_err(|e| self.bad_length(e))? {
                Some(message) => {
                    if let Some(message) = self.absorb(message, doing)? {
                        return Ok(message);
                    }
                }
                None => self.fill().await?,
            }
        }
    }

    /// Deals with the messages that can come at any time; hands back any other.
    fn absorb(&mut self, message: Message, doing: &'static str) -> Result<Option<Message>, SourceError> {
        match message.tag {
            b'E' => Err(SourceError::Server { doing, error: Box::new(ServerError::read(&message.body)) }),
            b'N' => {
                let notice = ServerError::read(&message.body);
                // A warning for the server, silently missing changes for us.
                if notice.is_publication_missing() {
                    return Err(SourceError::Server { doing, error: Box::new(notice) });
                }
                match notice.severity.as_str() {
                    "WARNING" => warn!(server = self.server, %notice, "PostgreSQL warns"),
                    _ => info!(server = self.server, %notice, "PostgreSQL says"),
                }
                Ok(None)
            }
            b'S' => {
                let mut parts = message.body.split(|&byte| byte == 0).map(String::from_utf8_lossy);
                if let (Some(name), Some(value)) = (parts.next(), parts.next()) {
                    self.parameters.insert(name.into_owned(), value.into_owned());
                }
                Ok(None)
            }
            // NotificationResponse.
            b'A' => Ok(None),
            _ => Ok(Some(message)),
        }
    }

    /// Receives something. Cancel-safe.
    async fn fill(&mut self) -> Result<(), SourceError> {
        match self.stream.read_buf(self.frames.space()).await {
            Ok(0) => {
                let closed = std::io::Error::new(std::io::ErrorKind::UnexpectedEof, "the server closed the connection");
                Err(self.io(closed))
            }
            Ok(_) => Ok(()),
            Err(source) => Err(self.io(source)),
        }
    }

    fn io(&self, source: std::io::Error) -> SourceError {
        SourceError::Io { server: self.server.clone(), source }
    }

    fn bad_length(&self, BadLength(length): BadLength) -> SourceError {
        SourceError::Protocol {
            expected: "a message",
            got: format!("a length of {length} bytes ({}); is this a PostgreSQL server?", self.server),
        }
    }
}

//! The bytes' way to the server: TCP, TLS over TCP, or a Unix socket.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_postgres::config::Host;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::options::{ConnectOptions, TlsMode};
use super::{SourceError, tls};

/// SSLRequest: length 8 and the code that no protocol version has.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];

/// A connection before PostgreSQL's protocol begins.
pub(super) enum Stream {
    Tcp(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
    Unix(UnixStream),
}

impl Stream {
    /// Connects and, if so configured, shakes hands.
    pub(super) async fn connect(options: &ConnectOptions) -> Result<Stream, SourceError> {
        let io = |source| SourceError::Io { server: options.server(), source };
        let name = match &options.host {
            Host::Unix(folder) => {
                let path = folder.join(format!(".s.PGSQL.{}", options.port));
                return UnixStream::connect(path).await.map(Stream::Unix).map_err(io);
            }
            Host::Tcp(name) => name,
        };
        let mut tcp = TcpStream::connect((name.as_str(), options.port)).await.map_err(io)?;
        tcp.set_nodelay(true).map_err(io)?;
        if options.tls == TlsMode::Disable {
            return Ok(Stream::Tcp(tcp));
        }
        tcp.write_all(&SSL_REQUEST).await.map_err(io)?;
        // The answer is one byte, and only that byte is read: what comes behind it unencrypted must not count.
        match tcp.read_u8().await.map_err(io)? {
            b'S' => {}
            b'N' if options.tls == TlsMode::Prefer => return Ok(Stream::Tcp(tcp)),
            b'N' => {
                return Err(SourceError::Tls(format!(
                    "{} does not offer TLS; set ssl = on there, or sslmode=disable here",
                    options.server()
                )));
            }
            other => {
                return Err(SourceError::Protocol { expected: "an answer to SSLRequest", got: format!("byte {other:#x}") });
            }
        }
        let server_name = ServerName::try_from(name.clone())
            .map_err(|_| SourceError::Tls(format!("{name:?} is not a host name that a certificate can have")))?;
        let connector = TlsConnector::from(Arc::new(tls::client_config(options)?));
        let stream = connector
            .connect(server_name, tcp)
            .await
            .map_err(|e| SourceError::Tls(format!("handshake with {}: {e}", options.server())))?;
        Ok(Stream::Tls(Box::new(stream)))
    }
}

macro_rules! delegate {
    ($self:ident, $stream:ident => $call:expr) => {
        match $self.get_mut() {
            Stream::Tcp($stream) => $call,
            Stream::Tls($stream) => $call,
            Stream::Unix($stream) => $call,
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        delegate!(self, stream => Pin::new(stream).poll_read(cx, buf))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        delegate!(self, stream => Pin::new(stream).poll_write(cx, buf))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        delegate!(self, stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        delegate!(self, stream => Pin::new(stream).poll_shutdown(cx))
    }
}

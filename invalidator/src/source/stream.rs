//! The bytes' way to the server: TCP, TLS over TCP, or a Unix socket.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use rustls::pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpSocket, TcpStream, UnixStream, lookup_host};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::options::{ConnectOptions, Host, TlsMode};
use super::{SourceError, tls};

/// SSLRequest: length 8 and a code that no protocol version has.
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
            Host::Unix(_) => return UnixStream::connect(options.socket()).await.map(Stream::Unix).map_err(io),
            Host::Tcp(name) => name,
        };
        let mut tcp = tcp(options, name).await.map_err(io)?;
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
                return Err(SourceError::Protocol {
                    expected: "an answer to SSLRequest",
                    got: format!("'{}'", other.escape_ascii()),
                });
            }
        }
        let server_name = ServerName::try_from(name.clone())
            .map_err(|_| SourceError::Tls(format!("{name:?} is not a host name that a certificate can have")))?;
        let connector = TlsConnector::from(Arc::new(tls::client_config(options)?));
        match connector.connect(server_name, tcp).await {
            Ok(stream) => Ok(Stream::Tls(Box::new(stream))),
            Err(error) => Err(tls::handshake_error(options, error)),
        }
    }
}

/// The first of the host's addresses that answers.
async fn tcp(options: &ConnectOptions, name: &str) -> io::Result<TcpStream> {
    let addresses: Vec<SocketAddr> = match options.address {
        Some(address) => vec![(address, options.port).into()],
        None => lookup_host((name, options.port)).await?.collect(),
    };
    let mut failure = io::Error::new(io::ErrorKind::NotFound, "the host name has no address");
    for address in addresses {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
        let connected = match socket {
            Ok(socket) => match notice_death(&socket) {
                Ok(()) => socket.connect(address).await,
                Err(error) => Err(error),
            },
            Err(error) => Err(error),
        };
        match connected.and_then(|stream| stream.set_nodelay(true).map(|()| stream)) {
            Ok(stream) => return Ok(stream),
            Err(error) => failure = error,
        }
    }
    Err(failure)
}

/// A peer that vanished without a word is found out in some seconds, whether anything is being sent or not. A server that is only silent,
/// because it decodes or is stopped, still acknowledges.
fn notice_death(socket: &TcpSocket) -> io::Result<()> {
    let socket = SockRef::from(socket);
    let probes = TcpKeepalive::new().with_time(Duration::from_secs(2)).with_interval(Duration::from_secs(1));
    socket.set_tcp_keepalive(&probes.with_retries(2))?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(Some(Duration::from_secs(4)))?;
    Ok(())
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

//! Free TCP ports of the loopback interface.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicU16, Ordering};

use tokio::net::TcpSocket;

use super::DevError;

/// Below the range from which the kernel takes ports for outgoing connections (32768 and up): a server that restarts finds its port still free.
const FIRST: u16 = 20_000;
const COUNT: u16 = 12_000;

/// A port on which nobody listens now. Two processes may find the same one: whoever starts a server retries with the next.
pub(super) fn free_port() -> Result<u16, DevError> {
    static OFFSET: AtomicU16 = AtomicU16::new(0);
    // Processes start at different places, so that they rarely meet.
    let start = (std::process::id().wrapping_mul(2_654_435_761) >> 16) as u16;
    let mut port = FIRST;
    for _ in 0..COUNT {
        let offset = OFFSET.fetch_add(1, Ordering::Relaxed);
        port = FIRST + start.wrapping_add(offset) % COUNT;
        if is_free(port) {
            return Ok(port);
        }
    }
    Err(DevError::PortTaken { port })
}

/// Whether nobody listens on this port of 127.0.0.1.
pub(super) fn is_free(port: u16) -> bool {
    // Bound, never listening: a child that is just being forked holds a copy for a moment, which must not be in a server's way.
    let bind = || -> std::io::Result<()> {
        let socket = TcpSocket::new_v4()?;
        socket.set_reuseaddr(true)?;
        socket.bind((Ipv4Addr::LOCALHOST, port).into())
    };
    bind().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_free_and_differ() {
        let (one, two) = (free_port().expect("port"), free_port().expect("port"));
        assert_ne!(one, two);
        let held = std::net::TcpListener::bind(("127.0.0.1", one)).expect("free");
        assert!(!is_free(one));
        drop(held);
        assert!(is_free(one));
    }
}

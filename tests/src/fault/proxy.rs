//! A proxy between a client and a server of this machine, which can be told to harm what passes.
//!
//! It runs on a thread of its own: whatever a test does, the traffic goes on. A connection ends on both sides when either side ends it, once
//! what was sent before has been delivered.

use std::cell::Cell;
use std::collections::VecDeque;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{LocalSet, spawn_local};
use tokio::time::{Instant, sleep_until};

use super::sniffer::Sniffer;

/// Read at once.
const CHUNK: usize = 16 * 1024;
/// Held in one direction of one connection before the sender has to wait, as a network would make it.
const WINDOW: usize = 1024 * 1024;
/// A slowed connection moves on this often.
const TICKS_A_SECOND: u64 = 20;

/// What happens to the bytes of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Traffic {
    /// Nothing.
    Pass,
    /// Connections are reset, new ones as soon as they are made.
    Refuse,
    /// Nothing arrives, in either direction; connections stay open, and new ones are accepted and hear nothing. What was sent arrives when
    /// the traffic passes again, as it would over TCP.
    Blackhole,
    /// Nothing arrives in this direction; the other is free. What was sent arrives when the traffic passes again.
    Hold(Direction),
    /// Everything arrives this much later, in each direction.
    Delay(Duration),
    /// At most so many bytes a second in each direction.
    Throttle(u64),
    /// Every connection passes so many more bytes in this direction and is then reset, wherever in a message that is.
    CutAfter {
        /// Bytes from now on, or from the beginning of a later connection.
        bytes: usize,
        /// Which way they go; the other way is free.
        direction: Direction,
    },
}

/// A way through the proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// What the client sends.
    ToServer,
    /// What the server sends.
    ToClient,
}

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A replication connection to PostgreSQL.
    Replication,
    /// Any other.
    Ordinary,
}

#[derive(Debug, Clone, Copy)]
struct Orders {
    target: SocketAddr,
    replication: Traffic,
    ordinary: Traffic,
    /// Counts changes of the traffic: the bytes of [`Traffic::CutAfter`] begin anew.
    changes: u64,
    /// Counts the resets of everything that is connected.
    resets: u64,
    /// Counts how often everything that was connected was forgotten, of each kind.
    forgotten: (u64, u64),
    /// New connections are reset as soon as they are made.
    barred: bool,
}

impl Orders {
    fn forgotten(&self, kind: Option<Kind>) -> u64 {
        match kind {
            Some(Kind::Replication) => self.forgotten.0,
            _ => self.forgotten.1,
        }
    }

    fn traffic(&self, kind: Option<Kind>) -> Traffic {
        match kind {
            Some(Kind::Replication) => self.replication,
            Some(Kind::Ordinary) => self.ordinary,
            // It has not said yet what it is.
            None if self.replication == self.ordinary => self.ordinary,
            None => Traffic::Pass,
        }
    }
}

/// A listener on a port of its own that passes every connection on to a server. Dropping it ends them all.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    orders: watch::Sender<Orders>,
}

impl Proxy {
    /// Begins to pass connections on to this port of 127.0.0.1.
    pub fn start(target: u16) -> Proxy {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port for the proxy");
        let port = listener.local_addr().expect("the address of a listener").port();
        let orders = Orders {
            target: (Ipv4Addr::LOCALHOST, target).into(),
            replication: Traffic::Pass,
            ordinary: Traffic::Pass,
            changes: 0,
            resets: 0,
            forgotten: (0, 0),
            barred: false,
        };
        let (sender, orders) = watch::channel(orders);
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            LocalSet::new().block_on(&runtime, accept(listener, orders));
        });
        Proxy { port, orders: sender }
    }

    /// The port of 127.0.0.1 that it listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The URL of a server on 127.0.0.1, with the proxy in the server's place.
    pub fn url(&self, server: &str) -> String {
        const HOST: &str = "127.0.0.1:";
        let port = server.find(HOST).unwrap_or_else(|| panic!("{server} is no URL of 127.0.0.1")) + HOST.len();
        let end = server[port..].find(|c: char| !c.is_ascii_digit()).map_or(server.len(), |length| port + length);
        format!("{}{}{}", &server[..port], self.port, &server[end..])
    }

    /// From now on this happens to every connection.
    pub fn set(&self, traffic: Traffic) {
        self.orders.send_modify(|orders| {
            (orders.replication, orders.ordinary) = (traffic, traffic);
            orders.changes += 1;
        });
    }

    /// From now on this happens to connections of one kind.
    pub fn set_for(&self, kind: Kind, traffic: Traffic) {
        self.orders.send_modify(|orders| {
            match kind {
                Kind::Replication => orders.replication = traffic,
                Kind::Ordinary => orders.ordinary = traffic,
            }
            orders.changes += 1;
        });
    }

    /// Resets every connection that there is; new ones are welcome.
    pub fn reset(&self) {
        self.orders.send_modify(|orders| orders.resets += 1);
    }

    /// Whether new connections are reset as soon as they are made; those that exist go on.
    pub fn bar(&self, barred: bool) {
        self.orders.send_modify(|orders| orders.barred = barred);
    }

    /// Forgets the connections of one kind, as a firewall does: they are dead and nobody is told; new ones are welcome.
    pub fn forget(&self, kind: Kind) {
        self.orders.send_modify(|orders| match kind {
            Kind::Replication => orders.forgotten.0 += 1,
            Kind::Ordinary => orders.forgotten.1 += 1,
        });
    }

    /// Moves the address to another server of 127.0.0.1, as a failover does: what is connected is reset.
    pub fn retarget(&self, target: u16) {
        self.orders.send_modify(|orders| {
            orders.target = (Ipv4Addr::LOCALHOST, target).into();
            orders.resets += 1;
        });
    }
}

async fn accept(listener: std::net::TcpListener, mut orders: watch::Receiver<Orders>) {
    listener.set_nonblocking(true).expect("a listener that does not block");
    let listener = TcpListener::from_std(listener).expect("a listener");
    loop {
        tokio::select! {
            changed = orders.changed() => if changed.is_err() {
                return;
            },
            accepted = listener.accept() => if let Ok((client, _)) = accepted {
                spawn_local(relay(client, orders.clone()));
            },
        }
    }
}

/// How a connection or a direction of it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Closed,
    Reset,
}

async fn relay(client: TcpStream, mut orders: watch::Receiver<Orders>) {
    let resets = orders.borrow().resets;
    let blackhole = |orders: &Orders| orders.traffic(None) != Traffic::Blackhole || orders.resets != resets;
    let Ok(now) = orders.wait_for(blackhole).await.map(|now| *now) else { return };
    let refused = now.barred || now.traffic(None) == Traffic::Refuse || now.resets != resets;
    let server = if refused { None } else { TcpStream::connect(now.target).await.ok() };
    let Some(server) = server else {
        reset(&client);
        return;
    };
    for stream in [&client, &server] {
        let _ = stream.set_nodelay(true);
    }
    let kind = Rc::new(Cell::new(None));
    let line = |from, to, direction| Line {
        from,
        to,
        direction,
        made: now,
        kind: kind.clone(),
        sniffer: (direction == Direction::ToServer).then(Sniffer::default),
        orders: orders.clone(),
        underway: VecDeque::new(),
        held: 0,
        last_due: Instant::now(),
        change: 0,
        budget: None,
    };
    let ended = tokio::select! {
        ended = line(&client, &server, Direction::ToServer).carry() => ended,
        ended = line(&server, &client, Direction::ToClient).carry() => ended,
    };
    if ended == End::Reset {
        reset(&client);
        reset(&server);
    }
}

/// The peer of a socket that is dropped after this gets RST, not FIN.
fn reset(stream: &TcpStream) {
    let _ = stream.set_zero_linger();
}

/// One direction of one connection.
struct Line<'a> {
    from: &'a TcpStream,
    to: &'a TcpStream,
    direction: Direction,
    kind: Rc<Cell<Option<Kind>>>,
    /// Until it knows what the connection is for.
    sniffer: Option<Sniffer>,
    orders: watch::Receiver<Orders>,
    /// The orders when the connection was made.
    made: Orders,
    /// What is on its way, and when it arrives.
    underway: VecDeque<(Instant, Vec<u8>)>,
    held: usize,
    last_due: Instant,
    /// The change of orders under which it was sent.
    change: u64,
    /// What [`Traffic::CutAfter`] still lets pass, and the change of orders that it belongs to.
    budget: Option<(u64, usize)>,
}

impl Line<'_> {
    async fn carry(mut self) -> End {
        let mut open = true;
        loop {
            let orders = *self.orders.borrow_and_update();
            let traffic = orders.traffic(self.kind.get());
            if traffic == Traffic::Refuse || orders.resets != self.made.resets {
                return End::Reset;
            }
            self.see_to_change(traffic, orders.changes);
            if !open && self.underway.is_empty() {
                return End::Closed;
            }
            let kind = self.kind.get();
            let held = [Traffic::Blackhole, Traffic::Hold(self.direction)].contains(&traffic);
            let flows = !held && orders.forgotten(kind) == self.made.forgotten(kind);
            let due = self.underway.front().map(|&(due, _)| due);
            let (from, to) = (self.from, self.to);
            let arrival = async {
                sleep_until(due.unwrap_or_else(Instant::now)).await;
                to.writable().await
            };
            tokio::select! {
                changed = self.orders.changed() => if changed.is_err() {
                    return End::Reset;
                },
                _ = from.readable(), if flows && open && self.held < WINDOW => match self.receive(traffic) {
                    Ok(more) => open = more,
                    Err(_) => return End::Reset,
                },
                _ = arrival, if flows && due.is_some() => match self.deliver() {
                    Ok(()) if self.budget.is_some_and(|(_, left)| left == 0) => return End::Reset,
                    Ok(()) => {}
                    Err(_) => return End::Reset,
                },
            }
        }
    }

    fn see_to_change(&mut self, traffic: Traffic, change: u64) {
        if self.change != change {
            // What was late or slow is so no longer.
            self.change = change;
            self.last_due = Instant::now();
            self.underway.iter_mut().for_each(|(due, _)| *due = self.last_due);
        }
        match traffic {
            Traffic::CutAfter { bytes, direction } if direction == self.direction => {
                if self.budget.is_none_or(|(of, _)| of != change) {
                    self.budget = Some((change, bytes));
                }
            }
            _ => self.budget = None,
        }
    }

    /// Takes what has come; false at its end.
    fn receive(&mut self, traffic: Traffic) -> io::Result<bool> {
        let mut chunk = vec![
            0;
            match traffic {
                Traffic::Throttle(rate) => (rate / TICKS_A_SECOND).clamp(1, CHUNK as u64) as usize,
                _ => CHUNK,
            }
        ];
        let length = match self.from.try_read(&mut chunk) {
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(true),
            Err(error) => return Err(error),
        };
        if length == 0 {
            return Ok(false);
        }
        chunk.truncate(length);
        if let Some(sniffer) = &mut self.sniffer
            && let Some(kind) = sniffer.see(&chunk)
        {
            self.kind.set(Some(kind));
            self.sniffer = None;
        }
        let now = Instant::now();
        let due = match traffic {
            Traffic::Delay(delay) => now + delay,
            Traffic::Throttle(rate) => {
                self.last_due.max(now) + Duration::from_secs_f64(length as f64 / rate.max(1) as f64)
            }
            _ => now,
        };
        // Nothing overtakes what was sent before.
        self.last_due = due.max(self.last_due);
        self.held += length;
        self.underway.push_back((self.last_due, chunk));
        Ok(true)
    }

    /// Hands on what the receiver takes of the first chunk.
    fn deliver(&mut self) -> io::Result<()> {
        let Some((_, chunk)) = self.underway.front_mut() else { return Ok(()) };
        let allowed = self.budget.map_or(chunk.len(), |(_, left)| left.min(chunk.len()));
        let length = match self.to.try_write(&chunk[..allowed]) {
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        };
        chunk.drain(..length);
        if chunk.is_empty() {
            self.underway.pop_front();
        }
        self.held -= length;
        if let Some((_, left)) = &mut self.budget {
            *left -= length;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;

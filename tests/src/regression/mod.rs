//! PostgreSQL's regression tests inside captures.
//!
//! A relay between psql and the server. Whatever a session sends outside of a transaction it puts between `capture_begin` and `capture_end`, a transaction as a
//! whole; psql does not notice. A query by itself whose result is cacheable is kept, as a cache would keep it, under the version that the capture says. After each
//! change the bumps that the daemon has made for it are read from Redis: what they reach is dropped, a sample of the rest is asked for again in its session, and
//! must answer what it answered then.

mod bumps;
mod pool;
mod report;
mod session;
mod statement;
mod wire;

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::net::TcpListener;
use tokio_postgres::NoTls;

use bumps::Bumps;

pub use report::Report;

/// Where everything is.
#[derive(Debug, Clone)]
pub struct Options {
    /// The port of 127.0.0.1 that psql connects to.
    pub listen: u16,
    /// The port of the server.
    pub postgres: u16,
    /// The port of the daemon's Redis.
    pub redis: u16,
    /// The database in which sessions are captured; others are passed on.
    pub database: String,
}

/// What all sessions have in common.
#[derive(Debug)]
struct Shared {
    options: Options,
    bumps: Bumps,
    report: Mutex<Report>,
}

impl Shared {
    fn report<T>(&self, note: impl FnOnce(&mut Report) -> T) -> T {
        note(&mut self.report.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Relays until `stop` completes; then what was found. Panics where it cannot begin.
pub async fn run(options: Options, stop: impl Future<Output = ()>) -> Report {
    let address = format!("host=127.0.0.1 port={} user=postgres dbname={}", options.postgres, options.database);
    let (postgres, connection) = tokio_postgres::connect(&address, NoTls).await.expect("the server");
    tokio::spawn(connection);
    let redis = redis::Client::open(format!("redis://127.0.0.1:{}", options.redis)).expect("an address");
    let redis = redis.get_multiplexed_async_connection().await.expect("Redis");
    let listener = TcpListener::bind(("127.0.0.1", options.listen)).await.expect("the port is free");
    let shared =
        Arc::new(Shared { options, bumps: Bumps::follow(redis, postgres), report: Mutex::new(Report::default()) });
    let accept = async {
        loop {
            let Ok((client, _)) = listener.accept().await else { continue };
            let shared = Arc::clone(&shared);
            tokio::spawn(async move {
                // Sessions end in the middle, on both sides, and the tests see what there is to see.
                if let Err(error) = session::serve(client, Arc::clone(&shared)).await
                    && !matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe)
                {
                    shared.report(|report| report.failure(&error.to_string()));
                }
            });
        }
    };
    tokio::select! {
        () = accept => {}
        () = stop => {}
    }
    shared.report(std::mem::take)
}

//! Harm that a test or a schedule can do to a running [`Stack`], and undo.
//!
//! A [`Fault`] is begun with [`Fault::inject`] and ended with [`Injected::end`]; what is over in a moment (a flush, a failover) is over when
//! `inject` returns. Afterwards [`recovery`] waits until the system is back by itself.

mod daemon;
mod network;
mod postgres;
pub mod proxy;
mod redis;
mod sentinel;
mod sniffer;

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, Instant};

pub use self::daemon::DaemonFault;
pub use self::network::{Harm, Link, Proxies};
pub use self::postgres::{Frozen, PostgresFault, discard, kill9, promote, standby_of, standby_with, wait_replayed};
pub use self::redis::{Eviction, Keys, RedisFault, Replica, evict, fill_memory, forget_snapshot, save};
pub use self::sentinel::Sentinel;
use crate::cache::Cache;
use crate::random::Random;
use crate::stack::{DATABASE, Stack};
use crate::wait::{lsn, lsn_of_version};

/// One way of harming the system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// A connection.
    Network(Link, Harm),
    /// The daemon.
    Daemon(DaemonFault),
    /// The source.
    Postgres(PostgresFault),
    /// The cache.
    Redis(RedisFault),
}

impl Fault {
    /// Every fault that there is. Those of the network, and failovers, need [`StackOptions::proxied`](crate::StackOptions::proxied).
    pub fn all() -> Vec<Fault> {
        let network =
            Link::ALL.iter().flat_map(|&link| Harm::of(link).into_iter().map(move |harm| Fault::Network(link, harm)));
        let daemon = DaemonFault::ALL.iter().copied().map(Fault::Daemon);
        let postgres = PostgresFault::ALL.iter().copied().map(Fault::Postgres);
        let redis = RedisFault::all().into_iter().map(Fault::Redis);
        network.chain(daemon).chain(postgres).chain(redis).collect()
    }

    /// Does it lose commits that have returned? Then the history of what was committed is no longer the truth.
    pub fn loses_commits(&self) -> bool {
        matches!(self, Fault::Postgres(PostgresFault::PromotionLosingCommits))
    }

    /// Begins it.
    pub async fn inject(&self, stack: &mut Stack, random: &mut Random) -> Injected {
        let began = Instant::now();
        let undo = match self {
            Fault::Network(link, harm) => harm.inject(*link, stack, random),
            Fault::Daemon(fault) => fault.inject(stack).await,
            Fault::Postgres(fault) => fault.inject(stack, random).await,
            Fault::Redis(fault) => fault.inject(stack, random).await,
        };
        Injected { fault: *self, began, undo }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Network(link, harm) => write!(f, "network {link} {harm}"),
            Fault::Daemon(fault) => write!(f, "daemon {fault}"),
            Fault::Postgres(fault) => write!(f, "postgres {fault}"),
            Fault::Redis(fault) => write!(f, "redis {fault}"),
        }
    }
}

impl FromStr for Fault {
    type Err = String;

    /// Reads what [`Display`](fmt::Display) writes.
    fn from_str(text: &str) -> Result<Fault, String> {
        let found = Fault::all().into_iter().find(|fault| fault.to_string() == text);
        found.ok_or_else(|| format!("there is no fault `{text}`"))
    }
}

/// What ends a fault.
#[derive(Debug)]
enum Undo {
    Nothing,
    Network(Link),
    Daemon(DaemonFault, Option<Box<crate::Daemon>>),
    /// Thawed when dropped.
    Frozen(Frozen),
    PostgresDown,
    Redis(redis::Undo),
}

/// A fault that lasts until [`end`](Self::end).
#[derive(Debug)]
#[must_use = "a fault lasts until it is ended"]
pub struct Injected {
    /// What was done.
    pub fault: Fault,
    /// When it began.
    pub began: Instant,
    undo: Undo,
}

impl Injected {
    /// Ends it, and returns when that was done.
    pub async fn end(self, stack: &mut Stack) -> Instant {
        match self.undo {
            Undo::Nothing => {}
            Undo::Network(link) => link.set(stack, proxy::Traffic::Pass),
            Undo::Daemon(fault, other) => fault.end(other.map(|other| *other), stack).await,
            Undo::Frozen(frozen) => drop(frozen),
            Undo::PostgresDown => stack.postgres.start_again().await.unwrap_or_else(|error| panic!("{error}")),
            Undo::Redis(undo) => undo.run(stack).await,
        }
        Instant::now()
    }
}

/// Waits until the system is back by itself: the daemon has proven to Redis, later than this call, that the watermark covers what is flushed,
/// and an entry can be filled and hit. Returns how long that took; panics after `patience`.
pub async fn recovery(stack: &Stack, patience: Duration) -> Duration {
    let began = Instant::now();
    let mut flushed = None;
    let mut asked_at = None;
    // Whatever the fault was, a server may need some time until it takes connections: nothing here insists.
    crate::eventually("the recovery", patience, async || {
        if flushed.is_none() {
            let client = stack.postgres.connect(DATABASE).await.ok()?;
            let row = client.query_one("SELECT pg_current_wal_flush_lsn()::text", &[]).await.ok()?;
            flushed = Some(lsn(row.get(0)));
        }
        let mut cache = Cache::new(stack.redis.connect().await.ok()?);
        if asked_at.is_none() {
            let (seconds, micros): (u64, u64) = ::redis::cmd("TIME").query_async(cache.connection()).await.ok()?;
            asked_at = Some(seconds * 1000 + micros / 1000);
        }
        let mut state = cache.state().await.ok()?;
        let (watermark, fresh_at) = (state.remove("watermark")?, state.remove("fresh_at")?);
        // A server that went back in time is behind the watermark of before: only later news counts.
        if lsn_of_version(&watermark) < flushed? || fresh_at.parse().ok() < asked_at {
            return None;
        }
        // A key of its own each time: nothing that was stored before the fault counts.
        let key = format!("recovery:{began:?}");
        let got = cache.get(&key).await.ok()?;
        if got.is_hit() {
            return Some(());
        }
        let ttl = Duration::from_secs(60);
        got.is_miss().then_some(())?;
        cache.put(&key, "back", &got.token, ttl, &["recovery:1"]).await.ok()?;
        cache.get(&key).await.ok()?.is_hit().then_some(())
    })
    .await;
    began.elapsed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_have_names_of_their_own() {
        let faults = Fault::all();
        for fault in &faults {
            assert_eq!(fault.to_string().parse::<Fault>(), Ok(*fault));
        }
        assert!(faults.len() > 40, "{}", faults.len());
        assert!("redis broken".parse::<Fault>().is_err());
    }
}

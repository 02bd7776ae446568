//! The network between any two of daemon, application, PostgreSQL and Redis.

use std::fmt;
use std::time::Duration;

use super::proxy::{Direction, Kind, Proxy, Traffic};
use super::{Undo, proxy};
use crate::random::Random;
use crate::stack::Stack;

/// Slower than what a load writes, fast enough for the answers to a start.
const SLOW_BYTES: u64 = 4 * 1024;
/// Below the ten seconds after which the daemon takes a server for gone.
const DELAY: Duration = Duration::from_millis(300);
/// A message begins and ends somewhere within.
const CUT_BYTES: usize = 4 * 1024;

/// The proxies of a stack: one for each pair.
#[derive(Debug)]
pub struct Proxies {
    /// Daemon to PostgreSQL.
    pub postgres: Proxy,
    /// Daemon to Redis.
    pub redis: Proxy,
    /// Application to PostgreSQL.
    pub app_postgres: Proxy,
    /// Application to Redis.
    pub app_redis: Proxy,
}

impl Proxies {
    /// Proxies to servers on these ports of 127.0.0.1.
    pub fn start(postgres: u16, redis: u16) -> Proxies {
        Proxies {
            postgres: Proxy::start(postgres),
            redis: Proxy::start(redis),
            app_postgres: Proxy::start(postgres),
            app_redis: Proxy::start(redis),
        }
    }
}

/// A connection, or all between two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    /// All of the daemon's to PostgreSQL.
    DaemonPostgres,
    /// Only the replication connection.
    DaemonReplication,
    /// Only the SQL connection.
    DaemonSql,
    /// The daemon's to Redis.
    DaemonRedis,
    /// The applications' to PostgreSQL.
    AppPostgres,
    /// The applications' to Redis.
    AppRedis,
}

impl Link {
    /// All of them.
    pub const ALL: &[Link] = &[
        Link::DaemonPostgres,
        Link::DaemonReplication,
        Link::DaemonSql,
        Link::DaemonRedis,
        Link::AppPostgres,
        Link::AppRedis,
    ];

    /// Lets this happen to it.
    pub fn set(&self, stack: &Stack, traffic: Traffic) {
        let proxies = stack.proxies();
        match self {
            Link::DaemonPostgres => proxies.postgres.set(traffic),
            Link::DaemonReplication => proxies.postgres.set_for(Kind::Replication, traffic),
            Link::DaemonSql => proxies.postgres.set_for(Kind::Ordinary, traffic),
            Link::DaemonRedis => proxies.redis.set(traffic),
            Link::AppPostgres => proxies.app_postgres.set(traffic),
            Link::AppRedis => proxies.app_redis.set(traffic),
        }
    }

    /// Forgets what is connected.
    fn forget(&self, stack: &Stack) {
        let proxies = stack.proxies();
        match self {
            Link::DaemonPostgres => {
                proxies.postgres.forget(Kind::Replication);
                proxies.postgres.forget(Kind::Ordinary);
            }
            Link::DaemonReplication => proxies.postgres.forget(Kind::Replication),
            Link::DaemonSql => proxies.postgres.forget(Kind::Ordinary),
            Link::DaemonRedis => proxies.redis.forget(Kind::Ordinary),
            Link::AppPostgres => proxies.app_postgres.forget(Kind::Ordinary),
            Link::AppRedis => proxies.app_redis.forget(Kind::Ordinary),
        }
    }
}

impl fmt::Display for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Link::DaemonPostgres => "daemon-postgres",
            Link::DaemonReplication => "daemon-replication",
            Link::DaemonSql => "daemon-sql",
            Link::DaemonRedis => "daemon-redis",
            Link::AppPostgres => "app-postgres",
            Link::AppRedis => "app-redis",
        })
    }
}

/// What is done to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Harm {
    /// Connections are reset and refused.
    Refused,
    /// Nothing arrives and nobody is told.
    Silent,
    /// Everything arrives late.
    Late,
    /// Few bytes a second.
    Slow,
    /// Reset in the middle of what the client sends, over and over.
    CutToServer,
    /// Reset in the middle of what the server sends, over and over.
    CutToClient,
    /// What is connected is dead and nobody is told; new connections are welcome.
    Forgotten,
}

impl Harm {
    /// All that can be done to a link. Only the daemon has to find out by itself that a connection is dead.
    pub fn of(link: Link) -> Vec<Harm> {
        let mut all = vec![Harm::Refused, Harm::Silent, Harm::Late, Harm::Slow, Harm::CutToServer, Harm::CutToClient];
        if matches!(link, Link::DaemonReplication | Link::DaemonSql | Link::DaemonRedis) {
            all.push(Harm::Forgotten);
        }
        all
    }

    pub(super) fn inject(self, link: Link, stack: &Stack, random: &mut Random) -> Undo {
        let mut cut = |direction| Traffic::CutAfter { bytes: random.below(CUT_BYTES), direction };
        let traffic = match self {
            Harm::Forgotten => {
                link.forget(stack);
                return Undo::Nothing;
            }
            Harm::Refused => Traffic::Refuse,
            Harm::Silent => Traffic::Blackhole,
            Harm::Late => Traffic::Delay(DELAY),
            Harm::Slow => Traffic::Throttle(SLOW_BYTES),
            Harm::CutToServer => cut(Direction::ToServer),
            Harm::CutToClient => cut(proxy::Direction::ToClient),
        };
        link.set(stack, traffic);
        Undo::Network(link)
    }
}

impl fmt::Display for Harm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Harm::Refused => "refused",
            Harm::Silent => "silent",
            Harm::Late => "late",
            Harm::Slow => "slow",
            Harm::CutToServer => "cut-to-server",
            Harm::CutToClient => "cut-to-client",
            Harm::Forgotten => "forgotten",
        })
    }
}

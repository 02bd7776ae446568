//! What can go wrong with the daemon and the servers, and how it is done to them.

use std::time::Duration;

use clap::ValueEnum;
use redis::cmd;
use tokio_postgres::Client;

use super::random::Random;
use super::world::World;
use crate::{Cache, Daemon, DaemonOptions, Stack};

/// Kinds of faults.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Kind {
    /// The daemon is stopped by SIGSTOP for a while.
    DaemonFrozen,
    /// The daemon is killed and started again.
    DaemonKilled,
    /// The daemon ends in order and is started again.
    DaemonRestarted,
    /// A second daemon takes over while the first is frozen; then the first goes on, and one of them is killed.
    Usurped,
    /// PostgreSQL ends the replication connection.
    WalsenderTerminated,
    /// PostgreSQL ends every connection of the daemon.
    ConnectionsTerminated,
    /// The process that sends the stream is frozen for a while.
    WalsenderFrozen,
    /// The slot is dropped.
    SlotDropped,
    /// Commits wait for a standby that is not there: in the log, but not visible.
    CommitsHeld,
    /// Redis is emptied and the slot moved on while commits are held invisible.
    LostWhileHeld,
    /// Redis is stopped by SIGSTOP for a while.
    RedisFrozen,
    /// Redis answers no writes for a while (CLIENT PAUSE).
    RedisPaused,
    /// Redis is killed and comes back empty.
    RedisKilled,
    /// Redis is killed and comes back as it was some time ago.
    RedisRestored,
    /// Redis goes back to how it was some time ago, behind the connections.
    RedisRewound,
    /// The same, to before the last new epoch.
    RedisRewoundToOldEpoch,
    /// FLUSHALL.
    RedisFlushed,
    /// The daemon's state in Redis is deleted.
    StateDeleted,
    /// FUNCTION FLUSH.
    FunctionsFlushed,
    /// Memory is full, under any eviction policy.
    MemoryFull,
    /// PostgreSQL crashes and starts again.
    PostgresKilled,
    /// PostgreSQL is restarted in order.
    PostgresRestarted,
}

impl Kind {
    /// All of them.
    pub const ALL: &[Kind] = &[
        Kind::DaemonFrozen,
        Kind::DaemonKilled,
        Kind::DaemonRestarted,
        Kind::Usurped,
        Kind::WalsenderTerminated,
        Kind::ConnectionsTerminated,
        Kind::WalsenderFrozen,
        Kind::SlotDropped,
        Kind::CommitsHeld,
        Kind::LostWhileHeld,
        Kind::RedisFrozen,
        Kind::RedisPaused,
        Kind::RedisKilled,
        Kind::RedisRestored,
        Kind::RedisRewound,
        Kind::RedisRewoundToOldEpoch,
        Kind::RedisFlushed,
        Kind::StateDeleted,
        Kind::FunctionsFlushed,
        Kind::MemoryFull,
        Kind::PostgresKilled,
        Kind::PostgresRestarted,
    ];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Kind::DaemonFrozen => "daemon-frozen",
            Kind::DaemonKilled => "daemon-killed",
            Kind::DaemonRestarted => "daemon-restarted",
            Kind::Usurped => "usurped",
            Kind::WalsenderTerminated => "walsender-terminated",
            Kind::ConnectionsTerminated => "connections-terminated",
            Kind::WalsenderFrozen => "walsender-frozen",
            Kind::SlotDropped => "slot-dropped",
            Kind::CommitsHeld => "commits-held",
            Kind::LostWhileHeld => "lost-while-held",
            Kind::RedisFrozen => "redis-frozen",
            Kind::RedisPaused => "redis-paused",
            Kind::RedisKilled => "redis-killed",
            Kind::RedisRestored => "redis-restored",
            Kind::RedisRewound => "redis-rewound",
            Kind::RedisRewoundToOldEpoch => "redis-rewound-to-old-epoch",
            Kind::RedisFlushed => "redis-flushed",
            Kind::StateDeleted => "state-deleted",
            Kind::FunctionsFlushed => "functions-flushed",
            Kind::MemoryFull => "memory-full",
            Kind::PostgresKilled => "postgres-killed",
            Kind::PostgresRestarted => "postgres-restarted",
        }
    }
}

const POLL: Duration = Duration::from_millis(5);
/// What one waits for before going on with a fault; if it does not come, the fault is a smaller one.
const PATIENCE: Duration = Duration::from_secs(3);
const EVICTION_POLICIES: [&str; 5] = ["volatile-lru", "volatile-ttl", "allkeys-lru", "allkeys-random", "noeviction"];

/// Hurts one stack.
pub struct Faults<'a> {
    world: &'a World,
    stack: &'a mut Stack,
    daemon: &'a DaemonOptions,
}

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// Waits for something, but not for ever.
async fn until(mut probe: impl AsyncFnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !probe().await && tokio::time::Instant::now() < deadline {
        tokio::time::sleep(POLL).await;
    }
}

impl<'a> Faults<'a> {
    /// Of this stack, whose daemons start this way.
    pub fn new(world: &'a World, stack: &'a mut Stack, daemon: &'a DaemonOptions) -> Faults<'a> {
        Faults { world, stack, daemon }
    }

    /// Lets it happen, and mends it.
    pub async fn happen(&mut self, kind: Kind, random: &mut Random) {
        let time = ms(20) + random.up_to(ms(600));
        match kind {
            Kind::DaemonFrozen => {
                self.stack.daemon().pause();
                tokio::time::sleep(time).await;
                self.stack.daemon().resume();
            }
            Kind::DaemonKilled => {
                self.stack.daemon().kill9().await;
                tokio::time::sleep(random.up_to(ms(100))).await;
                self.stack.daemon().start_again();
            }
            Kind::DaemonRestarted => self.stack.daemon().restart().await,
            Kind::Usurped => self.usurp(random).await,
            Kind::WalsenderTerminated => self.terminate_walsender().await,
            Kind::ConnectionsTerminated => {
                self.ask("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name LIKE 'cachetag%'")
                    .await;
            }
            Kind::WalsenderFrozen => self.freeze_walsender(time).await,
            Kind::SlotDropped => self.drop_slot().await,
            Kind::CommitsHeld => {
                self.hold_commits(true).await;
                tokio::time::sleep(time).await;
                self.hold_commits(false).await;
            }
            Kind::LostWhileHeld => self.lose_while_held(time).await,
            Kind::RedisFrozen => {
                self.stack.redis.signal(libc::SIGSTOP);
                tokio::time::sleep(time).await;
                self.stack.redis.signal(libc::SIGCONT);
            }
            Kind::RedisPaused => {
                self.redis(&["CLIENT", "PAUSE", &time.as_millis().to_string(), "WRITE"]).await;
                tokio::time::sleep(time).await;
            }
            Kind::RedisKilled => self.restart_redis().await,
            Kind::RedisRestored => {
                self.redis(&["SAVE"]).await;
                tokio::time::sleep(time).await;
                self.restart_redis().await;
                let saved = self.stack.redis.log().with_file_name("dump.rdb");
                std::fs::remove_file(saved).expect("what Redis saved");
            }
            Kind::RedisRewound => {
                let before = self.dump().await;
                tokio::time::sleep(time).await;
                self.rewind(&before).await;
            }
            Kind::RedisRewoundToOldEpoch => {
                let before = self.dump().await;
                self.flush().await;
                self.wait_for_epoch(None).await;
                tokio::time::sleep(time).await;
                self.rewind(&before).await;
            }
            Kind::RedisFlushed => self.flush().await,
            Kind::StateDeleted => {
                self.world.redis_goes_back();
                self.redis(&["DEL", "{ct}:w"]).await;
                self.world.redis_goes_back();
            }
            Kind::FunctionsFlushed => self.redis(&["FUNCTION", "FLUSH"]).await,
            Kind::MemoryFull => {
                let policy = *random.pick(&EVICTION_POLICIES);
                self.redis(&["CONFIG", "SET", "maxmemory-policy", policy, "maxmemory", "1mb"]).await;
                tokio::time::sleep(time).await;
                self.redis(&["CONFIG", "SET", "maxmemory-policy", "volatile-lru", "maxmemory", "0"]).await;
            }
            Kind::PostgresKilled => {
                self.stack.postgres.kill().await;
                tokio::time::sleep(random.up_to(ms(200))).await;
                self.stack.postgres.start_again().await.expect("PostgreSQL after a crash");
            }
            Kind::PostgresRestarted => self.stack.postgres.restart().await.expect("PostgreSQL again"),
        }
    }

    // PostgreSQL

    async fn sql(&self) -> Client {
        self.stack.connect().await
    }

    async fn ask(&self, sql: &str) {
        self.sql().await.batch_execute(sql).await.unwrap_or_else(|error| panic!("{error:?}, in: {sql}"));
    }

    async fn terminate_walsender(&self) {
        self.ask("SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = 'cachetag'").await;
    }

    async fn freeze_walsender(&self, time: Duration) {
        let question = "SELECT active_pid FROM pg_replication_slots WHERE slot_name = 'cachetag'";
        let slot = self.sql().await.query_opt(question, &[]).await.expect("the slots");
        let pid: Option<i32> = slot.and_then(|slot| slot.get(0));
        let Some(pid) = pid else { return };
        // SAFETY: plain system calls. The process is a backend of this run's own server.
        unsafe { libc::kill(pid, libc::SIGSTOP) };
        tokio::time::sleep(time).await;
        // SAFETY: as above; a stopped process keeps its id.
        unsafe { libc::kill(pid, libc::SIGCONT) };
    }

    /// The daemon may be back on the slot sooner than it is dropped.
    async fn drop_slot(&self) {
        let client = self.sql().await;
        until(async || {
            self.terminate_walsender().await;
            client.batch_execute("SELECT pg_drop_replication_slot('cachetag')").await.is_ok()
        })
        .await;
    }

    async fn hold_commits(&self, hold: bool) {
        let (change, expected) = if hold { ("SET synchronous_standby_names = 'nobody'", "nobody") } else { ("RESET synchronous_standby_names", "") };
        let client = self.sql().await;
        client.batch_execute(&format!("ALTER SYSTEM {change}")).await.expect("ALTER SYSTEM");
        client.batch_execute("SELECT pg_reload_conf()").await.expect("the reload");
        until(async || {
            let now = client.query_one("SHOW synchronous_standby_names", &[]).await.expect("SHOW");
            now.get::<_, &str>(0) == expected
        })
        .await;
    }

    /// A new epoch begins behind commits that nobody can see yet and that no daemon will ever be sent.
    async fn lose_while_held(&mut self, time: Duration) {
        let epoch = self.epoch().await;
        self.hold_commits(true).await;
        let client = self.sql().await;
        until(async || {
            let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
            client.query_one(waiting, &[]).await.expect("the activity").get::<_, i64>(0) > 0
        })
        .await;
        self.stack.daemon().kill9().await;
        let advance = "SELECT pg_replication_slot_advance('cachetag', pg_current_wal_flush_lsn())";
        until(async || client.batch_execute(advance).await.is_ok()).await;
        self.flush().await;
        self.stack.daemon().start_again();
        self.wait_for_epoch(epoch).await;
        tokio::time::sleep(time).await;
        self.hold_commits(false).await;
    }

    // The daemon

    async fn usurp(&mut self, random: &mut Random) {
        let claimant = self.field("claimant").await;
        self.stack.daemon().pause();
        self.terminate_walsender().await;
        let log = self.stack.folder().join("rival.log");
        let (postgres, redis) = (self.stack.postgres_url(), self.stack.redis_url());
        let mut rival = Daemon::start(&postgres, &redis, &log, self.daemon.clone());
        until(async || self.field("claimant").await != claimant).await;
        tokio::time::sleep(random.up_to(ms(200))).await;
        self.stack.daemon().resume();
        tokio::time::sleep(random.up_to(ms(200))).await;
        if random.percent(50) {
            self.stack.daemon().kill9().await;
            self.stack.daemon().start_again();
            tokio::time::sleep(random.up_to(ms(100))).await;
        }
        rival.kill9().await;
    }

    // Redis

    async fn cache(&self) -> Cache {
        self.stack.cache().await
    }

    async fn redis(&self, command: &[&str]) {
        let mut call = cmd(command[0]);
        call.arg(&command[1..]);
        call.exec_async(self.cache().await.connection()).await.unwrap_or_else(|error| panic!("{command:?}: {error}"));
    }

    async fn field(&self, name: &str) -> Option<String> {
        self.cache().await.state().await.ok()?.remove(name)
    }

    async fn epoch(&self) -> Option<String> {
        self.field("epoch").await
    }

    /// Waits for an epoch that is another one.
    async fn wait_for_epoch(&self, old: Option<String>) {
        until(async || self.epoch().await.is_some_and(|epoch| Some(epoch) != old)).await;
    }

    async fn flush(&self) {
        self.world.redis_goes_back();
        self.redis(&["FLUSHALL"]).await;
        self.world.redis_goes_back();
    }

    async fn restart_redis(&mut self) {
        self.world.redis_goes_back();
        self.stack.redis.kill().await;
        self.stack.redis.start_again().await.expect("Redis again");
        self.world.redis_goes_back();
    }

    /// All keys as they are now.
    async fn dump(&self) -> Vec<(String, i64, Vec<u8>)> {
        let mut cache = self.cache().await;
        // In one step, or the parts would be of different moments.
        let script = "local all = {}
            for _, key in ipairs(redis.call('KEYS', '*')) do
                all[#all + 1] = { key, math.max(0, redis.call('PTTL', key)), redis.call('DUMP', key) }
            end
            return all";
        cmd("EVAL").arg(script).arg(0).query_async(cache.connection()).await.expect("all keys")
    }

    /// Puts Redis back to how it was, in one step, as a failover to a replica that lagged would.
    async fn rewind(&self, before: &[(String, i64, Vec<u8>)]) {
        let mut cache = self.cache().await;
        let mut calls = redis::pipe();
        calls.atomic().cmd("FLUSHALL");
        for (key, life, value) in before {
            calls.cmd("RESTORE").arg(key).arg(life).arg(value);
        }
        self.world.redis_goes_back();
        calls.exec_async(cache.connection()).await.expect("an earlier state");
        self.world.redis_goes_back();
    }
}

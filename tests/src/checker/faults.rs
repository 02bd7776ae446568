//! What can go wrong with the daemon and the servers, and how it is done to them.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use redis::cmd;
use tokio_postgres::Client;

use super::schema::{KEYS, rows_of};
use super::standby::Standby;
use super::world::World;
use crate::fault::proxy::Traffic;
use crate::fault::{Fault, PostgresFault, RedisFault};
use crate::random::Random;
use crate::{Cache, Daemon, DaemonOptions, Stack};

/// What can happen, besides the faults that every test may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Special {
    /// The daemon ends in order and is started again.
    DaemonRestarted,
    /// A second daemon takes over while the first is frozen; then the first goes on, and one of them is killed.
    DaemonUsurped,
    /// PostgreSQL ends every connection of the daemon.
    ConnectionsTerminated,
    /// PostgreSQL is restarted in order.
    PostgresRestarted,
    /// Commits wait for a standby that is not there: in the log, but not visible.
    CommitsHeld,
    /// Redis is emptied and the slot moved on while commits are held invisible.
    LostWhileHeld,
    /// Redis goes back to how it was some time ago, behind the connections.
    RedisRewound,
    /// The same, to before the last new epoch.
    RedisRewoundToOldEpoch,
}

impl Special {
    /// All of them.
    pub const ALL: &[Special] = &[
        Special::DaemonRestarted,
        Special::DaemonUsurped,
        Special::ConnectionsTerminated,
        Special::PostgresRestarted,
        Special::CommitsHeld,
        Special::LostWhileHeld,
        Special::RedisRewound,
        Special::RedisRewoundToOldEpoch,
    ];

    fn name(self) -> &'static str {
        match self {
            Special::DaemonRestarted => "daemon restarted",
            Special::DaemonUsurped => "daemon usurped",
            Special::ConnectionsTerminated => "postgres connections-terminated",
            Special::PostgresRestarted => "postgres restarted",
            Special::CommitsHeld => "postgres commits-held",
            Special::LostWhileHeld => "redis lost-while-commits-held",
            Special::RedisRewound => "redis rewound",
            Special::RedisRewoundToOldEpoch => "redis back-in-old-epoch",
        }
    }
}

/// Kinds of faults.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// One that every test may use.
    Usual(Fault),
    /// One that needs the checker.
    Special(Special),
}

impl Kind {
    /// All of them.
    pub fn all() -> Vec<Kind> {
        let usual = Fault::all().into_iter().map(Kind::Usual);
        usual.chain(Special::ALL.iter().copied().map(Kind::Special)).collect()
    }

    /// Those whose names begin with one of these words; a word alone stands for all that begin with it.
    pub fn named(names: &[&str]) -> Vec<Kind> {
        Kind::all().into_iter().filter(|kind| names.iter().any(|name| kind.to_string().starts_with(name))).collect()
    }

    /// Whether commits that have returned are lost.
    pub fn loses_commits(self) -> bool {
        matches!(self, Kind::Usual(fault) if fault.loses_commits())
    }

    /// Whether Redis may forget or go back.
    fn makes_redis_go_back(self) -> bool {
        use RedisFault::{Asleep, Frozen, FunctionFlush, Paused, ScriptFlush, WritesPaused};
        match self {
            Kind::Usual(Fault::Redis(fault)) => {
                !matches!(fault, Asleep | Frozen | FunctionFlush | Paused | ScriptFlush | WritesPaused)
            }
            // Another slot, or another server: Redis catches up with it in the next epoch.
            Kind::Usual(Fault::Postgres(fault)) => {
                use PostgresFault::{Promotion, PromotionLosingCommits, SlotDropped, Undecodable};
                matches!(fault, Promotion | PromotionLosingCommits | SlotDropped | Undecodable)
            }
            Kind::Usual(_) => false,
            Kind::Special(fault) => {
                matches!(fault, Special::LostWhileHeld | Special::RedisRewound | Special::RedisRewoundToOldEpoch)
            }
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Kind::Usual(fault) => fault.fmt(f),
            Kind::Special(fault) => f.write_str(fault.name()),
        }
    }
}

const POLL: Duration = Duration::from_millis(5);
/// What one waits for before going on with a fault; if it does not come, the fault is a smaller one.
const PATIENCE: Duration = Duration::from_secs(3);

/// Hurts one stack.
pub struct Faults<'a> {
    world: &'a World,
    stack: &'a mut Stack,
    daemon: &'a DaemonOptions,
    /// The standby has commits that were lost: it follows nobody any more.
    left_behind: bool,
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
        Faults { world, stack, daemon, left_behind: false }
    }

    /// Lets it happen, and mends it.
    pub async fn happen(&mut self, kind: Kind, random: &mut Random) {
        if std::mem::take(&mut self.left_behind) {
            // Until now fillers have met it.
            let standby = Standby::start(self.stack).await;
            if let Some(former) = self.world.standby.replace(Some(standby)) {
                former.end();
            }
        }
        let longest = self.world.options.outage * if random.percent(5) { 20 } else { 1 };
        let time = ms(20) + random.up_to(longest);
        if kind.makes_redis_go_back() {
            self.world.redis_goes_back();
        }
        match kind {
            Kind::Usual(fault) if kind.loses_commits() => self.lose_commits(fault, random).await,
            Kind::Usual(fault) => {
                let injected = fault.inject(self.stack, random).await;
                tokio::time::sleep(time).await;
                injected.end(self.stack).await;
            }
            Kind::Special(fault) => self.special(fault, time, random).await,
        }
        if kind.makes_redis_go_back() {
            self.world.redis_goes_back();
        }
    }

    async fn special(&mut self, fault: Special, time: Duration, random: &mut Random) {
        match fault {
            Special::DaemonRestarted => self.stack.daemon().restart().await,
            Special::DaemonUsurped => self.usurp(random).await,
            Special::ConnectionsTerminated => {
                let daemons = "SELECT pid FROM pg_stat_activity WHERE application_name LIKE 'cachetag%'";
                self.ask(&format!("SELECT pg_terminate_backend(pid) FROM ({daemons}) AS d")).await;
            }
            Special::PostgresRestarted => self.stack.postgres.restart().await.expect("PostgreSQL again"),
            Special::CommitsHeld => {
                self.hold_commits(true).await;
                tokio::time::sleep(time).await;
                self.hold_commits(false).await;
            }
            Special::LostWhileHeld => self.lose_while_held(time).await,
            Special::RedisRewound => {
                let before = self.dump().await;
                tokio::time::sleep(time).await;
                self.rewind(&before).await;
            }
            Special::RedisRewoundToOldEpoch => {
                let before = self.dump().await;
                let epoch = self.epoch().await;
                self.redis(&["FLUSHALL"]).await;
                self.wait_for_epoch(epoch).await;
                tokio::time::sleep(time).await;
                self.rewind(&before).await;
            }
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
        self.ask("SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = 'cachetag'")
            .await;
    }

    /// Commits that have returned are lost: what the rows are then is asked of the server.
    async fn lose_commits(&mut self, fault: Fault, random: &mut Random) {
        let world = self.world;
        let _unchanged = world.changing.lock().await;
        if let Some(epoch) = self.epoch().await {
            *world.void_epoch.borrow_mut() = epoch;
        }
        let from = world.clock.now();
        world.commits_are_lost();
        fault.inject(self.stack, random).await.end(self.stack).await;
        // Nobody is in the middle of a change then.
        let mut alone = Vec::new();
        for table in &world.emptying {
            alone.push(table.write().await);
        }
        let client = self.sql().await;
        let prepared = client.query("SELECT gid FROM pg_prepared_xacts", &[]).await.expect("prepared transactions");
        for name in prepared.iter().map(|row| row.get::<_, &str>(0)) {
            client.batch_execute(&format!("ROLLBACK PREPARED '{name}'")).await.expect("ROLLBACK PREPARED");
        }
        let position = client.query_one("SELECT pg_current_wal_insert_lsn()::text", &[]).await.expect("a position");
        let position = crate::lsn(position.get(0));
        for (number, table) in world.schema.tables.iter().enumerate() {
            let answer = client.query_one(&table.all_states(), &[]).await.expect("all rows");
            let states: BTreeMap<_, _> = rows_of(answer.get(0)).expect("rows").into_iter().collect();
            let at = world.clock.now();
            for key in 0..KEYS {
                let state = states.get(&key).copied();
                world.judge.borrow_mut().has_become(number, key, state, (from, at), position);
                world.rows.borrow_mut()[number][key] = state;
            }
        }
        world.commits_are_lost();
        self.left_behind = world.options.standby;
    }

    async fn hold_commits(&self, hold: bool) {
        let (change, expected) = if hold {
            ("SET synchronous_standby_names = 'nobody'", "nobody")
        } else {
            ("RESET synchronous_standby_names", "")
        };
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
        self.redis(&["FLUSHALL"]).await;
        self.stack.daemon().start_again();
        self.wait_for_epoch(epoch).await;
        tokio::time::sleep(time).await;
        self.hold_commits(false).await;
    }

    // The daemon

    async fn usurp(&mut self, random: &mut Random) {
        let claimant = self.field("claimant").await;
        // Frozen, or with a call on its way to Redis that arrives when the other one has long gone on.
        let frozen = random.percent(30);
        if frozen {
            self.stack.daemon().pause();
        } else {
            self.stack.proxies().redis.set(Traffic::Blackhole);
        }
        tokio::time::sleep(random.up_to(ms(200))).await;
        self.terminate_walsender().await;
        let log = self.stack.folder().join("rival.log");
        let postgres = self.stack.proxies().postgres.url(&self.stack.postgres_url());
        let mut rival = Daemon::start(&postgres, &self.stack.redis_url(), &log, self.daemon.clone());
        until(async || self.field("claimant").await != claimant).await;
        tokio::time::sleep(random.up_to(ms(200))).await;
        if frozen {
            self.stack.daemon().resume();
        } else {
            self.stack.proxies().redis.set(Traffic::Pass);
        }
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
        calls.exec_async(cache.connection()).await.expect("an earlier state");
    }
}

//! Faults of Redis.

use std::fmt;
use std::time::Duration;

use cachetag_invalidator::dev::Redis;
use redis::aio::MultiplexedConnection;
use redis::{Cmd, FromRedisValue, cmd};

use super::proxy::{Proxy, Traffic};
use crate::random::Random;
use crate::stack::Stack;
use crate::wait::eventually;

const PATIENCE: Duration = Duration::from_secs(30);
/// What private servers are started with.
const USUAL_POLICY: &str = "volatile-lru";
/// A pause for writers only is ended by command, long before.
const LONG_PAUSE: Duration = Duration::from_secs(600);

/// A fault of Redis.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RedisFault {
    /// SIGSTOP, SIGCONT at the end.
    Frozen,
    /// SIGKILL; it is started again, empty, at the end.
    Killed,
    /// SIGKILL, and back at once with what it held some moments before.
    OlderSnapshot,
    /// `FLUSHALL`.
    FlushAll,
    /// `FUNCTION FLUSH`.
    FunctionFlush,
    /// `SCRIPT FLUSH`.
    ScriptFlush,
    /// `CLIENT PAUSE … WRITE`, `CLIENT UNPAUSE` at the end.
    WritesPaused,
    /// `CLIENT PAUSE … ALL` for some seconds, which the end awaits.
    Paused,
    /// `DEBUG SLEEP` for some seconds, which the end awaits.
    Asleep,
    /// A `maxmemory` below what it holds, with this policy; no limit at the end.
    Full(Eviction),
    /// Keys vanish, as an eviction would have it.
    Evicted(Keys),
    /// It dies, and a replica that lacks the last writes takes its place and its address.
    PromotionLosingWrites,
}

impl RedisFault {
    /// All of them.
    pub fn all() -> Vec<RedisFault> {
        use RedisFault::*;
        let simple = [
            Frozen,
            Killed,
            OlderSnapshot,
            FlushAll,
            FunctionFlush,
            ScriptFlush,
            WritesPaused,
            Paused,
            Asleep,
            PromotionLosingWrites,
        ];
        let full = Eviction::ALL.iter().copied().map(Full);
        let evicted = Keys::ALL.iter().copied().map(Evicted);
        simple.into_iter().chain(full).chain(evicted).collect()
    }

    pub(super) async fn inject(self, stack: &mut Stack, random: &mut Random) -> super::Undo {
        super::Undo::Redis(self.begin(stack, random).await)
    }

    async fn begin(self, stack: &mut Stack, random: &mut Random) -> Undo {
        let moments = Duration::from_millis(50 + random.below(450) as u64);
        let seconds = Duration::from_millis(500 + random.below(3500) as u64);
        match self {
            RedisFault::Frozen => {
                stack.redis.signal(libc::SIGSTOP);
                return Undo::Thaw;
            }
            RedisFault::Killed => {
                stack.redis.kill().await;
                return Undo::Start;
            }
            RedisFault::OlderSnapshot => {
                save(&stack.redis).await;
                tokio::time::sleep(moments).await;
                stack.redis.kill().await;
                stack.redis.start_again().await.unwrap_or_else(|error| panic!("{error}"));
                forget_snapshot(&stack.redis);
            }
            RedisFault::FlushAll => run(&stack.redis, &["FLUSHALL"]).await,
            RedisFault::FunctionFlush => run(&stack.redis, &["FUNCTION", "FLUSH"]).await,
            RedisFault::ScriptFlush => run(&stack.redis, &["SCRIPT", "FLUSH"]).await,
            RedisFault::WritesPaused => {
                run(&stack.redis, &["CLIENT", "PAUSE", &LONG_PAUSE.as_millis().to_string(), "WRITE"]).await;
                return Undo::Unpause;
            }
            RedisFault::Paused => {
                run(&stack.redis, &["CLIENT", "PAUSE", &seconds.as_millis().to_string(), "ALL"]).await;
                return Undo::Answer;
            }
            RedisFault::Asleep => {
                let mut connection = connect(&stack.redis).await;
                connection.set_response_timeout(Duration::from_secs(60));
                let sleep = command(&["DEBUG", "SLEEP", &seconds.as_secs_f64().to_string()]);
                // Sent by now or a little later; whoever ends the fault asks behind it.
                tokio::spawn(async move { sleep.exec_async(&mut connection).await });
                tokio::time::sleep(Duration::from_millis(20)).await;
                return Undo::Answer;
            }
            RedisFault::Full(policy) => {
                fill_memory(&stack.redis, policy, random.below(90)).await;
                return Undo::EmptyMemory;
            }
            RedisFault::Evicted(keys) => evict(&stack.redis, keys, random).await,
            RedisFault::PromotionLosingWrites => {
                let replica = Replica::start(stack).await;
                replica.cut();
                tokio::time::sleep(moments).await;
                replica.promote(stack).await;
            }
        }
        Undo::Nothing
    }
}

impl fmt::Display for RedisFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            RedisFault::Frozen => "frozen",
            RedisFault::Killed => "killed",
            RedisFault::OlderSnapshot => "older-snapshot",
            RedisFault::FlushAll => "flushall",
            RedisFault::FunctionFlush => "function-flush",
            RedisFault::ScriptFlush => "script-flush",
            RedisFault::WritesPaused => "writes-paused",
            RedisFault::Paused => "paused",
            RedisFault::Asleep => "asleep",
            RedisFault::PromotionLosingWrites => "promotion-losing-writes",
            RedisFault::Full(policy) => return write!(f, "full-{policy}"),
            RedisFault::Evicted(keys) => return write!(f, "evicted-{keys}"),
        })
    }
}

/// A `maxmemory-policy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Eviction(&'static str);

impl Eviction {
    /// All of them.
    pub const ALL: &[Eviction] = &[
        Eviction("noeviction"),
        Eviction("allkeys-lru"),
        Eviction("allkeys-lfu"),
        Eviction("allkeys-random"),
        Eviction("volatile-lru"),
        Eviction("volatile-lfu"),
        Eviction("volatile-random"),
        Eviction("volatile-ttl"),
    ];
}

impl fmt::Display for Eviction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

/// Keys of cachetag, by what they hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Keys {
    /// Half of the entries.
    Entries,
    /// Half of the tags.
    Tags,
    /// The log.
    Log,
    /// Watermark, floor, epoch, claimant.
    State,
}

impl Keys {
    /// All of them.
    pub const ALL: &[Keys] = &[Keys::Entries, Keys::Tags, Keys::Log, Keys::State];

    /// Of every namespace.
    fn pattern(self) -> &'static str {
        match self {
            Keys::Entries => "{*}:e:*",
            Keys::Tags => "{*}:t:*",
            Keys::Log => "{*}:log",
            Keys::State => "{*}:w",
        }
    }
}

impl fmt::Display for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Keys::Entries => "entries",
            Keys::Tags => "tags",
            Keys::Log => "log",
            Keys::State => "state",
        })
    }
}

/// What ends a fault of Redis.
#[derive(Debug)]
pub(super) enum Undo {
    Nothing,
    Thaw,
    Start,
    Unpause,
    /// It is over when Redis answers.
    Answer,
    EmptyMemory,
}

impl Undo {
    pub(super) async fn run(self, stack: &mut Stack) {
        match self {
            Undo::Nothing => {}
            Undo::Thaw => stack.redis.signal(libc::SIGCONT),
            Undo::Start => {
                forget_snapshot(&stack.redis);
                stack.redis.start_again().await.unwrap_or_else(|error| panic!("{error}"));
            }
            Undo::Unpause => run(&stack.redis, &["CLIENT", "UNPAUSE"]).await,
            Undo::Answer => {
                // A connection takes no longer than a second to be given up.
                eventually("Redis's answer", PATIENCE, async || stack.redis.connect().await.ok()).await;
            }
            Undo::EmptyMemory => {
                run(&stack.redis, &["CONFIG", "SET", "maxmemory", "0", "maxmemory-policy", USUAL_POLICY]).await;
            }
        }
    }
}

async fn connect(redis: &Redis) -> MultiplexedConnection {
    redis.connect().await.unwrap_or_else(|error| panic!("{error}"))
}

fn command(words: &[&str]) -> Cmd {
    let mut command = cmd(words[0]);
    command.arg(&words[1..]);
    command
}

async fn ask<T: FromRedisValue>(redis: &Redis, words: &[&str]) -> T {
    let answer = command(words).query_async(&mut connect(redis).await).await;
    answer.unwrap_or_else(|error| panic!("{words:?}: {error}"))
}

async fn run(redis: &Redis, words: &[&str]) {
    ask::<redis::Value>(redis, words).await;
}

/// A number in `INFO`.
async fn info(redis: &Redis, section: &str, name: &str) -> Option<String> {
    let text: String = ask(redis, &["INFO", section]).await;
    let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
    Some(value.trim().to_owned())
}

/// Writes what Redis holds to its disk, from where its next start takes it.
pub async fn save(redis: &Redis) {
    run(redis, &["SAVE"]).await;
}

/// The next start begins empty.
pub fn forget_snapshot(redis: &Redis) {
    match std::fs::remove_file(redis.folder().join("dump.rdb")) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => panic!("dump.rdb: {error}"),
        _ => {}
    }
}

/// A limit that leaves so many per cent of what is stored, which counts at once and goes on to count.
pub async fn fill_memory(redis: &Redis, policy: Eviction, percent: usize) {
    let bytes = async |name| info(redis, "memory", name).await.and_then(|text| text.parse::<usize>().ok()).unwrap_or(0);
    let (used, empty) = (bytes("used_memory").await, bytes("used_memory_startup").await);
    let limit = empty + used.saturating_sub(empty) * percent / 100;
    run(redis, &["CONFIG", "SET", "maxmemory", &limit.to_string(), "maxmemory-policy", policy.0]).await;
}

/// Takes keys away: half of the entries or tags, all of what there is only one of.
pub async fn evict(redis: &Redis, keys: Keys, random: &mut Random) {
    let found: Vec<String> = ask(redis, &["KEYS", keys.pattern()]).await;
    let all = matches!(keys, Keys::Log | Keys::State);
    let chosen: Vec<&str> = found.iter().map(String::as_str).filter(|_| all || random.percent(50)).collect();
    if !chosen.is_empty() {
        run(redis, &[&["DEL"], &*chosen].concat()).await;
    }
}

/// A replica of a stack's Redis, up to date, on a link of its own.
#[derive(Debug)]
pub struct Replica {
    redis: Redis,
    link: Proxy,
}

impl Replica {
    /// Starts one and waits until it has everything.
    pub async fn start(stack: &mut Stack) -> Replica {
        let folder = stack.new_home();
        let redis = Redis::builder(folder).args(stack.redis.args()).start().await;
        let redis = redis.unwrap_or_else(|error| panic!("{error}"));
        let link = Proxy::start(stack.redis.port());
        // A full resynchronisation leaves no file behind, from which a later start would take it.
        run(&redis, &["CONFIG", "SET", "repl-diskless-load", "on-empty-db"]).await;
        run(&redis, &["REPLICAOF", "127.0.0.1", &link.port().to_string()]).await;
        eventually("the replica's first synchronisation", PATIENCE, async || {
            (info(&redis, "replication", "master_link_status").await.as_deref() == Some("up")).then_some(())
        })
        .await;
        Replica { redis, link }
    }

    /// The replica's server.
    pub fn redis(&self) -> &Redis {
        &self.redis
    }

    /// Waits until it has what the primary has now.
    pub async fn wait_synced(&self, stack: &Stack) {
        let mut connection = connect(&stack.redis).await;
        eventually("the replica's answer", PATIENCE, async || {
            // WAIT concerns the writes of this connection: there must be one.
            command(&["SET", "{faults}:synced", "1", "EX", "1"]).exec_async(&mut connection).await.ok()?;
            let replicas: u64 = cmd("WAIT").arg(1).arg(1000).query_async(&mut connection).await.ok()?;
            (replicas >= 1).then_some(())
        })
        .await;
    }

    /// From now on it hears nothing, and its primary does not know.
    pub fn cut(&self) {
        self.link.set(Traffic::Blackhole);
    }

    /// It hears again.
    pub fn mend(&self) {
        self.link.set(Traffic::Pass);
    }

    /// The primary dies, and this one takes its place and its address.
    pub async fn promote(self, stack: &mut Stack) {
        stack.redis.kill().await;
        run(&self.redis, &["REPLICAOF", "NO", "ONE"]).await;
        drop(stack.replace_redis(self.redis));
    }
}

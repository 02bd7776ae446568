//! Faults of PostgreSQL.

use std::fmt;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::Path;
use std::time::{Duration, Instant};

use cachetag_invalidator::dev::Postgres;

use super::Undo;
use super::proxy::{Proxy, Traffic};
use crate::memory::children;
use crate::random::Random;
use crate::stack::{DATABASE, Stack};
use crate::wait::eventually;

const PATIENCE: Duration = Duration::from_secs(30);
/// The server processes of a killed postmaster end when they next wait for something.
const ORPHAN_GRACE: Duration = Duration::from_secs(2);
const WALSENDERS: &str = "SELECT active_pid FROM pg_replication_slots WHERE slot_type = 'logical' AND active";

/// A table that nobody else changes.
const DRAWINGS: &str = "CREATE TABLE IF NOT EXISTS drawings (id int PRIMARY KEY, bits varbit COMPRESSION lz4);
    SELECT cachetag.track('drawings', 'drawing:{id}')";
/// 2^30 bits take 128 MiB, and a byte more as text than PostgreSQL allocates.
const UNDECODABLE: &str = "DO $$DECLARE b varbit := '1'; BEGIN
        FOR i IN 1..30 LOOP b := b || b; END LOOP;
        INSERT INTO drawings VALUES (1, b) ON CONFLICT (id) DO UPDATE SET bits = b;
    END$$";

/// A fault of PostgreSQL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PostgresFault {
    /// SIGKILL of its first process; it is started again, and recovers, at the end.
    Killed,
    /// SIGSTOP of every process, SIGCONT at the end.
    Frozen,
    /// SIGSTOP of the server process of the stream, SIGCONT at the end.
    WalsenderFrozen,
    /// `pg_terminate_backend` of the server process of the stream.
    WalsenderTerminated,
    /// A checkpoint and the next WAL file.
    Checkpoint,
    /// The slot is dropped under the daemon.
    SlotDropped,
    /// A change that the server cannot decode, however often it tries.
    Undecodable,
    /// The server dies, and a standby that has everything takes its place and its address. It does not have the slot.
    Promotion,
    /// The same, and the standby lacks the last commits.
    PromotionLosingCommits,
}

impl PostgresFault {
    /// All of them.
    pub const ALL: &[PostgresFault] = &[
        PostgresFault::Killed,
        PostgresFault::Frozen,
        PostgresFault::WalsenderFrozen,
        PostgresFault::WalsenderTerminated,
        PostgresFault::Checkpoint,
        PostgresFault::SlotDropped,
        PostgresFault::Undecodable,
        PostgresFault::Promotion,
        PostgresFault::PromotionLosingCommits,
    ];

    pub(super) async fn inject(self, stack: &mut Stack, random: &mut Random) -> Undo {
        match self {
            PostgresFault::Killed => {
                kill9(&mut stack.postgres).await;
                return Undo::PostgresDown;
            }
            PostgresFault::Frozen => return Undo::Frozen(Frozen::server(&stack.postgres)),
            PostgresFault::WalsenderFrozen => {
                let pids = stack.values(WALSENDERS).await;
                return Undo::Frozen(Frozen::processes(pids.iter().filter_map(|pid| pid.parse().ok()).collect()));
            }
            PostgresFault::WalsenderTerminated => {
                stack.sql(&format!("SELECT pg_terminate_backend(active_pid) FROM ({WALSENDERS}) AS w")).await;
            }
            PostgresFault::Checkpoint => {
                stack.sql("CHECKPOINT").await;
                stack.sql("SELECT pg_switch_wal()").await;
            }
            PostgresFault::SlotDropped => drop_slot(stack).await,
            PostgresFault::Undecodable => {
                stack.sql(DRAWINGS).await;
                stack.sql(UNDECODABLE).await;
            }
            PostgresFault::Promotion => fail_over(stack, None).await,
            PostgresFault::PromotionLosingCommits => {
                fail_over(stack, Some(Duration::from_millis(50 + random.below(500) as u64))).await;
            }
        }
        Undo::Nothing
    }
}

impl fmt::Display for PostgresFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            PostgresFault::Killed => "killed",
            PostgresFault::Frozen => "frozen",
            PostgresFault::WalsenderFrozen => "walsender-frozen",
            PostgresFault::WalsenderTerminated => "walsender-terminated",
            PostgresFault::Checkpoint => "checkpoint",
            PostgresFault::SlotDropped => "slot-dropped",
            PostgresFault::Undecodable => "undecodable",
            PostgresFault::Promotion => "promotion",
            PostgresFault::PromotionLosingCommits => "promotion-losing-commits",
        })
    }
}

/// Processes that are stopped (SIGSTOP) until this is dropped.
#[derive(Debug)]
pub struct Frozen(Vec<i32>);

impl Frozen {
    /// Stops every process of a server, the one that would start others first.
    pub fn server(postgres: &Postgres) -> Frozen {
        let Some(first) = postgres.id() else { return Frozen(Vec::new()) };
        let mut frozen = Frozen::processes(vec![first as i32]);
        for child in children(first) {
            signal(child, libc::SIGSTOP);
            frozen.0.push(child);
        }
        frozen
    }

    /// Stops these.
    pub fn processes(pids: Vec<i32>) -> Frozen {
        pids.iter().for_each(|&pid| signal(pid, libc::SIGSTOP));
        Frozen(pids)
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        // The children before their parent.
        self.0.iter().rev().for_each(|&pid| signal(pid, libc::SIGCONT));
    }
}

fn signal(pid: i32, signal: i32) {
    // SAFETY: plain system call; the process is one of this test's own server, or has just ended.
    unsafe { libc::kill(pid, signal) };
}

/// Ends a server as a crash of its machine would: no process gets to do anything more. Returns when all of them are gone.
pub async fn kill9(postgres: &mut Postgres) {
    let Some(first) = postgres.id() else { return };
    let orphans = children(first);
    let data = postgres.data().to_path_buf();
    // A process id may be somebody else's by now: a server process works in its data folder.
    let lives = |pid: &i32| std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|folder| folder == data);
    postgres.signal(libc::SIGKILL);
    postgres.kill().await;
    let began = Instant::now();
    eventually("the end of a killed server's processes", PATIENCE, async || {
        let living: Vec<i32> = orphans.iter().copied().filter(lives).collect();
        if began.elapsed() > ORPHAN_GRACE {
            living.iter().for_each(|&pid| signal(pid, libc::SIGKILL));
        }
        living.is_empty().then_some(())
    })
    .await;
}

/// The daemon may make the slot again at once: what counts is that it was gone.
async fn drop_slot(stack: &Stack) {
    let drop = "SELECT pg_terminate_backend(active_pid, 5000) FROM pg_replication_slots WHERE active AND slot_type = 'logical';
                SELECT 'dropped', pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE NOT active AND slot_type = 'logical'";
    let client = stack.connect().await;
    eventually("the drop of the slot", PATIENCE, async || {
        let messages = client.simple_query(drop).await.ok()?;
        let dropped = messages.iter().any(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0) == Some("dropped"),
            _ => false,
        });
        dropped.then_some(())
    })
    .await;
}

/// Copies a running server and starts the copy as its standby, which receives by way of `port` of 127.0.0.1. `data` must not exist; the folder
/// that it is in belongs to the servers' user.
pub async fn standby_of(primary: &Postgres, data: &Path, port: u16) -> Postgres {
    standby_with(primary, data, port, &[]).await
}

/// The same with these settings, besides those of its primary.
pub async fn standby_with(primary: &Postgres, data: &Path, port: u16, settings: &[(&str, &str)]) -> Postgres {
    backup(primary, data).await;
    let mut builder = Postgres::builder(data).installation(primary.installation().clone());
    for (name, value) in primary.settings() {
        builder = builder.setting(name, value);
    }
    let primary = format!("host=127.0.0.1 port={port} user=postgres dbname={DATABASE} application_name=standby");
    builder = builder.setting("primary_conninfo", primary).setting("wal_retrieve_retry_interval", "100ms");
    for (name, value) in settings {
        builder = builder.setting(*name, *value);
    }
    builder.start().await.unwrap_or_else(|error| panic!("{error}"))
}

/// What `pg_basebackup` does, which not every distribution of the server brings.
async fn backup(primary: &Postgres, data: &Path) {
    let client = primary.connect("postgres").await.unwrap_or_else(|error| panic!("{error}"));
    client.query_one("SELECT pg_backup_start('standby', true)", &[]).await.expect("pg_backup_start");
    copy_folder(primary.data(), data).expect("a copy of the data folder");
    let label = client.query_one("SELECT labelfile FROM pg_backup_stop(false)", &[]).await.expect("pg_backup_stop");
    let owner = std::fs::metadata(data).expect("the copy");
    for (name, text) in [("backup_label", label.get::<_, &str>(0)), ("standby.signal", "")] {
        let file = data.join(name);
        std::fs::write(&file, text).expect("a file in the copy");
        chown(file, Some(owner.uid()), Some(owner.gid())).expect("the file's owner");
    }
}

/// Files may vanish meanwhile. What belongs to the running server, and its slots, are not copied.
fn copy_folder(from: &Path, to: &Path) -> std::io::Result<()> {
    let own = |path: &Path, like: &std::fs::Metadata| chown(path, Some(like.uid()), Some(like.gid()));
    let meta = from.metadata()?;
    std::fs::create_dir(to)?;
    std::fs::set_permissions(to, meta.permissions())?;
    own(to, &meta)?;
    for entry in std::fs::read_dir(from)?.flatten() {
        let (name, target) = (entry.file_name(), to.join(entry.file_name()));
        let Ok(meta) = entry.metadata() else { continue };
        let copied = match name.to_str() {
            Some("postmaster.pid" | "postmaster.opts") => continue,
            _ if meta.is_dir() && from.ends_with("pg_replslot") => continue,
            _ if meta.is_dir() => copy_folder(&entry.path(), &target),
            _ if meta.is_file() => std::fs::copy(entry.path(), &target).and_then(|_| own(&target, &meta)),
            _ => continue, // a socket
        };
        match copied {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            result => result?,
        }
    }
    Ok(())
}

/// Waits until a standby has replayed what its primary has flushed.
pub async fn wait_replayed(stack: &Stack, standby: &Postgres) {
    let position = stack.value("SELECT pg_current_wal_flush_lsn()").await;
    let client = standby.connect("postgres").await.unwrap_or_else(|error| panic!("{error}"));
    let replayed = format!("SELECT pg_last_wal_replay_lsn() >= '{position}'");
    eventually("the standby's replay", PATIENCE, async || {
        client.query_one(&replayed, &[]).await.ok()?.get::<_, bool>(0).then_some(())
    })
    .await;
}

/// Makes a standby a primary and waits until it takes writes.
pub async fn promote(standby: &Postgres) {
    let client = standby.connect("postgres").await.unwrap_or_else(|error| panic!("{error}"));
    let promoted = client.query_one("SELECT pg_promote(true, 60)", &[]).await.expect("pg_promote");
    assert!(promoted.get::<_, bool>(0), "the standby was not promoted within a minute");
}

/// With `lag`, the standby hears nothing for so long before its primary dies.
async fn fail_over(stack: &mut Stack, lag: Option<Duration>) {
    let data = stack.new_home().join("data");
    let link = Proxy::start(stack.postgres.port());
    let standby = standby_of(&stack.postgres, &data, link.port()).await;
    wait_replayed(stack, &standby).await;
    if let Some(lag) = lag {
        link.set(Traffic::Blackhole);
        tokio::time::sleep(lag).await;
    }
    match lag {
        // An orderly stop waits until the standby has everything.
        None => drop(stack.postgres.stop().await),
        Some(_) => kill9(&mut stack.postgres).await,
    }
    promote(&standby).await;
    discard(stack.replace_postgres(standby));
}

/// Ends a server and removes its data: a long run has many, each with its log.
pub fn discard(postgres: Postgres) {
    let data = postgres.data().to_owned();
    drop(postgres);
    // A child that still lives may write there; all goes in the end.
    std::fs::remove_dir_all(data).ok();
}

//! Throughput: a backlog drained into Redis by the daemon, beside pg_recvlogical draining it into a file.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::backlog::{Backlog, copy_slots, drop_slot};
use super::shop::{self, CATEGORIES};
use super::{Plan, Table, quantile};
use crate::memory::{mebibytes, processor_seconds};
use crate::{Daemon, DaemonOptions, Stack, lsn_of_version};

/// How often Redis is asked where it is.
const POLL: Duration = Duration::from_millis(5);
/// A drain that takes this long has failed.
const PATIENCE: Duration = Duration::from_secs(300);
/// The daemon's target, in MiB.
const MEMORY: f64 = 64.0;
/// How long a caught-up daemon is left alone before its memory is called idle.
const IDLE: Duration = Duration::from_secs(2);

/// What one drain by the daemon took.
struct Drained {
    seconds: f64,
    daemon_cpu: f64,
    redis_cpu: f64,
    resident: f64,
    peak: f64,
}

/// Measures both backlogs and the daemon's memory.
pub(super) async fn measure(plan: &Plan, table: &mut Table) {
    let mut stack = Stack::start(shop::stack()).await;
    tokio::time::sleep(IDLE).await;
    let idle = mebibytes(stack.daemon().id().expect("the daemon runs"), "VmRSS");
    table.row("memory: idle", format!("{idle:.1} MiB"), String::new(), format!("(<= {MEMORY} MiB)"));
    stack.daemon().stop().await;
    for large in [false, true] {
        let slots = |kind: &str| (0..plan.repetitions).map(|i| format!("{kind}_{i}")).collect::<Vec<_>>();
        let (ours, theirs) = (slots("daemon"), slots("recvlogical"));
        // The position of the daemon's own slot; it moves on to the end of each backlog by itself.
        copy_slots(&stack, &ours).await;
        copy_slots(&stack, &theirs).await;
        let backlog = match large {
            false => Backlog::of_transactions(&stack, plan.transactions).await,
            true => Backlog::of_rows(&stack, plan.rows).await,
        };
        compare(plan, table, &stack, &backlog, ours.iter().zip(&theirs)).await;
        stack.sql(&format!("SELECT pg_replication_slot_advance('cachetag', '{}')", backlog.end_text)).await;
    }
    table.note("throughput: from the start of the process, so both times hold the start-up and the decoding by the walsender; medians; the drains take turns");
    table.note(format!(
        "throughput: {} product tags and all category tags are registered in Redis, as if cached; pg_recvlogical writes to a file",
        plan.cached
    ));
}

async fn compare<'a>(
    plan: &Plan,
    table: &mut Table,
    stack: &Stack,
    backlog: &Backlog,
    slots: impl Iterator<Item = (&'a String, &'a String)>,
) {
    let (mut daemon, mut received, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    let (mut daemon_cpu, mut received_cpu, mut redis_cpu) = (Vec::new(), Vec::new(), Vec::new());
    let (mut resident, mut peak) = (0.0f64, 0.0f64);
    for (ours, theirs) in slots {
        let drained = by_daemon(plan, stack, backlog, ours).await;
        redis_cpu.push(drained.redis_cpu);
        drop_slot(stack, ours).await;
        let (seconds, cpu) = by_recvlogical(stack, backlog, theirs).await;
        drop_slot(stack, theirs).await;
        println!(
            "  {}: daemon {:.2} s (cpu {:.2} s, redis {:.2} s), pg_recvlogical {seconds:.2} s (cpu {cpu:.2} s)",
            backlog.name,
            drained.seconds,
            drained.daemon_cpu,
            redis_cpu.last().copied().unwrap_or_default()
        );
        ratios.push(seconds / drained.seconds);
        daemon.push(drained.seconds);
        daemon_cpu.push(drained.daemon_cpu);
        received.push(seconds);
        received_cpu.push(cpu);
        resident = resident.max(drained.resident);
        peak = peak.max(drained.peak);
    }
    let median = |values: &mut Vec<f64>| quantile(values, 0.5);
    let (least, most) = (quantile(&mut ratios, 0.0), quantile(&mut ratios, 1.0));
    table.row(
        &format!("throughput: {}", backlog.name),
        format!("{:.2} s", median(&mut daemon)),
        format!("pg_recvlogical {:.2} s", median(&mut received)),
        format!("{:.2} [{least:.2} .. {most:.2}] (>= 0.95)", median(&mut ratios)),
    );
    table.row(
        "  processor time",
        format!("{:.2} s + Redis {:.2} s", median(&mut daemon_cpu), median(&mut redis_cpu)),
        format!("pg_recvlogical {:.2} s", median(&mut received_cpu)),
        String::new(),
    );
    table.row(
        "  memory: peak, after it",
        format!("{peak:.1} MiB, {resident:.1} MiB"),
        String::new(),
        format!("(<= {MEMORY} MiB)"),
    );
}

/// A daemon of its own for this drain, with an empty Redis but for the tags that are registered.
async fn by_daemon(plan: &Plan, stack: &Stack, backlog: &Backlog, slot: &str) -> Drained {
    let mut cache = stack.cache().await;
    redis::cmd("FLUSHALL").exec_async(cache.connection()).await.expect("FLUSHALL");
    let mut tags = redis::pipe();
    let products = (1..=plan.cached).map(|id| format!("product:{id}"));
    for tag in products.chain((0..CATEGORIES).map(|id| format!("category:{id}"))) {
        tags.cmd("SET").arg(cache.key("t", &tag)).arg("0000000001.00000000000000000001").arg("EX").arg(3600).ignore();
    }
    tags.exec_async(cache.connection()).await.expect("tags are registered");

    let redis_before = redis_seconds(stack).await;
    let log = stack.folder().join("drain.log");
    let started = Instant::now();
    let mut daemon = Daemon::start(&stack.postgres_url(), &stack.redis_url(), &log, DaemonOptions::new().slot(slot));
    let mut state = redis::cmd("HGET");
    state.arg(cache.key("w", "")).arg("applied");
    loop {
        let applied: Option<String> = state.query_async(cache.connection()).await.unwrap_or_default();
        if applied.is_some_and(|applied| lsn_of_version(&applied) >= backlog.end) {
            break;
        }
        assert!(started.elapsed() < PATIENCE && daemon.is_running(), "the daemon does not drain:\n{}", daemon.log());
        tokio::time::sleep(POLL).await;
    }
    let seconds = started.elapsed().as_secs_f64();
    let id = daemon.id().expect("the daemon runs");
    let drained = Drained {
        seconds,
        daemon_cpu: processor_seconds(id),
        redis_cpu: redis_seconds(stack).await - redis_before,
        resident: mebibytes(id, "VmRSS"),
        peak: mebibytes(id, "VmHWM"),
    };
    daemon.stop().await;
    drained
}

/// Seconds, and seconds of processor time.
async fn by_recvlogical(stack: &Stack, backlog: &Backlog, slot: &str) -> (f64, f64) {
    let program = stack.postgres.installation().program("pg_recvlogical");
    let file = stack.folder().join("recvlogical.out");
    let started = Instant::now();
    let mut child = recvlogical(&program, stack, backlog, slot, &file).spawn().expect("pg_recvlogical starts");
    let mut cpu = 0.0;
    loop {
        let now = processor_seconds(child.id());
        if now > cpu {
            cpu = now;
        }
        if let Some(status) = child.try_wait().expect("pg_recvlogical can be waited for") {
            assert!(status.success(), "pg_recvlogical: {status}");
            break;
        }
        assert!(started.elapsed() < PATIENCE, "pg_recvlogical does not drain");
        tokio::time::sleep(POLL).await;
    }
    let seconds = started.elapsed().as_secs_f64();
    std::fs::remove_file(&file).expect("pg_recvlogical has written its file");
    (seconds, cpu)
}

fn recvlogical(program: &Path, stack: &Stack, backlog: &Backlog, slot: &str, file: &Path) -> Command {
    let mut command = Command::new(program);
    command.arg("--dbname").arg(stack.postgres_url()).args(["--slot", slot, "--start", "--no-loop"]);
    command.arg("--endpos").arg(&backlog.end_text).arg("--file").arg(file);
    for option in ["proto_version=1", "publication_names=cachetag", "messages=true"] {
        command.args(["--option", option]);
    }
    command.stdin(Stdio::null());
    command
}

async fn redis_seconds(stack: &Stack) -> f64 {
    let mut cache = stack.cache().await;
    let info: String = redis::cmd("INFO").arg("cpu").query_async(cache.connection()).await.expect("INFO");
    let field = |name: &str| {
        info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')?.trim().parse::<f64>().ok())
    };
    field("used_cpu_user").unwrap_or_default() + field("used_cpu_sys").unwrap_or_default()
}

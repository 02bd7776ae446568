//! The checker: random rules, changes, fills and reads on real servers, under faults; every hit is compared with the history of what was committed.
//!
//! A cached value lists the rows that its query returned, each with the counter of the change that made it. [`history`] keeps for every row
//! which state can have been visible when. A hit is right if there is one moment, no earlier than `max_lag` before the question and no later
//! than the answer, at which all the rows can have been as the value says, and no others were there; and if it lacks no commit that Redis had
//! applied before the question, or that the reader presented ([`judge`]).
//!
//! A key of a table is changed by one connection only, so the order of its states is known without asking; rows of other keys, other groups
//! and other tables are changed meanwhile by other connections. Whether a COMMIT without an answer took place is asked of the server ([`commit`]).
//!
//! Everything runs on one thread, beside the servers: the order of what the checker notes is the order in which it happened.

mod client;
mod commit;
mod ddl;
mod evictor;
mod faults;
mod fill;
mod history;
mod judge;
mod loader;
mod options;
mod probe;
mod reader;
mod report;
mod sampler;
mod schedule;
mod schema;
mod standby;
mod table;
mod trace;
mod world;
mod writer;

use std::rc::Rc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{try_join, try_join_all};
use tokio::task::{JoinHandle, LocalSet};

pub use faults::Kind;
pub use options::{Mix, Options, Profile, Variant};
pub use report::{Invariant, Recovery, Report, Through, Violation, upper_bound};

use crate::random::Random;
use crate::{DaemonOptions, Stack, StackOptions};
use history::Moment;
use schema::Schema;
use standby::Standby;
use world::World;

/// Connections that change rows.
const WRITERS: usize = 4;
/// Connections that read.
const READERS: usize = 6;
/// Connections that fill what was missed.
const FILLERS: usize = 6;
/// Connections that fill from transactions whose snapshot is older than the token.
const OLD_SNAPSHOTS: usize = 3;
/// How often the progress is told.
const PROGRESS: Duration = Duration::from_secs(10);

/// Runs it.
pub async fn run(options: Options) -> Report {
    let mut random = Random::new(options.seed);
    let schema = Schema::random(&mut random);
    let mut daemon = DaemonOptions::new().max_lag(options.max_lag);
    for (name, value) in &options.daemon_env {
        daemon = daemon.env(name, value);
    }
    if let Some(program) = &options.daemon {
        daemon = daemon.program(program);
    }
    let mut setup =
        StackOptions::new().setting("logical_decoding_work_mem", "64kB").setting("deadlock_timeout", "50ms").proxied();
    // A standby that was cut off for a while finds what it missed.
    setup = setup.setting("wal_keep_size", "512MB");
    if !options.sql.is_empty() {
        setup = setup.schema(&options.sql);
    }
    let setup = setup.schema(&schema.sql).schema(probe::SCHEMA).daemon(daemon.clone());
    let mut stack = Stack::start(setup).await;
    let standby = if options.standby { Some(Standby::start(&mut stack).await) } else { None };
    let world = Rc::new(World::new(options, schema, &stack, standby));
    let local = LocalSet::new();
    local
        .run_until(async {
            let tasks = at_work(&world, &mut random);
            // A connection that fails ends the run at once: the others would go on for nothing.
            let scheduled = schedule::run(&world, &mut stack, &daemon, &mut random).map(Ok);
            if let Err(error) = try_join(scheduled, try_join_all(tasks)).await {
                std::panic::resume_unwind(error.into_panic());
            }
        })
        .await;
    world.report.borrow_mut().lasted = Duration::from_nanos(world.clock.now());
    if world.options.broken.is_none() && !world.has_found() {
        probe::converge(&world, &stack).await;
    }
    world.report.take()
}

/// Starts all connections.
fn at_work(world: &Rc<World>, random: &mut Random) -> Vec<JoinHandle<()>> {
    let spawn = tokio::task::spawn_local::<std::pin::Pin<Box<dyn Future<Output = ()>>>>;
    let mut tasks = Vec::new();
    for number in 0..WRITERS {
        tasks.push(spawn(Box::pin(writer::run(world.clone(), number, random.fork()))));
    }
    for number in 0..READERS {
        tasks.push(spawn(Box::pin(reader::run(world.clone(), number, random.fork()))));
    }
    for number in 0..FILLERS {
        tasks.push(spawn(Box::pin(fill::run(world.clone(), number, random.fork()))));
    }
    for number in FILLERS..FILLERS + OLD_SNAPSHOTS {
        tasks.push(spawn(Box::pin(fill::run_old_snapshots(world.clone(), number, random.fork()))));
    }
    tasks.push(spawn(Box::pin(evictor::run(world.clone(), random.fork()))));
    tasks.push(spawn(Box::pin(ddl::run(world.clone(), random.fork()))));
    tasks.push(spawn(Box::pin(sampler::run(world.clone()))));
    if world.options.client {
        for process in 0..client::PROCESSES {
            let cache = client::Process::start(world, process);
            for number in process * client::READERS..(process + 1) * client::READERS {
                tasks.push(spawn(Box::pin(client::run(world.clone(), cache.clone(), number, random.fork()))));
            }
        }
    }
    if world.options.progress {
        tasks.push(spawn(Box::pin(tell(world.clone()))));
    }
    tasks
}

/// Tells how far it is.
async fn tell(world: Rc<World>) {
    let mut next = world.clock.now();
    while !world.is_over() {
        world.pause(Duration::from_millis(200)).await;
        if world.clock.now() >= next {
            next += PROGRESS.as_nanos() as Moment;
            let report = world.report.borrow();
            let seconds = world.clock.now() / history::SECOND;
            let (checked, commits, faults) = (report.checked, report.commits(), report.fault_count());
            println!(
                "{seconds} s: {checked} reads checked, {commits} commits, {faults} faults, {} violations",
                report.violation_count
            );
        }
    }
}

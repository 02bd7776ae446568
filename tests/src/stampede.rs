//! Many readers, in one process and in several, who miss one key at the same moment.

use std::path::Path;
use std::process::{Child, Command};
use std::time::Duration;

use cachetag_client::l2::Timeouts;
use cachetag_client::{Cache, Load};
use redis::aio::MultiplexedConnection;
use redis::cmd;

use crate::wait::eventually;

const PATIENCE: Duration = Duration::from_secs(60);
/// What everybody is to read.
const VALUE: u32 = 7;
/// How long a load takes.
const LOAD: Duration = Duration::from_millis(200);
/// Where processes count themselves before they read.
const ARRIVED: &str = "stampede:arrived";
/// Where loaders count themselves.
const LOADS: &str = "stampede:loads";

/// A crowd: so many processes of so many readers.
#[derive(Debug, Clone, Copy)]
pub struct Stampede {
    /// Processes that begin together.
    pub processes: u32,
    /// Readers in each.
    pub readers: u32,
}

impl Stampede {
    /// Lets the crowd loose on a fresh key of this Redis; returns how often the loader ran. `program` is run once for each process, with `arguments`, and has
    /// to call [`Stampede::process`] with what follows them.
    pub async fn of_processes(self, program: &Path, arguments: &[&str], redis: &str) -> u32 {
        let mut counts = connect(redis).await;
        reset(&mut counts).await;
        let crowd = format!("{}x{}", self.processes, self.readers);
        let start = |_| Command::new(program).args(arguments).args([redis, &crowd]).spawn().expect("a process");
        let mut processes: Vec<Child> = (0..self.processes).map(start).collect();
        eventually("the end of the processes", PATIENCE, async || {
            let ended = |process: &mut Child| process.try_wait().expect("a child").is_some();
            processes.iter_mut().all(ended).then_some(())
        })
        .await;
        for mut process in processes {
            assert!(process.wait().expect("a child").success(), "a process read something else");
        }
        loads(&mut counts).await
    }

    /// The same in this process alone.
    pub async fn of_this_process(readers: u32, redis: &str) -> u32 {
        let mut counts = connect(redis).await;
        reset(&mut counts).await;
        Stampede { processes: 1, readers }.process(redis).await;
        loads(&mut counts).await
    }

    /// What [`Stampede::of_processes`] has handed to a process.
    pub fn parse(crowd: &str) -> Option<Stampede> {
        let (processes, readers) = crowd.split_once('x')?;
        Some(Stampede { processes: processes.parse().ok()?, readers: readers.parse().ok()? })
    }

    /// One process of the crowd: waits for the others, then all its readers read at once.
    pub async fn process(self, redis: &str) {
        // On a busy machine a timeout would be no fault of the cache, and a load more.
        let timeouts = Timeouts { connect: PATIENCE, response: PATIENCE };
        let cache = Cache::builder().redis(redis).timeouts(timeouts).max_lag(PATIENCE).build().expect("a cache");
        assert!(cache.ready(PATIENCE).await, "the feed is not live");
        let counts = connect(redis).await;
        cmd("INCR").arg(ARRIVED).exec_async(&mut counts.clone()).await.expect("INCR");
        eventually("the other processes", PATIENCE, async || {
            let arrived: u32 = cmd("GET").arg(ARRIVED).query_async(&mut counts.clone()).await.ok()?;
            (arrived >= self.processes).then_some(())
        })
        .await;
        let read = |_| {
            let (cache, counts) = (cache.clone(), counts.clone());
            tokio::spawn(async move { cache.get_or_load("stampede", |load| count_and_load(load, counts)).await })
        };
        let readers: Vec<_> = (0..self.readers).map(read).collect();
        for reader in readers {
            assert_eq!(*reader.await.expect("no panic").expect("a value"), VALUE);
        }
    }
}

async fn count_and_load(load: Load, mut counts: MultiplexedConnection) -> redis::RedisResult<u32> {
    load.tag("stampede:1");
    cmd("INCR").arg(LOADS).exec_async(&mut counts).await?;
    tokio::time::sleep(LOAD).await;
    Ok(VALUE)
}

async fn connect(redis: &str) -> MultiplexedConnection {
    let client = redis::Client::open(redis).expect("the address of Redis");
    client.get_multiplexed_async_connection().await.expect("Redis answers")
}

async fn reset(counts: &mut MultiplexedConnection) {
    cmd("DEL").arg(&[ARRIVED, LOADS, "{ct}:e:stampede"]).exec_async(counts).await.expect("DEL");
}

async fn loads(counts: &mut MultiplexedConnection) -> u32 {
    cmd("GET").arg(LOADS).query_async(counts).await.expect("GET")
}

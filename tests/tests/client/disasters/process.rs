//! Real processes with a cache of their own, which do what they are told line by line.

use std::process::Stdio;
use std::sync::Arc;

use cachetag_client::l2::Timeouts;
use cachetag_client::{AtLeast, Cache, ReadOptions};
use cachetag_tests::Stack;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::task::JoinHandle;

use super::cascade::{self, Site};
use super::gate::Gate;
use crate::trial::{Database, PATIENCE};

/// Tells a child where the servers are.
const SERVERS: &str = "CACHETAG_TEST_DISASTERS";
/// What stands before an answer: the test program prints lines of its own, too.
const ANSWER: &str = "answer: ";
/// Readers of a child that read without end.
const READERS: usize = 4;

/// A child process.
pub struct Process {
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
    _child: Child,
}

impl Process {
    /// Starts one, and waits until its feed is live.
    pub async fn start(stack: &Stack) -> Process {
        let mut command = Command::new(std::env::current_exe().expect("the path of this program"));
        command.args(["disasters::process::child", "--exact", "--nocapture", "--test-threads", "1"]);
        command.env(SERVERS, format!("{} {}", stack.redis_url(), stack.postgres_url()));
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).kill_on_drop(true).spawn().expect("a process");
        let input = child.stdin.take().expect("a pipe");
        let output = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        let mut process = Process { input, output, _child: child };
        assert_eq!(process.answer().await, "ready");
        process
    }

    /// Tells it to do something, and returns what it answers.
    pub async fn ask(&mut self, order: impl AsRef<str>) -> String {
        self.tell(order).await;
        self.answer().await
    }

    /// Only tells it; [`Process::answer`] is still to come.
    pub async fn tell(&mut self, order: impl AsRef<str>) {
        let line = format!("{}\n", order.as_ref());
        self.input.write_all(line.as_bytes()).await.expect("the process reads");
    }

    pub async fn answer(&mut self) -> String {
        loop {
            let line = self.output.next_line().await.expect("a line").expect("the process has ended");
            if let Some(answer) = line.strip_prefix(ANSWER) {
                return answer.to_owned();
            }
        }
    }
}

/// What a child process runs. By itself it is no test.
#[tokio::test]
async fn child() {
    let Ok(servers) = std::env::var(SERVERS) else { return };
    let (redis, postgres) = servers.split_once(' ').expect("two URLs");
    let mut worker = Worker::new(redis, postgres).await;
    let (sender, mut orders) = tokio::sync::mpsc::unbounded_channel();
    std::thread::spawn(move || std::io::stdin().lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
    answer("ready");
    while let Some(order) = orders.recv().await {
        let words: Vec<&str> = order.split(' ').collect();
        answer(&worker.obey(&words).await);
    }
}

/// On a line of its own: the test program leaves its own unfinished.
fn answer(text: &str) {
    println!("\n{ANSWER}{text}");
}

/// What a child has.
struct Worker {
    cache: Cache,
    database: Database,
    gate: Gate,
    crowd: Vec<JoinHandle<Option<i32>>>,
    site: Arc<Site>,
}

impl Worker {
    async fn new(redis: &str, postgres: &str) -> Worker {
        // On a busy machine a timeout would be no fault of the cache, and a load more.
        let timeouts = Timeouts { connect: PATIENCE, response: PATIENCE };
        let builder = Cache::builder().redis(redis).beta(0.0).timeouts(timeouts).max_lag(PATIENCE).lease_wait(PATIENCE);
        let cache = builder.build().expect("a cache");
        assert!(cache.ready(PATIENCE).await, "the feed is not live");
        let database = Database::connect(postgres).await;
        let site = Arc::new(Site::new(cache.clone(), database.clone()));
        Worker { cache, database, gate: Gate::closed(), crowd: Vec::new(), site }
    }

    async fn obey(&mut self, words: &[&str]) -> String {
        match *words {
            // Readers who miss one key at once. Their loader waits at the gate before it queries.
            ["crowd", readers] => {
                let readers: usize = readers.parse().expect("a number");
                self.crowd = (0..readers).map(|_| tokio::spawn(miss(self.read()))).collect();
                readers.to_string()
            }
            // How many of them wait for another's load of this process, and who loads: this process, or another that it waits for.
            ["stand"] => {
                let events = self.cache.snapshot().events;
                let count = |name: &str| events.get(name).copied().unwrap_or_default();
                let role = match (self.gate.arrived(), count("lease_wait")) {
                    (0, 0) => "none",
                    (0, _) => "waits",
                    _ => "loads",
                };
                format!("{} {role}", count("coalesced"))
            }
            ["open"] => {
                self.gate.open();
                "open".to_owned()
            }
            // What they read, each value once, and how many queries it took.
            ["values"] => {
                let mut values = Vec::new();
                for reader in self.crowd.drain(..) {
                    values.push(reader.await.expect("no panic"));
                }
                values.sort_unstable();
                values.dedup();
                format!("{values:?} {}", self.database.queries())
            }
            ["run"] => {
                (0..READERS).for_each(|_| self.site.clone().run());
                "running".to_owned()
            }
            // Reads for a commit until memory has it, and takes it for the least that readers may see from then on.
            ["catch", position, price] => {
                let position: AtLeast = position.parse().expect("a position");
                let price = price.parse().expect("a number");
                cascade::catch_up(&self.site, ReadOptions::new().at_least(position), price).await.to_string()
            }
            ["read", more] => self.site.have_read(more.parse().expect("a number")).await.to_string(),
            ["wrong"] => self.site.wrong().to_string(),
            _ => panic!("{words:?}"),
        }
    }

    fn read(&self) -> (Cache, Database, Gate) {
        (self.cache.clone(), self.database.clone(), self.gate.clone())
    }
}

async fn miss((cache, database, gate): (Cache, Database, Gate)) -> Option<i32> {
    let read = cache.get_or_load_optional("crowded", move |load| async move {
        gate.pass().await;
        database.price(load, 1).await
    });
    read.await.expect("a value").map(|price| *price)
}

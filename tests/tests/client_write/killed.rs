//! A process that enqueues and applies, killed again and again: what it was told is enqueued is in PostgreSQL, once.

use std::collections::{HashMap, HashSet};
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

use cachetag_client::write::behind::{Operation, Worker, WriteBehind};
use cachetag_tests::{Random, Stack, StackOptions};

use super::{EVENTS, INSERT, drained, events, pool, queue, run, worker};

/// Tells the child what to do: Redis's URL, PostgreSQL's, and a name for what it enqueues.
const CHILD: &str = "CACHETAG_TEST_WRITE_BEHIND";
const ROUNDS: u64 = 25;
const PRODUCERS: u64 = 4;

/// What the killed process runs: a worker, and producers that print what was acknowledged. By itself it is no test.
#[tokio::test]
async fn child() {
    let Ok(order) = std::env::var(CHILD) else { return };
    let [redis, postgres, round] = order.split(' ').collect::<Vec<_>>()[..] else { panic!("{order}") };
    let queue = WriteBehind::builder(redis).name("test").open().await.expect("a queue");
    let worker = Worker::builder(&queue, pool(postgres)).statement("insert", INSERT).batch(7).build();
    tokio::spawn(worker.run(std::future::pending()));
    let producers = (0..PRODUCERS).map(|producer| {
        let (queue, round) = (queue.clone(), round.to_owned());
        tokio::spawn(async move {
            for i in 0.. {
                let name = format!("{round}.{producer}.{i}");
                if queue.enqueue(&Operation::statement("insert").param(&name)).await.is_ok() {
                    println!("\nacknowledged {name}");
                }
            }
        })
    });
    for producer in producers.collect::<Vec<_>>() {
        let _ = producer.await;
    }
}

/// Lets a child run for a while after its first acknowledgement, kills it, and returns what it was told.
fn one_life(order: &str, life: Duration) -> Vec<String> {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.args(["killed::child", "--exact", "--nocapture", "--test-threads", "1"]).env(CHILD, order);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("a child");
    let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    let mut told = Vec::new();
    let mut read = |line: std::io::Result<String>| {
        told.extend(line.ok().and_then(|line| Some(line.strip_prefix("acknowledged ")?.to_owned())));
        told.len()
    };
    while read(lines.next().expect("it acknowledges something")) == 0 {}
    let killer = std::thread::spawn(move || {
        std::thread::sleep(life);
        // SIGKILL.
        child.kill().expect("killed");
        child.wait().expect("gone")
    });
    lines.for_each(|line| _ = read(line));
    assert!(!killer.join().expect("no panic").success());
    told
}

#[tokio::test]
async fn nothing_acknowledged_is_lost_or_done_twice() {
    let stack = Stack::start(StackOptions::servers_only().schema(EVENTS)).await;
    let mut random = Random::new(7);
    let mut told = Vec::new();
    for round in 0..ROUNDS {
        let order = format!("{} {} {round}", stack.redis_url(), stack.postgres_url());
        let life = random.up_to(Duration::from_millis(150));
        told.extend(tokio::task::spawn_blocking(move || one_life(&order, life)).await.expect("no panic"));
    }
    let queue = queue(&stack).await;
    let left = queue.len().await.expect("a length");
    let running = run(worker(&stack, &queue));
    drained(&queue).await;

    let applied = events(&stack).await;
    println!(
        "{ROUNDS} kills, {} acknowledged, {} applied, {left} of them after the last kill ({} were already committed)",
        told.len(),
        applied.len(),
        running.numbers.skipped()
    );
    let once: HashSet<&str> = applied.iter().map(String::as_str).collect();
    assert_eq!(once.len(), applied.len(), "applied twice");
    let lost: Vec<_> = told.iter().filter(|name| !once.contains(name.as_str())).collect();
    assert!(lost.is_empty(), "lost: {lost:?}");
    // What one producer enqueued one after the other is applied one after the other.
    let mut last: HashMap<&str, u64> = HashMap::new();
    for name in &applied {
        let (producer, number) = name.rsplit_once('.').expect("a name");
        let number = number.parse().expect("a number");
        assert!(last.insert(producer, number).is_none_or(|before| before < number), "{name} is out of order");
    }
    assert!(queue.dead_letters(9).await.expect("dead letters").is_empty());
}

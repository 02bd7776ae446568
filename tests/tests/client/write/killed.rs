//! A process that enqueues and applies, killed again and again: what it was told is enqueued is in PostgreSQL, once.

use std::collections::{HashMap, HashSet};
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::Duration;

use cachetag_client::write::behind::{Operation, Worker, WriteBehind};
use cachetag_tests::{Random, Stack, StackOptions};

use super::{EVENTS, drained, events, pool, queue, run, worker};

/// Tells the child what to do: Redis's URL, PostgreSQL's, and a name for what it enqueues.
const CHILD: &str = "CACHETAG_TEST_WRITE_BEHIND";
const ROUNDS: u64 = 25;
const PRODUCERS: u64 = 4;
/// A life is at most as long as this after its first acknowledgement: enough to get the queue's lock from the dead one, and to work.
const LIFE: Duration = Duration::from_millis(800);
/// Slow enough that a kill often hits a batch.
const SLOWLY: &str = "INSERT INTO events (op) SELECT $1 FROM pg_sleep(0.0005)";

/// What the killed process runs: a worker, and producers that print what was acknowledged. By itself it is no test.
#[tokio::test]
async fn child() {
    let Ok(order) = std::env::var(CHILD) else { return };
    let [redis, postgres, round] = order.split(' ').collect::<Vec<_>>()[..] else { panic!("{order}") };
    let queue = WriteBehind::builder(redis).name("test").open().await.expect("a queue");
    let worker = Worker::builder(&queue, pool(postgres)).statement("insert", SLOWLY).batch(7).build();
    let numbers = worker.numbers();
    tokio::spawn(worker.run(std::future::pending()));
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(Duration::from_millis(10)).await;
            println!("\nnumbers {} {}", numbers.applied(), numbers.skipped());
        }
    });
    let producers = (0..PRODUCERS).map(|producer| {
        let (queue, round) = (queue.clone(), round.to_owned());
        tokio::spawn(async move {
            for i in 0.. {
                let name = format!("{round}.{producer}.{i}");
                if queue.enqueue(&Operation::statement("insert").param(&name)).await.is_ok() {
                    println!("\nacknowledged {name}");
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
    });
    for producer in producers.collect::<Vec<_>>() {
        let _ = producer.await;
    }
}

/// What a child said before it was killed.
#[derive(Default)]
struct Said {
    acknowledged: Vec<String>,
    /// What its worker had applied, and what it had found to be applied already.
    applied: u64,
    skipped: u64,
}

impl Said {
    fn hear(&mut self, line: &str) {
        match line.split(' ').collect::<Vec<_>>()[..] {
            ["acknowledged", name] => self.acknowledged.push(name.to_owned()),
            ["numbers", applied, skipped] => {
                (self.applied, self.skipped) = (applied.parse().expect("a number"), skipped.parse().expect("a number"));
            }
            _ => {}
        }
    }
}

/// Lets a child run for a while after its first acknowledgement, and kills it.
fn one_life(order: &str, life: Duration) -> Said {
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.args(["write::killed::child", "--exact", "--nocapture", "--test-threads", "1"]).env(CHILD, order);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().expect("a child");
    let mut lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    let mut said = Said::default();
    while said.acknowledged.is_empty() {
        said.hear(&lines.next().expect("it acknowledges something").expect("text"));
    }
    let killer = std::thread::spawn(move || {
        std::thread::sleep(life);
        // SIGKILL.
        child.kill().expect("killed");
        child.wait().expect("gone")
    });
    // The last line may be cut.
    lines.map_while(Result::ok).for_each(|line| said.hear(&line));
    assert!(!killer.join().expect("no panic").success());
    said
}

#[tokio::test]
async fn nothing_acknowledged_is_lost_or_done_twice() {
    let stack = Stack::start(StackOptions::servers_only().schema(EVENTS)).await;
    let mut random = Random::new(7);
    let (mut told, mut worked, mut again) = (Vec::new(), 0, 0);
    for round in 0..ROUNDS {
        let order = format!("{} {} {round}", stack.redis_url(), stack.postgres_url());
        let life = random.up_to(LIFE);
        let said = tokio::task::spawn_blocking(move || one_life(&order, life)).await.expect("no panic");
        told.extend(said.acknowledged);
        (worked, again) = (worked + said.applied, again + said.skipped);
    }
    let queue = queue(&stack).await;
    let left = queue.len().await.expect("a length");
    let running = run(worker(&stack, &queue));
    drained(&queue).await;

    let applied = events(&stack).await;
    println!(
        "{ROUNDS} kills, {} acknowledged, {} applied: at least {worked} by those that were killed, {left} were left in the queue; \
         delivered again after their commit: {}",
        told.len(),
        applied.len(),
        again + running.numbers.skipped()
    );
    assert!(worked > 0, "no child has lived long enough to work");
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

//! What shapes of reading cost beside a plain GET: for a look, not for a verdict.
//! `cargo test --release -p cachetag-tests --test client -- --ignored --nocapture speed`

use std::time::{Duration, Instant};

use cachetag_client::l2::{GetOptions, Terms};
use redis::aio::MultiplexedConnection;
use redis::{Pipeline, Value, cmd};

use super::server::{Server, fill};

const PIPELINED: usize = 100;
const ROUNDS: usize = 200;
const TURNS: usize = 5;

async fn raw(connection: &mut MultiplexedConnection, pipeline: &Pipeline) {
    let replies: Vec<Value> = pipeline.query_async(connection).await.unwrap();
    assert_eq!(replies.len(), PIPELINED);
}

#[tokio::test]
#[ignore = "a measurement"]
async fn shapes_of_reading_beside_get() {
    let server = Server::start().await;
    let shard = server.shard().await;
    let payload: &'static str = Box::leak("x".repeat(500).into_boxed_str());
    fill(&shard, "p1", payload, &["product:1", "category:1", "brand:1", "homepage"]).await;
    let mut connection = server.connection.clone();
    cmd("SET").arg("plain").arg(payload).exec_async(&mut connection).await.unwrap();
    let repeat = |command: redis::Cmd| {
        let mut pipeline = Pipeline::with_capacity(PIPELINED);
        for _ in 0..PIPELINED {
            pipeline.add_command(command.clone());
        }
        pipeline
    };
    let hmget = |fields: &[&str]| {
        let mut command = cmd("HMGET");
        command.arg("{ct}:e:p1").arg(fields);
        repeat(command)
    };
    let mut get = cmd("GET");
    get.arg("plain");
    let mut fcall = cmd("FCALL");
    fcall.arg("cachetag_get").arg(1).arg("{ct}:e:p1");
    let raws = [
        ("GET", repeat(get)),
        ("HMGET payload", hmget(&["payload"])),
        ("HMGET payload meta", hmget(&["payload", "meta"])),
        ("HMGET 8 fields", hmget(&["payload", "as_of", "keys", "put_at", "expires_at", "fresh_until", "cost", "kind"])),
        ("FCALL cachetag_get", repeat(fcall)),
    ];
    let keys = vec!["p1"; PIPELINED];
    let calls = ["Shard::entries", "Shard::fast_many, known", "Shard::fast_many", "Shard::get_many"];
    let mut seconds = vec![Duration::ZERO; raws.len() + calls.len()];
    for _ in 0..TURNS {
        for (i, (_, pipeline)) in raws.iter().enumerate() {
            let started = Instant::now();
            for _ in 0..ROUNDS / TURNS {
                raw(&mut connection, pipeline).await;
            }
            seconds[i] += started.elapsed();
        }
        for call in 0..calls.len() {
            let started = Instant::now();
            for _ in 0..ROUNDS / TURNS {
                let terms = Terms::default();
                let read = match call {
                    0 => shard.entries(&keys).await.unwrap().len(),
                    1 => {
                        let hit = cachetag_client::l2::Verdict::Hit;
                        shard.fast_many(&keys, &terms, |_, _| Some(hit)).await.unwrap().len()
                    }
                    2 => shard.fast_many(&keys, &terms, |_, _| None).await.unwrap().len(),
                    _ => shard.get_many(&keys, &GetOptions::default()).await.unwrap().len(),
                };
                assert_eq!(read, PIPELINED);
            }
            seconds[raws.len() + call] += started.elapsed();
        }
    }
    let names = raws.iter().map(|(name, _)| *name).chain(calls);
    for (name, took) in names.zip(&seconds) {
        let rate = (ROUNDS * PIPELINED) as f64 / took.as_secs_f64();
        println!("{name:26} {rate:9.0}/s  {:.2} of GET", seconds[0].as_secs_f64() / took.as_secs_f64());
    }
}

//! `cachetag_get` beside a plain GET of the same value.

use std::time::Instant;

use redis::{Cmd, cmd, pipe};

use super::{Plan, Table, shop};
use crate::Stack;

/// Commands in one pipeline.
const PIPELINED: u32 = 100;
/// Bytes of the cached value.
const PAYLOAD: usize = 500;
/// The two kinds of reads take turns this often.
const TURNS: u32 = 5;

/// Measures rates on one connection, one call at a time and pipelined.
pub(super) async fn measure(plan: &Plan, table: &mut Table) {
    let stack = Stack::start(shop::stack()).await;
    let payload = "x".repeat(PAYLOAD);
    stack.fill("p1", &payload, &["product:1", "category:1", "brand:1", "homepage"]).await;
    assert!(stack.get("p1").await.is_hit());
    let mut cache = stack.cache().await;
    cmd("SET").arg("plain").arg(&payload).exec_async(cache.connection()).await.expect("SET");
    let mut plain = cmd("GET");
    plain.arg("plain");
    let mut tagged = cmd("FCALL");
    tagged.arg("cachetag_get").arg(1).arg(cache.key("e", "p1"));

    for pipelined in [1, PIPELINED] {
        let (mut ours, mut theirs) = (0.0, 0.0);
        for _ in 0..TURNS {
            ours += seconds(&mut cache, &tagged, plan.reads / TURNS, pipelined).await;
            theirs += seconds(&mut cache, &plain, plan.reads / TURNS, pipelined).await;
        }
        let rate = |seconds: f64| f64::from(plan.reads / TURNS * TURNS) / seconds;
        table.row(
            &format!("read: four tags, {}", if pipelined == 1 { "one at a time" } else { "100 pipelined" }),
            format!("{:.0}/s", rate(ours)),
            format!("GET {:.0}/s", rate(theirs)),
            format!("{:.2}", theirs / ours),
        );
    }
    table.note(format!("read: a value of {PAYLOAD} bytes, one connection"));
}

async fn seconds(cache: &mut crate::Cache, read: &Cmd, count: u32, pipelined: u32) -> f64 {
    let mut calls = pipe();
    for _ in 0..pipelined {
        calls.add_command(read.clone());
    }
    let started = Instant::now();
    for _ in 0..count / pipelined {
        let answers: Vec<redis::Value> = calls.query_async(cache.connection()).await.expect("Redis answers");
        assert_eq!(answers.len(), pipelined as usize);
    }
    started.elapsed().as_secs_f64() * f64::from(count) / f64::from(count / pipelined * pipelined)
}

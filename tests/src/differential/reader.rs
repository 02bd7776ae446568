//! One connection that reads, checks what it reads, and fills what it misses.

use std::rc::Rc;
use std::time::Duration;

use redis::{cmd, pipe};
use tokio_postgres::{Client, SimpleQueryMessage};

use super::random::Random;
use super::{CLOCK_STEP, Fault, Shared};
use crate::{Cache, Put};

/// Calls of `cachetag_get` in one pipeline.
const PIPELINE: usize = 48;
/// Misses of a pipeline that are filled.
const FILLS: usize = 8;
/// Bounds of staleness that readers ask for, in milliseconds.
const MAX_LAGS: [u64; 5] = [10, 50, 250, 1_000, 2_000];

/// State, payload, token, lease, age.
type Answer = (String, Option<String>, Option<String>, Option<String>, i64);

/// Reads until the run is over.
pub(super) async fn run(shared: Rc<Shared>, client: Client, mut cache: Cache, mut random: Random) {
    while !shared.is_over() {
        let objects = &shared.schema.objects;
        let asked: Vec<(usize, u64)> =
            (0..PIPELINE).map(|_| (random.below(objects.len()), *random.pick(&MAX_LAGS))).collect();
        let mut calls = pipe();
        for (object, max_lag) in &asked {
            let key = cache.key("e", &objects[*object].key);
            calls.cmd("FCALL").arg("cachetag_get").arg(1).arg(key).arg("MAXLAG").arg(max_lag).arg("NOLEASE");
        }
        let before = shared.clock.now();
        let answers: Vec<Answer> = calls.query_async(cache.connection()).await.expect("cachetag_get");
        let after = shared.clock.now();
        let mut missed = Vec::new();
        for ((object, max_lag), (state, payload, token, _, _)) in asked.into_iter().zip(answers) {
            {
                let mut report = shared.report.borrow_mut();
                report.reads += 1;
                *report.states.entry(state.clone()).or_default() += 1;
            }
            match (state.as_str(), payload) {
                ("hit" | "early", payload) => {
                    let value = payload.unwrap_or_default();
                    let from = before.saturating_sub(max_lag * 1_000_000 + CLOCK_STEP);
                    if !shared.was_true(object, &value, from, after) {
                        let object = &objects[object];
                        let explained = cache.explain(&object.key).await.expect("cachetag_explain");
                        shared.violation(format!(
                            "{} ({:?}, tags {:?}) was `{value}`, not true within {max_lag} ms; now: {explained:?}",
                            object.key, object.sources, object.tags
                        ));
                    }
                }
                ("miss" | "wait", _) => missed.push((object, token.unwrap_or_default())),
                _ => {}
            }
        }
        for (object, token) in missed.into_iter().take(FILLS) {
            fill(&shared, &client, &mut cache, &mut random, object, token).await;
        }
        tokio::task::yield_now().await;
    }
}

/// Now and then something takes its time.
async fn dawdle(random: &mut Random) {
    if random.percent(20) {
        tokio::time::sleep(Duration::from_micros(random.below(15_000) as u64)).await;
    }
}

async fn fill(
    shared: &Shared,
    client: &Client,
    cache: &mut Cache,
    random: &mut Random,
    object: usize,
    mut token: String,
) {
    let object = &shared.schema.objects[object];
    dawdle(random).await;
    let tagged = object.tagged_query.as_ref().filter(|_| random.percent(50));
    let messages = client.simple_query(tagged.unwrap_or(&object.query)).await.expect("the query");
    let row = messages.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    let row = row.expect("a row");
    let value = row.get(0).expect("a value");
    let found = tagged.and_then(|_| row.get(1)).unwrap_or_default();
    let mut tags: Vec<String> = found.lines().map(str::to_owned).collect();
    if tags.is_empty() {
        tags = object.tags.clone();
    }
    dawdle(random).await;
    match shared.options.fault {
        Some(Fault::LateToken) => {
            tokio::time::sleep(Duration::from_millis(20)).await;
            let again =
                cmd("FCALL").arg("cachetag_get").arg(1).arg(cache.key("e", &object.key)).arg("NOLEASE").to_owned();
            let (_, _, late, _, _): Answer = again.query_async(cache.connection()).await.expect("cachetag_get");
            token = late.unwrap_or_default();
        }
        Some(Fault::OmitTags) => tags.clear(),
        Some(Fault::RaiseAsOf) | None => {}
    }
    let ttl = Duration::from_millis(if random.percent(10) { 50 } else { 60_000 });
    match cache.put(&object.key, value, &token, ttl, &tags).await.expect("cachetag_put") {
        Put::Stored(_) => shared.report.borrow_mut().fills += 1,
        Put::Refused { reason, .. } => {
            *shared.report.borrow_mut().refusals.entry(reason).or_default() += 1;
            return;
        }
    }
    if shared.options.fault == Some(Fault::RaiseAsOf) {
        tokio::time::sleep(Duration::from_millis(20)).await;
        let applied = cache.state().await.expect("the state").remove("applied").unwrap_or_default();
        let entry = cache.key("e", &object.key);
        let raise = cmd("HSET").arg(entry).arg("as_of").arg(applied).to_owned();
        raise.exec_async(cache.connection()).await.expect("HSET");
    }
}

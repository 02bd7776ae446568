//! Looks at Redis and at the slot from the side: versions of tags never fall, nothing is half applied, nothing acknowledged is missing.

use std::rc::Rc;
use std::time::Duration;

use redis::{Value, pipe};

use super::commit::first;
use super::report::Invariant;
use super::trace;
use super::world::World;
use crate::{Cache, Lsn, lsn};

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(40);
/// A tag that lives this much longer than the time between two looks has not expired in between.
const LIFE: i64 = 5_000;
/// Looks further apart than this are not compared.
const APART: u64 = 3_000_000_000;

/// The state of Redis at one moment.
struct Look {
    generation: u64,
    at: u64,
    epoch: String,
    applied: String,
    watermark: Option<String>,
    evicted_by_redis: String,
    /// Version, time to live and number of evictions of each tag of the schema.
    tags: Vec<Option<(String, i64, u64)>>,
}

/// Looks until the run is over.
pub async fn run(world: Rc<World>) {
    let mut client = world.postgres().await;
    let mut last: Option<Look> = None;
    let mut epochs = Epochs::default();
    while let Some(mut cache) = world.redis().await {
        while !world.is_over() {
            world.pause(PAUSE).await;
            if client.is_closed() {
                client = world.postgres().await;
            }
            let generation = world.redis_generation.get();
            let confirmed = client.simple_query(
                "SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = 'cachetag' AND database = current_database()",
            );
            let Ok(confirmed) = confirmed.await else { continue };
            let Ok(look) = look(&world, &mut cache, generation).await else { break };
            // While Redis goes back its generation is odd.
            let Some(look) =
                look.filter(|look| world.redis_generation.get() == look.generation && generation.is_multiple_of(2))
            else {
                last = None;
                continue;
            };
            if epochs.vouch_for(&look) {
                if let Some(confirmed) = first(&confirmed).map(lsn) {
                    acknowledged(&world, &look, confirmed);
                }
                together(&world, &look);
            }
            if let Some(last) = &last {
                never_undone(&world, last, &look);
            }
            last = Some(look);
        }
    }
}

async fn look(world: &World, cache: &mut Cache, generation: u64) -> redis::RedisResult<Option<Look>> {
    let before = world.evicted.borrow().clone();
    let mut calls = pipe();
    calls.atomic();
    calls.cmd("HMGET").arg(cache.key("w", "")).arg("epoch").arg("applied").arg("watermark");
    calls.cmd("INFO").arg("stats");
    for tag in &world.schema.tags {
        let key = cache.key("t", tag);
        calls.cmd("GET").arg(&key).cmd("PTTL").arg(&key);
    }
    let answers: Vec<Value> = calls.query_async(cache.connection()).await?;
    let Value::Array(state) = &answers[0] else { return Ok(None) };
    let [epoch, applied, watermark] = [0, 1, 2].map(|field| state.get(field).and_then(text));
    let (Some(epoch), Some(applied)) = (epoch, applied) else { return Ok(None) };
    let stats = text(&answers[1]).unwrap_or_default();
    let evicted_by_redis = stats.lines().find(|line| line.starts_with("evicted_keys:")).unwrap_or_default().to_owned();
    let after = world.evicted.borrow();
    let tags = answers[2..].chunks(2).enumerate().map(|(number, pair)| {
        let (version, Value::Int(life)) = (text(&pair[0])?, &pair[1]) else { return None };
        (before[number] == after[number]).then_some((version, *life, after[number]))
    });
    let tags = tags.collect();
    Ok(Some(Look { generation, at: world.clock.now(), epoch, applied, watermark, evicted_by_redis, tags }))
}

/// Epochs that have been seen.
#[derive(Default)]
struct Epochs {
    generation: u64,
    highest: String,
    /// After Redis has gone back, what it holds counts from the first epoch on that nobody had seen before: a filler may have come with a token from
    /// before, ahead of what Redis has applied.
    void: String,
}

impl Epochs {
    fn vouch_for(&mut self, look: &Look) -> bool {
        if look.generation != self.generation {
            self.generation = look.generation;
            // Gone back before the first look: then what it shows may be what Redis went back to.
            self.void.clone_from(if self.highest.is_empty() { &look.epoch } else { &self.highest });
        }
        if look.epoch > self.highest {
            self.highest.clone_from(&look.epoch);
        }
        look.epoch > self.void && look.watermark.is_some()
    }
}

/// What PostgreSQL may forget is in Redis.
fn acknowledged(world: &World, look: &Look, confirmed: Lsn) {
    let mut report = world.report.borrow_mut();
    report.looked_at(Invariant::Acknowledged);
    if crate::lsn_of_version(&look.applied) < confirmed {
        report.violation(Invariant::Acknowledged, || {
            let applied = &look.applied;
            trace::lately(
                world,
                format!("the slot has confirmed {confirmed}, Redis has applied {applied} when asked later"),
            )
        });
    }
}

/// A commit is applied to all of its tags or to none: no tag is ahead of what is applied.
fn together(world: &World, look: &Look) {
    let mut report = world.report.borrow_mut();
    for (name, tag) in world.schema.tags.iter().zip(&look.tags) {
        let Some((version, ..)) = tag else { continue };
        report.looked_at(Invariant::Together);
        let ahead = |version: &str| version[..10] == look.epoch && *version > *look.applied;
        if version.split(' ').any(ahead) {
            report.violation(Invariant::Together, || {
                trace::lately(world, format!("{name} has version {version} while {} is applied", look.applied))
            });
        }
    }
}

/// The version of a tag that stays in Redis never falls within an epoch.
fn never_undone(world: &World, last: &Look, look: &Look) {
    if last.generation != look.generation
        || last.epoch != look.epoch
        || last.evicted_by_redis != look.evicted_by_redis
        || look.at - last.at > APART
    {
        return;
    }
    let mut report = world.report.borrow_mut();
    for ((name, before), now) in world.schema.tags.iter().zip(&last.tags).zip(&look.tags) {
        let (Some((before, life, evicted)), Some((now, _, evicted_now))) = (before, now) else { continue };
        if *life < LIFE || evicted != evicted_now || before[..10] > *look.epoch {
            continue;
        }
        report.looked_at(Invariant::NeverUndone);
        let (hard, soft) = (&before[..31], before.get(32..));
        let soft_now = now.get(32..).unwrap_or(&now[..31]);
        if now[..31] < *hard || soft.is_some_and(|soft| soft_now < soft) {
            let applied = &look.applied;
            report.violation(Invariant::NeverUndone, || {
                trace::lately(world, format!("{name} fell from {before} to {now}; applied: {applied}"))
            });
        }
    }
    if look.applied < last.applied || look.watermark < last.watermark {
        let state = |look: &Look| format!("applied {} watermark {:?}", look.applied, look.watermark);
        report.violation(Invariant::NeverUndone, || {
            trace::lately(world, format!("the state fell: {} → {}", state(last), state(look)))
        });
    }
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::BulkString(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
        Value::SimpleString(text) => Some(text.clone()),
        Value::VerbatimString { text, .. } => Some(text.clone()),
        _ => None,
    }
}

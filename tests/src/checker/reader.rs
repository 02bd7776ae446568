//! One connection that reads, has what it reads judged, and has filled what it misses.

use std::rc::Rc;
use std::time::Duration;

use redis::{Pipeline, Value, pipe};

use super::fill::Missed;
use super::history::{Moment, SECOND};
use super::judge::{Finding, Question};
use super::report::Invariant;
use super::schema::Part;
use super::trace::{self, Hit};
use super::world::World;
use crate::random::Random;
use crate::{Cache, Lsn};

/// Calls of `cachetag_get` in one pipeline.
const PIPELINE: usize = 96;
/// Calls, in a hundred, that are not for what was valid the last time.
const NEW: usize = 25;
/// After an error, before the next connection.
const RETRY: Duration = Duration::from_millis(5);
/// Redis tells the time in milliseconds: an age is up to this much more than it says.
const CLOCK_STEP: Moment = SECOND / 1_000;
/// Bounds of staleness that readers ask for, in thousandths of the largest.
const MAX_LAGS: [u64; 6] = [5, 25, 125, 500, 1_000, 1_000];

/// What is asked of one object.
struct Asked {
    object: usize,
    max_lag_ms: u64,
    /// The version that the answer must cover, and whose it is.
    at_least: Option<(Lsn, Invariant)>,
}

/// Where a call finds Redis: the epoch and what is applied.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Position {
    epoch: String,
    applied: Lsn,
}

/// Reads until the run is over.
pub async fn run(world: Rc<World>, number: usize, random: Random) {
    let mut reader = Reader { world, number, random, session: String::new(), timeline: 0, hot: Vec::new() };
    while let Some(mut cache) = reader.world.redis().await {
        while !reader.world.is_over() {
            if reader.pipeline(&mut cache).await.is_err() {
                reader.world.report.borrow_mut().error("readers");
                break;
            }
            tokio::task::yield_now().await;
        }
        tokio::time::sleep(RETRY).await;
    }
}

struct Reader {
    world: Rc<World>,
    number: usize,
    random: Random,
    /// The token of the last answer: the version that the session has seen.
    session: String,
    /// Of which history that is.
    timeline: u64,
    /// What was valid when it was last asked for, and is asked for most.
    hot: Vec<usize>,
}

impl Reader {
    /// Asks for many objects in one round trip.
    async fn pipeline(&mut self, cache: &mut Cache) -> redis::RedisResult<()> {
        let world = self.world.clone();
        let mut calls = pipe();
        // In one step, now and then: nothing moves between the calls.
        if self.random.percent(20) {
            calls.atomic();
        }
        position(&mut calls, cache);
        let asked: Vec<Asked> = (0..PIPELINE).map(|_| self.ask(&mut calls, cache)).collect();
        position(&mut calls, cache);

        let (generation, timeline) = (world.redis_generation.get(), world.timeline.get());
        let before = world.clock.now();
        let answers: Vec<Value> = calls.query_async(cache.connection()).await?;
        let after = world.clock.now();
        let (first, last) = (position_of(&answers[0]), position_of(&answers[PIPELINE + 1]));
        // What was applied before the calls was applied at each of them, if Redis has not gone back meanwhile.
        let steady = generation == world.redis_generation.get()
            && generation.is_multiple_of(2)
            && timeline == world.timeline.get()
            && matches!((&first, &last), (Some(first), Some(last)) if first.epoch == last.epoch && world.vouches(&first.epoch));
        let applied = first.filter(|_| steady).map_or(0, |first| first.applied);
        self.hot.clear();
        if timeline != self.timeline || timeline != world.timeline.get() {
            // What the session has seen is no position of the present history.
            self.timeline = world.timeline.get();
            self.session.clear();
            return Ok(());
        }
        for (asked, answer) in asked.iter().zip(&answers[1..=PIPELINE]) {
            let Some((state, payload, token)) = parts(answer) else {
                world.report.borrow_mut().error("answers");
                continue;
            };
            world.report.borrow_mut().answers += 1;
            *world.report.borrow_mut().states.entry(state).or_default() += 1;
            match state {
                "hit" | "early" => {
                    let from = before.saturating_sub((asked.max_lag_ms + 1) * CLOCK_STEP);
                    self.check(asked, payload, Question { from, to: after, covers: applied });
                    self.hot.push(asked.object);
                    // Between a failover that loses commits and the next epoch, a token means a place in either history.
                    let is_of_this_history = token.split_once('.').is_some_and(|(epoch, _)| world.vouches(epoch));
                    if is_of_this_history && self.random.percent(2) {
                        token.clone_into(&mut self.session);
                    }
                }
                "miss" if !token.is_empty() => {
                    world.miss(Missed { object: asked.object, token: token.to_owned(), asked: after });
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Adds a call to the pipeline.
    fn ask(&mut self, calls: &mut Pipeline, cache: &Cache) -> Asked {
        let world = &self.world;
        let random = &mut self.random;
        let share = *random.pick(&MAX_LAGS);
        let max_lag_ms = (world.options.max_lag.as_millis() as u64 * share / 1_000).max(1);
        let anything = self.hot.is_empty() || random.percent(NEW);
        let mut object = if anything { random.below(world.schema.objects.len()) } else { *random.pick(&self.hot) };
        let mut at_least = None;
        let mut text = String::new();
        match random.below(100) {
            0..8 if !self.session.is_empty() => {
                text.clone_from(&self.session);
                let position = self.session.split_once('.').and_then(|(_, position)| position.parse().ok());
                at_least = Some((position.unwrap_or_default(), Invariant::MonotonicReads));
            }
            8..16 => {
                let recent = world.recent.borrow();
                if !recent.is_empty() {
                    let commit = recent[random.below(recent.len())];
                    object = commit.object;
                    text = commit.commit.to_string();
                    at_least = Some((commit.commit.lsn().0, Invariant::ReadYourWrites));
                }
            }
            _ => {}
        }
        let key = cache.key("e", &world.schema.objects[object].key);
        calls.cmd("FCALL").arg("cachetag_get").arg(1).arg(key).arg("NOLEASE").arg("MAXLAG").arg(max_lag_ms);
        if at_least.is_some() {
            calls.arg("ATLEAST").arg(text);
        }
        Asked { object, max_lag_ms, at_least }
    }

    /// Judges a hit.
    fn check(&self, asked: &Asked, payload: Option<&str>, question: Question) {
        let world = &self.world;
        let value = payload.unwrap_or_default();
        let presented = asked.at_least.map_or(0, |(position, _)| position);
        let both = Question { covers: question.covers.max(presented), ..question };
        let finding = world.judge.borrow_mut().judge(&world.schema, asked.object, value, both);
        let mut report = world.report.borrow_mut();
        if finding == Finding::Unpromised {
            report.unpromised += 1;
            return;
        }
        report.checked += 1;
        report.looked_at(Invariant::Staleness);
        if question.covers > 0 {
            report.looked_at(Invariant::Together);
        }
        if let Some((_, whose)) = asked.at_least {
            report.looked_at(whose);
        }
        let object = &world.schema.objects[asked.object];
        match object.sources[..] {
            [(_, Part::Row(_))] if value.is_empty() => report.looked_at(Invariant::Insertion),
            [(_, Part::Group(_) | Part::Special(_))] => {
                report.looked_at(Invariant::Insertion);
                report.looked_at(Invariant::Move);
            }
            _ => {}
        }
        if finding == Finding::True {
            return;
        }
        let hit = Hit {
            reader: self.number,
            object: asked.object,
            value: value.to_owned(),
            question: both,
            applied: question.covers,
            max_lag: Duration::from_millis(asked.max_lag_ms),
            at_least: asked.at_least,
            client: None,
        };
        let invariant = trace::invariant(world, &hit, finding);
        report.violation(invariant, || trace::history(world, &hit, finding));
    }
}

fn position(calls: &mut Pipeline, cache: &Cache) {
    calls.cmd("HMGET").arg(cache.key("w", "")).arg("epoch").arg("applied");
}

fn position_of(value: &Value) -> Option<Position> {
    let Value::Array(fields) = value else { return None };
    let epoch = text(fields.first()?)?.to_owned();
    let applied = text(fields.get(1)?)?.split_once('.')?.1.parse().ok()?;
    Some(Position { epoch, applied })
}

/// State, payload and token of an answer.
fn parts(answer: &Value) -> Option<(&'static str, Option<&str>, &str)> {
    const STATES: [&str; 6] = ["hit", "miss", "bypass", "stale", "wait", "early"];
    let Value::Array(fields) = answer else { return None };
    let state = text(fields.first()?)?;
    let state = STATES.into_iter().find(|known| *known == state)?;
    Some((state, text(fields.get(1)?), text(fields.get(2)?)?))
}

fn text(value: &Value) -> Option<&str> {
    match value {
        Value::BulkString(bytes) => std::str::from_utf8(bytes).ok(),
        Value::SimpleString(text) => Some(text),
        _ => None,
    }
}

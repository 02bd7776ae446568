//! Readers through the client: what it serves from memory, from Redis and from loads is judged like any other hit.
//!
//! Two processes of an application are played, each with a cache of its own. Its entries lie under keys of their own beside those of the
//! plain readers: the client writes its own format.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use cachetag_client::core::Lsn as Position;
use cachetag_client::{AtLeast, Cache, Cached, Metadata, ReadOptions, Session, Source};

use super::history::{Moment, SECOND};
use super::judge::{Finding, Question};
use super::loader::{Database, Error, Plan};
use super::options::Variant;
use super::report::Invariant;
use super::trace::{self, Hit};
use super::world::World;
use crate::Lsn;
use crate::random::Random;

/// Caches, as processes have them.
pub const PROCESSES: usize = 2;
/// Connections that read through one of them.
pub const READERS: usize = 4;

/// Calls between two pauses.
const BURST: usize = 64;
const PAUSE: Duration = Duration::from_millis(1);
/// After an error, before the next call.
const RETRY: Duration = Duration::from_millis(5);
/// Calls, in a hundred, that are for what was read just now, and of those, those that ask for something of their own.
const AGAIN: usize = 97;
const PARTICULAR: usize = 8;
/// Of the others, those that are not for what was read lately.
const NEW: usize = 15;
/// Objects that are read most.
const HOT: usize = 24;
/// Keys of a call for many.
const MANY: usize = 12;
/// Redis tells the time in milliseconds: an age is up to this much more than it says.
const CLOCK_STEP: Moment = SECOND / 1_000;
/// Bounds of staleness that readers ask for, in thousandths of the largest.
const MAX_LAGS: [u64; 6] = [25, 125, 500, 1_000, 1_000, 1_000];
/// No room for all values: some are evicted from memory.
const LITTLE_MEMORY: u64 = 96 << 10;

/// What a process has.
pub struct Process {
    cache: Cache,
    database: Arc<Database>,
}

impl Process {
    /// With a cache whose feed is not live yet.
    pub fn start(world: &World, number: usize) -> Rc<Process> {
        let builder = Cache::builder()
            .redis(&*world.redis_url)
            .max_lag(world.options.max_lag)
            .lease_wait(Duration::from_millis(200))
            .load_timeout(Duration::from_secs(4));
        let builder = match number {
            0 => builder.memory(LITTLE_MEMORY),
            _ => builder.stale_if_error(Duration::from_secs(5)),
        };
        let cache = builder.build().expect("a cache");
        Rc::new(Process { cache, database: Database::new(world) })
    }
}

/// Reads until the run is over.
pub async fn run(world: Rc<World>, process: Rc<Process>, number: usize, mut random: Random) {
    let session = Told::new(&world, &mut random);
    let mut reader =
        Reader { world, process, number, random, session, timeline: 0, hot: Vec::new(), last: 0, held: Vec::new() };
    while !reader.world.is_over() {
        let mut pause = PAUSE;
        for _ in 0..BURST {
            let read = if reader.random.percent(1) { reader.many().await } else { reader.one().await };
            for (object, fill) in reader.process.database.loaded() {
                reader.world.filled(object, fill);
            }
            if read.is_err() {
                reader.world.report.borrow_mut().error("client");
                pause = RETRY;
                break;
            }
        }
        tokio::time::sleep(pause).await;
    }
}

struct Reader {
    world: Rc<World>,
    process: Rc<Process>,
    number: usize,
    random: Random,
    session: Told,
    /// Of which history the session is.
    timeline: u64,
    /// What was read lately, and just now.
    hot: Vec<usize>,
    last: usize,
    /// What a reader that is broken has kept.
    held: Vec<(usize, String)>,
}

/// A session, and what it was told.
struct Told {
    session: Session,
    max_lag_ms: u64,
    /// The version of every row that it has seen.
    rows: HashMap<(usize, usize), u64>,
    /// Commits that end here or earlier it has been shown.
    covers: Lsn,
}

impl Told {
    fn new(world: &World, random: &mut Random) -> Told {
        let max_lag_ms = max_lag_ms(world, random);
        let session = Session::with(ReadOptions::new().max_lag(Duration::from_millis(max_lag_ms)));
        Told { session, max_lag_ms, rows: HashMap::new(), covers: 0 }
    }
}

/// What is asked of one object.
struct Asked {
    object: usize,
    max_lag_ms: u64,
    fresh: bool,
    /// What the answer must cover, and whose it is.
    at_least: Option<(AtLeast, Invariant)>,
}

/// An answer, with what is known of it; nothing is known of an absence.
struct Answer {
    value: String,
    about: Option<Metadata>,
}

impl Answer {
    fn new(cached: Option<Cached<String>>) -> Answer {
        let about = cached.as_ref().map(Cached::metadata);
        Answer { value: cached.map(|cached| (*cached).clone()).unwrap_or_default(), about }
    }

    fn source(&self) -> &'static str {
        match self.about.as_ref().map(Metadata::source) {
            None => "absence",
            Some(Source::Memory) => "memory",
            Some(Source::Redis) => "Redis",
            Some(Source::Loader) => "loader",
            Some(_) => "another layer",
        }
    }
}

impl Reader {
    /// Asks for one object.
    async fn one(&mut self) -> Result<(), cachetag_client::Error> {
        let world = self.world.clone();
        let timeline = self.same_history();
        let asked = self.ask();
        let key = key(&world, asked.object);
        let called = world.clock.now();
        let plan = Plan::new(&world, &mut self.random, self.number, asked.object);
        let (database, row) = (self.process.database.clone(), world.schema.objects[asked.object].is_row());
        let loader = move |load| async move {
            let value = database.load(load, plan).await?;
            // No row is an absence.
            Ok::<_, Error>(Some(value).filter(|value| !row || !value.is_empty()))
        };
        let cache = &self.process.cache;
        let mut options = ReadOptions::new().max_lag(Duration::from_millis(asked.max_lag_ms));
        let answer = match asked.at_least {
            Some((_, Invariant::MonotonicReads)) => {
                cache.session(&self.session.session).get_or_load_optional(&key, loader).await
            }
            presented => {
                if let Some((commit, _)) = presented {
                    options = options.at_least(commit);
                }
                if asked.fresh {
                    options = options.fresh();
                }
                cache.with(options).get_or_load_optional(&key, loader).await
            }
        }?;
        self.take(&asked, Answer::new(answer), called, timeline);
        Ok(())
    }

    /// Asks for many objects in one call.
    async fn many(&mut self) -> Result<(), cachetag_client::Error> {
        let world = self.world.clone();
        let timeline = self.same_history();
        let max_lag_ms = max_lag_ms(&world, &mut self.random);
        let mut objects: Vec<usize> = (0..MANY).map(|_| self.object()).collect();
        objects.sort_unstable();
        objects.dedup();
        let keys: Vec<String> = objects.iter().map(|object| key(&world, *object)).collect();
        let mut plans: HashMap<String, (Plan, bool)> = HashMap::new();
        for (key, object) in keys.iter().zip(&objects) {
            let plan = Plan::new(&world, &mut self.random, self.number, *object);
            plans.insert(key.clone(), (plan, world.schema.objects[*object].is_row()));
        }
        let database = self.process.database.clone();
        let called = world.clock.now();
        let options = ReadOptions::new().max_lag(Duration::from_millis(max_lag_ms));
        let loader = |loads: Vec<cachetag_client::Load>| async move {
            let mut values = Vec::new();
            for load in loads {
                let (plan, row) = plans.remove(load.key()).ok_or("a key that was not asked for")?;
                let value = database.clone().load(load, plan).await?;
                values.push(Some(value).filter(|value| !row || !value.is_empty()));
            }
            Ok::<_, Error>(values)
        };
        let answers = self.process.cache.with(options).get_many(&keys, loader).await?;
        for (object, answer) in objects.into_iter().zip(answers) {
            let asked = Asked { object, max_lag_ms, fresh: false, at_least: None };
            self.take(&asked, Answer::new(answer), called, timeline);
        }
        Ok(())
    }

    /// What the session has seen is no position of the present history when commits were lost.
    fn same_history(&mut self) -> u64 {
        let timeline = self.world.timeline.get();
        if timeline != self.timeline || self.random.below(2_000) == 0 {
            self.timeline = timeline;
            self.session = Told::new(&self.world, &mut self.random);
        }
        timeline
    }

    fn object(&mut self) -> usize {
        if self.hot.len() == HOT && !self.random.percent(NEW) {
            return *self.random.pick(&self.hot);
        }
        let object = self.random.below(self.world.schema.objects.len());
        if self.hot.len() == HOT {
            let place = self.random.below(HOT);
            self.hot[place] = object;
        } else {
            self.hot.push(object);
        }
        object
    }

    fn ask(&mut self) -> Asked {
        if self.random.percent(AGAIN) && !self.random.percent(PARTICULAR) {
            let max_lag_ms = self.world.options.max_lag.as_millis() as u64;
            return Asked { object: self.last, max_lag_ms, fresh: false, at_least: None };
        }
        let mut object = self.object();
        self.last = object;
        let (mut max_lag_ms, mut at_least) = (max_lag_ms(&self.world, &mut self.random), None);
        match self.random.below(100) {
            0..50 => {
                max_lag_ms = self.session.max_lag_ms;
                at_least = Some((Position(self.session.covers).into(), Invariant::MonotonicReads));
            }
            50..65 => {
                let recent = self.world.recent.borrow();
                if !recent.is_empty() {
                    let commit = recent[self.random.below(recent.len())];
                    object = commit.object;
                    at_least = Some((commit.commit, Invariant::ReadYourWrites));
                }
            }
            _ => {}
        }
        let fresh = at_least.is_none() && self.random.percent(1);
        Asked { object, max_lag_ms, fresh, at_least }
    }

    /// Has an answer judged.
    fn take(&mut self, asked: &Asked, mut answer: Answer, called: Moment, timeline: u64) {
        let world = self.world.clone();
        let answered = world.clock.now();
        if timeline != world.timeline.get() {
            // Whose history it is of nobody knows.
            world.report.borrow_mut().client.void += 1;
            return;
        }
        let (source, stale) = (answer.source(), answer.about.as_ref().is_some_and(Metadata::is_stale));
        // An absence is never stale: it could not say so.
        if stale {
            world.report.borrow_mut().client.stale += 1;
            return;
        }
        if world.options.broken == Some(Variant::ClientHoards) {
            self.hoard(asked, source, &mut answer);
        }
        let as_of = answer.about.as_ref().and_then(Metadata::as_of);
        let vouched = as_of.is_none_or(|version| world.vouches(&version.epoch.to_string()));
        let (mut from, mut covers) = (called.saturating_sub((asked.max_lag_ms + 1) * CLOCK_STEP), 0);
        match asked.at_least {
            // It was loaded after the call, and the commit had returned before.
            _ if source == "loader" && (asked.at_least.is_some() || asked.fresh) => from = called,
            // Between a failover that loses commits and the next epoch, a position means a place in either history.
            Some((position, _)) if source != "loader" && vouched => covers = position.lsn().0,
            _ => {}
        }
        self.check(asked, &answer, source, Question { from, to: answered, covers });
        if let (Some((_, Invariant::MonotonicReads)), Some(version), true) = (asked.at_least, as_of, vouched) {
            self.session.covers = self.session.covers.max(version.lsn.0);
        }
    }

    /// What a layer would do that does not listen to its feed.
    fn hoard(&mut self, asked: &Asked, source: &str, answer: &mut Answer) {
        match self.held.iter().find(|(object, _)| *object == asked.object) {
            Some((_, value)) if source == "memory" => answer.value.clone_from(value),
            None => self.held.push((asked.object, answer.value.clone())),
            Some(_) => {}
        }
    }

    fn check(&mut self, asked: &Asked, answer: &Answer, source: &'static str, question: Question) {
        let world = self.world.clone();
        let finding = world.judge.borrow_mut().judge(&world.schema, asked.object, &answer.value, question);
        if finding == Finding::Unpromised {
            world.report.borrow_mut().client.unpromised += 1;
            return;
        }
        let back = match asked.at_least {
            Some((_, Invariant::MonotonicReads)) => self.goes_back(asked.object, &answer.value),
            _ => None,
        };
        let mut report = world.report.borrow_mut();
        *report.client.checked.entry(source).or_default() += 1;
        if let Some((_, whose)) = asked.at_least {
            *report.client.presented.entry(whose).or_default() += 1;
        }
        if finding == Finding::True && back.is_none() {
            return;
        }
        report.client.violations += 1;
        let hit = Hit {
            reader: self.number,
            object: asked.object,
            value: answer.value.clone(),
            question,
            applied: 0,
            max_lag: Duration::from_millis(asked.max_lag_ms),
            at_least: asked.at_least.map(|(position, whose)| (position.lsn().0, whose)),
            client: Some(format!("{source}, {:?}; session {:?}", answer.about, self.session.session)),
        };
        if finding == Finding::True {
            report.violation(Invariant::MonotonicReads, || {
                format!("{}; the session went back: {back:?}", trace::history(&world, &hit, finding))
            });
        } else {
            let invariant = trace::invariant(&world, &hit, finding);
            report.violation(invariant, || trace::history(&world, &hit, finding));
        }
    }

    /// A row of which the session has seen a later state: table, key, the version then and now.
    fn goes_back(&mut self, object: usize, value: &str) -> Option<(usize, usize, u64, u64)> {
        let object = &self.world.schema.objects[object];
        let mut back = None;
        for ((table, _), rows) in object.sources.iter().zip(object.rows_of(value)?) {
            for (key, state) in rows {
                let seen = self.session.rows.entry((*table, key)).or_default();
                if state.version < *seen {
                    back = Some((*table, key, *seen, state.version));
                }
                *seen = state.version.max(*seen);
            }
        }
        back
    }
}

fn key(world: &World, object: usize) -> String {
    format!("client:{}", world.schema.objects[object].key)
}

fn max_lag_ms(world: &World, random: &mut Random) -> u64 {
    (world.options.max_lag.as_millis() as u64 * *random.pick(&MAX_LAGS) / 1_000).max(1)
}

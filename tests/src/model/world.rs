//! The state of everything, and the steps from one state to the next. A step is one atomic action of one party.

use stateright::{Model, Property};

use super::bounds::{Bounds, Fault};
use super::in_process::{Answer, InProcess};
use super::redis::{Claimant, Entry, Redis};
use super::version::{Commits, KEYS, Tags, Version};
use crate::Variant;

/// Slots for readers in a state.
pub const READERS: usize = 3;

/// The rule, or the rule without one of its guards, within bounds.
#[derive(Debug, Clone)]
pub struct World {
    /// How far to go.
    pub bounds: Bounds,
    /// Which guard is missing.
    pub broken: Option<Variant>,
}

/// A claim on Redis, and how far it has come in the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Daemon {
    /// The epoch that it works in.
    pub epoch: u8,
    /// Everything up to here is applied, as far as it knows.
    pub position: u8,
}

/// A reader on its way from a miss to a put.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reader {
    /// What it asked for.
    pub key: u8,
    /// What it got with the miss.
    pub token: Version,
    /// What its query sees, if that matters.
    pub sees: Sees,
}

/// What a reader's query sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Sees {
    /// Its entry will not be watched: only what it registers counts.
    Whatever,
    /// It has no snapshot yet; its entry will be watched.
    Nothing,
    /// These commits; its entry will be watched.
    Snapshot(Commits),
}

/// Everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct State {
    /// How many commits are written.
    pub written: u8,
    /// Which of them are of the other row.
    pub other_row: Commits,
    /// Which of them new snapshots see; not in the order of the log.
    pub visible: Commits,
    /// What the slot has been told is safe.
    pub confirmed: u8,
    /// The clock that epochs are drawn from: never repeats, whatever Redis forgot.
    pub epochs: u8,
    /// Redis.
    pub redis: Redis,
    /// An older copy of it, to fail over to.
    pub copy: Option<Redis>,
    /// The daemon that holds the slot.
    pub daemon: Daemon,
    /// The one before it.
    pub former: Option<Daemon>,
    /// Readers under way, in order.
    pub readers: [Option<Reader>; READERS],
    /// The in-process cache, while its feed is live.
    pub in_process: Option<InProcess>,
    /// An answer of Redis on its way to the in-process cache.
    pub answer: Option<Answer>,
    /// Faults that may still happen.
    pub faults: u8,
    /// Watched, not part of the world: up to where bumps were applied in the lineage that this Redis comes from.
    pub bumped: u8,
    /// Watched: a version of a tag fell within its epoch.
    pub fell: bool,
}

/// A step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// A commit record is written, and with it decoded as soon as the daemon likes.
    Commit(Tags),
    /// A commit becomes visible to new snapshots.
    Show(u8),
    /// The daemon applies that many commits as one batch.
    Apply(u8),
    /// The daemon publishes the watermark.
    Advance,
    /// The slot is told that what was applied is safe.
    Acknowledge,
    /// The former daemon wakes up and applies.
    FormerApplies(u8),
    /// The former daemon wakes up and publishes.
    FormerAdvances,
    /// A reader misses; its entry will be watched.
    Miss(usize),
    /// A reader misses; its entry will not be watched, what it registers counts.
    MissAside(usize),
    /// A reader raises its token to the commit floor.
    Raise(usize),
    /// A reader takes its snapshot.
    Snapshot(usize),
    /// A reader stores what it computed.
    Put(usize),
    /// The in-process cache reads its feed.
    Feed,
    /// It asks Redis, which answers with a hit.
    Ask,
    /// The answer arrives.
    Keep,
    /// The daemon crashes or is replaced.
    Crash,
    /// A replica holds what Redis holds now.
    Copy,
    /// Redis is what the replica held.
    FailOver,
    /// Redis is emptied.
    Flush,
    /// The slot is made again, at the end of the log.
    LoseSlot,
    /// A tag is evicted.
    Evict(usize),
    /// The log forgets its oldest records.
    Trim(usize),
}

/// Name of the property that the whole design serves.
pub const NO_FALSE_HIT: &str = "no hit lacks a commit whose bump was applied";
/// Name of the property of in-process hits.
pub const NO_FALSE_IN_PROCESS_HIT: &str = "no in-process hit lacks a commit that its feed has passed";
/// Name of the property of the watermark.
pub const NO_EARLY_WATERMARK: &str = "the watermark passes no commit that is invisible or not applied";
/// Name of the property of versions.
pub const NO_FALLING_VERSION: &str = "no version of a tag falls within an epoch";

impl World {
    /// Is this guard missing?
    pub fn is(&self, variant: Variant) -> bool {
        self.broken == Some(variant)
    }

    /// Can a version of a tag fall?
    pub fn lowers(&self) -> bool {
        self.is(Variant::ReplayLowers) || self.is(Variant::NoFence)
    }

    fn may(&self, state: &State, fault: Fault) -> bool {
        state.faults > 0 && self.bounds.kinds.contains(&fault)
    }
}

impl State {
    /// What a commit bumps.
    pub fn tags_of(&self, lsn: u8) -> Tags {
        Tags::LIST.and(if self.other_row.has(lsn) { Tags::OTHER_ROW } else { Tags::ROW })
    }

    /// Does an entry's data hold every commit up to `lsn` that touches its tags?
    fn holds(&self, entry: Entry, lsn: u8) -> bool {
        (1..=lsn).all(|lsn| entry.snapshot.has(lsn) || !self.tags_of(lsn).meets(entry.tags()))
    }

    fn no_false_hit(&self, world: &World) -> bool {
        let known = self.bumped.max(self.redis.applied.map_or(0, Version::lsn));
        self.redis.get(world).is_none_or(|hit| self.holds(hit, known))
    }

    fn no_false_in_process_hit(&self) -> bool {
        self.in_process.is_none_or(|cache| cache.entry.is_none_or(|hit| self.holds(hit, cache.seen.lsn())))
    }

    fn no_early_watermark(&self) -> bool {
        let Some(watermark) = self.redis.watermark else { return true };
        watermark.lsn() <= self.visible.prefix() && Some(watermark) <= self.redis.applied
    }

    /// Of the states that differ only in what no later step can tell apart, the one that stands for all.
    fn normalise(&mut self, world: &World) {
        if self.faults == 0 {
            self.copy = None;
        }
        // A token below the floor is refused before it has any effect, and floors rise, unless an older copy comes back.
        let floor = self.copy.map_or(self.redis.floor, |copy| copy.floor.min(self.redis.floor));
        if !world.is(Variant::TokenAfterSnapshot) {
            for reader in &mut self.readers {
                *reader = reader.filter(|r| Some(r.token) >= floor);
            }
        }
        if self.faults == 0 && !world.lowers() {
            self.normalise_the_end(world);
        }
        let tokens = self.readers.iter().flatten().map(|r| r.token);
        let seen = self.in_process.map(|cache| cache.seen);
        let oldest = self.redis.watermark.or(self.redis.floor).into_iter().chain(tokens).chain(seen).min();
        self.redis.normalise(oldest);
        // Nothing that a former daemon calls has an effect, unless Redis, or the copy, is its own.
        let obeyed = |redis: &Redis| redis.claimant == Claimant::Former;
        if !(world.is(Variant::NoFence) || obeyed(&self.redis) || self.copy.as_ref().is_some_and(obeyed)) {
            self.former = None;
        }
        self.readers.sort_unstable();
    }

    /// Without faults to come, what was bumped stays bumped, and a daemon that is where Redis is stays.
    fn normalise_the_end(&mut self, world: &World) {
        let bumped = |tags: Tags, as_of| tags.indices().any(|t| self.redis.tags[t].is_some_and(|v| v > as_of));
        self.redis.entry = self.redis.entry.filter(|entry| !bumped(entry.tags(), entry.as_of));
        if !world.is(Variant::TokenAfterSnapshot) {
            for reader in &mut self.readers {
                let final_token = |r: &Reader| matches!(r.sees, Sees::Snapshot(_));
                *reader = reader.filter(|r| !(final_token(r) && bumped(KEYS[r.key as usize], r.token)));
            }
        }
        let in_step = self.redis.applied == Some(Version::new(self.daemon.epoch, self.daemon.position));
        if self.redis.claimant == Claimant::Present && in_step {
            self.confirmed = self.daemon.position;
        }
    }
}

impl Model for World {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let mut state = State {
            written: 0,
            other_row: Commits::default(),
            visible: Commits::default(),
            confirmed: 0,
            epochs: 0,
            redis: Redis::EMPTY,
            copy: None,
            daemon: Daemon { epoch: 0, position: 0 },
            former: None,
            readers: [None; READERS],
            in_process: None,
            answer: None,
            faults: self.bounds.faults,
            bumped: 0,
            fell: false,
        };
        state.start_daemon(self, false);
        state.former = None;
        vec![state]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        let bounds = &self.bounds;
        if state.written < bounds.commits {
            actions.extend([Action::Commit(Tags::ROW), Action::Commit(Tags::OTHER_ROW)]);
        }
        actions.extend((1..=state.written).filter(|&lsn| !state.visible.has(lsn)).map(Action::Show));
        let batches = |daemon: Daemon| 1..=bounds.batch.min(state.written.saturating_sub(daemon.position));
        actions.extend(batches(state.daemon).map(Action::Apply));
        actions.extend([Action::Advance, Action::Acknowledge]);
        if let Some(former) = state.former {
            actions.extend(batches(former).map(Action::FormerApplies));
            actions.push(Action::FormerAdvances);
        }
        if state.redis.watermark.is_some() && state.readers.iter().flatten().count() < bounds.readers {
            actions.extend(bounds.keys.iter().map(|&key| Action::MissAside(key)));
            let watched = |reader: &Reader| reader.sees != Sees::Whatever;
            if state.redis.entry.is_none() && !state.readers.iter().flatten().any(watched) {
                actions.extend(bounds.keys.iter().map(|&key| Action::Miss(key)));
            }
        }
        for (i, reader) in state.readers.iter().enumerate() {
            match reader.map(|reader| reader.sees) {
                Some(Sees::Whatever) => actions.extend([Action::Raise(i), Action::Put(i)]),
                Some(Sees::Nothing) => actions.extend([Action::Raise(i), Action::Snapshot(i)]),
                Some(Sees::Snapshot(_)) => actions.push(Action::Put(i)),
                None => {}
            }
        }
        if bounds.in_process {
            actions.push(Action::Feed);
            actions.push(if state.answer.is_none() { Action::Ask } else { Action::Keep });
        }
        self.fault_actions(state, actions);
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut next = *last;
        next.take(self, action);
        next.normalise(self);
        (next != *last).then_some(next)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        let hits = Property::<Self>::always(NO_FALSE_HIT, |world, state| state.no_false_hit(world));
        let in_process = Property::<Self>::always(NO_FALSE_IN_PROCESS_HIT, |_, state| state.no_false_in_process_hit());
        match self.broken {
            // One property, so that the first counterexample, which is the shortest, ends the search.
            Some(variant) if variant.is_in_process() => vec![in_process],
            Some(_) => vec![hits],
            None => vec![
                hits,
                in_process,
                Property::<Self>::always(NO_EARLY_WATERMARK, |_, state| state.no_early_watermark()),
                Property::<Self>::always(NO_FALLING_VERSION, |_, state| !state.fell),
            ],
        }
    }
}

impl World {
    fn fault_actions(&self, state: &State, actions: &mut Vec<Action>) {
        for (fault, action) in
            [(Fault::Crash, Action::Crash), (Fault::Flush, Action::Flush), (Fault::LoseSlot, Action::LoseSlot)]
        {
            if self.may(state, fault) {
                actions.push(action);
            }
        }
        if self.may(state, Fault::FailOver) {
            actions.push(if state.copy.is_none() { Action::Copy } else { Action::FailOver });
        }
        if self.may(state, Fault::Evict) {
            let registered = (0..state.redis.tags.len()).filter(|&tag| state.redis.tags[tag].is_some());
            actions.extend(registered.map(Action::Evict));
        }
        if self.may(state, Fault::Trim) {
            actions.extend((1..=state.redis.log.records().count()).map(Action::Trim));
        }
    }
}

impl State {
    fn take(&mut self, world: &World, action: Action) {
        match action {
            Action::Commit(tags) => {
                self.written += 1;
                if tags.meets(Tags::OTHER_ROW) {
                    self.other_row = self.other_row.with(self.written);
                }
            }
            Action::Show(lsn) => self.visible = self.visible.with(lsn),
            Action::Apply(commits) => self.apply(world, Claimant::Present, commits),
            Action::Advance => self.advance(world, Claimant::Present),
            Action::Acknowledge => self.confirmed = self.confirmed.max(self.daemon.position),
            Action::FormerApplies(commits) => self.apply(world, Claimant::Former, commits),
            Action::FormerAdvances => self.advance(world, Claimant::Former),
            Action::Miss(key) => self.miss(key, Sees::Nothing),
            Action::MissAside(key) => self.miss(key, Sees::Whatever),
            Action::Raise(reader) => self.raise(reader),
            Action::Snapshot(reader) => self.snapshot(reader),
            Action::Put(reader) => self.put(world, reader),
            Action::Feed => self.feed(world),
            Action::Ask => self.ask(world),
            Action::Keep => self.keep(world),
            Action::Copy => self.copy = Some(self.redis),
            Action::Crash
            | Action::FailOver
            | Action::Flush
            | Action::LoseSlot
            | Action::Evict(_)
            | Action::Trim(_) => {
                self.faults -= 1;
                self.suffer(world, action);
            }
        }
    }

    fn suffer(&mut self, world: &World, fault: Action) {
        match fault {
            Action::Crash => self.start_daemon(world, false),
            // Until the daemon's next call readers may hit what was true at the copy: bounded by max_lag, not by this model. From the
            // refused call on, the rule must hold again.
            Action::FailOver => {
                self.redis = self.copy.take().unwrap_or(Redis::EMPTY);
                self.bumped = self.redis.applied.map_or(0, Version::lsn);
            }
            Action::Flush => {
                self.redis = Redis::EMPTY;
                self.bumped = 0;
            }
            Action::LoseSlot => {
                self.confirmed = self.written;
                self.start_daemon(world, true);
            }
            Action::Evict(tag) => self.redis.tags[tag] = None,
            Action::Trim(records) => self.redis.trim(records),
            _ => {}
        }
    }
}

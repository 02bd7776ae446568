//! Under one lock, what must change together: the position, the ring of recent records, the registry of tags; and the view that is published of them.
//!
//! # Why no bump slips through
//!
//! *A value that is held.* The feed raises the states of all registered tags first and publishes the view with the new position afterwards ([`Ledger::take`]).
//! A reader loads the view first and the states afterwards. The view's publication is a release, its load an acquire, so who loads position P loads states
//! that know every bump up to P. It may see later ones: a miss, never a wrong hit.
//!
//! *A value that was found clean before.* The view's tick says whether anything was raised since: see [`Pulse`].
//!
//! *A value that comes in* while the feed goes on. [`Ledger::track`] registers the states and asks the ring under the lock under which the feed pushes a
//! record into the ring and bumps the states. A record is therefore either in the ring when it is asked, and the state is born with it, or it bumps the
//! state. There is no moment between the two. (A state that is alive already has seen every record since it was born, and those before that matter were in
//! the ring then.)
//!
//! *A value that Redis vouched for* up to V, while the feed stands at P. Redis answered a hit: nothing in `(as_of, V]` bumped it. If V is behind P, the answer
//! was overtaken: the records in `(V, P]` were taken before the value had states. They are in the ring, or the ring does not reach back to V and the value is
//! refused. If V is ahead of P, the feed is still to take the records in between; they bump nothing of the value, and what comes after V bumps its states. In both
//! cases what counts is what was bumped after V. When V is not known, it is `as_of`, which is never too late.
//!
//! *A value that is judged and not held.* [`Ledger::since`] asks the ring under the lock under which both the ring and the view change: what the view of that
//! moment promises to have seen is in the ring, if the ring reaches back to the value at all.
//!
//! *Another generation.* When the trail is lost, the registry is emptied and a new number published. Values of earlier numbers are judged by nothing any more:
//! a reader compares numbers before it looks at states. A value that comes in gets the number that is valid under the lock.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use cachetag_core::{Epoch, Tag, Version};
use parking_lot::Mutex;
use tokio::sync::{broadcast, watch};

use super::changes::Change;
use super::keys::{Key, check_keys};
use super::look::{Look, Part, Question, Record};
use super::options::FeedOptions;
use super::pulse::Pulse;
use super::registry::Registry;
use super::ring::Ring;
use super::tracked::{Refusal, Touch, Tracked};
use super::trail::{Lost, Step, Trail};
use super::view::View;
#[cfg(test)]
use crate::interleave;
use crate::options::timeline_of;

/// Changes that a slow subscriber may fall behind.
const CHANGES: usize = 1024;

/// The generations of all feeds of the process, so that no two share one.
static GENERATIONS: AtomicU64 = AtomicU64::new(0);

/// The ticks of all feeds of the process, so that no two share one. 0 is none.
static TICKS: AtomicU64 = AtomicU64::new(0);

/// What a feed knows.
#[derive(Debug)]
pub(super) struct Ledger {
    inner: Mutex<Inner>,
    view: ArcSwap<View>,
    /// The same in short. Both are published under the lock, and of one view.
    pulse: Pulse,
    live: watch::Sender<bool>,
    changes: broadcast::Sender<Change>,
    preload: usize,
}

#[derive(Debug)]
struct Inner {
    /// `None` until a look can be trusted.
    trail: Option<Trail>,
    ring: Ring,
    registry: Registry,
    stats: FeedStats,
}

/// What a feed has done, and how much it holds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct FeedStats {
    /// Looks that could be trusted.
    pub looks: u64,
    /// Records of the log that were taken.
    pub records: u64,
    /// How often all trust was lost.
    pub lost: u64,
    /// How often the connection was.
    pub disconnects: u64,
    /// Keys that are registered, some of which nobody holds any more.
    pub registered: usize,
}

/// What to do after a look.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Next {
    /// Look again at once: the log has more, or the feed begins anew.
    Again,
    /// Wait for the next record after this position, a heartbeat at most.
    Wait(Version),
    /// Nothing can be followed now: look again after a heartbeat.
    Idle(Lost),
}

impl Ledger {
    pub(super) fn new(options: &FeedOptions) -> Ledger {
        let view = View {
            generation: next_generation(),
            live: false,
            epoch: Epoch::ZERO,
            floor: Version::default(),
            soft_floor: None,
            watermark: None,
            position: Version::default(),
            max_lag: None,
            source: Arc::from(""),
            timeline: None,
            met: Instant::now(),
            looked: Instant::now(),
            behind: None,
            tick: next_tick(),
        };
        let pulse = Pulse::new(view.looked);
        pulse.show(&view);
        let inner = Inner {
            trail: None,
            ring: Ring::new(options.ring_records, options.ring_bytes),
            registry: Registry::new(),
            stats: FeedStats::default(),
        };
        Ledger {
            inner: Mutex::new(inner),
            view: ArcSwap::from_pointee(view),
            pulse,
            live: watch::Sender::new(false),
            changes: broadcast::Sender::new(CHANGES),
            preload: options.preload.max(1),
        }
    }

    pub(super) fn view(&self) -> arc_swap::Guard<Arc<View>> {
        self.view.load()
    }

    #[inline]
    pub(super) fn pulse(&self) -> &Pulse {
        &self.pulse
    }

    pub(super) fn live(&self) -> watch::Receiver<bool> {
        self.live.subscribe()
    }

    pub(super) fn changes(&self) -> broadcast::Receiver<Change> {
        self.changes.subscribe()
    }

    pub(super) fn stats(&self) -> FeedStats {
        let inner = self.inner.lock();
        FeedStats { registered: inner.registry.len(), ..inner.stats }
    }

    /// The look to take next: at `count` records at most, or at what is preloaded; `shrink` times less after failures, which may have been its size.
    pub(super) fn question(&self, count: usize, shrink: usize) -> Question {
        let share = |count: usize| (count / shrink.max(1)).max(1);
        match &self.inner.lock().trail {
            Some(trail) => trail.question(share(count)),
            None => Question { part: Part::Latest, count: share(self.preload) },
        }
    }

    /// Takes in a look that was sent at `sent`.
    pub(super) fn take(&self, look: Result<Look, Lost>, sent: Instant) -> Next {
        // Held over all of it, publication included: see above.
        let inner = &mut *self.inner.lock();
        let stepped = look.and_then(|look| match &inner.trail {
            Some(trail) => trail.follow(&look).map(|step| (step, None, look)),
            None => Trail::begin(&look).map(|(trail, from)| {
                let step = Step { position: trail.position, complete: true };
                (step, Some((trail, from)), look)
            }),
        });
        let (step, begun, look) = match stepped {
            Ok(stepped) => stepped,
            Err(lost) => return self.lose(inner, lost),
        };
        let begins = begun.is_some();
        if let Some((trail, from)) = begun {
            inner.ring.begin(from.0);
            inner.trail = Some(trail);
        }
        let mut raised = false;
        for record in &look.records {
            raised |= self.bump(inner, record);
        }
        #[cfg(test)]
        interleave::at(interleave::Point::Raised);
        if let Some(trail) = &mut inner.trail {
            trail.position = step.position;
        }
        inner.stats.looks += 1;
        let last = self.view.load();
        let mut view = View {
            generation: last.generation,
            live: last.live,
            epoch: look.epoch,
            // Also of a look that left something open: a floor that is known early may cost a miss.
            floor: look.floor,
            soft_floor: look.soft_floor,
            watermark: last.watermark,
            position: step.position,
            max_lag: look.max_lag,
            timeline: timeline_of(&look.source),
            met: if (last.epoch, &last.source) == (look.epoch, &look.source) { last.met } else { Instant::now() },
            source: look.source,
            looked: last.looked,
            behind: last.behind,
            tick: last.tick,
        };
        // What a look vouches for it vouches for once all of its records are taken. Until then the last whole one counts, which is older.
        if step.complete {
            (view.live, view.watermark, view.looked, view.behind) = (true, look.watermark, sent, look.behind);
        }
        if begins {
            tracing::debug!(position = %view.position, source = &*view.source, "the feed begins");
        }
        self.publish(view, raised);
        if step.complete { Next::Wait(step.position) } else { Next::Again }
    }

    /// The connection is gone: nothing is vouched for until a look shows that nothing was missed. The trail stays.
    pub(super) fn detach(&self) {
        let mut inner = self.inner.lock();
        inner.stats.disconnects += 1;
        let last = self.view.load_full();
        self.publish(View { live: false, ..View::clone(&last) }, false);
    }

    fn lose(&self, inner: &mut Inner, lost: Lost) -> Next {
        if inner.trail.take().is_none() {
            return Next::Idle(lost);
        }
        tracing::warn!(reason = %lost, "the feed begins anew: copies in memory are to be revalidated");
        inner.stats.lost += 1;
        inner.ring.begin(u64::MAX);
        inner.registry.clear();
        let last = self.view.load_full();
        self.publish(View { generation: next_generation(), live: false, behind: None, ..View::clone(&last) }, false);
        Next::Again
    }

    /// Bumps what a record bumps; whether anything registered is among it.
    fn bump(&self, inner: &mut Inner, record: &Record) -> bool {
        let to = record.to.lsn.0;
        inner.ring.push(to, &record.bumped);
        let concerned = inner.registry.bump(to, &record.bumped);
        inner.stats.records += 1;
        let raised = !concerned.is_empty();
        if raised && self.changes.receiver_count() > 0 {
            // Nobody to hear it: fine.
            let _ = self.changes.send(Change { version: record.to, tags: concerned.into() });
        }
        raised
    }

    /// Under the lock, after all states are raised that the view has seen bumped; `raised` is whether any was.
    fn publish(&self, mut view: View, raised: bool) {
        let (last, live) = (self.view.load(), view.live);
        let rest = |view: &View| (view.generation, view.live, view.epoch, view.floor, view.soft_floor);
        view.tick = if raised || rest(&last) != rest(&view) { next_tick() } else { last.tick };
        self.pulse.show(&view);
        #[cfg(test)]
        interleave::at(interleave::Point::Shown);
        self.view.store(Arc::new(view));
        self.live.send_if_modified(|known| std::mem::replace(known, live) != live);
    }

    pub(super) fn track(&self, tags: &[Tag], as_of: Version, verified: Option<Version>) -> Result<Tracked, Refusal> {
        let keys = check_keys(tags);
        let inner = &mut *self.inner.lock();
        let view = self.view.load();
        let known_to = inner.known_to(&view, !keys.is_empty(), as_of, verified)?;
        let states = keys.iter().map(|key| inner.registry.intern(key, inner.ring.bumps(key.as_key()))).collect();
        let tracked = Tracked { states, known_to, generation: view.generation };
        if tracked.touch() == Touch::Hard { Err(Refusal::Bumped) } else { Ok(tracked) }
    }

    /// What [`Ledger::track`] would find for these check keys, without registering anything; and the view as of which that is known. The view is published
    /// under the lock, too: the ring knows what it promises.
    pub(super) fn since<'a>(
        &self,
        keys: impl Iterator<Item = Key<'a>> + Clone,
        as_of: Version,
        verified: Option<Version>,
    ) -> Result<(Touch, Arc<View>), Refusal> {
        let inner = self.inner.lock();
        let view = self.view.load_full();
        let known_to = inner.known_to(&view, keys.clone().next().is_some(), as_of, verified)?.lsn.0;
        let mut touch = Touch::Clean;
        // Nothing at all since then: no key has to be looked for.
        if inner.ring.newest() <= known_to {
            return Ok((touch, view));
        }
        for bumps in keys.map(|key| inner.ring.bumps(key)) {
            if bumps.hard > known_to {
                return Err(Refusal::Bumped);
            }
            if bumps.soft > known_to {
                touch = Touch::Soft;
            }
        }
        Ok((touch, view))
    }
}

impl Inner {
    /// Up to where a value is known to be true without the feed, if the ring can tell what was bumped since.
    fn known_to(
        &self,
        view: &View,
        tagged: bool,
        as_of: Version,
        verified: Option<Version>,
    ) -> Result<Version, Refusal> {
        let trail = self.trail.as_ref().ok_or(Refusal::NotFollowing)?;
        if as_of.epoch != trail.epoch {
            return Err(Refusal::Epoch);
        }
        if as_of < view.floor {
            return Err(Refusal::Floor);
        }
        // What Redis vouched for in another epoch says nothing in this.
        let verified = verified.filter(|verified| verified.epoch == as_of.epoch);
        let known_to = verified.map_or(as_of, |verified| as_of.max(verified));
        // Without tags only the floor and time end a value.
        if !tagged || self.ring.reaches(known_to.lsn.0) { Ok(known_to) } else { Err(Refusal::Unknown) }
    }
}

fn next_tick() -> u64 {
    TICKS.fetch_add(1, Ordering::Relaxed) + 1
}

fn next_generation() -> u64 {
    GENERATIONS.fetch_add(1, Ordering::Relaxed) + 1
}

/// A quarter of the instance's bound, so that hits have the rest; the configured time otherwise.
pub(super) fn heartbeat(configured: Duration, max_lag: Option<Duration>) -> Duration {
    configured.min(max_lag.map_or(configured, |max_lag| max_lag / 4)).max(Duration::from_millis(1))
}

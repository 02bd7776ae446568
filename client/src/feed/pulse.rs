//! What a hit reads of a feed: four numbers on one cache line that no reader writes to.
//!
//! # Why the tick suffices
//!
//! Each [`View`] has a *tick*. It is the tick of the view before it, unless between the two something happened that may end a copy: a record bumped a tag that
//! is registered, or the generation, the epoch, a floor or the liveness is another ([`Ledger::publish`](super::ledger::Ledger)). Ticks are never used twice, in
//! no feed of the process. All views of one tick therefore agree on everything that a copy's validity rests on but for time and position, and no state of a
//! registered tag was raised by a record that one of them has seen and another has not.
//!
//! *Who sets a mark.* A reader loads a view, walks over the states of a copy's tags afterwards, finds the copy clean under that view, and marks the copy
//! with the tick **of that view**. The states know every bump up to the view's position (see `ledger`); those that are known beyond it could only have spoiled
//! the verdict. So the copy is clean under every view of that tick.
//!
//! *Who trusts it.* A reader takes one consistent reading of tick, position and freshness. If the copy bears this tick, the reading is of a view under which
//! the copy is clean, and a walk would say so, too: the copy is true up to the reading's position. That is a fact about the view, not about what this reader
//! has seen of the states, so the mark itself needs no memory order. If the feed has raised states meanwhile, their record is above the reading's position.
//!
//! *One consistent reading.* A torn one, with the old tick and the new position, would vouch for bumps that the tick has not counted. It is a seqlock: the writer
//! makes `turn` odd before and even after, a reader who saw any of the new numbers sees that `turn` has changed, and takes the long way.

use std::sync::atomic::{AtomicU64, Ordering, fence};
use std::time::{Duration, Instant};

use super::view::View;
#[cfg(test)]
use crate::interleave;

/// The freshness of a feed that vouches for nothing.
const NEVER: u64 = u64::MAX;

/// The last view in short. Written under the ledger's lock alone.
#[derive(Debug)]
#[repr(align(64))]
pub(crate) struct Pulse {
    /// Odd while the numbers are being written.
    turn: AtomicU64,
    tick: AtomicU64,
    position: AtomicU64,
    /// When the last look was sent, in nanoseconds after the origin.
    looked: AtomicU64,
    /// How far the daemon was behind then, in nanoseconds.
    behind: AtomicU64,
    /// Times are counted from here.
    origin: Instant,
}

/// One consistent reading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Beat {
    /// The tick of the view.
    pub(crate) tick: u64,
    /// Its position in the log.
    pub(crate) position: u64,
    looked: u64,
    behind: u64,
}

impl Pulse {
    /// Of a feed that has not looked yet.
    pub(super) fn new(origin: Instant) -> Pulse {
        Pulse {
            turn: AtomicU64::new(0),
            tick: AtomicU64::new(0),
            position: AtomicU64::new(0),
            looked: AtomicU64::new(0),
            behind: AtomicU64::new(NEVER),
            origin,
        }
    }

    /// Shows a view from now on. For one caller at a time.
    pub(super) fn show(&self, view: &View) {
        // A look that was sent before the origin cannot be told in these numbers.
        let looked = view.looked.checked_duration_since(self.origin).map(nanos);
        let behind = view.behind.filter(|_| view.live && view.watermark.is_some()).map(nanos);
        let (looked, behind) = looked.zip(behind).unwrap_or((0, NEVER));
        let turn = self.turn.load(Ordering::Relaxed);
        self.turn.store(turn.wrapping_add(1), Ordering::Relaxed);
        // Who sees one of the new numbers sees the odd turn, too.
        fence(Ordering::Release);
        self.position.store(view.position.lsn.0, Ordering::Relaxed);
        #[cfg(test)]
        interleave::at(interleave::Point::Showing);
        self.tick.store(view.tick, Ordering::Relaxed);
        self.looked.store(looked, Ordering::Relaxed);
        self.behind.store(behind, Ordering::Relaxed);
        self.turn.store(turn.wrapping_add(2), Ordering::Release);
    }

    /// The last view; `None` while it is being written.
    #[inline]
    pub(crate) fn read(&self) -> Option<Beat> {
        let turn = self.turn.load(Ordering::Acquire);
        let beat = Beat {
            tick: self.tick.load(Ordering::Relaxed),
            position: self.position.load(Ordering::Relaxed),
            looked: self.looked.load(Ordering::Relaxed),
            behind: self.behind.load(Ordering::Relaxed),
        };
        fence(Ordering::Acquire);
        (turn.is_multiple_of(2) && self.turn.load(Ordering::Relaxed) == turn).then_some(beat)
    }

    /// A moment, in nanoseconds after the origin; one before it is the origin.
    #[inline]
    pub(crate) fn since_origin(&self, moment: Instant) -> u64 {
        nanos(moment.saturating_duration_since(self.origin))
    }
}

impl Beat {
    /// Is what the feed vouches for no staler than this at a moment after the pulse's origin? As [`View::staleness`] says it.
    #[inline]
    pub(crate) fn is_within(&self, max_lag: Duration, now: u64) -> bool {
        let staleness = self.behind.saturating_add(now.saturating_sub(self.looked));
        self.behind != NEVER && staleness <= nanos(max_lag)
    }
}

/// Nanoseconds, 584 years at most.
#[inline]
fn nanos(duration: Duration) -> u64 {
    duration.as_secs().saturating_mul(1_000_000_000).saturating_add(u64::from(duration.subsec_nanos()))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::AtomicBool;

    use cachetag_core::{Epoch, Lsn, Version};

    use super::*;

    fn view(number: u64, looked: Instant) -> View {
        View {
            generation: 1,
            live: true,
            epoch: Epoch::ZERO,
            floor: Version::default(),
            soft_floor: None,
            watermark: Some(Version::default()),
            position: Version { lsn: Lsn(number), ..Version::default() },
            max_lag: None,
            source: Arc::from(""),
            timeline: None,
            met: looked,
            looked,
            behind: Some(Duration::from_nanos(number)),
            tick: number,
        }
    }

    #[test]
    fn it_is_as_fresh_as_the_view() {
        let origin = Instant::now();
        let at = |ms| origin + Duration::from_millis(ms);
        let pulse = Pulse::new(origin);
        let within = |lag, ms| pulse.read().unwrap().is_within(lag, pulse.since_origin(at(ms)));
        assert!(!within(Duration::MAX, 0), "no look yet");
        let shown = View { behind: Some(Duration::from_millis(300)), ..view(1, at(100)) };
        pulse.show(&shown);
        for (ms, lag) in [(0, 300), (0, 299), (100, 300), (100, 299), (800, 1000), (801, 1000)] {
            let lag = Duration::from_millis(lag);
            assert_eq!(within(lag, ms), shown.staleness(at(ms)).unwrap() <= lag, "{ms} {lag:?}");
        }
        for silent in [
            View { live: false, ..shown.clone() },
            View { watermark: None, ..shown.clone() },
            View { behind: None, ..shown.clone() },
        ] {
            pulse.show(&silent);
            assert!(!within(Duration::MAX, 100) && silent.staleness(at(100)).is_none());
        }
    }

    #[test]
    fn a_look_before_the_origin_vouches_for_nothing() {
        let looked = Instant::now();
        let pulse = Pulse::new(looked + Duration::from_secs(1));
        pulse.show(&view(1, looked));
        assert!(!pulse.read().unwrap().is_within(Duration::MAX, 0));
    }

    #[test]
    fn nothing_is_read_of_what_is_half_written() {
        let pulse = std::rc::Rc::new(Pulse::new(Instant::now()));
        let (writer, readings) = (pulse.clone(), std::rc::Rc::new(std::cell::Cell::new(0)));
        let seen = readings.clone();
        interleave::with(
            move |_| {
                assert_eq!(pulse.read(), None);
                seen.set(seen.get() + 1);
            },
            || (1..3).for_each(|number| writer.show(&view(number, Instant::now()))),
        );
        assert_eq!((readings.get(), writer.read().unwrap().tick), (2, 2));
    }

    /// All numbers of one view are the same here, so a torn reading shows.
    #[test]
    fn a_reading_is_never_torn() {
        let origin = Instant::now();
        let (pulse, done) = (Pulse::new(origin), AtomicBool::new(false));
        let show = |number| pulse.show(&view(number, origin + Duration::from_nanos(number)));
        show(1);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    let (mut last, mut readings) = (0, 0);
                    while readings < 1_000 || !done.load(Ordering::Relaxed) {
                        let Some(Beat { tick, position, looked, behind }) = pulse.read() else { continue };
                        assert_eq!([position, looked, behind], [tick; 3]);
                        assert!(tick >= last);
                        (last, readings) = (tick, readings + 1);
                    }
                });
            }
            (2..200_000).for_each(show);
            done.store(true, Ordering::Relaxed);
        });
    }
}

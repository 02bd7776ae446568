//! Leaves a broken layer alone, and comes back to it carefully.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::backoff::Backoff;

/// When a [`Breaker`] opens, and how it comes back.
///
/// ```
/// use cachetag_client::resilience::BreakerOptions;
/// let options = BreakerOptions { consecutive: 3, ..BreakerOptions::default() };
/// ```
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct BreakerOptions {
    /// Over how many of the last calls the share of failures is taken.
    pub window: usize,
    /// With fewer calls than this in the window, the share says nothing.
    pub minimum: usize,
    /// The share of failures that opens it, 0 to 1.
    pub failure_rate: f64,
    /// So many failures one after the other open it, however few the calls are.
    pub consecutive: u32,
    /// How long it stays open; longer each time that the probes fail.
    pub backoff: Backoff,
    /// How many probes may be under way at once.
    pub probes: u32,
    /// So many probes must succeed for it to close.
    pub successes: u32,
}

impl Default for BreakerOptions {
    /// Half of the last 50 calls (of 10 at least), or 8 in a row; 100 ms to 10 s open; one probe at a time, two to close.
    fn default() -> BreakerOptions {
        BreakerOptions {
            window: 50,
            minimum: 10,
            failure_rate: 0.5,
            consecutive: 8,
            backoff: Backoff::default(),
            probes: 1,
            successes: 2,
        }
    }
}

/// Where a breaker stands.
///
/// ```
/// use cachetag_client::resilience::{Breaker, BreakerOptions, BreakerState};
/// assert_eq!(Breaker::new(BreakerOptions::default()).state(), BreakerState::Closed);
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BreakerState {
    /// All calls go through.
    Closed,
    /// No call goes through, until then.
    Open {
        /// When probes may begin.
        until: Instant,
    },
    /// A few calls go through, to see.
    HalfOpen,
}

/// A circuit breaker. Clones are the same breaker.
///
/// ```
/// use cachetag_client::resilience::{Breaker, BreakerOptions};
/// use std::time::{Duration, Instant};
///
/// let breaker = Breaker::new(BreakerOptions { consecutive: 2, ..BreakerOptions::default() });
/// let now = Instant::now();
/// breaker.permit(now).unwrap().failure(now);
/// breaker.permit(now).unwrap().failure(now);
/// assert!(breaker.permit(now).is_none()); // open: do not even ask
///
/// let later = now + Duration::from_secs(1);
/// let probe = breaker.permit(later).unwrap(); // half open: one may try
/// assert!(breaker.permit(later).is_none());
/// probe.success();
/// breaker.permit(later).unwrap().success();
/// assert!(breaker.permit(later).is_some()); // closed
/// ```
// A mutex: it is held for some nanoseconds, beside a call over the network.
#[derive(Debug, Clone)]
pub struct Breaker(Arc<Mutex<Machine>>);

impl Breaker {
    /// A closed breaker.
    ///
    /// ```
    /// use cachetag_client::resilience::{Breaker, BreakerOptions};
    /// let breaker = Breaker::new(BreakerOptions::default());
    /// ```
    pub fn new(options: BreakerOptions) -> Breaker {
        Breaker::with_rng(options, fastrand::Rng::new())
    }

    fn with_rng(options: BreakerOptions, rng: fastrand::Rng) -> Breaker {
        Breaker(Arc::new(Mutex::new(Machine {
            phase: Phase::Closed,
            round: 0,
            calls: VecDeque::with_capacity(options.window),
            failures: 0,
            in_a_row: 0,
            reopened: 0,
            rng,
            options,
        })))
    }

    /// The right to one call, or `None` while the layer is left alone.
    ///
    /// ```
    /// # use cachetag_client::resilience::{Breaker, BreakerOptions};
    /// # let breaker = Breaker::new(BreakerOptions::default());
    /// let now = std::time::Instant::now();
    /// if let Some(permit) = breaker.permit(now) {
    ///     permit.success(); // or failure(now)
    /// }
    /// ```
    pub fn permit(&self, now: Instant) -> Option<Permit> {
        let round = self.0.lock().permit(now)?;
        Some(Permit { breaker: self.clone(), round, open: true })
    }

    /// Where it stands.
    ///
    /// ```
    /// # use cachetag_client::resilience::{Breaker, BreakerOptions, BreakerState};
    /// assert_eq!(Breaker::new(BreakerOptions::default()).state(), BreakerState::Closed);
    /// ```
    pub fn state(&self) -> BreakerState {
        match self.0.lock().phase {
            Phase::Closed => BreakerState::Closed,
            Phase::Open { until } => BreakerState::Open { until },
            Phase::HalfOpen { .. } => BreakerState::HalfOpen,
        }
    }
}

/// The right to one call. Dropped without a word (a cancelled future), it counts for nothing and makes room for another probe.
///
/// ```
/// # use cachetag_client::resilience::{Breaker, BreakerOptions};
/// # let breaker = Breaker::new(BreakerOptions::default());
/// let permit = breaker.permit(std::time::Instant::now()).unwrap();
/// drop(permit);
/// ```
#[derive(Debug)]
#[must_use = "say how the call ended"]
pub struct Permit {
    breaker: Breaker,
    round: u64,
    open: bool,
}

impl Permit {
    /// The call succeeded: the layer answered, whatever it said.
    ///
    /// ```
    /// # use cachetag_client::resilience::{Breaker, BreakerOptions};
    /// # let breaker = Breaker::new(BreakerOptions::default());
    /// breaker.permit(std::time::Instant::now()).unwrap().success();
    /// ```
    pub fn success(mut self) {
        self.open = false;
        self.breaker.0.lock().success(self.round);
    }

    /// The call failed: the layer did not answer, or not in time. Whether that has opened the breaker.
    ///
    /// ```
    /// # use cachetag_client::resilience::{Breaker, BreakerOptions};
    /// # let breaker = Breaker::new(BreakerOptions::default());
    /// let now = std::time::Instant::now();
    /// breaker.permit(now).unwrap().failure(now);
    /// ```
    pub fn failure(mut self, now: Instant) -> bool {
        self.open = false;
        self.breaker.0.lock().failure(self.round, now)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if self.open {
            self.breaker.0.lock().give_back(self.round);
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Phase {
    Closed,
    Open { until: Instant },
    HalfOpen { under_way: u32, succeeded: u32 },
}

#[derive(Debug)]
struct Machine {
    options: BreakerOptions,
    phase: Phase,
    /// Rises with each change of phase: what calls of an earlier phase have to say is no news about this one.
    round: u64,
    /// The last calls while closed; true: failed.
    calls: VecDeque<bool>,
    failures: usize,
    in_a_row: u32,
    /// How often it has opened since it was last closed.
    reopened: u32,
    rng: fastrand::Rng,
}

impl Machine {
    fn permit(&mut self, now: Instant) -> Option<u64> {
        if let Phase::Open { until } = self.phase
            && now >= until
        {
            self.enter(Phase::HalfOpen { under_way: 0, succeeded: 0 });
        }
        match &mut self.phase {
            Phase::Closed => Some(self.round),
            Phase::Open { .. } => None,
            Phase::HalfOpen { under_way, .. } => {
                // With no probe at all it would stay open for ever.
                let free = *under_way < self.options.probes.max(1);
                *under_way += u32::from(free);
                free.then_some(self.round)
            }
        }
    }

    fn success(&mut self, round: u64) {
        if round != self.round {
            return;
        }
        match &mut self.phase {
            Phase::Closed => self.count(false),
            Phase::Open { .. } => {}
            Phase::HalfOpen { under_way, succeeded } => {
                *under_way -= 1;
                *succeeded += 1;
                if *succeeded >= self.options.successes {
                    self.reopened = 0;
                    self.enter(Phase::Closed);
                }
            }
        }
    }

    /// Whether it has opened.
    fn failure(&mut self, round: u64, now: Instant) -> bool {
        if round != self.round {
            return false;
        }
        let opens = match self.phase {
            Phase::Closed => {
                self.count(true);
                self.is_broken()
            }
            Phase::Open { .. } => false,
            Phase::HalfOpen { .. } => true,
        };
        if opens {
            self.open(now);
        }
        opens
    }

    fn give_back(&mut self, round: u64) {
        if round == self.round
            && let Phase::HalfOpen { under_way, .. } = &mut self.phase
        {
            *under_way -= 1;
        }
    }

    fn count(&mut self, failed: bool) {
        if self.calls.len() >= self.options.window.max(1) && self.calls.pop_front() == Some(true) {
            self.failures -= 1;
        }
        self.calls.push_back(failed);
        self.failures += usize::from(failed);
        self.in_a_row = if failed { self.in_a_row + 1 } else { 0 };
    }

    fn is_broken(&self) -> bool {
        let calls = self.calls.len();
        let enough = calls >= self.options.minimum;
        self.in_a_row >= self.options.consecutive
            || enough && self.failures as f64 >= self.options.failure_rate * calls as f64
    }

    fn open(&mut self, now: Instant) {
        let wait: Duration = self.options.backoff.delay(self.reopened, self.rng.f64());
        self.reopened = self.reopened.saturating_add(1);
        self.enter(Phase::Open { until: now + wait });
    }

    fn enter(&mut self, phase: Phase) {
        self.phase = phase;
        self.round += 1;
        self.calls.clear();
        self.failures = 0;
        self.in_a_row = 0;
    }
}

#[cfg(test)]
#[path = "breaker_tests.rs"]
mod tests;

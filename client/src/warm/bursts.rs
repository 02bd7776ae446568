//! When a bumped key is loaded again: once for a burst of bumps. Pure: the time is an argument.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A burst that does not end is not waited for longer than so many times the quiet that ends one.
const LONGEST: u32 = 10;
/// After so many loads in a row that a bump has overtaken, the wait grows no more.
const MOST_OUTRUN: u32 = 6;
/// So often a load is tried again that was refused though nothing new is known to have happened.
const MOST_REFUSED: u32 = 2;

/// Why a copy in memory is good no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cause {
    /// The feed's generation now.
    pub generation: u64,
    /// The position of the last bump: what is loaded before it is visible is loaded in vain.
    pub bumped: u64,
}

/// How a load ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Landing {
    /// The key is cached.
    Cached,
    /// A layer did not take the value.
    Refused,
    /// The loader failed: readers will try by themselves.
    Failed,
}

/// The keys that are hot and bumped.
#[derive(Debug)]
pub(super) struct Bursts {
    /// A burst is over after this.
    settle: Duration,
    keys: HashMap<Arc<str>, Burst>,
}

#[derive(Debug)]
struct Burst {
    cause: Cause,
    /// When the first of the bumps was seen, and the last.
    first: Instant,
    last: Instant,
    /// What the last load was begun for.
    begun: Option<Cause>,
    is_loading: bool,
    /// How many loads in a row were overtaken.
    outrun: u32,
    refused: u32,
    /// Whether it was bumped when it was last looked at.
    is_bumped: bool,
}

impl Bursts {
    pub fn new(settle: Duration) -> Bursts {
        Bursts { settle, keys: HashMap::new() }
    }

    /// All hot keys are about to be looked at.
    pub fn begin(&mut self) {
        self.keys.values_mut().for_each(|burst| burst.is_bumped = false);
    }

    /// The copy of a hot key is found to be bumped.
    pub fn bumped(&mut self, key: &Arc<str>, cause: Cause, now: Instant) {
        let new = Burst {
            cause,
            first: now,
            last: now,
            begun: None,
            is_loading: false,
            outrun: 0,
            refused: 0,
            is_bumped: true,
        };
        let burst = self.keys.entry(Arc::clone(key)).or_insert(new);
        burst.is_bumped = true;
        if burst.cause != cause {
            // A load has been begun for the last burst: this is another.
            if burst.begun == Some(burst.cause) {
                burst.first = now;
            }
            (burst.cause, burst.last, burst.refused) = (cause, now, 0);
        }
    }

    /// All hot keys were looked at: those that are good again, or hot no more, are forgotten. Returns those to load now: whose burst is over, and visible.
    pub fn due(&mut self, watermark: Option<u64>, now: Instant) -> Vec<Arc<str>> {
        self.keys.retain(|_, burst| burst.is_bumped || burst.is_loading);
        let Some(watermark) = watermark else { return Vec::new() };
        let mut due = Vec::new();
        for (key, burst) in &mut self.keys {
            let longest = self.settle * LONGEST * (1 << burst.outrun.min(MOST_OUTRUN));
            let is_over = now.saturating_duration_since(burst.last) >= self.settle
                || now.saturating_duration_since(burst.first) >= longest;
            let is_new = burst.is_bumped && burst.begun != Some(burst.cause);
            if is_new && is_over && !burst.is_loading && watermark >= burst.cause.bumped {
                (burst.begun, burst.is_loading) = (Some(burst.cause), true);
                due.push(Arc::clone(key));
            }
        }
        due
    }

    /// A load has ended.
    pub fn landed(&mut self, key: &str, how: Landing, now: Instant) {
        let Some(burst) = self.keys.get_mut(key) else { return };
        burst.is_loading = false;
        match how {
            Landing::Cached => burst.outrun = 0,
            Landing::Refused => {
                burst.outrun += 1;
                // Not known to Redis, it is known now; or the feed does not know of the bump yet, and will.
                if burst.begun == Some(burst.cause) && burst.refused < MOST_REFUSED {
                    burst.refused += 1;
                    burst.begun = None;
                }
                (burst.first, burst.last) = (now, now);
            }
            Landing::Failed => {}
        }
    }

    /// Whether something may become due without a further bump.
    pub fn is_waiting(&self) -> bool {
        self.keys.values().any(|burst| !burst.is_loading && burst.begun != Some(burst.cause))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SETTLE: Duration = Duration::from_millis(10);

    struct Rig {
        bursts: Bursts,
        begin: Instant,
        /// The last bump of each key whose copy is not good.
        bumped: HashMap<Arc<str>, u64>,
        watermark: u64,
    }

    impl Rig {
        fn new() -> Rig {
            Rig { bursts: Bursts::new(SETTLE), begin: Instant::now(), bumped: HashMap::new(), watermark: u64::MAX }
        }

        fn at(&self, ms: u64) -> Instant {
            self.begin + Duration::from_millis(ms)
        }

        fn bump(&mut self, key: &str, lsn: u64) -> &mut Rig {
            self.bumped.insert(key.into(), lsn);
            self
        }

        fn due(&mut self, ms: u64) -> Vec<String> {
            let now = self.at(ms);
            self.bursts.begin();
            for (key, bumped) in &self.bumped {
                self.bursts.bumped(key, Cause { generation: 1, bumped: *bumped }, now);
            }
            let mut due: Vec<String> =
                self.bursts.due(Some(self.watermark), now).iter().map(|key| key.to_string()).collect();
            due.sort();
            due
        }

        fn land(&mut self, key: &str, how: Landing, ms: u64) {
            if how == Landing::Cached {
                self.bumped.remove(key);
            }
            self.bursts.landed(key, how, self.at(ms));
        }
    }

    const NONE: [&str; 0] = [];

    #[test]
    fn a_burst_is_one_load_when_it_is_over() {
        let mut rig = Rig::new();
        for ms in 0..9 {
            assert_eq!(rig.bump("k", 100 + ms).due(ms), NONE);
        }
        assert_eq!((rig.due(17), rig.due(18)), (vec![], vec!["k".to_owned()]));
        assert_eq!(rig.due(50), NONE, "it is being loaded");
        rig.land("k", Landing::Cached, 60);
        assert_eq!((rig.due(61), rig.due(500)), (vec![], vec![]));
        assert!(rig.bursts.keys.is_empty());
        assert_eq!(rig.bump("k", 200).due(600), NONE);
        assert_eq!(rig.due(610), ["k"]);
    }

    #[test]
    fn what_is_bumped_while_it_is_loaded_is_loaded_once_more() {
        let mut rig = Rig::new();
        rig.bump("k", 1).due(0);
        assert_eq!(rig.due(10), ["k"]);
        for ms in 11..40 {
            assert_eq!(rig.bump("k", ms).due(ms), NONE, "one load at a time");
        }
        rig.land("k", Landing::Refused, 40);
        assert_eq!((rig.due(45), rig.due(50)), (vec![], vec!["k".to_owned()]));
        rig.land("k", Landing::Cached, 60);
        assert_eq!(rig.due(1000), NONE);
    }

    #[test]
    fn nothing_is_loaded_before_its_bump_is_visible() {
        let mut rig = Rig::new();
        rig.watermark = 99;
        rig.bump("k", 100).bump("other", 99).due(0);
        assert_eq!(rig.due(10), ["other"]);
        assert!(rig.bursts.is_waiting());
        rig.watermark = 100;
        assert_eq!(rig.due(11), ["k"]);
        assert!(!rig.bursts.is_waiting());
    }

    #[test]
    fn an_endless_burst_is_loaded_now_and_then_and_ever_more_rarely() {
        let mut rig = Rig::new();
        let mut loads = Vec::new();
        for ms in 0..20_000 {
            if !rig.bump("k", ms).due(ms).is_empty() {
                loads.push(ms);
                rig.land("k", Landing::Refused, ms);
            }
        }
        assert_eq!(loads[..4], [100, 300, 700, 1500]);
        assert!(loads.len() < 12, "{loads:?}");
    }

    #[test]
    fn a_loader_that_fails_is_not_called_again_for_the_same_bump() {
        let mut rig = Rig::new();
        rig.bump("k", 1).due(0);
        assert_eq!(rig.due(10), ["k"]);
        rig.land("k", Landing::Failed, 11);
        assert_eq!(rig.due(10_000), NONE);
        rig.bump("k", 2).due(10_001);
        assert_eq!(rig.due(10_011), ["k"]);
    }

    #[test]
    fn what_is_refused_for_no_known_reason_is_tried_twice_more() {
        let mut rig = Rig::new();
        rig.bump("k", 1).due(0);
        let mut loads = 0;
        for ms in 1..5_000 {
            if !rig.due(ms).is_empty() {
                loads += 1;
                rig.land("k", Landing::Refused, ms);
            }
        }
        assert_eq!(loads, 1 + MOST_REFUSED);
    }

    proptest! {
        /// Never two loads of a key at a time; and whatever happens, once all is quiet what is bumped has been loaded after its last visible bump.
        #[test]
        fn in_the_end_all_is_loaded(steps in proptest::collection::vec((0u8..4, 0u8..3, 1u64..30), 1..200)) {
            let mut rig = Rig::new();
            let (mut ms, mut lsn) = (0, 0);
            let mut loading: HashMap<String, u64> = HashMap::new();
            let step = |rig: &mut Rig, loading: &mut HashMap<String, u64>, ms, lsn| {
                for key in rig.due(ms) {
                    assert!(loading.insert(key, lsn).is_none(), "two at a time");
                }
            };
            let land = |rig: &mut Rig, key: &str, begun: u64, ms| {
                let is_overtaken = rig.bumped.get(key).is_some_and(|bumped| *bumped > begun);
                rig.land(key, if is_overtaken { Landing::Refused } else { Landing::Cached }, ms);
            };
            for (what, key, pause) in steps {
                let key = ["a", "b", "c"][usize::from(key)];
                match what {
                    0 | 1 => { lsn += 1; rig.bump(key, lsn); }
                    2 => if let Some(begun) = loading.remove(key) { land(&mut rig, key, begun, ms) },
                    _ => ms += pause,
                }
                step(&mut rig, &mut loading, ms, lsn);
            }
            for _ in 0..20 {
                for (key, begun) in loading.drain() {
                    land(&mut rig, &key, begun, ms);
                }
                ms += 10_000;
                step(&mut rig, &mut loading, ms, lsn);
            }
            prop_assert!(rig.bumped.is_empty() && loading.is_empty(), "{:?}", rig.bumped);
        }
    }
}

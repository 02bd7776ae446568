//! The layer against a naive model of the whole: the database's log, a Redis that is cut, torn, reset and failed over, answers under way, and a feed that
//! looks now and then at some of it. Whatever happens in whatever order, a hit lacks no commit.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use cachetag_core::{Lsn, Tag, Version};
use proptest::prelude::*;

use super::*;
use crate::feed::rig::{Redis, Rig};
use crate::feed::{CheckKey, check_keys};
use crate::interleave;

const TAGS: [&str; 8] = ["p:1", "p:2", "p:*", "q:1", "q:*", "home", "home:*", "*"];
/// What the values of each key depend on.
const KEYS: [(&str, &[&str]); 6] =
    [("a", &["p:1"]), ("b", &["p:*"]), ("c", &["p:2", "q:1"]), ("d", &["*"]), ("e", &["home"]), ("f", &[])];

/// A commit in the database's log.
#[derive(Debug, Clone)]
struct Commit {
    lsn: u64,
    tag: &'static str,
    hard: bool,
}

#[derive(Debug, Clone)]
enum Step {
    Commit {
        step: u64,
        tag: usize,
        hard: bool,
    },
    /// So many commits as one batch.
    Apply(usize),
    /// The watermark rises to what is applied.
    Advance,
    Look(usize),
    LookAll,
    /// A value of a key is computed under the present token, or under one that was raised to the end of the log.
    Fill {
        key: usize,
        raised: bool,
    },
    /// Redis answers a hit, of an entry this much older than its watermark.
    Answer {
        key: usize,
        age: u64,
    },
    /// A value under way arrives.
    Admit(usize),
    Disconnect,
    Cut(usize),
    Tear(usize),
    Reset,
    Copy,
    FailOver,
    Empty,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (1u64..4, 0usize..8, proptest::bool::weighted(0.8)).prop_map(|(step, tag, hard)| Step::Commit { step, tag, hard }),
        8 => (1usize..4).prop_map(Step::Apply),
        6 => Just(Step::Advance),
        5 => (1usize..3).prop_map(Step::Look),
        5 => Just(Step::LookAll),
        6 => (0usize..6, any::<bool>()).prop_map(|(key, raised)| Step::Fill { key, raised }),
        6 => (0usize..6, 0u64..12).prop_map(|(key, age)| Step::Answer { key, age }),
        10 => (0usize..4).prop_map(Step::Admit),
        1 => Just(Step::Disconnect),
        1 => (0usize..3).prop_map(Step::Cut),
        1 => (0usize..3).prop_map(Step::Tear),
        1 => Just(Step::Reset),
        1 => Just(Step::Copy),
        1 => Just(Step::FailOver),
        1 => Just(Step::Empty),
    ]
}

struct World {
    rig: Rig,
    l1: L1,
    commits: Vec<Commit>,
    /// Where each batch ended, and what it bumped.
    batches: Vec<(u64, Vec<&'static str>)>,
    end: u64,
    copy: Option<Redis>,
    under_way: Vec<(&'static str, Candidate)>,
    hits: usize,
    /// So many of them by the short way.
    short: usize,
}

fn parse(tag: &str) -> Tag {
    Tag::parse(tag).unwrap()
}

fn tags_of(key: usize) -> Arc<[Tag]> {
    KEYS[key].1.iter().map(|tag| parse(tag)).collect()
}

fn touches(bump: &str, tags: &[Tag]) -> bool {
    bump == "*" || tags.iter().any(|tag| parse(bump).reaches(tag))
}

impl World {
    fn new(ring: usize, preload: usize) -> World {
        let (rig, l1) = (Rig::with_ring(100, ring, preload), L1::new(L1Options::new(1 << 20)));
        World {
            rig,
            l1,
            commits: Vec::new(),
            batches: Vec::new(),
            end: 100,
            copy: None,
            under_way: Vec::new(),
            hits: 0,
            short: 0,
        }
    }

    fn commits_in(&self, after: Lsn, to: Lsn) -> impl Iterator<Item = &Commit> {
        self.commits.iter().filter(move |commit| commit.lsn > after.0 && commit.lsn <= to.0)
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Commit { step, tag, hard } => {
                self.end += step;
                self.commits.push(Commit { lsn: self.end, tag: TAGS[tag], hard });
            }
            Step::Apply(n) => {
                let from = self.rig.redis.applied.lsn;
                let batch: Vec<_> = self.commits_in(from, Lsn(self.end)).take(n).cloned().collect();
                if let Some(last) = batch.last() {
                    let of = |hard| batch.iter().filter(|c| c.hard == hard).map(|c| c.tag).collect::<Vec<_>>();
                    self.rig.apply(last.lsn, &of(true), &of(false));
                    self.batches.push((last.lsn, batch.iter().map(|c| c.tag).collect()));
                }
            }
            Step::Advance => {
                let applied = self.rig.redis.applied.lsn.0;
                self.rig.advance(applied);
            }
            Step::Look(count) => self.look_watched(|rig| {
                rig.look_at(count);
            }),
            Step::LookAll => self.look_watched(|rig| {
                rig.look();
            }),
            Step::Fill { key, raised } => {
                let Some(token) = self.rig.redis.watermark else { return };
                let as_of = if raised { Version { lsn: Lsn(self.end), ..token } } else { token };
                self.send(key, as_of, None);
            }
            Step::Answer { key, age } => {
                let Some(watermark) = self.rig.redis.watermark else { return };
                let as_of = Version { lsn: Lsn(watermark.lsn.0.saturating_sub(age)), ..watermark };
                let tags = tags_of(key);
                let bumped = self.commits_in(as_of.lsn, watermark.lsn).any(|c| touches(c.tag, &tags));
                if as_of >= self.rig.redis.floor && !bumped {
                    self.send(key, as_of, Some(watermark));
                }
            }
            Step::Admit(i) => {
                if i < self.under_way.len() {
                    let (key, candidate) = self.under_way.remove(i);
                    // What is only judged is judged as what is held.
                    let keys = check_keys(&candidate.tags);
                    let keys = keys.iter().map(CheckKey::as_key);
                    let judged = self.rig.feed.since(keys, candidate.as_of, candidate.verified);
                    let admitted = self.l1.admit(&self.rig.feed, key, candidate);
                    let touched = |held: &Arc<Held>| held.tracked.touch();
                    assert_eq!(
                        judged.map(|(touch, _)| touch).map_err(Refused::Feed),
                        admitted.as_ref().map(touched).map_err(|e| *e)
                    );
                }
            }
            Step::Disconnect => drop(self.rig.disconnect()),
            Step::Cut(keep) => drop(self.rig.cut_log(keep)),
            Step::Tear(keep) => drop(self.rig.trim_log(keep)),
            Step::Reset => drop(self.rig.reset(self.end)),
            Step::Copy => self.copy = Some(self.rig.redis.clone()),
            // The daemon restarts and goes on from there, in the same epoch: the same commits, in other batches.
            Step::FailOver => {
                if let Some(copy) = self.copy.take_if(|copy| copy.epoch == self.rig.redis.epoch) {
                    self.rig.redis = copy;
                }
            }
            Step::Empty => self.rig.look_at_nothing(),
        }
    }

    /// A look, with readers in the middle of it: what they are served lacks no commit up to where it is said to be true.
    fn look_watched(&mut self, look: impl FnOnce(&mut Rig)) {
        let (feed, l1, commits) = (self.rig.feed.clone(), self.l1.clone(), self.commits.clone());
        let read = move |point| {
            for (key, of) in KEYS {
                let tags: Vec<Tag> = of.iter().map(|tag| parse(tag)).collect();
                let verdict = l1.get(&feed, key, &Ask::now(Duration::from_secs(60)));
                if let Verdict::Hit { held, valid_to } = &verdict {
                    let (as_of, to) = (held.what().as_of.lsn.0, valid_to.lsn.0);
                    let lacks = commits.iter().find(|c| c.lsn > as_of && c.lsn <= to && touches(c.tag, &tags));
                    assert!(lacks.is_none(), "{key} as of {as_of} is served at {to}, it lacks {lacks:?} ({point:?})");
                }
            }
        };
        interleave::with(read, || look(&mut self.rig));
    }

    fn send(&mut self, key: usize, as_of: Version, verified: Option<Version>) {
        let mut candidate = Candidate::new(Arc::new(key), 8, as_of, Instant::now() + Duration::from_secs(600));
        (candidate.tags, candidate.verified) = (tags_of(key), verified);
        if self.under_way.len() == 8 {
            self.under_way.remove(0);
        }
        self.under_way.push((KEYS[key].0, candidate));
    }

    fn check(&mut self) -> Result<(), TestCaseError> {
        let view = self.rig.feed.view().clone();
        for (key, _) in KEYS {
            let ask = Ask::now(Duration::from_secs(60));
            // The short way first: a mark of the last check must not say more than the long way does now.
            let short = self.l1.peek(key).map(|held| (judge::unmoved(self.rig.feed.pulse(), &held, &ask), held));
            let verdict = self.l1.get(&self.rig.feed, key, &ask);
            if let Some((Some(valid_to), held)) = short {
                self.short += 1;
                let walked = judge::judge(&view, &held, &ask);
                prop_assert_eq!(walked, Ok(judge::Usable { stale: None, valid_to }), "{} by the short way", key);
            }
            match &verdict {
                Verdict::Hit { held, valid_to } | Verdict::Stale { held, valid_to, .. } => {
                    self.hits += 1;
                    let (as_of, tags) = (held.what().as_of, &held.what().tags);
                    prop_assert!(view.live && as_of.epoch == view.epoch && *valid_to >= as_of);
                    let fresh = matches!(verdict, Verdict::Hit { .. });
                    // A hit is vouched for up to the position at least. A stale one lacks nothing hard up to there.
                    let to = if fresh { *valid_to } else { view.position };
                    prop_assert!(to >= view.position && Some(view.position) >= view.watermark);
                    for commit in self.commits_in(as_of.lsn, to.lsn).filter(|commit| touches(commit.tag, tags)) {
                        prop_assert!(
                            !fresh && !commit.hard,
                            "{key} of {as_of} is served, it lacks {commit:?}: {verdict:?}"
                        );
                    }
                }
                // No miss without a reason. A record bumps all of its tags at its end.
                Verdict::Miss { why, held: Some(held) } => {
                    let (known_to, tags) = (held.tracked.known_to().lsn.0, &held.what().tags);
                    let reason = match why {
                        Miss::NotLive => view.staleness(Instant::now()).is_none(),
                        Miss::Revalidate => held.generation() != view.generation,
                        Miss::Floor => held.what().as_of < view.floor,
                        Miss::Bumped => self
                            .batches
                            .iter()
                            .any(|(to, bumped)| *to > known_to && bumped.iter().any(|tag| touches(tag, tags))),
                        _ => false,
                    };
                    prop_assert!(reason, "{key}: {why:?} for nothing");
                }
                Verdict::Miss { held: None, .. } => {}
            }
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, max_shrink_iters: 20_000, ..ProptestConfig::default() })]

    #[test]
    fn a_hit_lacks_no_commit(ring in 1usize..12, preload in 1usize..6, steps in proptest::collection::vec(step(), 1..120)) {
        let mut world = World::new(ring, preload);
        for step in steps {
            world.take(step);
            world.check()?;
        }
    }
}

/// The property above would hold of a layer that never hits.
#[test]
fn there_are_hits() {
    use proptest::strategy::ValueTree;
    use proptest::test_runner::TestRunner;

    let (mut runner, mut hits, mut short) = (TestRunner::deterministic(), 0, 0);
    for _ in 0..50 {
        let steps = proptest::collection::vec(step(), 100).new_tree(&mut runner).unwrap().current();
        let mut world = World::new(8, 8);
        for step in steps {
            world.take(step);
            world.check().unwrap();
        }
        hits += world.hits;
        short += world.short;
    }
    assert!(hits > 1000, "{hits}");
    assert!(short > 500 && short < hits, "{short} of {hits}");
}

/// Readers beside a feed that goes on, without a lock between them: position n bumps `t:<n % 4>`, so what a hit must not lack can be told from two numbers.
#[test]
fn readers_beside_the_feed_miss_no_bump() {
    const BUMPS: u64 = 20_000;
    // However few turns the machine gives the readers, they must have had hits: the feed goes on until then.
    const HITS: u64 = 1_000;
    const MOST: u64 = 50_000_000;
    let mut rig = Rig::with_ring(100, 64, 64);
    let (feed, l1) = (rig.feed.clone(), L1::new(L1Options::new(1 << 20)));
    let (done, hits) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..3u64)
            .map(|reader| {
                let (feed, l1, done, hits) = (&feed, &l1, &done, &hits);
                scope.spawn(move || {
                    let mut turn = reader;
                    while !done.load(Ordering::Relaxed) {
                        turn += 1;
                        let tag = turn % 4;
                        let key = ["0", "1", "2", "3"][tag as usize];
                        // Twice, so that the second goes by the mark that the first may have left while the feed went on.
                        let _ = l1.get(feed, key, &Ask::now(Duration::from_secs(60)));
                        match l1.get(feed, key, &Ask::now(Duration::from_secs(60))) {
                            Verdict::Hit { held, valid_to } => {
                                let (as_of, to) = (held.what().as_of.lsn.0, valid_to.lsn.0);
                                let last = to - (to + 4 - tag) % 4;
                                assert!(as_of >= last, "t:{tag} as of {as_of} is served at {to}, it lacks {last}");
                                hits.fetch_add(1, Ordering::Relaxed);
                            }
                            Verdict::Stale { .. } => panic!("nothing is soft"),
                            Verdict::Miss { .. } => {
                                // As a fill does that took its token a while ago.
                                let position = feed.view().position;
                                let as_of = Version { lsn: Lsn(position.lsn.0 - turn % 3), ..position };
                                let mut value =
                                    Candidate::new(Arc::new(()), 1, as_of, Instant::now() + Duration::from_secs(60));
                                value.tags = Arc::from([parse(&format!("t:{tag}"))]);
                                let _ = l1.admit(feed, key, value);
                            }
                        }
                    }
                })
            })
            .collect();
        for n in 101..101 + MOST {
            if n >= 101 + BUMPS
                && (hits.load(Ordering::Relaxed) >= HITS || readers.iter().any(|reader| reader.is_finished()))
            {
                break;
            }
            rig.apply(n, &[&format!("t:{}", n % 4)], &[]);
            rig.cut_log(16);
            rig.look();
        }
        done.store(true, Ordering::Relaxed);
        readers.into_iter().for_each(|reader| reader.join().unwrap());
    });
    assert!(hits.into_inner() >= HITS);
}

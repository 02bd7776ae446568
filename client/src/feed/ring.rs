//! The recent records of the log, in memory, as the last bump of each key.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use super::keys::{Key, family};

/// What a tag in a record costs beside its text: the shared text's counts, its place in the record and in the index.
const OVERHEAD: usize = 96;

/// The last bumps of a key, as positions in the present epoch; 0 where none is known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Bumps {
    pub(super) hard: u64,
    pub(super) soft: u64,
}

/// What one record of the log bumps.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Bumped {
    /// The tags of field `hard`.
    pub(super) hard: Vec<Arc<str>>,
    /// The tags of field `soft`.
    pub(super) soft: Vec<Arc<str>>,
}

/// Everything that was bumped after `from`, within bounds. It forgets its oldest records, and then says so.
#[derive(Debug)]
pub(super) struct Ring {
    /// Complete after this position.
    from: u64,
    /// No record that was pushed ends after this.
    newest: u64,
    records: VecDeque<Kept>,
    tags: HashMap<Arc<str>, Bumps>,
    members: HashMap<Arc<str>, Bumps>,
    bytes: usize,
    max_records: usize,
    max_bytes: usize,
}

/// A record, for forgetting it in time.
#[derive(Debug)]
struct Kept {
    to: u64,
    tags: Vec<Arc<str>>,
    bytes: usize,
}

impl Ring {
    /// Holds nothing, and reaches back to nowhere.
    pub(super) fn new(max_records: usize, max_bytes: usize) -> Ring {
        Ring {
            from: u64::MAX,
            newest: 0,
            records: VecDeque::new(),
            tags: HashMap::new(),
            members: HashMap::new(),
            bytes: 0,
            max_records,
            max_bytes,
        }
    }

    /// Begins anew: what is pushed from now on is everything after `from`.
    pub(super) fn begin(&mut self, from: u64) {
        *self = Ring { from, ..Ring::new(self.max_records, self.max_bytes) };
    }

    /// Does it know every bump after `position`?
    pub(super) fn reaches(&self, position: u64) -> bool {
        self.from <= position
    }

    /// No key was bumped after this position.
    pub(super) fn newest(&self) -> u64 {
        self.newest
    }

    /// The last bumps of a key among those after `from`.
    pub(super) fn bumps(&self, key: Key<'_>) -> Bumps {
        let known = match key {
            Key::Tag(tag) => self.tags.get(tag),
            Key::Members(family) => self.members.get(family),
        };
        known.copied().unwrap_or_default()
    }

    /// Takes the next record, which ends at `to`, above all before.
    pub(super) fn push(&mut self, to: u64, bumped: &Bumped) {
        self.newest = self.newest.max(to);
        let mut tags = Vec::with_capacity(bumped.hard.len() + bumped.soft.len());
        let mut bytes = OVERHEAD;
        for (list, hard) in [(&bumped.hard, true), (&bumped.soft, false)] {
            // Never down, also if a record came that is not above all before.
            let raise = |bumps: &mut Bumps| {
                let last = if hard { &mut bumps.hard } else { &mut bumps.soft };
                *last = (*last).max(to);
            };
            for tag in list {
                bytes += tag.len() + OVERHEAD;
                tags.push(raise_last(&mut self.tags, tag, raise));
                raise_last(&mut self.members, family(tag), raise);
                raise_last(&mut self.members, "*", raise);
            }
        }
        self.bytes += bytes;
        self.records.push_back(Kept { to, tags, bytes });
        while self.records.len() > self.max_records || self.bytes > self.max_bytes {
            let Some(oldest) = self.records.pop_front() else { break };
            self.forget(oldest);
        }
    }

    /// Afterwards nobody may ask for what came before `oldest.to`, so a key that was not bumped since needs no place.
    fn forget(&mut self, oldest: Kept) {
        self.from = self.from.max(oldest.to);
        self.bytes -= oldest.bytes;
        for tag in &oldest.tags {
            forget_until(&mut self.tags, tag, oldest.to);
            forget_until(&mut self.members, family(tag), oldest.to);
            forget_until(&mut self.members, "*", oldest.to);
        }
    }
}

fn forget_until(map: &mut HashMap<Arc<str>, Bumps>, name: &str, to: u64) {
    if map.get(name).is_some_and(|bumps| bumps.hard.max(bumps.soft) <= to) {
        map.remove(name);
    }
}

/// Raises the bumps of a name; returns its text, which all records and the index share.
fn raise_last(map: &mut HashMap<Arc<str>, Bumps>, name: &str, raise: impl Fn(&mut Bumps)) -> Arc<str> {
    let shared = map.get_key_value(name).map(|(shared, _)| Arc::clone(shared)).unwrap_or_else(|| Arc::from(name));
    raise(map.entry(Arc::clone(&shared)).or_default());
    shared
}

#[cfg(test)]
mod tests {
    use cachetag_core::Tag;
    use proptest::prelude::*;

    use super::*;
    use crate::feed::keys::check_keys;

    fn bumped(hard: &[&str], soft: &[&str]) -> Bumped {
        let shared = |tags: &[&str]| tags.iter().map(|tag| Arc::from(*tag)).collect();
        Bumped { hard: shared(hard), soft: shared(soft) }
    }

    fn last(ring: &Ring, tag: &str) -> Bumps {
        let keys = check_keys(&[Tag::parse(tag).unwrap()]);
        keys.iter()
            .map(|key| ring.bumps(key.as_key()))
            .fold(Bumps::default(), |a, b| Bumps { hard: a.hard.max(b.hard), soft: a.soft.max(b.soft) })
    }

    #[test]
    fn the_last_bump_counts() {
        let mut ring = Ring::new(10, 10_000);
        assert!(!ring.reaches(u64::MAX - 1));
        ring.begin(100);
        ring.push(110, &bumped(&["p:1", "q:*"], &["r:1"]));
        ring.push(120, &bumped(&["p:2"], &["p:1"]));
        assert!(ring.reaches(100) && !ring.reaches(99));
        assert_eq!(last(&ring, "p:1"), Bumps { hard: 110, soft: 120 });
        assert_eq!(last(&ring, "p:*"), Bumps { hard: 120, soft: 120 });
        assert_eq!(last(&ring, "q:7"), Bumps { hard: 110, soft: 0 });
        assert_eq!(last(&ring, "r:1"), Bumps { hard: 0, soft: 110 });
        assert_eq!(last(&ring, "s:1"), Bumps::default());
        assert_eq!(last(&ring, "*"), Bumps { hard: 120, soft: 120 });
    }

    #[test]
    fn everything_is_a_member_of_everything_and_no_tag_of_its_own() {
        let mut ring = Ring::new(10, 10_000);
        ring.begin(0);
        ring.push(5, &bumped(&["*"], &[]));
        assert_eq!(last(&ring, "*"), Bumps { hard: 5, soft: 0 });
        assert_eq!(last(&ring, "p:1"), Bumps::default(), "the floor tells it");
    }

    #[test]
    fn what_is_forgotten_takes_no_room() {
        let mut ring = Ring::new(2, 1_000_000);
        ring.begin(0);
        for to in 1..=1000 {
            ring.push(to, &bumped(&[&format!("p:{to}")], &[]));
        }
        assert!(ring.reaches(998) && !ring.reaches(997));
        assert_eq!((ring.tags.len(), ring.members.len(), ring.records.len()), (2, 2, 2));
        ring.push(2000, &bumped(&[&"x".repeat(500), "y"], &[]));
        ring.max_bytes = 100;
        ring.push(3000, &bumped(&["z"], &[]));
        assert!(ring.reaches(3000) && !ring.reaches(2999), "larger than the ring: nothing is known before it");
        assert_eq!((ring.tags.len(), ring.members.len(), ring.records.len(), ring.bytes), (0, 0, 0, 0));
    }

    const TAGS: [&str; 8] = ["p:1", "p:2", "p:*", "q:1", "q:*", "home", "home:*", "*"];

    proptest! {
        #[test]
        fn the_index_says_what_the_records_say(
            records in proptest::collection::vec((1u64..4, proptest::collection::vec((0usize..8, any::<bool>()), 1..4)), 0..30),
            max_records in 1usize..8,
            max_bytes in 200usize..3000,
        ) {
            let mut ring = Ring::new(max_records, max_bytes);
            ring.begin(10);
            let (mut to, mut all) = (10, Vec::new());
            for (step, tags) in records {
                to += step;
                let of = |kind: bool| tags.iter().filter(|(_, hard)| *hard == kind).map(|(tag, _)| TAGS[*tag]).collect::<Vec<_>>();
                let (hard, soft) = (of(true), of(false));
                ring.push(to, &bumped(&hard, &soft));
                all.push((to, hard, soft));
                prop_assert!(ring.reaches(to));
                prop_assert_eq!(ring.newest(), to);
                for entry in TAGS {
                    let entry = Tag::parse(entry).unwrap();
                    let touches = |tags: &Vec<&str>| tags.iter().any(|tag| {
                        let tag = Tag::parse(tag).unwrap();
                        // Everything that is bumped concerns an entry tagged `*`; a bump of `*` is told by the floor.
                        entry.is_everything() || !tag.is_everything() && tag.reaches(&entry)
                    });
                    let naive = |after: u64, hard: bool| all.iter().rev().find_map(|(to, h, s)| {
                        (*to > after && touches(if hard { h } else { s })).then_some(*to)
                    });
                    for after in (9..=to).filter(|after| ring.reaches(*after)) {
                        let bumps = last(&ring, entry.as_str());
                        prop_assert_eq!(Some(bumps.hard).filter(|at| *at > after), naive(after, true));
                        prop_assert_eq!(Some(bumps.soft).filter(|at| *at > after), naive(after, false));
                    }
                }
            }
        }
    }
}

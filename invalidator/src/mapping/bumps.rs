//! The distinct tags of one transaction, in bounded memory.

use std::collections::HashMap;

use cachetag_core::Tag;

use super::operation::Marks;
use super::scope::{EVERYTHING, Scope, whole_family};

/// What one transaction has changed, ready for the sink. No tag is listed twice, none is covered by another of the same
/// or a harder kind, and each list is sorted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TransactionBumps {
    /// Tags whose entries are invalid from now on.
    pub hard: Vec<Tag>,
    /// Tags whose entries may be served while one reader refreshes them.
    pub soft: Vec<Tag>,
}

impl TransactionBumps {
    /// Whether the transaction concerns no cached value.
    pub fn is_empty(&self) -> bool {
        self.hard.is_empty() && self.soft.is_empty()
    }
}

/// What became of an added tag.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Added {
    /// The tag had not changed before, or not in this way.
    New,
    /// Covered by its whole family. The members of a covered family are forgotten, so the same tag may be reported
    /// as absorbed any number of times.
    Absorbed,
    /// Nothing new: this very change was seen before, or everything is bumped already.
    Known,
}

/// A set of tags that trades precision for memory: beyond the limit the largest families become `family:*`, and when
/// that does not help, the set becomes `*`.
///
/// Keys are hashed with the standard library's keyed hash: tags hold users' data, which must not choose its collisions.
#[derive(Debug)]
pub(super) struct TagSet {
    limit: usize,
    everything: Marks,
    families: HashMap<Box<[u8]>, Family>,
    members: HashMap<Box<[u8]>, Marks>,
    /// Bumped families; together with the members, what the limit counts.
    whole_families: usize,
    pub(super) collapsed: Collapsed,
}

/// How often a set has traded precision for memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Collapsed {
    pub(super) families: u64,
    pub(super) everything: u64,
}

#[derive(Debug, Default)]
struct Family {
    /// Marks of `family:*`.
    whole: Marks,
    /// Members in the set.
    members: usize,
    /// Whether a member is hard.
    hard_members: bool,
}

/// Above this capacity a table is given back after its transaction: clearing it would cost every later one.
const KEPT_CAPACITY: usize = 1024;

impl TagSet {
    /// An empty set that holds at most `limit` tags (at least one).
    pub(super) fn new(limit: usize) -> Self {
        Self {
            limit: limit.max(1),
            everything: Marks::NONE,
            families: HashMap::new(),
            members: HashMap::new(),
            whole_families: 0,
            collapsed: Collapsed::default(),
        }
    }

    /// Adds a canonical tag. No allocation for a tag that the set has, or that its family covers.
    pub(super) fn add(&mut self, tag: &[u8], marks: Marks) -> Added {
        if self.everything.is_hard() || (!self.everything.is_empty() && !marks.is_hard()) {
            return Added::Known;
        }
        match Scope::of(tag) {
            Scope::Everything => self.add_everything(marks),
            Scope::Family(name) => self.add_family(name, marks),
            Scope::Member(family) => self.add_member(family, tag, marks),
        }
    }

    /// Whether everything is bumped hard: nothing can be added any more.
    pub(super) fn is_everything(&self) -> bool {
        self.everything.is_hard()
    }

    fn add_everything(&mut self, marks: Marks) -> Added {
        self.everything.add(marks);
        self.forget_covered();
        Added::New
    }

    fn add_family(&mut self, name: &[u8], marks: Marks) -> Added {
        let family = entry(&mut self.families, name);
        self.whole_families += usize::from(family.whole.is_empty());
        if family.whole.add(marks).is_empty() {
            return Added::Known;
        }
        self.shrink_to_limit();
        Added::New
    }

    fn add_member(&mut self, family: &[u8], tag: &[u8], marks: Marks) -> Added {
        if let Some(known) = self.members.get_mut(tag) {
            if known.contains(marks) {
                return Added::Known;
            }
            known.add(marks);
            if marks.is_hard() {
                entry(&mut self.families, family).hard_members = true;
            }
            return Added::New;
        }
        let family = entry(&mut self.families, family);
        if covers(family.whole, marks) {
            return Added::Absorbed;
        }
        family.members += 1;
        family.hard_members |= marks.is_hard();
        self.members.insert(tag.into(), marks);
        self.shrink_to_limit();
        Added::New
    }

    fn len(&self) -> usize {
        self.members.len() + self.whole_families + usize::from(!self.everything.is_empty())
    }

    fn shrink_to_limit(&mut self) {
        if self.len() <= self.limit {
            return;
        }
        self.forget_covered();
        if self.len() <= self.limit {
            return;
        }
        // Room is made for more than one tag: each round costs a walk over the whole set.
        let goal = self.limit - self.limit / 8;
        let mut len = self.len();
        let mut largest: Vec<&mut Family> = self.families.values_mut().filter(|family| family.members > 0).collect();
        largest.sort_unstable_by_key(|family| std::cmp::Reverse(family.members));
        for family in largest {
            let gain = family.members - usize::from(family.whole.is_empty());
            if len <= goal || gain == 0 {
                break;
            }
            len -= gain;
            self.whole_families += usize::from(family.whole.is_empty());
            family.whole.add(Marks::new(super::Operations::ALL, !family.hard_members));
            self.collapsed.families += 1;
        }
        self.forget_covered();
        if self.len() > self.limit {
            self.collapsed.everything += 1;
            let hard = self.families.values().any(|family| family.whole.is_hard() || family.hard_members);
            self.add_everything(Marks::new(super::Operations::ALL, !hard));
        }
    }

    /// Drops what a family or `*` covers, and counts anew.
    fn forget_covered(&mut self) {
        for family in self.families.values_mut() {
            (family.members, family.hard_members) = (0, false);
        }
        let Self { members, families, everything, .. } = self;
        members.retain(|tag, marks| {
            let Scope::Member(name) = Scope::of(tag) else { return false };
            let Some(family) = families.get_mut(name) else { return false };
            if covers(*everything, *marks) || covers(family.whole, *marks) {
                return false;
            }
            family.members += 1;
            family.hard_members |= marks.is_hard();
            true
        });
        families.retain(|_, family| {
            if !family.whole.is_empty() && covers(*everything, family.whole) {
                family.whole = Marks::NONE;
            }
            family.members > 0 || !family.whole.is_empty()
        });
        self.whole_families = families.values().filter(|family| !family.whole.is_empty()).count();
    }

    /// The set's contents; the set is empty afterwards.
    pub(super) fn take(&mut self) -> TransactionBumps {
        let mut bumps = TransactionBumps::default();
        bumps.push(EVERYTHING, self.everything, Marks::NONE);
        for (name, family) in &self.families {
            if !family.whole.is_empty() {
                bumps.push(&whole_family(name), family.whole, self.everything);
            }
        }
        for (tag, marks) in &self.members {
            let Scope::Member(name) = Scope::of(tag) else { continue };
            let family = self.families.get(name).map_or(Marks::NONE, |family| family.whole);
            if !covers(family, *marks) {
                bumps.push(tag, *marks, self.everything);
            }
        }
        bumps.hard.sort_unstable();
        bumps.soft.sort_unstable();
        self.clear();
        bumps
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        self.everything = Marks::NONE;
        self.whole_families = 0;
        if self.members.capacity() > KEPT_CAPACITY {
            self.members = HashMap::new();
        }
        if self.families.capacity() > KEPT_CAPACITY {
            self.families = HashMap::new();
        }
        self.members.clear();
        self.families.clear();
    }
}

impl TransactionBumps {
    /// Lists a tag under the hardest of its marks, unless a bump of everything covers it.
    fn push(&mut self, tag: &[u8], marks: Marks, everything: Marks) {
        if marks.is_empty() || covers(everything, marks) {
            return;
        }
        // Rendered tags are canonical; one that is not could not be sent, and everything is the only honest answer.
        let tag = std::str::from_utf8(tag).ok().and_then(|text| Tag::parse(text).ok()).unwrap_or_else(Tag::everything);
        if marks.is_hard() { self.hard.push(tag) } else { self.soft.push(tag) }
    }
}

/// Whether a bump with marks `wide` makes one with marks `narrow` of something inside it superfluous.
fn covers(wide: Marks, narrow: Marks) -> bool {
    wide.is_hard() || (!wide.is_empty() && !narrow.is_hard())
}

/// `HashMap::entry` would want an owned key even where the family is known already.
fn entry<'m>(families: &'m mut HashMap<Box<[u8]>, Family>, name: &[u8]) -> &'m mut Family {
    if !families.contains_key(name) {
        families.insert(name.into(), Family::default());
    }
    families.get_mut(name).unwrap_or_else(|| unreachable!())
}

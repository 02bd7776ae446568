//! The distinct tags of one transaction, in bounded memory.

use std::cmp::Reverse;
use std::collections::HashMap;

use cachetag_core::Tag;

use super::operation::{Marks, Operations};
use super::scope::Scope;

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

    fn push(&mut self, tag: Tag, marks: Marks) {
        if marks.is_hard() { self.hard.push(tag) } else { self.soft.push(tag) }
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
    /// The families that are bumped as a whole.
    families: HashMap<Box<str>, Marks>,
    /// Those of them that changed as a whole. The others have collapsed: only the edges of the members that changed have fired.
    touched: HashMap<Box<str>, Marks>,
    /// Single tags. Some may be covered by their family since.
    members: HashMap<Tag, Marks>,
    pub(super) collapsed: Collapsed,
}

/// How often a set has traded precision for memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Collapsed {
    pub(super) families: u64,
    pub(super) everything: u64,
}

/// What a set gains when a family collapses.
struct Candidate<'s> {
    family: &'s str,
    tags: usize,
    soft: bool,
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
            touched: HashMap::new(),
            members: HashMap::new(),
            collapsed: Collapsed::default(),
        }
    }

    /// Adds a canonical tag. No allocation for a tag that the set has, or that its family covers.
    pub(super) fn add(&mut self, tag: &str, marks: Marks) -> Added {
        if covers(self.everything, marks) {
            return Added::Known;
        }
        match Scope::of(tag) {
            Scope::Everything => self.add_everything(marks),
            Scope::Family(family) => self.add_family(family, marks),
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

    fn add_family(&mut self, family: &str, marks: Marks) -> Added {
        let is_touched = match self.touched.get_mut(family) {
            Some(touched) => touched.add(marks).is_empty(),
            None => self.touched.insert(family.into(), marks).is_some(),
        };
        if let Some(known) = self.families.get_mut(family) {
            return match (known.add(marks).is_empty(), is_touched) {
                (true, true) => Added::Known,
                (true, false) => Added::Absorbed,
                (false, _) => Added::New,
            };
        }
        self.families.insert(family.into(), marks);
        self.shrink_to_limit();
        Added::New
    }

    fn add_member(&mut self, family: &str, text: &str, marks: Marks) -> Added {
        if let Some(known) = self.members.get_mut(text) {
            return if known.add(marks).is_empty() { Added::Known } else { Added::New };
        }
        if self.families.get(family).is_some_and(|whole| covers(*whole, marks)) {
            return Added::Absorbed;
        }
        let Ok(tag) = Tag::parse(text) else {
            // Callers add canonical text only; a text that nobody could have cached under is no reason to miss a change.
            return self.add_everything(marks);
        };
        self.members.insert(tag, marks);
        self.shrink_to_limit();
        Added::New
    }

    /// Number of tags, families and `*`.
    pub(super) fn len(&self) -> usize {
        self.members.len() + self.families.len() + usize::from(!self.everything.is_empty())
    }

    fn shrink_to_limit(&mut self) {
        if self.len() <= self.limit {
            return;
        }
        self.forget_covered();
        if self.len() <= self.limit {
            return;
        }
        // Room is made for more than one tag, or the next ones would cost a walk over the whole set each.
        self.shrink(self.limit - self.limit / 8);
    }

    /// Trades precision for memory until no more than `goal` tags are left (at least one).
    pub(super) fn shrink(&mut self, goal: usize) {
        let goal = goal.max(1);
        if self.len() <= goal {
            return;
        }
        self.collapse_families(goal);
        if self.len() > goal {
            self.collapsed.everything += 1;
            let hard = self.members.values().chain(self.families.values()).any(|marks| marks.is_hard());
            self.add_everything(Marks::new(Operations::ALL, !hard));
        }
        self.members.shrink_to(goal);
    }

    /// Collapses families, the largest first, until no more than `goal` tags are left or nothing is to be gained.
    fn collapse_families(&mut self, goal: usize) {
        let mut len = self.len();
        let mut collapsed = Vec::new();
        for Candidate { family, tags, soft } in self.candidates() {
            if len <= goal {
                break;
            }
            len -= tags;
            collapsed.push((Box::<str>::from(family), Marks::new(Operations::ALL, soft)));
        }
        for (family, marks) in collapsed {
            self.families.entry(family).or_default().add(marks);
            self.collapsed.families += 1;
        }
        self.forget_covered();
    }

    /// The families that save anything by collapsing, largest first.
    fn candidates(&self) -> Vec<Candidate<'_>> {
        let mut families: HashMap<&str, Candidate<'_>> = HashMap::new();
        for (tag, marks) in &self.members {
            let family = tag.family();
            let candidate = families.entry(family).or_insert_with(|| {
                // The tag of the whole family takes up a place too, unless it is there already.
                let tags = usize::from(self.families.contains_key(family));
                Candidate { family, tags, soft: true }
            });
            candidate.tags += 1;
            candidate.soft &= !marks.is_hard();
        }
        let mut candidates: Vec<_> = families
            .into_values()
            .map(|candidate| Candidate { tags: candidate.tags - 1, ..candidate })
            .filter(|candidate| candidate.tags > 0)
            .collect();
        candidates.sort_unstable_by_key(|candidate| Reverse(candidate.tags));
        candidates
    }

    /// Drops what a family or `*` covers.
    fn forget_covered(&mut self) {
        let Self { members, families, everything, .. } = self;
        families.retain(|_, whole| !covers(*everything, *whole));
        members.retain(|tag, marks| {
            !covers(*everything, *marks) && !families.get(tag.family()).is_some_and(|whole| covers(*whole, *marks))
        });
    }

    /// Gives every tag to `each`; the set is empty afterwards.
    pub(super) fn drain(&mut self, mut each: impl FnMut(&str, Marks)) {
        // Members that their family covers still have edges of their own, but so has the family: it stands for all of them.
        if !self.everything.is_empty() {
            each("*", self.everything);
        }
        let mut text = String::new();
        for (family, marks) in self.families.drain() {
            text.clear();
            text.push_str(&family);
            text.push_str(":*");
            each(&text, marks);
        }
        for (tag, marks) in self.members.drain() {
            each(tag.as_str(), marks);
        }
        self.clear();
    }

    /// The set's contents; the set is empty afterwards.
    pub(super) fn take(&mut self) -> TransactionBumps {
        let mut bumps = TransactionBumps::default();
        if !self.families.is_empty() {
            self.forget_covered();
        }
        if !self.everything.is_empty() {
            bumps.push(Tag::everything(), self.everything);
        }
        for (family, marks) in self.families.drain() {
            // A canonical family gives a canonical tag; see `add_member` for the other branch.
            bumps.push(Tag::parse(&format!("{family}:*")).unwrap_or_else(|_| Tag::everything()), marks);
        }
        for (tag, marks) in self.members.drain() {
            bumps.push(tag, marks);
        }
        bumps.hard.sort_unstable();
        bumps.soft.sort_unstable();
        self.clear();
        bumps
    }

    /// Forgets everything.
    pub(super) fn clear(&mut self) {
        self.everything = Marks::NONE;
        self.families.clear();
        self.touched.clear();
        self.members.clear();
        if self.members.capacity() > KEPT_CAPACITY {
            self.members = HashMap::new();
        }
        if self.families.capacity() > KEPT_CAPACITY {
            self.families = HashMap::new();
        }
    }
}

/// Whether a bump with marks `wide` makes one with marks `narrow` of something inside it superfluous.
fn covers(wide: Marks, narrow: Marks) -> bool {
    wide.is_hard() || (!wide.is_empty() && !narrow.is_hard())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    const HARD: bool = false;
    const SOFT: bool = true;

    fn marks(soft: bool) -> Marks {
        Marks::new(Operations::UPDATE, soft)
    }

    fn set(limit: usize, tags: &[(&str, bool)]) -> TagSet {
        let mut set = TagSet::new(limit);
        for (tag, soft) in tags {
            set.add(tag, marks(*soft));
        }
        set
    }

    fn taken(limit: usize, tags: &[(&str, bool)]) -> (Vec<String>, Vec<String>) {
        let bumps = set(limit, tags).take();
        let text = |tags: Vec<Tag>| tags.into_iter().map(String::from).collect();
        (text(bumps.hard), text(bumps.soft))
    }

    fn strings(tags: &[&str]) -> Vec<String> {
        tags.iter().map(|tag| (*tag).to_owned()).collect()
    }

    #[test]
    fn a_tag_is_listed_once_and_hard_wins() {
        let (hard, soft) = taken(9, &[("p:2", HARD), ("p:1", SOFT), ("p:1", HARD), ("p:1", SOFT), ("p:3", SOFT)]);
        assert_eq!(hard, strings(&["p:1", "p:2"]));
        assert_eq!(soft, strings(&["p:3"]));
    }

    #[test]
    fn a_change_is_new_once_for_each_operation() {
        let mut set = TagSet::new(9);
        assert_eq!(set.add("p:1", Marks::new(Operations::INSERT, false)), Added::New);
        assert_eq!(set.add("p:1", Marks::new(Operations::INSERT, false)), Added::Known);
        assert_eq!(set.add("p:1", Marks::new(Operations::INSERT, true)), Added::Known);
        assert_eq!(set.add("p:1", Marks::new(Operations::DELETE, false)), Added::New);
        assert_eq!(set.add("p:*", Marks::new(Operations::DELETE, false)), Added::New);
        assert_eq!(set.add("p:*", Marks::new(Operations::DELETE, false)), Added::Known);
        assert_eq!(set.add("p:2", Marks::new(Operations::DELETE, false)), Added::Absorbed);
        assert_eq!(set.add("*", Marks::new(Operations::DELETE, false)), Added::New);
        assert_eq!(set.add("q", Marks::new(Operations::DELETE, false)), Added::Known);
    }

    #[test]
    fn a_collapsed_family_that_changes_as_a_whole_is_no_known_one() {
        let mut set = set(2, &[("p:1", HARD), ("p:2", HARD), ("p:3", HARD)]);
        assert_eq!(set.collapsed, Collapsed { families: 1, everything: 0 });
        assert_eq!(set.add("p:*", marks(HARD)), Added::Absorbed, "its edges have not fired yet");
        assert_eq!(set.add("p:*", marks(HARD)), Added::Known);
    }

    #[test]
    fn families_cover_their_members_of_the_same_or_a_softer_kind() {
        assert_eq!(taken(9, &[("p:1", HARD), ("p:2", SOFT), ("p", HARD), ("p:*", HARD)]), (strings(&["p:*"]), vec![]));
        let softly = taken(9, &[("p:1", HARD), ("p:2", SOFT), ("p:*", SOFT), ("q:1", SOFT)]);
        assert_eq!(softly, (strings(&["p:1"]), strings(&["p:*", "q:1"])));
        assert_eq!(taken(9, &[("p:1", HARD), ("q:*", SOFT), ("*", HARD), ("r", HARD)]), (strings(&["*"]), vec![]));
        let softly = taken(9, &[("p:1", HARD), ("p:2", SOFT), ("q:*", SOFT), ("r:*", HARD), ("*", SOFT)]);
        assert_eq!(softly, (strings(&["p:1", "r:*"]), strings(&["*"])));
    }

    #[test]
    fn the_largest_family_collapses_first() {
        let mut set = TagSet::new(25);
        let tags = |family: u8, n: u8| (0..n).map(move |n| format!("f{family}:{n}"));
        for tag in (0..9).flat_map(|family| tags(family, 2)).chain(tags(9, 7)) {
            assert_eq!(set.add(&tag, marks(HARD)), Added::New);
        }
        assert_eq!(set.add("f9:7", marks(HARD)), Added::New);
        assert_eq!(set.collapsed, Collapsed { families: 1, everything: 0 });
        assert_eq!(set.add("f9:8", marks(HARD)), Added::Absorbed);
        let (last, others) = (Tag::parse("f9:*").unwrap(), 18);
        let bumps = set.take();
        assert_eq!((bumps.hard.len(), bumps.hard.last()), (others + 1, Some(&last)));
    }

    #[test]
    fn a_soft_family_collapses_softly() {
        let tags = [("a:1", SOFT), ("a:2", SOFT), ("a:3", SOFT), ("a:4", HARD)];
        assert_eq!(taken(2, &tags), (strings(&["a:4"]), strings(&["a:*"])));
        let tags = [("a:*", SOFT), ("a:1", HARD), ("b", SOFT)];
        assert_eq!(taken(2, &tags), (strings(&["a:*"]), strings(&["b"])), "one hard member is reason enough");
    }

    #[test]
    fn too_many_families_are_everything() {
        assert_eq!(taken(2, &[("a", HARD), ("b", SOFT), ("c:*", SOFT), ("d", HARD)]), (strings(&["*"]), vec![]));
        assert_eq!(taken(2, &[("a", SOFT), ("b", SOFT), ("c:*", SOFT)]), (vec![], strings(&["*"])));
    }

    #[test]
    fn what_is_no_tag_is_everything() {
        assert_eq!(taken(9, &[("a b", HARD)]), (strings(&["*"]), vec![]));
    }

    #[test]
    fn a_large_transaction_leaves_no_large_tables() {
        let mut set = TagSet::new(100_000);
        for n in 0..20_000 {
            set.add(&format!("p:{n}"), marks(HARD));
        }
        assert_eq!(set.take().hard.len(), 20_000);
        assert!(set.members.capacity() <= KEPT_CAPACITY);
        assert!(set.take().is_empty());
    }

    fn tag() -> impl Strategy<Value = String> {
        prop_oneof![
            20 => (0..4u8, 0..6u8).prop_map(|(family, n)| format!("f{family}:{n}")),
            4 => (0..4u8).prop_map(|family| format!("f{family}")),
            1 => (0..4u8).prop_map(|family| format!("f{family}:*")),
        ]
    }

    /// Whether a bump of `wide` makes every entry fall that one of `narrow` does.
    fn includes(wide: &Tag, narrow: &Tag) -> bool {
        wide == narrow || wide.is_everything() || (wide.is_whole_family() && wide.family() == narrow.family())
    }

    proptest! {
        /// Whatever the limit, nothing that was added is lost, and hard changes stay hard.
        #[test]
        fn nothing_is_lost(limit in 1..30usize, added in prop::collection::vec((tag(), any::<bool>()), 0..60)) {
            let mut set = TagSet::new(limit);
            for (tag, soft) in &added {
                set.add(tag, marks(*soft));
                prop_assert!(set.len() <= limit, "{} tags", set.len());
            }
            let bumps = set.take();
            for (tag, soft) in &added {
                let tag = Tag::parse(tag).unwrap();
                let hard = bumps.hard.iter().any(|wide| includes(wide, &tag));
                prop_assert!(hard || (*soft && bumps.soft.iter().any(|wide| includes(wide, &tag))), "{tag} in {bumps:?}");
            }
            // Nothing superfluous.
            for list in [&bumps.hard, &bumps.soft] {
                for tag in list {
                    prop_assert_eq!(list.iter().filter(|wide| includes(wide, tag)).count(), 1, "{} in {:?}", tag, bumps);
                }
            }
            for tag in &bumps.soft {
                prop_assert!(!bumps.hard.iter().any(|wide| includes(wide, tag)));
            }
        }

        /// Below the limit, what was added is exactly what comes out.
        #[test]
        fn nothing_is_widened_below_the_limit(added in prop::collection::vec((tag(), any::<bool>()), 0..60)) {
            let bumps = set(1000, &added.iter().map(|(tag, soft)| (tag.as_str(), *soft)).collect::<Vec<_>>()).take();
            let hard: BTreeSet<&str> = added.iter().filter(|(_, soft)| !soft).map(|(tag, _)| tag.as_str()).collect();
            let soft: BTreeSet<&str> = added.iter().filter(|(_, soft)| *soft).map(|(tag, _)| tag.as_str()).collect();
            for tag in &bumps.hard {
                prop_assert!(hard.contains(tag.as_str()));
            }
            for tag in &bumps.soft {
                prop_assert!(soft.contains(tag.as_str()));
            }
        }
    }
}

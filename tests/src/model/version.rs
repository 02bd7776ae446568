//! Versions and sets of tags, each a byte: the checker holds millions of states.

use std::fmt;
use std::num::NonZeroU8;

/// An epoch (from 1) and the end of a commit; up to 15 of either.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(NonZeroU8);

impl Version {
    /// The version of a commit in an epoch.
    pub fn new(epoch: u8, lsn: u8) -> Version {
        assert!((1..16).contains(&epoch) && lsn < 16, "bounds too large: epoch {epoch}, commit {lsn}");
        Version(NonZeroU8::MIN.saturating_add((epoch << 4 | lsn) - 1))
    }

    /// Its epoch.
    pub fn epoch(self) -> u8 {
        self.0.get() >> 4
    }

    /// Its commit: 0 is the start of the world.
    pub fn lsn(self) -> u8 {
        self.0.get() & 15
    }
}

impl fmt::Debug for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.epoch(), self.lsn())
    }
}

/// Some of the tags.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tags(pub u8);

/// How many tags there are: that of the row that readers ask for, that of all other rows, and that of the list.
pub const TAGS: usize = 3;

impl Tags {
    /// `product:0`, the row that readers ask for.
    pub const ROW: Tags = Tags(1);
    /// `product:1`, a row that nobody asks for; only the list tells its changes.
    pub const OTHER_ROW: Tags = Tags(2);
    /// `list`, which every commit touches.
    pub const LIST: Tags = Tags(4);

    /// Both.
    pub const fn and(self, other: Tags) -> Tags {
        Tags(self.0 | other.0)
    }

    /// Have they one in common?
    pub fn meets(self, other: Tags) -> bool {
        self.0 & other.0 != 0
    }

    /// Their positions.
    pub fn indices(self) -> impl Iterator<Item = usize> {
        (0..TAGS).filter(move |i| self.0 & 1 << i != 0)
    }
}

impl fmt::Debug for Tags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.indices().map(|i| ["product:0", "product:1", "list"][i]).collect();
        write!(f, "{}", names.join("+"))
    }
}

/// What readers ask for, with the tags of the answer.
pub const KEYS: [Tags; 3] = [Tags::ROW, Tags::LIST, Tags::ROW.and(Tags::LIST)];

/// Some of the commits, by number: what is visible, or what a snapshot saw.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
pub struct Commits(u16);

impl Commits {
    /// With one more.
    pub fn with(self, lsn: u8) -> Commits {
        Commits(self.0 | 1 << lsn)
    }

    /// Is it among them?
    pub fn has(self, lsn: u8) -> bool {
        self.0 & 1 << lsn != 0
    }

    /// Up to where none is missing.
    pub fn prefix(self) -> u8 {
        (1..16).take_while(|&lsn| self.has(lsn)).count() as u8
    }
}

impl fmt::Debug for Commits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries((1..16).filter(|&lsn| self.has(lsn))).finish()
    }
}

//! What happened to a row, as small sets: the operations that a rule or an edge listens to, and the marks of a changed tag.

use std::ops::BitOr;

use super::text;

/// A set of row operations: what a rule or a dependency listens to, or what caused a change.
///
/// A change can have several causes at once: a row that moves between partitions is an update that the log shows as a
/// delete and an insert.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Operations(u8);

impl Operations {
    /// `insert`
    pub const INSERT: Self = Self(1);
    /// `update`
    pub const UPDATE: Self = Self(2);
    /// `delete`
    pub const DELETE: Self = Self(4);
    /// `truncate`
    pub const TRUNCATE: Self = Self(8);
    /// Every operation; also the cause of what has no operation (messages, changes of the metadata).
    pub const ALL: Self = Self(15);

    /// Whether the two sets share an operation.
    pub fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// Reads the text form of a `text[]` of operation names. The empty array listens to everything: a rule that never
    /// fires would be a cache that is never invalidated.
    pub fn parse(array: &[u8]) -> Result<Self, OperationsError> {
        let mut operations = 0;
        for name in text::array(array).map_err(OperationsError::Array)? {
            operations |= match name.as_deref() {
                Some("insert") => Self::INSERT.0,
                Some("update") => Self::UPDATE.0,
                Some("delete") => Self::DELETE.0,
                Some("truncate") => Self::TRUNCATE.0,
                other => return Err(OperationsError::Unknown(other.unwrap_or("NULL").to_owned())),
            };
        }
        Ok(if operations == 0 { Self::ALL } else { Self(operations) })
    }
}

impl BitOr for Operations {
    type Output = Self;
    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

/// Why a set of operations could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OperationsError {
    /// Not the text form of an array.
    #[error(transparent)]
    Array(text::TextError),
    /// A name that this daemon does not know.
    #[error("unknown operation {0:?}: expected insert, update, delete or truncate")]
    Unknown(String),
}

/// How a tag has changed within one transaction: by which operations hard, by which soft.
///
/// Hard implies soft: whatever a soft change brings about, a hard one of the same operation brings about at least as
/// strongly. Marks only grow, so "nothing new" is the constant-time test for a change that was seen before.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Marks(u8);

impl Marks {
    pub(super) const NONE: Self = Self(0);

    pub(super) fn new(cause: Operations, soft: bool) -> Self {
        if soft { Self(cause.0 << 4) } else { Self(cause.0 | cause.0 << 4) }
    }

    pub(super) fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether any change behind these marks was hard.
    pub(super) fn is_hard(self) -> bool {
        self.0 & 0x0f != 0
    }

    /// What passes an edge that listens to `operations`.
    pub(super) fn caused_by(self, operations: Operations) -> Self {
        Self(self.0 & (operations.0 | operations.0 << 4))
    }

    /// The same changes, all of them soft.
    pub(super) fn softened(self) -> Self {
        Self(self.0 & 0xf0)
    }

    /// Adds `other`; returns what was new.
    pub(super) fn add(&mut self, other: Self) -> Self {
        let new = Self(other.0 & !self.0);
        self.0 |= other.0;
        new
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_are_read_from_an_array() {
        assert_eq!(Operations::parse(b"{}"), Ok(Operations::ALL));
        assert_eq!(Operations::parse(b"{insert,delete}"), Ok(Operations::INSERT | Operations::DELETE));
        assert_eq!(Operations::parse(b"{insert,merge}"), Err(OperationsError::Unknown("merge".into())));
        assert_eq!(Operations::parse(b"{NULL}"), Err(OperationsError::Unknown("NULL".into())));
        assert!(matches!(Operations::parse(b"insert"), Err(OperationsError::Array(_))));
    }

    #[test]
    fn a_hard_mark_covers_the_soft_one() {
        let mut marks = Marks::NONE;
        let soft = Marks::new(Operations::UPDATE, true);
        assert_eq!(marks.add(soft), soft);
        assert!(!marks.is_hard());
        let new = marks.add(Marks::new(Operations::UPDATE, false));
        assert!(new.is_hard());
        assert!(marks.add(soft).is_empty());
    }

    #[test]
    fn marks_pass_only_the_edges_that_listen() {
        let marks = Marks::new(Operations::UPDATE | Operations::INSERT, false);
        assert!(marks.caused_by(Operations::DELETE | Operations::TRUNCATE).is_empty());
        assert_eq!(marks.caused_by(Operations::UPDATE), Marks::new(Operations::UPDATE, false));
        assert_eq!(marks.softened(), Marks::new(Operations::UPDATE | Operations::INSERT, true));
    }
}

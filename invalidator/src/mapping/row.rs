//! What the mapping sees of a changed row: text values by column number, and how much of the old row the log carries.

use cachetag_core::Value as Known;

use super::relation::{Relation, ReplicaIdentity};

/// One column of a row as logical decoding delivers it, in PostgreSQL's text format.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Value<'a> {
    /// NULL; in an old *key* row also the placeholder of every column outside the key.
    Null,
    /// A TOAST value that the change left alone and the log therefore does not hold.
    Unchanged,
    /// Not readable here: binary format, or a column that the row does not have.
    Unknown,
    /// The text output of the value, in UTF-8.
    Text(&'a [u8]),
}

/// Random access to the columns of a row. Called several times a row: make it cheap.
pub trait Row {
    /// The value of the column at this index of the relation; [`Value::Unknown`] where the row is shorter.
    fn value(&self, column: usize) -> Value<'_>;
}

impl Row for [Value<'_>] {
    fn value(&self, column: usize) -> Value<'_> {
        self.get(column).copied().unwrap_or(Value::Unknown)
    }
}

/// The row before an update or a delete, as far as the replica identity has put it into the log.
#[derive(Debug)]
pub enum OldRow<'r, R: ?Sized> {
    /// Nothing: for an update under a key identity, the key did not change.
    Absent,
    /// The columns of the key (`K`).
    Key(&'r R),
    /// The whole row (`O`).
    Full(&'r R),
}

impl<R: ?Sized> Clone for OldRow<'_, R> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<R: ?Sized> Copy for OldRow<'_, R> {}

/// One side of a changed row, as far as it can be known from the one change.
pub(super) trait Side {
    fn known(&self, column: usize) -> Known<'_>;
}

/// The new row of an insert or an update.
pub(super) struct After<'r, R: ?Sized> {
    pub(super) new: &'r R,
    pub(super) before: Before<'r, R>,
}

/// The old row of an update or a delete.
pub(super) struct Before<'r, R: ?Sized> {
    pub(super) relation: &'r Relation,
    pub(super) old: OldRow<'r, R>,
    /// The new row, when the change is an update.
    pub(super) new: Option<&'r R>,
}

impl<R: Row + ?Sized> Before<'_, R> {
    /// The value that the log itself gives for the old row.
    fn logged(&self, column: usize) -> Known<'_> {
        match self.old {
            OldRow::Absent => Known::Unknown,
            OldRow::Full(old) => plain(old.value(column)),
            // A key column is never NULL: a NULL here is the placeholder of a column that is no longer in the key.
            OldRow::Key(old) if self.relation.is_key(column) => match plain(old.value(column)) {
                Known::Null => Known::Unknown,
                known => known,
            },
            OldRow::Key(_) => Known::Unknown,
        }
    }

    /// Whether an update is sure not to have changed this column.
    fn is_unchanged(&self, column: usize) -> bool {
        let Some(new) = self.new else { return false };
        match (new.value(column), self.old) {
            (Value::Unchanged, _) => true,
            // PostgreSQL logs the old key whenever a column of it changes. Under FULL it logs the old row always, so
            // there an absent one proves nothing.
            (_, OldRow::Absent) => self.relation.identity == ReplicaIdentity::Key && self.relation.is_key(column),
            _ => false,
        }
    }
}

impl<R: Row + ?Sized> Side for Before<'_, R> {
    fn known(&self, column: usize) -> Known<'_> {
        match (self.logged(column), self.new) {
            (Known::Unknown, Some(new)) if self.is_unchanged(column) => plain(new.value(column)),
            (known, _) => known,
        }
    }
}

impl<'r, R: Row + ?Sized> After<'r, R> {
    pub(super) fn insert(relation: &'r Relation, new: &'r R) -> Self {
        // There is no old row to fall back on, and for an insert no "unchanged" either.
        Self { new, before: Before { relation, old: OldRow::Absent, new: None } }
    }

    pub(super) fn update(relation: &'r Relation, old: OldRow<'r, R>, new: &'r R) -> Self {
        Self { new, before: Before { relation, old, new: Some(new) } }
    }

    /// Whether an update may have changed this column.
    pub(super) fn may_differ(&self, column: usize) -> bool {
        if self.before.is_unchanged(column) {
            return false;
        }
        match (self.before.known(column), self.known(column)) {
            (Known::Unknown, _) | (_, Known::Unknown) => true,
            (old, new) => old != new,
        }
    }
}

impl<R: Row + ?Sized> Side for After<'_, R> {
    fn known(&self, column: usize) -> Known<'_> {
        match self.new.value(column) {
            Value::Unchanged => self.before.logged(column),
            value => plain(value),
        }
    }
}

fn plain(value: Value<'_>) -> Known<'_> {
    match value {
        Value::Null => Known::Null,
        Value::Text(text) => Known::Text(text),
        Value::Unchanged | Value::Unknown => Known::Unknown,
    }
}

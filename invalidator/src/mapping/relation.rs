//! Relations as the replication stream describes them.

/// What an UPDATE or DELETE writes into the log about the old row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReplicaIdentity {
    /// The columns of the primary key or of a chosen unique index, if they changed or the row was deleted (`d`, `i`).
    Key,
    /// The whole old row (`f`).
    Full,
    /// Nothing (`n`).
    Nothing,
}

impl ReplicaIdentity {
    /// Reads `pg_class.relreplident`. What is not known here tells nothing about the old row.
    pub fn from_byte(identity: u8) -> Self {
        match identity {
            b'd' | b'i' => Self::Key,
            b'f' => Self::Full,
            _ => Self::Nothing,
        }
    }
}

/// A column of a relation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    /// The column's name, not quoted.
    pub name: Box<str>,
    /// The oid of its type.
    pub type_oid: u32,
    /// Whether it is part of the replica identity.
    pub is_key: bool,
}

/// A physical table: what a Relation message says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relation {
    /// The table's oid.
    pub oid: u32,
    /// Its schema.
    pub namespace: Box<str>,
    /// Its name in that schema.
    pub name: Box<str>,
    /// What the log holds of old rows.
    pub identity: ReplicaIdentity,
    /// The published columns, in the order of the rows' values.
    pub columns: Vec<Column>,
}

impl Relation {
    /// The index of a column in this relation's rows. Dropped, generated and unlisted columns have none.
    pub fn column(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|column| &*column.name == name)
    }

    /// Whether the column at this index is part of the replica identity.
    pub fn is_key(&self, column: usize) -> bool {
        self.columns.get(column).is_some_and(|column| column.is_key)
    }
}

//! What a table looks like; sent before its first change, and again after it was altered.

use super::ParseError;
use super::reader::Reader;

const MESSAGE: &str = "Relation";

/// What of an old row is in the WAL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ReplicaIdentity {
    /// The primary key.
    Default,
    /// Nothing.
    Nothing,
    /// The whole row.
    Full,
    /// The columns of a chosen unique index.
    Index,
}

/// A table's name and columns as they were when the changes that follow were made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Relation<'a> {
    /// The transaction, inside a stream block.
    pub xid: Option<u32>,
    /// Its oid.
    pub id: u32,
    /// Its schema.
    pub namespace: &'a str,
    /// Its name.
    pub name: &'a str,
    /// What of an old row its changes carry.
    pub replica_identity: ReplicaIdentity,
    /// The columns, in the order of the tuples to come.
    pub columns: RelationColumns<'a>,
}

impl<'a> Relation<'a> {
    pub(super) fn read(reader: &mut Reader<'a>, in_stream: bool) -> Result<Relation<'a>, ParseError> {
        let xid = reader.stream_xid(in_stream)?;
        let id = reader.u32("relation oid")?;
        // The server abbreviates its own schema to nothing.
        let namespace = Some(reader.name("schema")?).filter(|name| !name.is_empty()).unwrap_or("pg_catalog");
        let name = reader.name("relation name")?;
        let replica_identity = match reader.u8("replica identity")? {
            b'd' => ReplicaIdentity::Default,
            b'n' => ReplicaIdentity::Nothing,
            b'f' => ReplicaIdentity::Full,
            b'i' => ReplicaIdentity::Index,
            byte => return Err(reader.unexpected("replica identity", byte)),
        };
        let count = reader.count("column count")?;
        let start = reader.at();
        for _ in 0..count {
            RelationColumn::read(reader)?;
        }
        let columns = RelationColumns { left: count, bytes: reader.since(start) };
        Ok(Relation { xid, id, namespace, name, replica_identity, columns })
    }
}

/// One column of a [`Relation`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RelationColumn<'a> {
    /// Is it part of the replica identity? With [`ReplicaIdentity::Full`] every column is.
    pub key: bool,
    /// Its name.
    pub name: &'a str,
    /// The oid of its type.
    pub type_oid: u32,
    /// The type's modifier, -1 for none.
    pub type_modifier: i32,
}

impl<'a> RelationColumn<'a> {
    fn read(reader: &mut Reader<'a>) -> Result<RelationColumn<'a>, ParseError> {
        Ok(RelationColumn {
            key: reader.u8("column flags")? & 1 != 0,
            name: reader.name("column name")?,
            type_oid: reader.u32("type oid")?,
            type_modifier: reader.i32("type modifier")?,
        })
    }
}

/// Iterator over the columns of a [`Relation`]; a copy begins anew.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RelationColumns<'a> {
    left: u16,
    bytes: &'a [u8],
}

impl<'a> Iterator for RelationColumns<'a> {
    type Item = RelationColumn<'a>;

    fn next(&mut self) -> Option<RelationColumn<'a>> {
        self.left = self.left.checked_sub(1)?;
        let mut reader = Reader::new(self.bytes, 0, MESSAGE);
        let column = RelationColumn::read(&mut reader).ok()?;
        self.bytes = self.bytes.get(reader.at()..)?;
        Some(column)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (usize::from(self.left), Some(usize::from(self.left)))
    }
}

impl ExactSizeIterator for RelationColumns<'_> {}

/// A type that is not built in; sent before the relation that uses it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Type<'a> {
    /// The transaction, inside a stream block.
    pub xid: Option<u32>,
    /// Its oid.
    pub id: u32,
    /// Its schema.
    pub namespace: &'a str,
    /// Its name.
    pub name: &'a str,
}

impl<'a> Type<'a> {
    pub(super) fn read(reader: &mut Reader<'a>, in_stream: bool) -> Result<Type<'a>, ParseError> {
        Ok(Type {
            xid: reader.stream_xid(in_stream)?,
            id: reader.u32("type oid")?,
            namespace: Some(reader.name("schema")?).filter(|name| !name.is_empty()).unwrap_or("pg_catalog"),
            name: reader.name("type name")?,
        })
    }
}

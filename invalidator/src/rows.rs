//! Rows and tables of the stream as the mapping wants to see them: neither knows of the other.

use crate::mapping::{Column, OldRow, Relation, ReplicaIdentity, Row, Value};
use crate::source::pgoutput;

/// A table for the mapping.
pub(crate) fn described(relation: &pgoutput::Relation<'_>) -> Relation {
    use pgoutput::ReplicaIdentity as Wire;
    Relation {
        oid: relation.id,
        namespace: relation.namespace.into(),
        name: relation.name.into(),
        identity: match relation.replica_identity {
            Wire::Default | Wire::Index => ReplicaIdentity::Key,
            Wire::Full => ReplicaIdentity::Full,
            Wire::Nothing => ReplicaIdentity::Nothing,
        },
        columns: relation
            .columns
            .map(|column| Column { name: column.name.into(), type_oid: column.type_oid, is_key: column.key })
            .collect(),
    }
}

/// The columns of a row for the mapping.
pub(crate) struct Columns<'o, 'a>(pub(crate) pgoutput::Row<'o, 'a>);

impl Row for Columns<'_, '_> {
    fn value(&self, column: usize) -> Value<'_> {
        match self.0.get(column) {
            Some(pgoutput::Value::Null) => Value::Null,
            Some(pgoutput::Value::Unchanged) => Value::Unchanged,
            Some(pgoutput::Value::Text(text)) => Value::Text(text),
            Some(pgoutput::Value::Binary(_)) | None => Value::Unknown,
        }
    }
}

/// The old row of a change, as far as the stream has it.
pub(crate) fn old_row<'r, 'o, 'a>(
    old: Option<&pgoutput::OldTuple<'_>>,
    columns: &'r Option<Columns<'o, 'a>>,
) -> OldRow<'r, Columns<'o, 'a>> {
    match (old, columns) {
        (Some(pgoutput::OldTuple::Key(_)), Some(columns)) => OldRow::Key(columns),
        (Some(pgoutput::OldTuple::Full(_)), Some(columns)) => OldRow::Full(columns),
        _ => OldRow::Absent,
    }
}

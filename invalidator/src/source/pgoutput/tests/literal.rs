//! Each message from literal bytes, written down from the protocol's documentation, not from our encoder.

use crate::source::pgoutput::{
    Begin, Commit, Insert, LogicalMessage, Message, Offsets, OldTuple, Origin, ParseError, Parser, RelationColumn,
    ReplicaIdentity, RollbackPrepared, StreamAbort, StreamCommit, StreamStart, TwoPhase, Type, Value, parse,
};
use crate::source::{Lsn, PgTime};

#[track_caller]
fn plain(bytes: &[u8]) -> Message<'_> {
    parse(bytes, false).unwrap()
}

#[track_caller]
fn streamed(bytes: &[u8]) -> Message<'_> {
    parse(bytes, true).unwrap()
}

#[test]
fn begin() {
    let bytes = b"B\
        \0\0\0\0\x01\x4B\x10\xF8\
        \0\x02\xA1\xB2\xC3\xD4\xE5\xF6\
        \0\0\x02\xE1";
    let expected = Begin { final_lsn: Lsn(0x014B_10F8), commit_time: PgTime(0x0002_A1B2_C3D4_E5F6), xid: 737 };
    assert_eq!(plain(bytes), Message::Begin(expected));
}

#[test]
fn commit() {
    let bytes = b"C\0\
        \0\0\0\0\x01\x4B\x10\xF8\
        \0\0\0\0\x01\x4B\x11\x28\
        \xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFE";
    let expected = Commit { commit_lsn: Lsn(0x014B_10F8), end_lsn: Lsn(0x014B_1128), commit_time: PgTime(-2) };
    assert_eq!(plain(bytes), Message::Commit(expected));
}

#[test]
fn commit_with_flags_is_refused() {
    let bytes = b"C\x01\
        \0\0\0\0\x01\x4B\x10\xF8\
        \0\0\0\0\x01\x4B\x11\x28\
        \0\0\0\0\0\0\0\0";
    let expected = ParseError::Unexpected { message: "Commit", field: "flags", byte: 1, offset: 1 };
    assert_eq!(parse(bytes, false), Err(expected));
}

#[test]
fn origin() {
    let expected = Origin { commit_lsn: Lsn(16), name: b"pg_16389" };
    assert_eq!(plain(b"O\0\0\0\0\0\0\0\x10pg_16389\0"), Message::Origin(expected));
}

#[test]
fn relation() {
    let bytes = b"R\
        \0\0\x40\x01\
        public\0products\0d\
        \0\x02\
        \x01id\0\0\0\0\x17\xFF\xFF\xFF\xFF\
        \0pr\xC3\xA9nom\0\0\0\x04\x13\0\0\0\x24";
    let Message::Relation(relation) = plain(bytes) else { panic!() };
    assert_eq!(relation.xid, None);
    assert_eq!(relation.id, 0x4001);
    assert_eq!((relation.namespace, relation.name), ("public", "products"));
    assert_eq!(relation.replica_identity, ReplicaIdentity::Default);
    assert_eq!(relation.columns.len(), 2);
    assert_eq!(
        relation.columns.collect::<Vec<_>>(),
        [
            RelationColumn { key: true, name: "id", type_oid: 23, type_modifier: -1 },
            RelationColumn { key: false, name: "prénom", type_oid: 1043, type_modifier: 36 },
        ]
    );
}

#[test]
fn relation_inside_a_stream_and_of_the_catalog() {
    let bytes = b"R\
        \0\0\x02\xE1\
        \0\0\x40\x01\
        \0pg_class\0f\
        \0\0";
    let Message::Relation(relation) = streamed(bytes) else { panic!() };
    assert_eq!(relation.xid, Some(737));
    assert_eq!((relation.namespace, relation.name), ("pg_catalog", "pg_class"));
    assert_eq!(relation.replica_identity, ReplicaIdentity::Full);
    assert_eq!(relation.columns.count(), 0);
}

#[test]
fn relation_with_an_unknown_identity_or_a_name_that_is_not_utf8() {
    let expected = ParseError::Unexpected { message: "Relation", field: "replica identity", byte: b'x', offset: 9 };
    assert_eq!(parse(b"R\0\0\x40\x01a\0b\0x\0\0", false), Err(expected));
    let expected = ParseError::NotUtf8 { message: "Relation", field: "relation name", offset: 7 };
    assert_eq!(parse(b"R\0\0\x40\x01a\0\xE9\0d\0\0", false), Err(expected));
}

#[test]
fn type_() {
    let expected = Type { xid: None, id: 0x4002, namespace: "public", name: "mood" };
    assert_eq!(plain(b"Y\0\0\x40\x02public\0mood\0"), Message::Type(expected));
    let expected = Type { xid: Some(5), id: 0x4002, namespace: "public", name: "mood" };
    assert_eq!(streamed(b"Y\0\0\0\x05\0\0\x40\x02public\0mood\0"), Message::Type(expected));
}

#[test]
fn insert_with_every_kind_of_value() {
    let bytes = b"I\
        \0\0\x40\x01\
        N\0\x05\
        t\0\0\0\x0242\
        n\
        u\
        t\0\0\0\0\
        b\0\0\0\x04\0\0\0\x2A";
    let Message::Insert(insert) = plain(bytes) else { panic!() };
    assert_eq!((insert.xid, insert.relation, insert.new.len()), (None, 0x4001, 5));
    let expected = [Value::Text(b"42"), Value::Null, Value::Unchanged, Value::Text(b""), Value::Binary(b"\0\0\0\x2A")];
    assert_eq!(insert.new.iter().collect::<Vec<_>>(), expected);

    let mut offsets = Offsets::default();
    let row = offsets.index(insert.new);
    for index in (0..5).rev() {
        assert_eq!(row.get(index), Some(expected[index]));
        assert_eq!(insert.new.get(index), Some(expected[index]));
    }
    assert_eq!((row.get(5), insert.new.get(5)), (None, None));
}

#[test]
fn insert_inside_a_stream_names_its_transaction() {
    let bytes = b"I\0\0\x02\xE1\0\0\x40\x01N\0\x01n";
    let Message::Insert(Insert { xid: Some(737), relation: 0x4001, new }) = streamed(bytes) else { panic!() };
    assert_eq!(new.iter().collect::<Vec<_>>(), [Value::Null]);
    // Outside of a stream the same bytes are nonsense: the transaction id is taken for the relation.
    assert!(parse(bytes, false).is_err());
}

#[test]
fn insert_of_an_old_tuple_is_refused() {
    let expected = ParseError::Unexpected { message: "Insert", field: "tuple kind", byte: b'O', offset: 5 };
    assert_eq!(parse(b"I\0\0\x40\x01O\0\x01n", false), Err(expected));
}

#[test]
fn update_without_with_key_and_with_full_old_row() {
    let Message::Update(update) = plain(b"U\0\0\x40\x01N\0\x01t\0\0\0\x017") else { panic!() };
    assert_eq!((update.relation, update.old), (0x4001, None));
    assert_eq!(update.new.get(0), Some(Value::Text(b"7")));

    let Message::Update(update) = plain(b"U\0\0\x40\x01K\0\x02t\0\0\0\x016nN\0\x02t\0\0\0\x017u") else { panic!() };
    let Some(OldTuple::Key(old)) = update.old else { panic!() };
    assert_eq!(old.iter().collect::<Vec<_>>(), [Value::Text(b"6"), Value::Null]);
    assert_eq!(update.new.iter().collect::<Vec<_>>(), [Value::Text(b"7"), Value::Unchanged]);

    let Message::Update(update) = streamed(b"U\0\0\0\x09\0\0\x40\x01O\0\x01nN\0\x01t\0\0\0\x017") else { panic!() };
    assert_eq!(update.xid, Some(9));
    let Some(OldTuple::Full(old)) = update.old else { panic!() };
    assert_eq!(old.get(0), Some(Value::Null));
}

#[test]
fn update_needs_its_new_row() {
    let expected = ParseError::Truncated { message: "Update", field: "tuple kind", offset: 9 };
    assert_eq!(parse(b"U\0\0\x40\x01K\0\x01n", false), Err(expected));
    let expected = ParseError::Unexpected { message: "Update", field: "tuple kind", byte: b'K', offset: 9 };
    assert_eq!(parse(b"U\0\0\x40\x01K\0\x01nK\0\x01n", false), Err(expected));
}

#[test]
fn delete() {
    let Message::Delete(delete) = plain(b"D\0\0\x40\x01K\0\x01t\0\0\0\x017") else { panic!() };
    assert_eq!((delete.xid, delete.relation), (None, 0x4001));
    assert!(matches!(delete.old, OldTuple::Key(old) if old.get(0) == Some(Value::Text(b"7"))));

    let Message::Delete(delete) = streamed(b"D\0\0\0\x09\0\0\x40\x01O\0\x01n") else { panic!() };
    assert_eq!(delete.xid, Some(9));
    assert!(matches!(delete.old, OldTuple::Full(_)));

    let expected = ParseError::Unexpected { message: "Delete", field: "tuple kind", byte: b'N', offset: 5 };
    assert_eq!(parse(b"D\0\0\x40\x01N\0\x01n", false), Err(expected));
}

#[test]
fn truncate() {
    let Message::Truncate(truncate) = plain(b"T\0\0\0\x02\x03\0\0\x40\x01\0\0\x40\x02") else { panic!() };
    assert!(truncate.xid.is_none() && truncate.cascade && truncate.restart_identity);
    assert_eq!(truncate.relations.collect::<Vec<_>>(), [0x4001, 0x4002]);

    let Message::Truncate(truncate) = streamed(b"T\0\0\0\x09\0\0\0\x01\0\0\0\x40\x01") else { panic!() };
    assert_eq!((truncate.xid, truncate.cascade, truncate.restart_identity), (Some(9), false, false));
    assert_eq!(truncate.relations.collect::<Vec<_>>(), [0x4001]);

    // A count that the message cannot hold allocates nothing.
    let expected = ParseError::Truncated { message: "Truncate", field: "relation oids", offset: 6 };
    assert_eq!(parse(b"T\x7F\xFF\xFF\xFF\0\0\0\x40\x01", false), Err(expected));
    let expected = ParseError::Negative { message: "Truncate", field: "relation count", value: -1, offset: 1 };
    assert_eq!(parse(b"T\xFF\xFF\xFF\xFF\0", false), Err(expected));
}

#[test]
fn logical_message() {
    let expected = LogicalMessage {
        xid: None,
        transactional: true,
        lsn: Lsn(0x0000_0001_0000_0002),
        prefix: b"cachetag",
        content: b"hard\nproduct:42\n",
    };
    let bytes = b"M\x01\0\0\0\x01\0\0\0\x02cachetag\0\0\0\0\x10hard\nproduct:42\n";
    assert_eq!(plain(bytes), Message::Logical(expected));

    let expected = LogicalMessage { xid: Some(9), transactional: false, lsn: Lsn(2), prefix: b"\xFF", content: b"" };
    assert_eq!(streamed(b"M\0\0\0\x09\0\0\0\0\0\0\0\0\x02\xFF\0\0\0\0\0"), Message::Logical(expected));
}

#[test]
fn stream_blocks() {
    let mut parser = Parser::new();
    let start = parser.parse(b"S\0\0\x02\xE1\x01").unwrap();
    assert_eq!(start, Message::StreamStart(StreamStart { xid: 737, first_segment: true }));
    assert!(parser.in_stream());
    let nested = parser.parse(b"S\0\0\x02\xE1\0");
    assert_eq!(nested, Err(ParseError::Misplaced { message: "Stream Start" }));
    let insert = parser.parse(b"I\0\0\x02\xE2\0\0\x40\x01N\0\0").unwrap();
    assert!(matches!(insert, Message::Insert(Insert { xid: Some(738), relation: 0x4001, .. })));
    assert_eq!(parser.parse(b"E"), Ok(Message::StreamStop));
    assert!(!parser.in_stream());
    assert_eq!(parser.parse(b"E"), Err(ParseError::Misplaced { message: "Stream Stop" }));
    let insert = parser.parse(b"I\0\0\x40\x01N\0\0").unwrap();
    assert!(matches!(insert, Message::Insert(Insert { xid: None, relation: 0x4001, .. })));
}

#[test]
fn stream_start_must_say_whether_it_is_the_first() {
    let expected = ParseError::Unexpected { message: "Stream Start", field: "first segment", byte: 2, offset: 5 };
    assert_eq!(parse(b"S\0\0\x02\xE1\x02", false), Err(expected));
}

#[test]
fn stream_commit_and_abort() {
    let bytes = b"c\0\0\x02\xE1\0\
        \0\0\0\0\x01\x4B\x10\xF8\
        \0\0\0\0\x01\x4B\x11\x28\
        \0\0\0\0\0\0\0\x07";
    let expected =
        StreamCommit { xid: 737, commit_lsn: Lsn(0x014B_10F8), end_lsn: Lsn(0x014B_1128), commit_time: PgTime(7) };
    assert_eq!(plain(bytes), Message::StreamCommit(expected));
    let expected = StreamAbort { xid: 737, subxid: 738 };
    assert_eq!(plain(b"A\0\0\x02\xE1\0\0\x02\xE2"), Message::StreamAbort(expected));
}

#[test]
fn two_phase() {
    const BODY: &[u8] = b"\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x02\0\0\0\0\0\0\0\x03\0\0\0\x04gid\0";
    let body = TwoPhase { lsn: Lsn(1), end_lsn: Lsn(2), time: PgTime(3), xid: 4, gid: b"gid" };
    assert_eq!(plain(&[b"b", BODY].concat()), Message::BeginPrepare(body));
    assert_eq!(plain(&[b"P\0", BODY].concat()), Message::Prepare(body));
    assert_eq!(plain(&[b"K\0", BODY].concat()), Message::CommitPrepared(body));
    assert_eq!(plain(&[b"p\0", BODY].concat()), Message::StreamPrepare(body));

    let bytes = b"r\0\
        \0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x02\
        \0\0\0\0\0\0\0\x03\0\0\0\0\0\0\0\x04\
        \0\0\0\x05gid\0";
    let expected = RollbackPrepared {
        prepare_end_lsn: Lsn(1),
        rollback_end_lsn: Lsn(2),
        prepare_time: PgTime(3),
        rollback_time: PgTime(4),
        xid: 5,
        gid: b"gid",
    };
    assert_eq!(plain(bytes), Message::RollbackPrepared(expected));
}

#[test]
fn nothing_and_unknown() {
    assert_eq!(parse(b"", false), Err(ParseError::Empty));
    let error = parse(b"\x9Aabc", false).unwrap_err();
    assert_eq!(error, ParseError::UnknownTag { tag: 0x9A, offset: 0 });
    assert!(error.to_string().starts_with(r"unknown pgoutput message '\x9a' (0x9A) at byte 0"), "{error}");
}

#[test]
fn leftover_and_truncated() {
    let expected = ParseError::Leftover { message: "Stream Stop", offset: 1, count: 2 };
    assert_eq!(parse(b"E\0\0", false), Err(expected));
    let expected = ParseError::Truncated { message: "Stream Abort", field: "subtransaction id", offset: 5 };
    assert_eq!(parse(b"A\0\0\0\x01\0\0\0", false), Err(expected));
    let expected = ParseError::Truncated { message: "Origin", field: "origin name", offset: 9 };
    assert_eq!(parse(b"O\0\0\0\0\0\0\0\x10pg", false), Err(expected));
}

#[test]
fn tuples_that_lie() {
    let cut = ParseError::Truncated { message: "Insert", field: "column value", offset: 13 };
    assert_eq!(parse(b"I\0\0\x40\x01N\0\x01t\0\0\0\x0342", false), Err(cut));
    let negative = ParseError::Negative { message: "Insert", field: "column length", value: -1, offset: 9 };
    assert_eq!(parse(b"I\0\0\x40\x01N\0\x01t\xFF\xFF\xFF\xFF", false), Err(negative));
    let negative = ParseError::Negative { message: "Insert", field: "column count", value: -1, offset: 6 };
    assert_eq!(parse(b"I\0\0\x40\x01N\xFF\xFF", false), Err(negative));
    let kind = ParseError::Unexpected { message: "Insert", field: "column kind", byte: b'x', offset: 8 };
    assert_eq!(parse(b"I\0\0\x40\x01N\0\x01x", false), Err(kind));
}

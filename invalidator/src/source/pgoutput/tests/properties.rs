//! No bytes make the parser panic, and what the encoder says is what the parser hears.

use proptest::collection::vec;
use proptest::prelude::*;

use super::encoder::{Column, Message, Old, Tuple, TwoPhase, Value};
use crate::source::pgoutput::{self, Offsets, ParseError};

fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        Just(Value::Unchanged),
        vec(any::<u8>(), 0..40).prop_map(Value::Text),
        vec(any::<u8>(), 0..8).prop_map(Value::Binary),
    ]
}

fn tuple() -> impl Strategy<Value = Tuple> {
    vec(value(), 0..12)
}

fn old() -> impl Strategy<Value = Old> {
    prop_oneof![tuple().prop_map(Old::Key), tuple().prop_map(Old::Full)]
}

/// A C string: anything but NUL.
fn c_string() -> impl Strategy<Value = Vec<u8>> {
    vec(1..=255u8, 0..20)
}

fn name() -> impl Strategy<Value = String> {
    "[^\0]{1,20}"
}

fn column() -> impl Strategy<Value = Column> {
    (any::<bool>(), name(), any::<u32>(), any::<i32>()).prop_map(|(key, name, type_oid, type_modifier)| Column {
        key,
        name,
        type_oid,
        type_modifier,
    })
}

fn two_phase() -> impl Strategy<Value = TwoPhase> {
    (any::<u64>(), any::<u64>(), any::<i64>(), any::<u32>(), c_string())
        .prop_map(|(lsn, end_lsn, time, xid, gid)| TwoPhase { lsn, end_lsn, time, xid, gid })
}

/// Messages whose bytes depend on whether a stream block is open.
fn change(xid: Option<u32>) -> impl Strategy<Value = Message> {
    let identity = prop::sample::select(b"dnfi".as_slice());
    prop_oneof![
        (any::<u32>(), name(), name(), identity, vec(column(), 0..8)).prop_map(
            move |(id, namespace, name, identity, columns)| Message::Relation {
                xid,
                id,
                namespace,
                name,
                identity,
                columns
            }
        ),
        (any::<u32>(), name(), name()).prop_map(move |(id, namespace, name)| Message::Type {
            xid,
            id,
            namespace,
            name
        }),
        (any::<u32>(), tuple()).prop_map(move |(relation, new)| Message::Insert { xid, relation, new }),
        (any::<u32>(), prop_oneof![Just(Old::None), old()], tuple())
            .prop_map(move |(relation, old, new)| { Message::Update { xid, relation, old, new } }),
        (any::<u32>(), old()).prop_map(move |(relation, old)| Message::Delete { xid, relation, old }),
        (any::<bool>(), any::<bool>(), vec(any::<u32>(), 0..6))
            .prop_map(move |(cascade, restart, relations)| { Message::Truncate { xid, cascade, restart, relations } }),
        (any::<bool>(), any::<u64>(), c_string(), vec(any::<u8>(), 0..40)).prop_map(
            move |(transactional, lsn, prefix, content)| Message::Logical { xid, transactional, lsn, prefix, content }
        ),
    ]
}

/// Messages that look the same everywhere.
fn boundary() -> impl Strategy<Value = Message> {
    prop_oneof![
        (any::<u64>(), any::<i64>(), any::<u32>()).prop_map(|(final_lsn, time, xid)| Message::Begin {
            final_lsn,
            time,
            xid
        }),
        (any::<u64>(), any::<u64>(), any::<i64>()).prop_map(|(commit_lsn, end_lsn, time)| Message::Commit {
            commit_lsn,
            end_lsn,
            time
        }),
        (any::<u64>(), c_string()).prop_map(|(lsn, name)| Message::Origin { lsn, name }),
        (any::<u32>(), any::<bool>()).prop_map(|(xid, first)| Message::StreamStart { xid, first }),
        Just(Message::StreamStop),
        (any::<u32>(), any::<u64>(), any::<u64>(), any::<i64>())
            .prop_map(|(xid, commit_lsn, end_lsn, time)| Message::StreamCommit { xid, commit_lsn, end_lsn, time }),
        (any::<u32>(), any::<u32>()).prop_map(|(xid, subxid)| Message::StreamAbort { xid, subxid }),
        two_phase().prop_map(Message::BeginPrepare),
        two_phase().prop_map(Message::Prepare),
        two_phase().prop_map(Message::CommitPrepared),
        two_phase().prop_map(Message::StreamPrepare),
        (any::<(u64, u64, i64, i64, u32)>(), c_string()).prop_map(
            |((prepare_end, rollback_end, prepared, rolled_back, xid), gid)| Message::RollbackPrepared {
                prepare_end,
                rollback_end,
                prepared,
                rolled_back,
                xid,
                gid
            }
        ),
    ]
}

/// A message and whether it was written inside a stream block.
fn message() -> impl Strategy<Value = (Message, bool)> {
    prop_oneof![
        2 => any::<Option<u32>>().prop_flat_map(|xid| change(xid).prop_map(move |message| (message, xid.is_some()))),
        1 => boundary().prop_map(|message| (message, false)),
    ]
}

/// Touches everything that a consumer could, so that a lazy walk that panics is found too.
fn walk(message: pgoutput::Message<'_>) -> Message {
    let mut offsets = Offsets::default();
    let mut index = |tuple: pgoutput::Tuple<'_>| {
        let row = offsets.index(tuple);
        assert_eq!(row.len(), tuple.len());
        for (i, value) in tuple.iter().enumerate() {
            assert_eq!(row.get(i), Some(value));
        }
        assert_eq!(row.get(tuple.len()), None);
        assert_eq!(tuple.iter().count(), tuple.len());
    };
    match message {
        pgoutput::Message::Insert(m) => index(m.new),
        pgoutput::Message::Update(m) => {
            if let Some(old) = m.old {
                index(old.tuple());
            }
            index(m.new);
        }
        pgoutput::Message::Delete(m) => index(m.old.tuple()),
        _ => {}
    }
    Message::from(message)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    #[test]
    fn round_trip((message, in_stream) in message()) {
        let bytes = message.encode();
        prop_assert_eq!(walk(pgoutput::parse(&bytes, in_stream).unwrap()), message);
    }

    #[test]
    fn every_prefix_is_truncated_and_every_suffix_left_over((message, in_stream) in message(), more in vec(any::<u8>(), 1..9)) {
        let bytes = message.encode();
        for end in 1..bytes.len() {
            let error = pgoutput::parse(&bytes[..end], in_stream).unwrap_err();
            let is_truncated = matches!(error, ParseError::Truncated { .. });
            prop_assert!(is_truncated, "{} bytes of {}: {}", end, bytes.len(), error);
        }
        let longer = [bytes.as_slice(), more.as_slice()].concat();
        let error = pgoutput::parse(&longer, in_stream).unwrap_err();
        let (at, extra) = (bytes.len(), more.len());
        let is_leftover = matches!(error, ParseError::Leftover { offset, count, .. } if offset == at && count == extra);
        prop_assert!(is_leftover, "{}", error);
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in vec(any::<u8>(), 0..200), in_stream in any::<bool>()) {
        if let Ok(message) = pgoutput::parse(&bytes, in_stream) {
            walk(message);
        }
    }

    #[test]
    fn arbitrary_bodies_of_known_messages_never_panic(
        tag in prop::sample::select(b"BCORYIUDTMSEcAbPKrp".as_slice()),
        body in vec(prop_oneof![Just(0u8), 0..4u8, prop::sample::select(b"NKOntub".as_slice()), any::<u8>()], 0..80),
        in_stream in any::<bool>(),
    ) {
        let bytes = [[tag].as_slice(), body.as_slice()].concat();
        if let Ok(message) = pgoutput::parse(&bytes, in_stream) {
            walk(message);
        }
    }

    #[test]
    fn mutated_messages_never_panic(
        (message, in_stream) in message(),
        edits in vec((any::<prop::sample::Index>(), any::<u8>()), 1..4),
        flip in any::<bool>(),
    ) {
        let mut bytes = message.encode();
        for (at, value) in edits {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        if let Ok(message) = pgoutput::parse(&bytes, in_stream ^ flip) {
            walk(message);
        }
    }

    #[test]
    fn errors_are_readable(bytes in vec(any::<u8>(), 0..60), in_stream in any::<bool>()) {
        if let Err(error) = pgoutput::parse(&bytes, in_stream) {
            let text = error.to_string();
            prop_assert!(text.contains("byte") && text.contains("pgoutput"), "{}", text);
        }
    }
}

//! The replication stream: no bytes make a parser panic, and nothing is accepted that is not exactly one message.

use bytes::Bytes;
use cachetag_invalidator::source::Frame;
use cachetag_invalidator::source::pgoutput::{Message, Offsets, ParseError, Parser, Tuple, parse};

use super::input::Input;

/// Messages, each with its length before it, as one stream.
pub(super) fn messages(data: &[u8]) {
    let mut input = Input::new(data);
    let mut parser = Parser::new();
    while !input.is_empty() {
        let bytes = input.bytes();
        let was_in_stream = parser.in_stream();
        match parser.parse(bytes) {
            Ok(message) => {
                walk(&message);
                assert_eq!(parse(bytes, was_in_stream), Ok(message));
                match message {
                    Message::StreamStart(_) => assert!(!was_in_stream && parser.in_stream()),
                    Message::StreamStop => assert!(was_in_stream && !parser.in_stream()),
                    _ => assert_eq!(parser.in_stream(), was_in_stream),
                }
                is_exactly_one(bytes, was_in_stream);
            }
            Err(error) => {
                assert_eq!(parser.in_stream(), was_in_stream, "an error leaves the parser as it was");
                assert!(error.to_string().len() < 500, "{error}");
            }
        }
    }
}

/// A message is neither the beginning of another nor has anything behind it.
fn is_exactly_one(bytes: &[u8], in_stream: bool) {
    for end in 1..bytes.len() {
        let error = parse(&bytes[..end], in_stream).expect_err("a part of a message");
        assert!(matches!(error, ParseError::Truncated { .. }), "{end} bytes of {}: {error}", bytes.len());
    }
    let longer = [bytes, &[0]].concat();
    let error = parse(&longer, in_stream).expect_err("more than a message");
    assert!(matches!(error, ParseError::Leftover { count: 1, .. }), "{error}");
}

/// Touches everything that a consumer could.
fn walk(message: &Message<'_>) {
    let mut offsets = Offsets::default();
    let mut row = |tuple: Tuple<'_>| {
        let row = offsets.index(tuple);
        assert_eq!((row.len(), tuple.iter().count()), (tuple.len(), tuple.len()));
        for (at, value) in tuple.iter().enumerate() {
            assert_eq!((row.get(at), tuple.get(at)), (Some(value), Some(value)));
        }
        assert_eq!((row.get(tuple.len()), tuple.get(tuple.len())), (None, None));
    };
    match message {
        Message::Insert(insert) => row(insert.new),
        Message::Update(update) => {
            update.old.iter().for_each(|old| row(old.tuple()));
            row(update.new);
        }
        Message::Delete(delete) => row(delete.old.tuple()),
        Message::Relation(relation) => relation.columns.for_each(|column| assert!(column.name.len() < 256)),
        Message::Truncate(truncate) => assert!(truncate.relations.count() < 256),
        _ => {}
    }
}

/// A frame of the replication protocol around a message.
pub(super) fn frames(data: &[u8]) {
    match Frame::parse(Bytes::copy_from_slice(data)) {
        Ok(Frame::XLogData(change)) => assert_eq!(change.data, data[25..]),
        Ok(Frame::Keepalive(_)) => assert_eq!(data.len(), 18),
        Err(error) => assert!(error.to_string().len() < 200),
    }
}

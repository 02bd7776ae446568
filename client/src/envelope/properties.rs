//! Payloads as literal bytes, and what holds for all of them.

use std::collections::BTreeMap;

use proptest::collection::{btree_map, vec};
use proptest::prelude::*;
use serde::{Deserialize, Serialize};

use super::*;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
enum Kind {
    Plain,
    Priced(i64, Option<String>),
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Page {
    title: String,
    body: String,
    hits: u64,
    kinds: Vec<Kind>,
    labels: BTreeMap<String, i32>,
}

fn pages() -> impl Strategy<Value = Page> {
    let kind = prop_oneof![
        Just(Kind::Plain),
        (any::<i64>(), proptest::option::of(".*")).prop_map(|(price, note)| Kind::Priced(price, note)),
    ];
    (".*", "(lorem |ipsum ){0,400}", any::<u64>(), vec(kind, 0..8), btree_map(".*", any::<i32>(), 0..4))
        .prop_map(|(title, body, hits, kinds, labels)| Page { title, body, hits, kinds, labels })
}

fn envelopes() -> impl Strategy<Value = Envelope> {
    let formats = prop_oneof![Just(Format::Json), Just(Format::Postcard)];
    let schemas = prop_oneof![Just(0), any::<u32>()];
    (formats, schemas, proptest::option::of(0usize..4096)).prop_map(|(format, schema, from)| {
        Envelope::default().format(format).schema(schema).compress_from(from).max_body(1 << 20)
    })
}

#[test]
fn plain_json_has_nothing_around_it() {
    let envelope = Envelope::default();
    assert_eq!(envelope.encode(&(1, "é", None::<u8>)).unwrap(), "[1,\"é\",null]".as_bytes());
    assert_eq!(envelope.decode::<(u8, String, Option<u8>)>(b" [1,\"\\u00e9\",null]\n").unwrap().1, "é");
}

#[test]
fn a_stamp_is_these_bytes() {
    let payload = Envelope::default().format(Format::Postcard).schema(0x0102_0304).encode(&"ab").unwrap();
    assert_eq!(payload[..12], *b"\xFF\x01\x02\x00\x01\x02\x03\x04\x00\x00\x00\x03");
    assert_eq!(payload[12..16], (xxhash_rust::xxh3::xxh3_64(b"\x02ab") as u32).to_be_bytes());
    assert_eq!(payload[16..], *b"\x02ab");

    let payload = Envelope::default().schema(7).encode(&true).unwrap();
    assert_eq!(payload[..12], *b"\xFF\x01\x01\x00\x00\x00\x00\x07\x00\x00\x00\x04");
    assert_eq!(payload[16..], *b"true");
}

#[test]
fn a_long_json_is_one_zstd_frame_behind_a_stamp() {
    let payload = Envelope::default().encode(&"x".repeat(2000)).unwrap();
    assert_eq!(payload[..12], *b"\xFF\x01\x01\x01\x00\x00\x00\x00\x00\x00\x07\xD2");
    assert_eq!(payload[16..20], *b"\x28\xB5\x2F\xFD");
    assert_eq!(Envelope::default().decode::<String>(&payload).unwrap(), "x".repeat(2000));
}

#[test]
fn what_does_not_shrink_stays_as_it_is() {
    let mut rng = fastrand::Rng::with_seed(1);
    let noise: Vec<char> = (0..2000).map(|_| rng.char('\u{10000}'..'\u{10FFFF}')).collect();
    let noise: String = noise.into_iter().collect();
    let packed = Envelope::default().format(Format::Postcard).encode(&noise).unwrap();
    let stamp = Stamp::parse(&packed).unwrap().0;
    assert!(stamp.compression == Compression::None || packed.len() < noise.len());
    let dense: Vec<u8> = std::iter::repeat_with(|| rng.u8(..)).take(2000).collect();
    let packed = Envelope::default().format(Format::Postcard).encode(&dense).unwrap();
    assert_eq!(Stamp::parse(&packed).unwrap().0.compression, Compression::None);
}

#[test]
fn every_mismatch_has_its_reason() {
    let json = Envelope::default();
    let binary = json.format(Format::Postcard);
    let wrong = |found| Mismatch::Format { found, wanted: if found == "json" { "postcard" } else { "json" } };
    assert_eq!(binary.decode::<u8>(b"7"), Err(wrong("json")));
    assert_eq!(json.decode::<u8>(&binary.encode(&7u8).unwrap()), Err(wrong("postcard")));
    assert_eq!(json.schema(1).decode::<u8>(b"7"), Err(Mismatch::Schema { found: 0, wanted: 1 }));
    assert_eq!(json.decode::<u8>(b""), Err(Mismatch::Value { format: "json" }));
    assert_eq!(json.decode::<u8>(b"\"seven\""), Err(Mismatch::Value { format: "json" }));
    let cut = Mismatch::Damaged { what: "the stamp is cut short" };
    assert_eq!(json.decode::<u8>(b"\xFF"), Err(cut));
    assert_eq!(json.decode::<u8>(b"\xFF\x01\x01\x00"), Err(cut));
    assert_eq!(json.decode::<u8>(b"\xFF\x02"), Err(Mismatch::Stamp { field: "layout", value: 2 }));
    let odd = |at: usize, value| {
        let mut payload = binary.encode(&7u8).unwrap().to_vec();
        payload[at] = value;
        binary.decode::<u8>(&payload)
    };
    assert_eq!(odd(2, 9), Err(Mismatch::Stamp { field: "format", value: 9 }));
    assert_eq!(odd(3, 9), Err(Mismatch::Stamp { field: "compression", value: 9 }));
    assert_eq!(odd(11, 9), Err(Mismatch::Damaged { what: "the body has another length" }));
    assert_eq!(odd(16, 9), Err(Mismatch::Damaged { what: "its checksum is another" }));
    // Of another type, though every byte is right: two bytes where one was asked for.
    assert_eq!(binary.decode::<u8>(&binary.encode(&(7u8, 8u8)).unwrap()), Err(Mismatch::Value { format: "postcard" }));
}

#[test]
fn a_bomb_is_a_miss_and_takes_no_memory() {
    let bomb = Envelope::default().encode(&"0".repeat(8 << 20)).unwrap();
    assert!(bomb.len() < 2000);
    let careful = Envelope::default().max_body(1 << 20);
    let too_long = Mismatch::TooLong { bytes: (8 << 20) + 2, limit: 1 << 20 };
    assert_eq!(careful.decode::<String>(&bomb), Err(too_long));
    // One that lies about its length is cut off at what it claims.
    let mut liar = bomb.to_vec();
    liar[8..12].copy_from_slice(&100u32.to_be_bytes());
    assert_eq!(careful.decode::<String>(&liar), Err(Mismatch::Damaged { what: "zstd cannot read it" }));
}

proptest! {
    #[test]
    fn what_goes_in_comes_out(page in pages(), envelope in envelopes()) {
        let payload = envelope.encode(&page).unwrap();
        prop_assert_eq!(envelope.decode::<Page>(&payload), Ok(page));
        let other = Envelope { schema: envelope.schema.wrapping_add(1), ..envelope };
        prop_assert!(other.decode::<Page>(&payload).is_err(), "another schema");
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in vec(any::<u8>(), 0..64), envelope in envelopes()) {
        let _ = envelope.decode::<Page>(&bytes);
        let stamped = Stamp { format: envelope.format, schema: envelope.schema, compression: Compression::Zstd, body_bytes: 64 };
        let _ = envelope.decode::<Page>(&stamped.before(&bytes));
        let _ = envelope.decode::<Page>(&Stamp { compression: Compression::None, body_bytes: bytes.len() as u32, ..stamped }.before(&bytes));
    }

    #[test]
    fn a_payload_says_how_long_its_body_is(page in pages(), envelope in envelopes()) {
        let body = envelope.format.serialize(&page).unwrap();
        prop_assert_eq!(super::body_bytes(&envelope.encode(&page).unwrap()), body.len());
    }

    /// One changed byte of a stamped payload is found out, wherever it is.
    #[test]
    fn damage_is_a_miss(page in pages(), envelope in envelopes(), at in any::<proptest::sample::Index>(), change in 1u8..) {
        let mut payload = envelope.encode(&page).unwrap().to_vec();
        prop_assume!(payload[0] == MAGIC);
        let at = at.index(payload.len());
        payload[at] ^= change;
        prop_assert!(envelope.decode::<Page>(&payload).is_err());
    }

    #[test]
    fn a_prefix_is_a_miss(page in pages(), envelope in envelopes(), at in any::<proptest::sample::Index>()) {
        let payload = envelope.encode(&page).unwrap();
        prop_assert!(envelope.decode::<Page>(&payload[..at.index(payload.len())]).is_err());
    }
}

//! Malformed calls: each error as it reads, and the tag grammar against `core`.

use std::str::FromStr;

use cachetag_core::Tag;

use crate::cache::{Cache, Dice, Put, put};

const V: &str = "1700000000.00000000000000000100";

/// Calls (function, key, arguments) and the error that each is answered with.
#[rustfmt::skip]
const ERRORS: &[(&str, &[&str], &str)] = &[
    ("cachetag_get ct:e:k", &[], r#"KEYS: expected one key of the form {namespace}:e:<key>, got "ct:e:k""#),
    ("cachetag_get {ct}:e:", &[], r#"KEYS: expected one key of the form {namespace}:e:<key>, got "{ct}:e:""#),
    ("cachetag_get {ct}:w", &[], r#"KEYS: expected one key of the form {namespace}:e:<key>, got "{ct}:w""#),
    ("cachetag_get {}:e:k", &[], r#"KEYS: expected one key of the form {namespace}:e:<key>, got "{}:e:k""#),
    ("cachetag_get x{ct}:e:k", &[], r#"KEYS: expected one key of the form {namespace}:e:<key>, got "x{ct}:e:k""#),
    ("cachetag_put {ct}:w", &["v", V, "1", "TAGS", "0"], r#"KEYS: expected one key of the form {namespace}:e:<key>, got "{ct}:w""#),
    ("cachetag_drop {ct}:t:k", &[], r#"KEYS: expected one key of the form {namespace}:e:<key>, got "{ct}:t:k""#),
    ("cachetag_release {ct}:l:k", &["id"], r#"KEYS: expected one key of the form {namespace}:e:<key>, got "{ct}:l:k""#),
    ("cachetag_release {ct}:e:k", &[], "lease: expected a text of 1 to 256 bytes"),
    ("cachetag_release {ct}:e:k", &["id", "x"], r#"arguments: unexpected "x""#),
    ("cachetag_explain w", &[], r#"KEYS: expected one key of the form {namespace}:e:<key>, got "w""#),
    ("cachetag_peek w", &[], r#"KEYS: expected one key of the form {namespace}:e:<key>, got "w""#),
    ("cachetag_claim {ct}:e:w", &["a", "b", "1"], r#"KEYS: expected one key of the form {namespace}:w, got "{ct}:e:w""#),
    ("cachetag_apply {ct}:ww", &["a", V, V], r#"KEYS: expected one key of the form {namespace}:w, got "{ct}:ww""#),
    ("cachetag_advance w", &["a", V, V, "", ""], r#"KEYS: expected one key of the form {namespace}:w, got "w""#),
    ("cachetag_mark w", &["a"], r#"KEYS: expected one key of the form {namespace}:w, got "w""#),
    ("cachetag_mark {ct}:w", &[], "claimant: expected a text of 1 to 256 bytes"),
    ("cachetag_mark {ct}:w", &["a", "b"], r#"arguments: unexpected "b""#),
    ("cachetag_reset w", &["a", "b", "1", "1"], r#"KEYS: expected one key of the form {namespace}:w, got "w""#),
    ("cachetag_state w", &[], r#"KEYS: expected one key of the form {namespace}:w, got "w""#),
    ("cachetag_get {ct}:e:k", &["MAXAGE", "1"], r#"option "MAXAGE": unknown; there are MAXLAG ms, ATLEAST position, BETA x, NOLEASE, SEEN"#),
    ("cachetag_get {ct}:e:k", &[""], r#"option "": unknown; there are MAXLAG ms, ATLEAST position, BETA x, NOLEASE, SEEN"#),
    ("cachetag_get {ct}:e:k", &["MAXLAG"], "MAXLAG: expected milliseconds, an integer from 0 to 1000000000000, got nothing"),
    ("cachetag_get {ct}:e:k", &["maxlag", "5s"], r#"MAXLAG: expected milliseconds, an integer from 0 to 1000000000000, got "5s""#),
    ("cachetag_get {ct}:e:k", &["MAXLAG", "-1"], r#"MAXLAG: expected milliseconds, an integer from 0 to 1000000000000, got "-1""#),
    ("cachetag_get {ct}:e:k", &["MAXLAG", "1000000000001"], r#"MAXLAG: expected milliseconds, an integer from 0 to 1000000000000, got "1000000000001""#),
    ("cachetag_get {ct}:e:k", &["MAXLAG", "1", "MAXLAG", "1"], "MAXLAG: given twice"),
    ("cachetag_get {ct}:e:k", &["NOLEASE", "NOLEASE"], "NOLEASE: given twice"),
    ("cachetag_get {ct}:e:k", &["BETA", "-1"], r#"BETA: expected a decimal number from 0 to 1000, got "-1""#),
    ("cachetag_get {ct}:e:k", &["BETA", "inf"], r#"BETA: expected a decimal number from 0 to 1000, got "inf""#),
    ("cachetag_get {ct}:e:k", &["BETA", "0x10"], r#"BETA: expected a decimal number from 0 to 1000, got "0x10""#),
    ("cachetag_get {ct}:e:k", &["BETA", "1e4"], r#"BETA: expected a decimal number from 0 to 1000, got "1e4""#),
    ("cachetag_get {ct}:e:k", &["BETA"], "BETA: expected a decimal number from 0 to 1000, got nothing"),
    ("cachetag_get {ct}:e:k", &["ATLEAST", "100"], r#"ATLEAST: expected a version, an LSN such as 16/B374D848 or a position such as 1@16/B374D848, got "100""#),
    ("cachetag_get {ct}:e:k", &["ATLEAST", "100000000/0"], r#"ATLEAST: expected a version, an LSN such as 16/B374D848 or a position such as 1@16/B374D848, got "100000000/0""#),
    ("cachetag_get {ct}:e:k", &["ATLEAST", "1/G"], r#"ATLEAST: expected a version, an LSN such as 16/B374D848 or a position such as 1@16/B374D848, got "1/G""#),
    ("cachetag_get {ct}:e:k", &["ATLEAST", "@0/1"], r#"ATLEAST: expected a version, an LSN such as 16/B374D848 or a position such as 1@16/B374D848, got "@0/1""#),
    ("cachetag_get {ct}:e:k", &["ATLEAST", "1@"], r#"ATLEAST: expected a version, an LSN such as 16/B374D848 or a position such as 1@16/B374D848, got "1@""#),
    ("cachetag_get {ct}:e:k", &["ATLEAST", "x@0/1"], r#"ATLEAST: expected a version, an LSN such as 16/B374D848 or a position such as 1@16/B374D848, got "x@0/1""#),
    ("cachetag_get {ct}:e:k", &["ATLEAST", "1@100"], r#"ATLEAST: expected a version, an LSN such as 16/B374D848 or a position such as 1@16/B374D848, got "1@100""#),
    ("cachetag_get {ct}:e:k", &["ATLEAST", "10000000000@0/1x"], r#"ATLEAST: expected a version, an LSN such as 16/B374D848 or a position such as 1@16/B374D848, got "10000000000@0/1x""#),
    ("cachetag_get {ct}:e:k", &["ATLEAST", "1@2@0/1"], r#"ATLEAST: expected a version, an LSN such as 16/B374D848 or a position such as 1@16/B374D848, got "1@2@0/1""#),
    ("cachetag_get {ct}:e:k", &["SEEN", "SEEN"], "SEEN: given twice"),
    ("cachetag_get {ct}:e:k", &["ATLEAST"], "ATLEAST: expected a version, an LSN such as 16/B374D848 or a position such as 1@16/B374D848, got nothing"),
    (
        "cachetag_get {ct}:e:k",
        &["ATLEAST", "1700000000.18446744073709551616"],
        r#"ATLEAST: expected a version, ten digits, a dot and twenty digits, got "1700000000.18446744073709551616""#,
    ),
    ("cachetag_put {ct}:e:k", &[], "payload: missing"),
    ("cachetag_put {ct}:e:k", &["v"], "token: expected a version, ten digits, a dot and twenty digits, got nothing"),
    ("cachetag_put {ct}:e:k", &["v", "x", "1", "TAGS", "0"], r#"token: expected a version, ten digits, a dot and twenty digits, got "x""#),
    ("cachetag_put {ct}:e:k", &["v", V], "ttl_ms: expected milliseconds, an integer from 1 to 1000000000000, got nothing"),
    ("cachetag_put {ct}:e:k", &["v", V, "0", "TAGS", "0"], r#"ttl_ms: expected milliseconds, an integer from 1 to 1000000000000, got "0""#),
    ("cachetag_put {ct}:e:k", &["v", V, "1.5", "TAGS", "0"], r#"ttl_ms: expected milliseconds, an integer from 1 to 1000000000000, got "1.5""#),
    ("cachetag_put {ct}:e:k", &["v", V, "99999999999999999999", "TAGS", "0"], r#"ttl_ms: expected milliseconds, an integer from 1 to 1000000000000, got "99999999999999999999""#),
    ("cachetag_put {ct}:e:k", &["v", V, "1"], "TAGS: missing; TAGS 0 stores an entry that only its TTL and the floor end"),
    ("cachetag_put {ct}:e:k", &["v", V, "1", "TAGS"], "TAGS: expected the number of tags, an integer from 0 to 1000000000000, got nothing"),
    ("cachetag_put {ct}:e:k", &["v", V, "1", "TAGS", "2", "a:1"], "TAGS: 2 tags announced, 1 arguments left"),
    ("cachetag_put {ct}:e:k", &["v", V, "1", "TAGS", "0", "SEEN", "100"], r#"SEEN: expected a position such as 1@16/B374D848, or an LSN, got "100""#),
    ("cachetag_put {ct}:e:k", &["v", V, "1", "TAGS", "0", "SEEN", "1@100"], r#"SEEN: expected a position such as 1@16/B374D848, or an LSN, got "1@100""#),
    ("cachetag_put {ct}:e:k", &["v", V, "1", "TAGS", "0", "SEEN", "1@0/1 2"], r#"SEEN: expected a position such as 1@16/B374D848, or an LSN, got "1@0/1 2""#),
    ("cachetag_put {ct}:e:k", &["v", V, "1", "TAGS", "0", "SEEN", "12345678901@0/1"], r#"SEEN: expected a position such as 1@16/B374D848, or an LSN, got "12345678901@0/1""#),
    ("cachetag_put {ct}:e:k", &["v", V, "1", "TAGS", "0", "SEEN"], "SEEN: expected a position such as 1@16/B374D848, or an LSN, got nothing"),
    ("cachetag_put {ct}:e:k", &["v", V, "1", "TAGS", "1", "a:1", "a:2"], r#"option "a:2": unknown; there are TAGS n tag…, FRESH ms, COST ms, ABSENT, LEASE id, SEEN position"#),
    ("cachetag_put {ct}:e:k", &["v", V, "1", "TAGS", "0", "TAGS", "0"], "TAGS: given twice"),
    ("cachetag_put {ct}:e:k", &["v", V, "1", "TAGS", "1", "A b"], r#"TAGS: tag "A b" is not canonical: byte %20 must be percent-encoded"#),
    ("cachetag_put {ct}:e:k", &["v", V, "1", "TAGS", "1", "a\n"], r#"TAGS: tag "a?" is not canonical: byte %0A must be percent-encoded"#),
    ("cachetag_put {ct}:e:k", &["v", V, "1", "TAGS", "1", ""], r#"TAGS: tag "" is not canonical: empty"#),
    ("cachetag_put {ct}:e:k", &["v", V, "1", "TAGS", "1", ":1"], r#"TAGS: tag ":1" is not canonical: no family before the first ":""#),
    ("cachetag_put {ct}:e:k", &["v", V, "1", "TAGS", "1", "a:%2a"], r#"TAGS: tag "a:%2a" is not canonical: "%" without two upper-case hexadecimal digits"#),
    ("cachetag_put {ct}:e:k", &["v", V, "1", "TAGS", "1", "a:%41"], r#"TAGS: tag "a:%41" is not canonical: %41 encodes a byte that stands for itself"#),
    ("cachetag_put {ct}:e:k", &["v", V, "1", "TAGS", "0", "FRESH", "0"], r#"FRESH: expected milliseconds, an integer from 1 to 1000000000000, got "0""#),
    ("cachetag_put {ct}:e:k", &["v", V, "1", "TAGS", "0", "COST", "a"], r#"COST: expected milliseconds, an integer from 0 to 1000000000000, got "a""#),
    ("cachetag_put {ct}:e:k", &["v", V, "1", "TAGS", "0", "LEASE"], "LEASE: expected the id that cachetag_get gave"),
    ("cachetag_put {ct}:e:k", &["v", V, "1", "TAGS", "0", "ABSENT"], "payload: must be empty with ABSENT"),
    ("cachetag_drop {ct}:e:k", &["x"], r#"arguments: unexpected "x""#),
    ("cachetag_state {ct}:w", &["x"], r#"arguments: unexpected "x""#),
    ("cachetag_claim {ct}:w", &[], "claimant: expected a text of 1 to 256 bytes"),
    ("cachetag_claim {ct}:w", &["a", ""], "source: expected a text of 1 to 1024 bytes"),
    ("cachetag_claim {ct}:w", &["a", "b"], "max_lag_ms: expected milliseconds, an integer from 1 to 1000000000000, got nothing"),
    ("cachetag_claim {ct}:w", &["a", "b", "1", "0"], r#"lease_ms: expected milliseconds, an integer from 1 to 1000000000000, got "0""#),
    ("cachetag_claim {ct}:w", &["a", "b", "1", "1", "1"], r#"arguments: unexpected "1""#),
    ("cachetag_apply {ct}:w", &["a"], "from: expected a version, ten digits, a dot and twenty digits, got nothing"),
    ("cachetag_apply {ct}:w", &["a", V, "1"], r#"to: expected a version, ten digits, a dot and twenty digits, got "1""#),
    ("cachetag_apply {ct}:w", &["a", V, "1700000000.00000000000000000099"], "to: 1700000000.00000000000000000099 is below from 1700000000.00000000000000000100"),
    ("cachetag_apply {ct}:w", &["a", V, "1700000001.00000000000000000100"], "to: epoch differs from that of from; cachetag_reset opens an epoch"),
    ("cachetag_apply {ct}:w", &["a", V, V, V, "0", "0"], "version: 1700000000.00000000000000000100 is not above 1700000000.00000000000000000100: groups ascend, from excluded"),
    (
        "cachetag_apply {ct}:w",
        &["a", V, "1700000000.00000000000000000102", "1700000000.00000000000000000102", "0", "0", "1700000000.00000000000000000101", "0", "0"],
        "version: 1700000000.00000000000000000101 is not above 1700000000.00000000000000000102: groups ascend, from excluded",
    ),
    ("cachetag_apply {ct}:w", &["a", V, V, "1700000000.00000000000000000101", "0", "0"], "version: 1700000000.00000000000000000101 is above to 1700000000.00000000000000000100"),
    ("cachetag_apply {ct}:w", &["a", V, "1700000000.00000000000000000101", "1700000000.00000000000000000101", "1"], "nsoft: expected a number of tags, an integer from 0 to 1000000000000, got nothing"),
    ("cachetag_apply {ct}:w", &["a", V, "1700000000.00000000000000000101", "1700000000.00000000000000000101", "x", "1"], r#"nhard: expected a number of tags, an integer from 0 to 1000000000000, got "x""#),
    ("cachetag_apply {ct}:w", &["a", V, "1700000000.00000000000000000101", "1700000000.00000000000000000101", "1", "1", "a"], "nhard, nsoft: 1 and 1 tags announced, 1 arguments left"),
    ("cachetag_apply {ct}:w", &["a", V, "1700000000.00000000000000000101", "1700000000.00000000000000000101", "0", "1", "{"], r#"tags: tag "{" is not canonical: byte %7B must be percent-encoded"#),
    ("cachetag_apply {ct}:w", &["a", V, V, "a:1"], r#"version: expected a version, ten digits, a dot and twenty digits, got "a:1""#),
    ("cachetag_advance {ct}:w", &["a", V, V], "watermark: expected a version, ten digits, a dot and twenty digits, got nothing"),
    ("cachetag_advance {ct}:w", &["a", V, V, "1700000000.00000000000000000101", ""], "watermark: 1700000000.00000000000000000101 is above to 1700000000.00000000000000000100"),
    ("cachetag_advance {ct}:w", &["a", V, V, "1600000000.00000000000000000101", ""], "watermark: epoch differs from that of to"),
    ("cachetag_advance {ct}:w", &["a", V, V, V], "fresh_at_ms: expected milliseconds, an integer from 0 to 10000000000000, got nothing"),
    ("cachetag_advance {ct}:w", &["a", V, V, V, "now"], r#"fresh_at_ms: expected milliseconds, an integer from 0 to 10000000000000, got "now""#),
    ("cachetag_advance {ct}:w", &["a", V, V, V, "1", "2"], r#"arguments: unexpected "2""#),
    ("cachetag_reset {ct}:w", &["a", "b"], "lsn: expected twenty decimal digits or X/Y, got nothing"),
    ("cachetag_reset {ct}:w", &["a", "b", "18446744073709551616", "0"], r#"lsn: expected twenty decimal digits or X/Y, got "18446744073709551616""#),
    ("cachetag_reset {ct}:w", &["a", "b", "1"], "min_epoch: expected an integer from 0 to 9999999999, got nothing"),
    ("cachetag_reset {ct}:w", &["a", "b", "1", "10000000000"], r#"min_epoch: expected an integer from 0 to 9999999999, got "10000000000""#),
    ("cachetag_reset {ct}:w", &["a", "b", "1", "1", "1"], r#"arguments: unexpected "1""#),
];

#[test]
fn errors_name_the_argument_and_change_nothing() {
    let mut c = Cache::open();
    c.fill("k", 100, &["product:1"]);
    let before = c.con.digest();
    for (call, args, message) in ERRORS {
        let (function, key) = call.split_once(' ').unwrap();
        let mut command = vec!["FCALL", function, "1", key];
        command.extend(*args);
        assert_eq!(c.con.call(&command), Err(format!("CACHETAG {message}")), "{call} {args:?}");
        assert_eq!(c.con.digest(), before, "{call} {args:?}");
    }
    for keys in [&["0"][..], &["2", "{ct}:e:k", "{ct}:e:l"]] {
        let mut command = vec!["FCALL", "cachetag_get"];
        command.extend(keys);
        let error = c.con.call(&command).unwrap_err();
        assert!(error.starts_with("CACHETAG KEYS: expected one key"), "{error}");
    }
}

#[test]
fn options_come_in_any_order_and_case() {
    let mut c = Cache::open();
    let token = c.v(100);
    let key = "{ct}:e:k";
    let args = [
        "FCALL",
        "cachetag_put",
        "1",
        key,
        "",
        &token,
        "60000",
        "lease",
        "",
        "cost",
        "0",
        "Absent",
        "fresh",
        "9",
        "tags",
        "1",
        "TAGS",
    ];
    assert_eq!(put(&c.con.ok(&args)), Put::Stored(token.clone()));
    assert_eq!(c.value("t:TAGS"), Some(token.clone()), "a tag may be called like an option");
    for options in [
        &["nolease", "beta", "0.5", "maxlag", "1000000", "atleast", "0/1"][..],
        &["ATLEAST", &token, "BETA", "1e-3"],
        &["BETA", "2."],
    ] {
        assert_eq!(c.get("k", options).payload, None);
    }
}

fn accepts(c: &mut Cache, tag: &[u8]) -> bool {
    let token = c.v(100);
    let args: [&[u8]; 10] =
        [b"FCALL", b"cachetag_put", b"1", b"{ct}:e:k", b"", token.as_bytes(), b"60000", b"TAGS", b"1", tag];
    match c.con.call(&args) {
        Ok(reply) => {
            put(&reply);
            true
        }
        Err(error) => {
            assert!(error.starts_with("CACHETAG TAGS: tag "), "{error}");
            false
        }
    }
}

#[test]
fn the_tag_grammar_is_that_of_core() {
    let mut c = Cache::open();
    let vectors: serde_json::Value = serde_json::from_str(include_str!("../../../core/vectors/tags.json")).unwrap();
    let texts = |list: &str, field: &str| -> Vec<String> {
        vectors[list].as_array().unwrap().iter().filter_map(|v| v[field].as_str().map(String::from)).collect()
    };
    for tag in texts("built", "tag").into_iter().chain(texts("accepted", "tag")) {
        assert!(accepts(&mut c, tag.as_bytes()), "{tag}");
    }
    for text in texts("rejected", "text") {
        assert!(!accepts(&mut c, text.as_bytes()), "{text}");
    }
    for hex in texts("rejected_bytes", "hex") {
        let bytes: Vec<u8> =
            (0..hex.len() / 2).map(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).unwrap()).collect();
        assert!(!accepts(&mut c, &bytes), "{hex}");
    }

    let pieces: &[&[u8]] = &[
        b"a",
        b"product",
        b":",
        b":",
        b":*",
        b"*",
        b"%",
        b"%2A",
        b"%2a",
        b"%41",
        b"%00",
        b"%7F",
        b"%80",
        b"%3A",
        b"{",
        b"}",
        b" ",
        b"\n",
        b"\0",
        b"\x7f",
        "é".as_bytes(),
        "語".as_bytes(),
        "🦀".as_bytes(),
        b"\xff",
        b"\xc3",
        b"\xe0\x80\x80",
        b"\xed\xa0\x80",
        b"\xf4\x90\x80\x80",
        b"\xf0\x8f\xbf\xbf",
        b"\xc1\x81",
        b"-_.~/",
        b"Z9",
    ];
    let mut dice = Dice::new(7);
    let mut accepted = 0;
    for _ in 0..20_000 {
        let mut text = Vec::new();
        for _ in 0..dice.below(6) {
            text.extend(dice.pick(pieces));
        }
        if dice.chance(2) {
            let at = dice.below(text.len() + 1);
            text.splice(at..at, std::iter::repeat_n(b'x', 500 + dice.below(16)));
        }
        let expected = std::str::from_utf8(&text).is_ok_and(|t| Tag::from_str(t).is_ok());
        assert_eq!(accepts(&mut c, &text), expected, "{:?}", String::from_utf8_lossy(&text));
        accepted += usize::from(expected);
    }
    assert!((2_000..18_000).contains(&accepted), "both kinds were met: {accepted}");
}

/// What core says of every pair of its vectors, an entry with the one tag and a bump of the other do.
#[test]
fn bumps_reach_what_core_says() {
    let vectors: serde_json::Value = serde_json::from_str(include_str!("../../../core/vectors/tags.json")).unwrap();
    let mut c = Cache::open();
    let mut lsn = 100;
    for case in vectors["reaches"].as_array().unwrap() {
        let (bump, entry) = (case["bump"].as_str().unwrap(), case["entry"].as_str().unwrap());
        c.advance(lsn);
        c.fill("k", lsn, &[entry]);
        assert_eq!(c.state("k"), "hit");
        lsn += 1;
        c.apply(lsn, &[bump], &[]);
        assert_eq!(c.state("k") == "miss", case["falls"].as_bool().unwrap(), "{entry} after {bump}");
    }
}

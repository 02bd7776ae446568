//! The test vectors in `vectors/`, which are there for other languages, hold for this crate.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::*;

fn read<T: DeserializeOwned>(name: &str) -> T {
    let path = format!("{}/vectors/{name}", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn bytes_of_hex(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Tags {
    built: Vec<Built>,
    not_built: Vec<NotBuilt>,
    accepted: Vec<Accepted>,
    rejected: Vec<Rejected>,
    rejected_bytes: Vec<Hex>,
    parts: Vec<Part>,
    reaches: Vec<Reach>,
}

#[derive(Deserialize)]
struct Built {
    family: String,
    parts: Vec<String>,
    tag: String,
    whole_family: String,
}

#[derive(Deserialize)]
struct NotBuilt {
    family: String,
    parts: Vec<String>,
    reason: String,
}

#[derive(Deserialize)]
struct Accepted {
    tag: String,
    family: String,
    parts: Vec<String>,
    is_whole_family: bool,
    is_everything: bool,
}

#[derive(Deserialize)]
struct Rejected {
    text: String,
    reason: String,
    at: Option<usize>,
}

#[derive(Deserialize)]
struct Hex {
    hex: String,
}

#[derive(Deserialize)]
struct Part {
    raw_hex: String,
    encoded: String,
}

#[derive(Deserialize)]
struct Reach {
    bump: String,
    entry: String,
    falls: bool,
}

/// A reason as the vectors name it, and its offset.
fn named(reason: TagReason) -> (&'static str, Option<usize>) {
    match reason {
        TagReason::Empty => ("empty", None),
        TagReason::TooLong { .. } => ("too-long", None),
        TagReason::EmptyFamily => ("empty-family", None),
        TagReason::FamilyTooLong { .. } => ("family-too-long", None),
        TagReason::RawByte { at, .. } => ("raw-byte", Some(at)),
        TagReason::BrokenEscape { at } => ("broken-escape", Some(at)),
        TagReason::LowerCaseEscape { at, .. } => ("lower-case-escape", Some(at)),
        TagReason::NeedlessEscape { at, .. } => ("needless-escape", Some(at)),
    }
}

fn named_of_template(reason: TemplateReason) -> (&'static str, Option<usize>) {
    match reason {
        TemplateReason::Tag(reason) => named(reason),
        TemplateReason::FamilyPlaceholder { at } => ("family-placeholder", Some(at)),
        TemplateReason::UnclosedBrace { at } => ("unclosed-brace", Some(at)),
        TemplateReason::NoColumn { at } => ("no-column", Some(at)),
    }
}

fn strs(strings: &[String]) -> Vec<&str> {
    strings.iter().map(String::as_str).collect()
}

#[test]
fn tags_are_built_and_taken_apart() {
    for vector in read::<Tags>("tags.json").built {
        let tag = Tag::new(&vector.family, &strs(&vector.parts)).unwrap();
        assert_eq!(tag.as_str(), vector.tag);
        assert_eq!(Tag::parse(&vector.tag), Ok(tag.clone()));
        assert_eq!(tag.whole_family().as_str(), vector.whole_family);
        assert_eq!(decode_part(tag.family()), Ok(vector.family));
        let parts: Vec<String> = tag.parts().map(|part| decode_part(part).unwrap()).collect();
        assert_eq!(parts, vector.parts);
    }
}

#[test]
fn tags_that_cannot_be_built() {
    for vector in read::<Tags>("tags.json").not_built {
        let error = Tag::new(&vector.family, &strs(&vector.parts)).unwrap_err();
        assert_eq!(named(error.reason()), (vector.reason.as_str(), None), "{:?} {:?}", vector.family, vector.parts);
    }
}

#[test]
fn canonical_tags() {
    for vector in read::<Tags>("tags.json").accepted {
        let tag = Tag::parse(&vector.tag).unwrap();
        assert_eq!(tag.family(), vector.family);
        assert_eq!(tag.parts().collect::<Vec<_>>(), vector.parts);
        assert_eq!(
            (tag.is_whole_family(), tag.is_everything()),
            (vector.is_whole_family, vector.is_everything),
            "{tag}"
        );
    }
}

#[test]
fn rejected_tags() {
    let tags: Tags = read("tags.json");
    for vector in tags.rejected {
        let error = Tag::parse(&vector.text).unwrap_err();
        assert_eq!(named(error.reason()), (vector.reason.as_str(), vector.at), "{:?}", vector.text);
    }
    for vector in tags.rejected_bytes {
        let payload = [b"hard\n", bytes_of_hex(&vector.hex).as_slice()].concat();
        assert!(InvalidationMessage::parse(&payload).is_err(), "{}", vector.hex);
    }
}

#[test]
fn bytes_of_parts() {
    let parts = read::<Tags>("tags.json").parts;
    assert_eq!(parts.iter().map(|part| &part.raw_hex).collect::<BTreeSet<_>>().len(), 128);
    for vector in parts {
        let raw = bytes_of_hex(&vector.raw_hex);
        let mut encoded = Vec::new();
        encode_part_bytes(&raw, &mut encoded);
        assert_eq!(encoded, vector.encoded.as_bytes());
        assert_eq!(decode_part(&vector.encoded).unwrap().as_bytes(), raw);
    }
}

#[test]
fn what_a_bump_reaches() {
    for vector in read::<Tags>("tags.json").reaches {
        let (bump, entry) = (Tag::parse(&vector.bump).unwrap(), Tag::parse(&vector.entry).unwrap());
        assert_eq!(bump.reaches(&entry), vector.falls, "{bump} reaches {entry}");
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Templates {
    accepted: Vec<TemplateVector>,
    rejected: Vec<Rejected>,
}

#[derive(Deserialize)]
struct TemplateVector {
    template: String,
    columns: Vec<String>,
    family: String,
    whole_family: String,
    is_constant: bool,
    renderings: Vec<Rendering>,
}

#[derive(Deserialize)]
struct Rendering {
    values: BTreeMap<String, Option<RawValue>>,
    outcome: String,
    tag: Option<String>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum RawValue {
    Text(String),
    Bytes(Hex),
}

#[test]
fn templates_render() {
    for vector in read::<Templates>("templates.json").accepted {
        let template = Template::parse(&vector.template).unwrap();
        assert_eq!(template.to_string(), vector.template);
        assert_eq!(template.columns().collect::<Vec<_>>(), vector.columns);
        assert_eq!(template.family(), vector.family);
        assert_eq!(template.whole_family().as_str(), vector.whole_family);
        assert_eq!(template.is_constant(), vector.is_constant);
        let bound = template.bind(|name| vector.columns.iter().position(|column| column == name)).unwrap();
        assert_eq!(bound.whole_family(), &template.whole_family());

        for rendering in vector.renderings {
            let value = |name: &str| {
                rendering.values[name].as_ref().map(|value| match value {
                    RawValue::Text(text) => text.as_bytes().to_vec(),
                    RawValue::Bytes(bytes) => bytes_of_hex(&bytes.hex),
                })
            };
            let row: Vec<Option<Vec<u8>>> = vector.columns.iter().map(|name| value(name)).collect();
            let rendered = template
                .render(|name| row[vector.columns.iter().position(|column| column == name).unwrap()].as_deref());
            let mut out = b"before".to_vec();
            let outcome = bound.render_into(|index| row[index].as_deref(), &mut out);

            let (expected, expected_outcome) = match rendering.outcome.as_str() {
                "tag" => (Rendered::Tag(Tag::parse(rendering.tag.as_ref().unwrap()).unwrap()), RenderOutcome::Tag),
                "null" => (Rendered::Null, RenderOutcome::Null),
                "too-long" => (Rendered::TooLong, RenderOutcome::TooLong),
                "unrenderable" => (Rendered::Unrenderable, RenderOutcome::Unrenderable),
                other => panic!("outcome {other}"),
            };
            assert_eq!(rendered, expected, "{template}");
            assert_eq!(outcome, expected_outcome, "{template}");
            assert_eq!(out, format!("before{}", rendering.tag.unwrap_or_default()).as_bytes());
        }
    }
}

#[test]
fn rejected_templates() {
    for vector in read::<Templates>("templates.json").rejected {
        let error = Template::parse(&vector.text).unwrap_err();
        assert_eq!(named_of_template(error.reason()), (vector.reason.as_str(), vector.at), "{:?}", vector.text);
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Versions {
    versions: Vec<VersionVector>,
    ordered: Vec<String>,
    rejected: Vec<String>,
    lsns: Vec<LsnVector>,
    rejected_lsns: Vec<String>,
}

#[derive(Deserialize)]
struct VersionVector {
    epoch: String,
    lsn: String,
    lsn_decimal: String,
    version: String,
}

#[derive(Deserialize)]
struct LsnVector {
    text: String,
    lsn: String,
    decimal: String,
}

#[test]
fn versions_and_their_text() {
    let vectors: Versions = read("versions.json");
    for vector in vectors.versions {
        let lsn: Lsn = vector.lsn.parse().unwrap();
        assert_eq!(lsn.0.to_string(), vector.lsn_decimal);
        let version = Version::new(Epoch::new(vector.epoch.parse().unwrap()).unwrap(), lsn);
        assert_eq!(version.to_string(), vector.version);
        assert_eq!(&version.to_bytes(), vector.version.as_bytes());
        assert_eq!(vector.version.parse(), Ok(version));
    }
    for text in vectors.rejected {
        assert!(text.parse::<Version>().is_err(), "{text:?}");
    }
}

#[test]
fn versions_in_order() {
    let ordered = read::<Versions>("versions.json").ordered;
    let versions: Vec<Version> = ordered.iter().map(|text| text.parse().unwrap()).collect();
    assert!(versions.is_sorted_by(|one, next| one < next));
    assert!(ordered.is_sorted_by(|one, next| one.as_bytes() < next.as_bytes()));
}

#[test]
fn log_positions() {
    let vectors: Versions = read("versions.json");
    for vector in vectors.lsns {
        let lsn: Lsn = vector.text.parse().unwrap();
        assert_eq!((lsn.to_string(), lsn.0.to_string()), (vector.lsn, vector.decimal));
    }
    for text in vectors.rejected_lsns {
        assert!(text.parse::<Lsn>().is_err(), "{text:?}");
    }
}

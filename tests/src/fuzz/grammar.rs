//! Tags, templates, predicates, versions and messages: one text each, and never a tag that is none.

use cachetag_core::{
    InvalidationMessage, KeyTemplate, Lsn, Predicate, RenderOutcome, Rendered, Tag, Template, Value, Version,
    decode_part, encode_part, encode_part_bytes, plpgsql,
};

use super::input::Input;

/// A refusal has something to say, in a few lines whatever the input.
fn is_readable(error: &dyn std::fmt::Display) {
    let text = error.to_string();
    assert!(!text.is_empty() && text.len() < 2000, "{} bytes: {text}", text.len());
}

pub(super) fn tag(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    match Tag::parse(&text) {
        Ok(tag) => {
            assert_eq!(tag.as_str(), text);
            assert!(text.len() <= Tag::MAX_LEN);
            let whole = tag.whole_family();
            assert_eq!(Tag::parse(whole.as_str()).as_ref(), Ok(&whole));
            assert!(whole.reaches(&tag) && tag.reaches(&tag) && Tag::everything().reaches(&tag));
            if !tag.is_everything() && !tag.is_whole_family() {
                let family = decode_part(tag.family()).expect("a family is encoded");
                let parts: Vec<String> =
                    tag.parts().map(|part| decode_part(part).expect("a part is encoded")).collect();
                let parts: Vec<&str> = parts.iter().map(String::as_str).collect();
                assert_eq!(Tag::new(&family, &parts), Ok(tag), "a tag has one text");
            }
        }
        Err(error) => is_readable(&error),
    }
    let mut encoded = String::new();
    encode_part(&text, &mut encoded);
    assert_eq!(decode_part(&encoded).as_deref(), Ok(&*text));
    let mut bytes = Vec::new();
    encode_part_bytes(text.as_bytes(), &mut bytes);
    assert_eq!(bytes, encoded.as_bytes());
    if let Ok(raw) = decode_part(&text) {
        encoded.clear();
        encode_part(&raw, &mut encoded);
        assert_eq!(encoded, text, "a part has one text");
    }
    if let Ok(tag) = Tag::new(&text, &[&text, ""]) {
        assert_eq!(Tag::parse(tag.as_str()).as_ref(), Ok(&tag));
    }
}

/// The template's text, then the values of its columns.
pub(super) fn template(data: &[u8]) {
    let mut input = Input::new(data);
    let text = String::from_utf8_lossy(input.bytes());
    let template = match Template::parse(&text) {
        Ok(template) => template,
        Err(error) => return is_readable(&error),
    };
    assert_eq!(template.to_string(), text);
    let names: Vec<&str> = template.columns().collect();
    let values: Vec<Option<&[u8]>> = names.iter().map(|_| (input.below(8) != 0).then(|| input.bytes())).collect();
    let of = |name: &str| values[names.iter().position(|known| *known == name).expect("a column of the template")];

    let rendered = template.render(of);
    let bound = template.bind(|name| names.iter().position(|known| *known == name)).expect("every column is known");
    let mut out = b"before".to_vec();
    let outcome = bound.render_into(|column| values[column], &mut out);
    assert!(out.starts_with(b"before"));
    match &rendered {
        Rendered::Tag(tag) => {
            assert_eq!((outcome, &out[6..]), (RenderOutcome::Tag, tag.as_str().as_bytes()));
            assert_eq!(Tag::parse(tag.as_str()).as_ref(), Ok(tag), "what is rendered is a tag");
            assert!(template.whole_family().reaches(tag), "{tag} is not of the family of {text}");
        }
        other => {
            assert_eq!(out, b"before");
            let expected = match other {
                Rendered::Null => RenderOutcome::Null,
                Rendered::TooLong => RenderOutcome::TooLong,
                _ => RenderOutcome::Unrenderable,
            };
            assert_eq!(outcome, expected);
        }
    }
    assert_eq!(rendered == Rendered::Null, values.contains(&None), "NULL and only NULL makes no tag");
    // Longer than each of them, so none of them.
    let between = format!("{}+", names.concat());
    for name in &names {
        let there_and_back = template.rename_column(name, &between).rename_column(&between, name);
        assert_eq!(there_and_back, template);
    }
}

/// The template's text, then a key.
pub(super) fn key_template(data: &[u8]) {
    let mut input = Input::new(data);
    let text = String::from_utf8_lossy(input.bytes());
    let template = match KeyTemplate::parse(&text) {
        Ok(template) => template,
        Err(error) => return is_readable(&error),
    };
    assert_eq!(template.to_string(), text);
    let key = String::from_utf8_lossy(input.bytes());
    if let Some(values) = template.values(&key) {
        assert_eq!(values.len(), template.names().len());
        assert!(key.len() >= template.fixed_len() + values.len());
    }
}

/// The text of a function.
pub(super) fn plpgsql(data: &[u8]) {
    let source = String::from_utf8_lossy(data);
    let names = plpgsql::names(&source);
    assert!(names.words.iter().all(|word| word.name.len() <= 63), "longer than the server looks at");
    // Where nothing can be a comment, be encoded or be a part of a quoted name, nothing is overlooked.
    if source.contains("--") || source.contains("/*") || source.contains(['"', '$', '&', '\\']) {
        return;
    }
    let is_part = |c: char| c.is_alphanumeric() || c == '_' || !c.is_ascii();
    for run in source.split(|c| !is_part(c)) {
        let name = run.trim_start_matches(|c: char| c.is_ascii_digit());
        if name.is_ascii() && !name.is_empty() && name.len() <= 63 {
            let name = name.to_ascii_lowercase();
            assert!(names.words.iter().any(|word| word.name == name), "{name:?} is overlooked in {source:?}");
        }
    }
}

/// The predicate's text, then the values of its columns.
pub(super) fn predicate(data: &[u8]) {
    let mut input = Input::new(data);
    let text = String::from_utf8_lossy(input.bytes());
    let predicate = match Predicate::parse(&text) {
        Ok(predicate) => predicate,
        Err(error) => return is_readable(&error),
    };
    let shown = predicate.to_string();
    let again = Predicate::parse(&shown).unwrap_or_else(|error| panic!("{text:?} displays as {shown:?}: {error}"));
    assert_eq!(again.to_string(), shown, "its text is stable");
    let names: Vec<&str> = predicate.columns().collect();
    let values: Vec<Value<'_>> = names
        .iter()
        .map(|_| match input.below(4) {
            0 => Value::Null,
            1 => Value::Unknown,
            _ => Value::Text(input.bytes()),
        })
        .collect();
    let of = |name: &str| values[names.iter().position(|known| *known == name).expect("a column of the predicate")];
    let holds = predicate.eval(of);
    assert_eq!(again.eval(of), holds);
    let bound = predicate.bind(|name| names.iter().position(|known| *known == name)).expect("every column is known");
    assert_eq!(bound.eval(|column| values[column]), holds);
    // What is not known can decide nothing by itself: with every column unknown, no row is left out.
    if !names.is_empty() {
        assert_ne!(predicate.eval(|_| Value::Unknown), Some(false), "{text:?}");
    }
}

pub(super) fn version(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    match text.parse::<Version>() {
        Ok(version) => assert_eq!(version.to_string(), text, "a version has one text"),
        Err(error) => is_readable(&error),
    }
    match text.parse::<Lsn>() {
        Ok(lsn) => assert_eq!(lsn.to_string().parse(), Ok(lsn)),
        Err(error) => is_readable(&error),
    }
}

pub(super) fn invalidation_message(data: &[u8]) {
    match InvalidationMessage::parse(data) {
        Ok(message) => {
            let encoded = message.encode();
            assert_eq!(data.strip_suffix(b"\n").unwrap_or(data), encoded.as_bytes());
            assert_eq!(InvalidationMessage::parse(encoded.as_bytes()), Ok(message));
        }
        Err(error) => is_readable(&error),
    }
}

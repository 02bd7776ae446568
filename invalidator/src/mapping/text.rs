//! PostgreSQL's text output of the few types that the metadata uses.

/// Why a value of the metadata could not be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TextError {
    /// Not a whole number in the type's range.
    #[error("{0:?} is not a number of the expected range")]
    Number(String),
    /// Neither `t` nor `f`.
    #[error("{0:?} is not a boolean (t or f)")]
    Boolean(String),
    /// Not the text form of a one-dimensional array.
    #[error("{0:?} is not a one-dimensional array in text form")]
    Array(String),
    /// Not UTF-8, although the connection asks for it.
    #[error("{0:?} is not UTF-8: is client_encoding UTF8 and the database not SQL_ASCII?")]
    Encoding(String),
}

/// Text as UTF-8.
pub(super) fn utf8(raw: &[u8]) -> Result<&str, TextError> {
    std::str::from_utf8(raw).map_err(|_| TextError::Encoding(lossy(raw)))
}

/// `t` or `f`.
pub(super) fn boolean(raw: &[u8]) -> Result<bool, TextError> {
    match raw {
        b"t" => Ok(true),
        b"f" => Ok(false),
        _ => Err(TextError::Boolean(lossy(raw))),
    }
}

/// A decimal integer: `bigint`, `integer` or `oid`.
pub(super) fn number<N: std::str::FromStr>(raw: &[u8]) -> Result<N, TextError> {
    utf8(raw)?.parse().map_err(|_| TextError::Number(lossy(raw)))
}

/// The elements of a one-dimensional array, `{a,b,"c \"d\"",NULL}`; a NULL element is `None`.
pub(super) fn array(raw: &[u8]) -> Result<Vec<Option<String>>, TextError> {
    elements(utf8(raw)?).ok_or_else(|| TextError::Array(lossy(raw)))
}

fn elements(text: &str) -> Option<Vec<Option<String>>> {
    let mut rest = text.strip_prefix('{')?;
    let mut found = Vec::new();
    if rest == "}" {
        return Some(found);
    }
    loop {
        let (element, after) =
            if let Some(quoted) = rest.strip_prefix('"') { quoted_element(quoted)? } else { plain_element(rest)? };
        found.push(element);
        match after.as_bytes() {
            b"}" => return Some(found),
            [b',', ..] => rest = &after[1..],
            _ => return None,
        }
    }
}

fn quoted_element(text: &str) -> Option<(Option<String>, &str)> {
    let mut element = String::new();
    let mut chars = text.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return Some((Some(element), &text[at + 1..])),
            '\\' => element.push(chars.next()?.1),
            c => element.push(c),
        }
    }
    None
}

fn plain_element(text: &str) -> Option<(Option<String>, &str)> {
    let end = text.find([',', '}'])?;
    let (element, after) = text.split_at(end);
    // The server quotes whatever could be mistaken for syntax, so none of it occurs in a plain element.
    if element.is_empty() || element.contains(['{', '"', '\\']) {
        return None;
    }
    let element = if element.eq_ignore_ascii_case("null") { None } else { Some(element.to_owned()) };
    Some((element, after))
}

/// A short printable form for messages: metadata can be as long as its writer likes.
fn lossy(raw: &[u8]) -> String {
    String::from_utf8_lossy(&raw[..raw.len().min(100)]).into_owned()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn some(elements: &[&str]) -> Vec<Option<String>> {
        elements.iter().map(|e| Some((*e).to_owned())).collect()
    }

    #[test]
    fn arrays_as_the_server_writes_them() {
        assert_eq!(array(b"{}"), Ok(vec![]));
        assert_eq!(array(b"{a,b}"), Ok(some(&["a", "b"])));
        assert_eq!(
            array(br#"{"c d","say \"hi\"","back\\slash","","{}","NULL"}"#),
            Ok(some(&["c d", "say \"hi\"", "back\\slash", "", "{}", "NULL"]))
        );
        assert_eq!(array("{größe,NULL}".as_bytes()), Ok(vec![Some("größe".into()), None]));
    }

    #[test]
    fn what_is_no_array_is_an_error() {
        for bad in [
            "",
            "{",
            "}",
            "a",
            "{a",
            "{a,}",
            "{,a}",
            "{a}b",
            "{\"a}",
            "{\"a\"b}",
            "{{a}}",
            "{\"a\\",
            "[0:1]={a,b}",
            "{}x",
        ] {
            assert_eq!(array(bad.as_bytes()), Err(TextError::Array(bad.into())), "{bad}");
        }
        assert!(matches!(array(b"{\xff}"), Err(TextError::Encoding(_))));
    }

    #[test]
    fn scalars() {
        assert_eq!(boolean(b"t"), Ok(true));
        assert_eq!(boolean(b"f"), Ok(false));
        assert!(boolean(b"true").is_err());
        assert_eq!(number::<i64>(b"-9223372036854775808"), Ok(i64::MIN));
        assert_eq!(number::<u32>(b"4294967295"), Ok(u32::MAX));
        assert!(number::<u32>(b"4294967296").is_err());
        assert!(number::<i32>(b"").is_err());
    }

    /// array_out's rules: quote what is empty, NULL-like or holds syntax or white space.
    fn array_out(elements: &[String]) -> String {
        let quoted = elements.iter().map(|e| {
            let syntax = |c: char| c.is_ascii_whitespace() || "{},\"\\".contains(c);
            if e.is_empty() || e.eq_ignore_ascii_case("null") || e.contains(syntax) {
                format!("\"{}\"", e.replace('\\', "\\\\").replace('"', "\\\""))
            } else {
                e.clone()
            }
        });
        format!("{{{}}}", quoted.collect::<Vec<_>>().join(","))
    }

    proptest! {
        #[test]
        fn arrays_round_trip(elements in prop::collection::vec("[a-z{},\"\\\\ é]{0,6}|null|NULL", 0..5)) {
            let expected: Vec<_> = elements.iter().cloned().map(Some).collect();
            prop_assert_eq!(array(array_out(&elements).as_bytes()), Ok(expected));
        }

        #[test]
        fn no_input_panics(raw in prop::collection::vec(any::<u8>(), 0..20)) {
            let _ = array(&raw);
        }
    }
}

//! Taking replies apart. What does not fit becomes an error that shows it.

use redis::Value;

use super::Error;

/// Bytes of a reply that an error shows.
const SHOWN: usize = 200;

/// The text of a string, simple or bulk.
pub(super) fn text(value: &Value) -> Option<&str> {
    match value {
        Value::BulkString(bytes) => std::str::from_utf8(bytes).ok(),
        Value::SimpleString(text) => Some(text),
        Value::Okay => Some("OK"),
        _ => None,
    }
}

/// A natural number in decimal digits and nothing else.
pub(super) fn natural(text: &str) -> Option<u64> {
    let plain = !text.is_empty() && text.len() <= 19 && text.bytes().all(|byte| byte.is_ascii_digit());
    if plain { text.parse().ok() } else { None }
}

/// The error for an answer that is none of the library's.
pub(super) fn unexpected(call: &'static str, value: &Value) -> Error {
    let mut got = format!("{value:?}");
    if got.len() > SHOWN {
        let end = (0..=SHOWN).rev().find(|i| got.is_char_boundary(*i)).unwrap_or(0);
        got.truncate(end);
        got.push('…');
    }
    Error::Reply { call, got }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_plain() {
        assert_eq!(natural("0012"), Some(12));
        for text in ["", "-1", "+1", "1.0", " 1", "0x1", "99999999999999999999"] {
            assert_eq!(natural(text), None, "{text}");
        }
    }

    #[test]
    fn an_unexpected_answer_is_shown_shortened() {
        let error = unexpected("cachetag_get", &Value::Int(7)).to_string();
        assert_eq!(error, "unexpected answer to cachetag_get: int(7)");
        let long = unexpected("x", &Value::SimpleString("ä".repeat(300))).to_string();
        assert!(long.ends_with('…') && long.len() < 300, "{long}");
    }
}

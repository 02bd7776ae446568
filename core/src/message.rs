//! The payload of logical messages that carry an explicit invalidation.

use std::str;

use crate::tag::{Tag, TagError};

/// The prefix under which logical messages of cachetag are emitted: `pg_logical_emit_message(true, 'cachetag', …)`.
pub const MESSAGE_PREFIX: &str = "cachetag";

const HARD: &str = "hard";
const SOFT: &str = "soft";

/// Tags that a transaction invalidates by name, as they travel in a logical message.
///
/// The payload is UTF-8: a line `hard` or `soft`, then a canonical tag a line. A line feed may end the last line or not.
///
/// ```
/// use cachetag_core::{InvalidationMessage, Tag};
///
/// let message = InvalidationMessage { soft: false, tags: vec![Tag::parse("product:42")?, Tag::parse("homepage")?] };
/// assert_eq!(message.encode(), "hard\nproduct:42\nhomepage");
/// assert_eq!(InvalidationMessage::parse(message.encode().as_bytes()), Ok(message));
/// # Ok::<(), cachetag_core::TagError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InvalidationMessage {
    /// Soft: what has the tags may still be served while one reader refreshes it.
    pub soft: bool,
    /// The tags, in any order; none means that nothing is invalidated.
    pub tags: Vec<Tag>,
}

impl InvalidationMessage {
    /// The payload.
    pub fn encode(&self) -> String {
        let kind = if self.soft { SOFT } else { HARD };
        let mut payload =
            String::with_capacity(kind.len() + self.tags.iter().map(|tag| tag.as_str().len() + 1).sum::<usize>());
        payload.push_str(kind);
        for tag in &self.tags {
            payload.push('\n');
            payload.push_str(tag.as_str());
        }
        payload
    }

    /// Reads a payload. One broken tag makes the whole message an error: the reader then invalidates everything, never less than was meant.
    pub fn parse(payload: &[u8]) -> Result<InvalidationMessage, MessageError> {
        let text = str::from_utf8(payload).map_err(|error| MessageError::NotUtf8 { at: error.valid_up_to() })?;
        let mut lines = text.strip_suffix('\n').unwrap_or(text).split('\n');
        let soft = match lines.next() {
            Some(HARD) => false,
            Some(SOFT) => true,
            other => return Err(MessageError::Kind { line: crate::tag::excerpt(other.unwrap_or_default()) }),
        };
        let tags = lines
            .enumerate()
            .map(|(index, line)| Tag::parse(line).map_err(|source| MessageError::Tag { line: index + 2, source }))
            .collect::<Result<_, _>>()?;
        Ok(InvalidationMessage { soft, tags })
    }
}

/// Why a payload is not an invalidation message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MessageError {
    /// The payload is not UTF-8.
    #[error("the invalidation message is not UTF-8 at offset {at}: emit it with cachetag.invalidate()")]
    NotUtf8 {
        /// Bytes before the first wrong one.
        at: usize,
    },
    /// The first line is neither `hard` nor `soft`.
    #[error(
        "the invalidation message begins with {line:?} instead of \"hard\" or \"soft\": emit it with cachetag.invalidate()"
    )]
    Kind {
        /// The first line, shortened.
        line: Box<str>,
    },
    /// A line is not a canonical tag.
    #[error("line {line} of the invalidation message: {source}")]
    Tag {
        /// Number of the line, the first being 1.
        line: usize,
        /// What is wrong with it.
        source: TagError,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tag(text: &str) -> Tag {
        Tag::parse(text).unwrap()
    }

    #[test]
    fn reads_both_kinds() {
        let hard = InvalidationMessage { soft: false, tags: vec![tag("product:*"), tag("*")] };
        assert_eq!(InvalidationMessage::parse(b"hard\nproduct:*\n*"), Ok(hard));
        let soft = InvalidationMessage { soft: true, tags: vec![tag("caf\u{e9}:1")] };
        assert_eq!(InvalidationMessage::parse("soft\ncaf\u{e9}:1\n".as_bytes()), Ok(soft));
    }

    #[test]
    fn no_tags_is_a_message() {
        let none = InvalidationMessage { soft: true, tags: Vec::new() };
        assert_eq!(none.encode(), "soft");
        assert_eq!(InvalidationMessage::parse(b"soft"), Ok(none.clone()));
        assert_eq!(InvalidationMessage::parse(b"soft\n"), Ok(none));
    }

    #[test]
    fn anything_else_is_an_error() {
        for payload in
            ["", "\n", "Hard\na", "hard a", "hard\r\na", "a", "hard\n\na", "hard\na\n\n", "hard\na b", "hard\n{"]
        {
            assert!(InvalidationMessage::parse(payload.as_bytes()).is_err(), "{payload:?}");
        }
        assert_eq!(InvalidationMessage::parse(b"hard\n\xff"), Err(MessageError::NotUtf8 { at: 5 }));
    }

    #[test]
    fn an_error_names_the_line() {
        let error = InvalidationMessage::parse(b"hard\na\nb c").unwrap_err();
        assert_eq!(
            error.to_string(),
            "line 3 of the invalidation message: tag \"b c\": ' ' at offset 1 must be written %20"
        );
    }
}

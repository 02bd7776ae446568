//! Tags: the names that cached values depend on.
//!
//! ```text
//! tag    = "*" | family ":*" | family ( ":" part )*
//! family = one or more encoded bytes, part = any number of them
//! ```
//!
//! The bytes 0x00 to 0x20, 0x7F and `:` `%` `*` `{` `}` are written `%XX` with upper-case digits, and no other byte is. So every tag has
//! exactly one text, and tags are equal when their texts are. The rule is one on bytes: it needs no Unicode tables in any language.

use std::borrow::Borrow;
use std::fmt::{self, Write as _};
use std::str::FromStr;

/// What is left of [`Tag::MAX_LEN`] for a family, so that `family:*` is always a tag too.
const MAX_FAMILY_LEN: usize = Tag::MAX_LEN - 2;

const HEX: &[u8; 16] = b"0123456789ABCDEF";

/// `true` for the bytes that are written `%XX` in a part.
const ENCODED: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte <= 0x20 {
        table[byte] = true;
        byte += 1;
    }
    table[0x7F] = true;
    table[b':' as usize] = true;
    table[b'%' as usize] = true;
    table[b'*' as usize] = true;
    table[b'{' as usize] = true;
    table[b'}' as usize] = true;
    table
};

/// A tag in its one canonical text, at most [`Tag::MAX_LEN`] bytes of UTF-8.
///
/// Tags compare and hash as their texts do, so a set of tags can be asked with a `&str`.
///
/// ```
/// use cachetag_core::Tag;
///
/// let tag = Tag::new("product", &["42", "in stock"])?;
/// assert_eq!(tag.as_str(), "product:42:in%20stock");
/// assert_eq!(tag, Tag::parse("product:42:in%20stock")?);
/// assert!(Tag::parse("product:in stock").is_err());
/// # Ok::<(), cachetag_core::TagError>(())
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tag(Box<str>);

impl Tag {
    /// The longest tag, in bytes of its canonical text. A family may have two bytes less, so that `family:*` fits.
    pub const MAX_LEN: usize = 512;

    /// The tag with this canonical text. Nothing is repaired: a text that is not canonical is an error that says how to write it.
    pub fn parse(text: &str) -> Result<Tag, TagError> {
        match check_tag(text) {
            Ok(()) => Ok(Tag(text.into())),
            Err(reason) => Err(TagError::new(text, reason)),
        }
    }

    /// Is it the canonical text of a tag, one that [`Tag::parse`] takes?
    ///
    /// ```
    /// use cachetag_core::Tag;
    ///
    /// assert!(Tag::is_tag("product:in%20stock") && !Tag::is_tag("product:in stock"));
    /// ```
    pub fn is_tag(text: &str) -> bool {
        check_tag(text).is_ok()
    }

    /// The tag of a family and parts given as raw text, which is encoded where it has to be. No part means the family alone.
    ///
    /// ```
    /// use cachetag_core::Tag;
    ///
    /// assert_eq!(Tag::new("homepage", &[])?.as_str(), "homepage");
    /// assert_eq!(Tag::new("file", &["*"])?.as_str(), "file:%2A", "the part '*', not the whole family");
    /// # Ok::<(), cachetag_core::TagError>(())
    /// ```
    pub fn new(family: &str, parts: &[&str]) -> Result<Tag, TagError> {
        let mut text = String::with_capacity(family.len() + parts.iter().map(|part| part.len() + 1).sum::<usize>());
        encode_part(family, &mut text);
        let checked = check_family_len(text.len());
        for part in parts {
            text.push(':');
            encode_part(part, &mut text);
        }
        match checked.and_then(|()| check_len(text.len())) {
            Ok(()) => Ok(Tag(text.into())),
            Err(reason) => Err(TagError::new(&text, reason)),
        }
    }

    /// The tag `*`, which stands for everything.
    pub fn everything() -> Tag {
        Tag("*".into())
    }

    /// The canonical text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The canonical (encoded) text before the first `:`, the whole text if there is none; `*` for the tag `*`.
    pub fn family(&self) -> &str {
        self.0.split_once(':').map_or(&self.0, |(family, _)| family)
    }

    /// The encoded parts after the family; `*` alone for a whole family, nothing for the tag `*`. See [`decode_part`].
    pub fn parts(&self) -> impl Iterator<Item = &str> {
        self.0.split(':').skip(1)
    }

    /// The tag `family:*` of this tag's family; `*` for the tag `*`.
    ///
    /// ```
    /// use cachetag_core::Tag;
    ///
    /// assert_eq!(Tag::parse("product:42")?.whole_family().as_str(), "product:*");
    /// assert_eq!(Tag::parse("homepage")?.whole_family().as_str(), "homepage:*");
    /// # Ok::<(), cachetag_core::TagError>(())
    /// ```
    pub fn whole_family(&self) -> Tag {
        if self.is_everything() { self.clone() } else { Tag(format!("{}:*", self.family()).into()) }
    }

    /// Is it `family:*`?
    pub fn is_whole_family(&self) -> bool {
        self.0.ends_with(":*")
    }

    /// Is it `*`?
    pub fn is_everything(&self) -> bool {
        &*self.0 == "*"
    }

    /// Does a bump of this tag make an entry fall that is tagged with `entry`?
    ///
    /// A bump of `*` reaches all entries, one of `product:*` all that have a tag of the family, one of `product:42` those tagged `product:42` and
    /// those tagged `product:*`, which depend on every member. An entry tagged `*` depends on everything.
    ///
    /// ```
    /// use cachetag_core::Tag;
    ///
    /// let (member, family) = (Tag::parse("product:42")?, Tag::parse("product:*")?);
    /// assert!(member.reaches(&family) && family.reaches(&member) && member.reaches(&member));
    /// assert!(!member.reaches(&Tag::parse("product:43")?));
    /// # Ok::<(), cachetag_core::TagError>(())
    /// ```
    pub fn reaches(&self, entry: &Tag) -> bool {
        self == entry
            || self.is_everything()
            || entry.is_everything()
            || ((self.is_whole_family() || entry.is_whole_family()) && self.family() == entry.family())
    }

    /// A tag of text that is canonical by its making.
    pub(crate) fn from_canonical(text: String) -> Tag {
        debug_assert_eq!(check_tag(&text), Ok(()));
        Tag(text.into())
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Tag({:?})", self.0)
    }
}

impl FromStr for Tag {
    type Err = TagError;

    fn from_str(text: &str) -> Result<Tag, TagError> {
        Tag::parse(text)
    }
}

impl TryFrom<String> for Tag {
    type Error = TagError;

    fn try_from(text: String) -> Result<Tag, TagError> {
        match check_tag(&text) {
            Ok(()) => Ok(Tag(text.into())),
            Err(reason) => Err(TagError::new(&text, reason)),
        }
    }
}

impl From<Tag> for String {
    fn from(tag: Tag) -> String {
        tag.0.into()
    }
}

impl AsRef<str> for Tag {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for Tag {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// Appends raw text to `out`, encoded as a family or a part of a tag.
///
/// ```
/// let mut out = String::from("user:");
/// cachetag_core::encode_part("50% off: now", &mut out);
/// assert_eq!(out, "user:50%25%20off%3A%20now");
/// ```
pub fn encode_part(raw: &str, out: &mut String) {
    let mut plain = 0;
    for (at, byte) in raw.bytes().enumerate() {
        if ENCODED[usize::from(byte)] {
            // Encoded bytes are ASCII, so both ends of the run are character boundaries.
            out.push_str(&raw[plain..at]);
            out.extend(escape(byte).map(char::from));
            plain = at + 1;
        }
    }
    out.push_str(&raw[plain..]);
}

/// [`encode_part`] for bytes that need not be UTF-8. What comes out is UTF-8 if and only if what went in was.
pub fn encode_part_bytes(raw: &[u8], out: &mut Vec<u8>) {
    let mut plain = 0;
    for (at, &byte) in raw.iter().enumerate() {
        if ENCODED[usize::from(byte)] {
            out.extend_from_slice(&raw[plain..at]);
            out.extend_from_slice(&escape(byte));
            plain = at + 1;
        }
    }
    out.extend_from_slice(&raw[plain..]);
}

/// The raw text of an encoded family or part. A text that [`encode_part`] would not have made is an error.
///
/// ```
/// assert_eq!(cachetag_core::decode_part("in%20stock")?, "in stock");
/// assert!(cachetag_core::decode_part("in stock").is_err());
/// # Ok::<(), cachetag_core::TagError>(())
/// ```
pub fn decode_part(part: &str) -> Result<String, TagError> {
    check_encoded(part, 0)
        .and_then(|()| part.find(':').map_or(Ok(()), |at| Err(TagReason::RawByte { at, byte: b':' })))
        .map_err(|reason| TagError::new(part, reason))?;
    let mut pieces = part.split('%');
    let mut raw = String::with_capacity(part.len());
    raw.extend(pieces.next());
    for piece in pieces {
        let (digits, plain) = piece.split_at_checked(2).unwrap_or((piece, ""));
        raw.extend(u8::from_str_radix(digits, 16).map(char::from));
        raw.push_str(plain);
    }
    Ok(raw)
}

/// Why a text is not a tag. Displays with the text, the place and what to write instead.
///
/// ```
/// let error = cachetag_core::Tag::parse("product:in stock").unwrap_err();
/// assert_eq!(error.to_string(), r#"tag "product:in stock": ' ' at offset 10 must be written %20"#);
/// ```
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("tag {text:?}: {reason}")]
pub struct TagError {
    text: Box<str>,
    #[source]
    reason: TagReason,
}

impl TagError {
    fn new(text: &str, reason: TagReason) -> TagError {
        TagError { text: excerpt(text), reason }
    }

    /// The rule that the text breaks.
    pub fn reason(&self) -> TagReason {
        self.reason
    }
}

/// The rule of the grammar that a text breaks. Offsets count bytes from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TagReason {
    /// The text is empty.
    #[error("a tag has at least a family, for example \"product\"")]
    Empty,
    /// The text is longer than [`Tag::MAX_LEN`].
    #[error("{len} bytes are more than the {} that a tag may have: use a shorter key or a hash of it", Tag::MAX_LEN)]
    TooLong {
        /// Bytes of the canonical text.
        len: usize,
    },
    /// Nothing stands before the first `:`.
    #[error("the family before the first ':' is empty: name one, for example \"product:42\"")]
    EmptyFamily,
    /// The family leaves no room for the tag `family:*`.
    #[error("a family of {len} bytes is longer than {MAX_FAMILY_LEN}: shorten it, so that \"family:*\" is a tag too")]
    FamilyTooLong {
        /// Bytes of the encoded family.
        len: usize,
    },
    /// A byte that has to be encoded stands for itself.
    #[error("{} at offset {at} must be written %{byte:02X}{}", Shown(*.byte), raw_byte_hint(*.byte))]
    RawByte {
        /// Offset of the byte.
        at: usize,
        /// The byte.
        byte: u8,
    },
    /// A `%` is not followed by two hexadecimal digits.
    #[error("'%' at offset {at} must be followed by two upper-case hexadecimal digits; '%' itself is written %25")]
    BrokenEscape {
        /// Offset of the `%`.
        at: usize,
    },
    /// The digits of an escape are in lower case.
    #[error("the escape at offset {at} must be written in upper case, %{byte:02X}")]
    LowerCaseEscape {
        /// Offset of the `%`.
        at: usize,
        /// The byte that the escape stands for.
        byte: u8,
    },
    /// An escape stands for a byte that is not to be encoded.
    #[error("%{byte:02X} at offset {at} encodes a byte that stands for itself: write {}", Shown(*.byte))]
    NeedlessEscape {
        /// Offset of the `%`.
        at: usize,
        /// The byte that the escape stands for.
        byte: u8,
    },
}

/// A byte as an error message shows it.
struct Shown(u8);

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            b' '..=b'~' => write!(f, "'{}'", char::from(self.0)),
            byte => write!(f, "byte 0x{byte:02X}"),
        }
    }
}

fn raw_byte_hint(byte: u8) -> &'static str {
    if byte == b'*' { "; for a whole family it stands alone after the family, \"product:*\"" } else { "" }
}

/// The beginning of a text, short enough for an error message.
pub(crate) fn excerpt(text: &str) -> Box<str> {
    const SHOWN_CHARS: usize = 100;
    match text.char_indices().nth(SHOWN_CHARS) {
        None => text.into(),
        Some((end, _)) => {
            let mut shown = text[..end].to_owned();
            let _ = write!(shown, "… ({} bytes)", text.len());
            shown.into()
        }
    }
}

fn escape(byte: u8) -> [u8; 3] {
    [b'%', HEX[usize::from(byte >> 4)], HEX[usize::from(byte & 15)]]
}

pub(crate) fn check_tag(text: &str) -> Result<(), TagReason> {
    if text.is_empty() {
        return Err(TagReason::Empty);
    }
    check_len(text.len())?;
    if text == "*" {
        return Ok(());
    }
    check_family_len(text.find(':').unwrap_or(text.len()))?;
    match text.strip_suffix(":*") {
        // Only directly after the family; elsewhere the star is a raw byte like any other.
        Some(family) if !family.contains(':') => check_encoded(family, 0),
        _ => check_encoded(text, 0),
    }
}

pub(crate) fn check_len(len: usize) -> Result<(), TagReason> {
    if len > Tag::MAX_LEN { Err(TagReason::TooLong { len }) } else { Ok(()) }
}

pub(crate) fn check_family_len(len: usize) -> Result<(), TagReason> {
    match len {
        0 => Err(TagReason::EmptyFamily),
        1..=MAX_FAMILY_LEN => Ok(()),
        _ => Err(TagReason::FamilyTooLong { len }),
    }
}

/// Is every byte encoded that has to be, and no other? `:` passes, as what separates parts. `offset` is added to the place of an error.
pub(crate) fn check_encoded(text: &str, offset: usize) -> Result<(), TagReason> {
    let bytes = text.as_bytes();
    let mut index = 0;
    while let Some(&byte) = bytes.get(index) {
        let at = offset + index;
        if byte == b'%' {
            check_escape(bytes.get(index + 1..index + 3), at)?;
            index += 3;
        } else if ENCODED[usize::from(byte)] && byte != b':' {
            return Err(TagReason::RawByte { at, byte });
        } else {
            index += 1;
        }
    }
    Ok(())
}

fn check_escape(digits: Option<&[u8]>, at: usize) -> Result<(), TagReason> {
    let Some(&[high, low]) = digits else { return Err(TagReason::BrokenEscape { at }) };
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let (Some(high_digit), Some(low_digit)) = (digit(high), digit(low)) else {
        return Err(TagReason::BrokenEscape { at });
    };
    let byte = high_digit << 4 | low_digit;
    if !ENCODED[usize::from(byte)] {
        Err(TagReason::NeedlessEscape { at, byte })
    } else if high.is_ascii_lowercase() || low.is_ascii_lowercase() {
        Err(TagReason::LowerCaseEscape { at, byte })
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeSet, HashSet};

    use super::*;

    fn message(text: &str) -> String {
        Tag::parse(text).unwrap_err().to_string()
    }

    #[test]
    fn errors_name_place_and_remedy() {
        assert_eq!(message(""), r#"tag "": a tag has at least a family, for example "product""#);
        assert_eq!(
            message(":42"),
            r#"tag ":42": the family before the first ':' is empty: name one, for example "product:42""#
        );
        assert_eq!(message("a:\n"), r#"tag "a:\n": byte 0x0A at offset 2 must be written %0A"#);
        assert_eq!(
            message("a:b:*"),
            r#"tag "a:b:*": '*' at offset 4 must be written %2A; for a whole family it stands alone after the family, "product:*""#
        );
        assert_eq!(
            message("a:5%"),
            r#"tag "a:5%": '%' at offset 3 must be followed by two upper-case hexadecimal digits; '%' itself is written %25"#
        );
        assert_eq!(message("a:%2a"), r#"tag "a:%2a": the escape at offset 2 must be written in upper case, %2A"#);
        assert_eq!(
            message("a:%41"),
            r#"tag "a:%41": %41 at offset 2 encodes a byte that stands for itself: write 'A'"#
        );
    }

    #[test]
    fn an_error_shows_the_beginning_of_a_long_text() {
        let shown = message(&"\u{e9}".repeat(300));
        let expected = format!(
            "tag \"{}\u{2026} (600 bytes)\": 600 bytes are more than the 512 that a tag may have: use a shorter key or a hash of it",
            "\u{e9}".repeat(100)
        );
        assert_eq!(shown, expected);
    }

    #[test]
    fn sets_of_tags_are_asked_with_text() {
        let tags = ["product:42", "homepage"].map(|text| Tag::parse(text).unwrap());
        assert!(HashSet::from(tags.clone()).contains("product:42"));
        assert!(BTreeSet::from(tags).contains("homepage"));
    }

    #[test]
    fn decoding_is_strict() {
        assert_eq!(decode_part("a:b").unwrap_err().reason(), TagReason::RawByte { at: 1, byte: b':' });
        assert_eq!(decode_part("%2a").unwrap_err().reason(), TagReason::LowerCaseEscape { at: 0, byte: b'*' });
        assert_eq!(decode_part("").unwrap(), "");
        assert_eq!(decode_part("%25%20%2541").unwrap(), "% %41");
    }
}

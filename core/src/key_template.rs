//! Key templates: which cache keys a recipe of `cachetag audit` is for, and which values it takes out of them.

use std::fmt;
use std::str::FromStr;

use crate::tag::excerpt;

/// What `cachetag.key(…)` writes for NULL.
const NULL_PART: &str = "%00";
/// What `cachetag.key(…)` begins a hashed part with: the values are not in such a key.
const HASH_MARK: &str = "%sha256-";

/// Text of a cache key with names in braces: `page:product:{id}`, `user/{id}/v{version}`.
///
/// A name stands for one or more characters, none of them `:`, up to the first place at which the text behind it comes again (the last name: up to
/// the end). What is percent-encoded as `cachetag.key(…)` writes it is decoded.
///
/// ```
/// use cachetag_core::KeyTemplate;
///
/// let template: KeyTemplate = "search:{words}:{page}".parse()?;
/// assert_eq!(template.names(), ["words", "page"]);
/// assert_eq!(template.values("search:red%20jug:2"), Some(vec![Some("red jug".into()), Some("2".into())]));
/// assert_eq!(template.values("search:2"), None);
/// # Ok::<(), cachetag_core::KeyTemplateError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyTemplate {
    head: String,
    /// A name and the text behind it, which is empty only for the last one.
    rest: Vec<(String, String)>,
    names: Vec<String>,
}

impl KeyTemplate {
    /// Reads a key template.
    pub fn parse(text: &str) -> Result<KeyTemplate, KeyTemplateError> {
        parse(text).map_err(|reason| KeyTemplateError { text: excerpt(text), reason })
    }

    /// The names, in the order in which `$1`, `$2`, … of the recipe's query stand for them.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    /// How many bytes of a key this template fixes: of several that match, the one with most is meant.
    pub fn fixed_len(&self) -> usize {
        self.head.len() + self.rest.iter().map(|(_, text)| text.len()).sum::<usize>()
    }

    /// The values of the names in a key; `None` for a key of another form. A value is `None` where `cachetag.key(…)` was given NULL.
    pub fn values(&self, key: &str) -> Option<Vec<Option<String>>> {
        let mut left = key.strip_prefix(self.head.as_str())?;
        let mut values = Vec::with_capacity(self.rest.len());
        for (at, (_, text)) in self.rest.iter().enumerate() {
            let value;
            (value, left) = if at + 1 == self.rest.len() {
                (left.strip_suffix(text.as_str())?, "")
            } else {
                // The value has a character at least, so that the text may come right at the beginning once.
                let first = left.chars().next()?.len_utf8();
                let end = first + left[first..].find(text.as_str())?;
                (&left[..end], &left[end + text.len()..])
            };
            if value.is_empty() || value.contains(':') || value.starts_with(HASH_MARK) {
                return None;
            }
            values.push((value != NULL_PART).then(|| decoded(value)));
        }
        left.is_empty().then_some(values)
    }
}

/// A part with every `%XX` decoded; as it is if it is not an encoded one.
fn decoded(part: &str) -> String {
    let mut pieces = part.split('%');
    let mut raw = pieces.next().unwrap_or_default().as_bytes().to_vec();
    for piece in pieces {
        let Some((digits, plain)) = piece.split_at_checked(2) else { return part.to_owned() };
        let is_digit = |b: u8| b.is_ascii_digit() || (b'A'..=b'F').contains(&b);
        match u8::from_str_radix(digits, 16) {
            Ok(byte) if digits.bytes().all(is_digit) => raw.push(byte),
            _ => return part.to_owned(),
        }
        raw.extend_from_slice(plain.as_bytes());
    }
    String::from_utf8(raw).unwrap_or_else(|_| part.to_owned())
}

fn parse(text: &str) -> Result<KeyTemplate, KeyTemplateReason> {
    if text.is_empty() {
        return Err(KeyTemplateReason::Empty);
    }
    let (head, mut left) = text.split_at(text.find('{').unwrap_or(text.len()));
    let literal = |literal: &str, at: usize| match literal.find('}') {
        Some(brace) => Err(KeyTemplateReason::UnopenedBrace { at: at + brace }),
        None => Ok(literal.to_owned()),
    };
    let head = literal(head, 0)?;
    let mut rest: Vec<(String, String)> = Vec::new();
    while let Some(inside) = left.strip_prefix('{') {
        let at = text.len() - left.len();
        let (name, behind) = inside.split_once('}').ok_or(KeyTemplateReason::UnclosedBrace { at })?;
        let is_name_byte = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
        if name.is_empty() || !name.bytes().all(is_name_byte) {
            return Err(KeyTemplateReason::Name { at });
        }
        if rest.iter().any(|(other, _)| other == name) {
            return Err(KeyTemplateReason::Twice { at });
        }
        if rest.last().is_some_and(|(_, between)| between.is_empty()) {
            return Err(KeyTemplateReason::Adjacent { at });
        }
        let (between, more) = behind.split_at(behind.find('{').unwrap_or(behind.len()));
        rest.push((name.to_owned(), literal(between, text.len() - behind.len())?));
        left = more;
    }
    let names = rest.iter().map(|(name, _)| name.clone()).collect();
    Ok(KeyTemplate { head, rest, names })
}

impl fmt::Display for KeyTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.head)?;
        self.rest.iter().try_for_each(|(name, text)| write!(f, "{{{name}}}{text}"))
    }
}

impl FromStr for KeyTemplate {
    type Err = KeyTemplateError;

    fn from_str(text: &str) -> Result<KeyTemplate, KeyTemplateError> {
        KeyTemplate::parse(text)
    }
}

/// Why a text is not a key template. Displays with the text, the place and what to write instead.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("key template {text:?}: {reason}")]
pub struct KeyTemplateError {
    text: Box<str>,
    #[source]
    reason: KeyTemplateReason,
}

impl KeyTemplateError {
    /// The rule that the text breaks.
    pub fn reason(&self) -> KeyTemplateReason {
        self.reason
    }
}

/// The rule that the text of a key template breaks. Offsets count bytes from 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyTemplateReason {
    /// There is no text.
    #[error("it is empty: write for example \"page:product:{{id}}\"")]
    Empty,
    /// A `{` without its `}`.
    #[error("'{{' at offset {at} is not closed: write {{name}}")]
    UnclosedBrace {
        /// Offset of the `{`.
        at: usize,
    },
    /// A `}` without its `{`.
    #[error("'}}' at offset {at} closes nothing: keys with braces cannot have a template")]
    UnopenedBrace {
        /// Offset of the `}`.
        at: usize,
    },
    /// What is in the braces is not a name.
    #[error("the braces at offset {at} hold no name of letters, digits and underscores: write {{name}}")]
    Name {
        /// Offset of the `{`.
        at: usize,
    },
    /// A name stands twice.
    #[error("the name at offset {at} stands there already: give each place a name of its own")]
    Twice {
        /// Offset of the `{`.
        at: usize,
    },
    /// Nothing tells where one value ends and the next begins.
    #[error("the name at offset {at} follows another with nothing in between: put a text such as ':' between them")]
    Adjacent {
        /// Offset of the second `{`.
        at: usize,
    },
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn values(template: &str, key: &str) -> Option<Vec<String>> {
        let values = KeyTemplate::parse(template).unwrap().values(key)?;
        Some(values.into_iter().map(|value| value.unwrap_or("NULL".into())).collect())
    }

    #[test]
    fn values_are_taken_out_of_keys() {
        assert_eq!(values("homepage", "homepage"), Some(vec![]));
        assert_eq!(values("homepage", "homepage2"), None);
        assert_eq!(values("page:product:{id}", "page:product:42"), Some(vec!["42".into()]));
        assert_eq!(values("page:product:{id}", "page:product:42:v2"), None);
        assert_eq!(values("page:product:{id}", "page:product:"), None);
        assert_eq!(values("user/{id}/v{v}.json", "user/7/v2.1.json"), Some(vec!["7".into(), "2.1".into()]));
        assert_eq!(values("{a}-{b}", "x-y-z"), Some(vec!["x".into(), "y-z".into()]));
        assert_eq!(values("{a}-{b}", "--z"), Some(vec!["-".into(), "z".into()]));
        assert_eq!(values("{a}-{b}", "é-z"), Some(vec!["é".into(), "z".into()]));
        assert_eq!(values("{a}:x", "x:x:x"), None);
    }

    #[test]
    fn what_key_wrote_is_read() {
        assert_eq!(values("k:{a}", "k:a%3Ab%C3%A9"), Some(vec!["a:bé".into()]));
        assert_eq!(values("k:{a}", "k:%00"), Some(vec!["NULL".into()]));
        assert_eq!(values("k:{a}", "k:%sha256-00"), None);
        for raw in ["100%", "%zz", "%3a", "%+1", "%FF"] {
            assert_eq!(values("k:{a}", &format!("k:{raw}")), Some(vec![raw.into()]), "not encoded: taken as it is");
        }
    }

    #[test]
    fn refusals_name_the_place() {
        use KeyTemplateReason::*;
        for (text, reason) in [
            ("", Empty),
            ("a{b", UnclosedBrace { at: 1 }),
            ("a}b", UnopenedBrace { at: 1 }),
            ("a{b}}", UnopenedBrace { at: 4 }),
            ("a{}", Name { at: 1 }),
            ("a{b c}", Name { at: 1 }),
            ("{a}:{a}", Twice { at: 4 }),
            ("x{a}{b}", Adjacent { at: 4 }),
        ] {
            assert_eq!(KeyTemplate::parse(text).map_err(|error| error.reason()), Err(reason), "{text}");
        }
    }

    proptest! {
        #[test]
        fn a_template_displays_as_what_was_parsed(text in "[a-z:{}_/é]{0,16}") {
            if let Ok(template) = KeyTemplate::parse(&text) {
                prop_assert_eq!(template.to_string(), text);
            }
        }

        /// What was put into the places of the names comes out of the key, as long as it cannot be taken for what stands between them.
        #[test]
        fn values_come_back(a in "[a-z0-9é]{1,8}", b in "[a-z0-9/é]{1,8}") {
            let template = KeyTemplate::parse("x:{a}/{b}.y").unwrap();
            prop_assert_eq!(template.values(&format!("x:{a}/{b}.y")), Some(vec![Some(a), Some(b)]));
        }

        #[test]
        fn no_key_makes_it_panic(template in "[a:{}]{1,12}", key in "\\PC{0,16}") {
            if let Ok(template) = KeyTemplate::parse(&template) {
                let values = template.values(&key);
                prop_assert!(values.is_none_or(|values| values.len() == template.names().len()));
            }
        }
    }
}

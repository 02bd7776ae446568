//! An entry as Redis holds it, read by plain commands: `HMGET {ct}:e:<key> payload meta`.

use std::time::Duration;

use bytes::Bytes;
use cachetag_core::Version;
use redis::Value;

use crate::adaptive::is_early;
use crate::options::AtLeast;

/// Of the draws of XFetch none reaches further than this many times the cost: -ln(2^-52), rounded up.
const EARLY_REACH: f64 = 36.1;

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// A value.
    Value,
    /// The knowledge that there is nothing.
    Absent,
}

/// A key that must be there, and not above `as_of`, for an entry to be valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Check<'a> {
    /// `{ct}:t:<tag>`: the last bump of this very tag, which may be `family:*`.
    Tag(&'a str),
    /// `{ct}:a:<family>`: the last bump of any member of the family; of any tag at all for `*`.
    Members(&'a str),
}

/// An entry that nobody has judged yet.
///
/// ```
/// use cachetag_client::l2::{Check, RawEntry};
///
/// let meta = "1767225600.00000000000000000100 1767225600000 1767225660000 - 12 value -\nt:product:42\nt:product:*";
/// let entry = RawEntry::parse("payload", meta).unwrap();
/// assert_eq!(entry.checks().collect::<Vec<_>>(), [Check::Tag("product:42"), Check::Tag("product:*")]);
/// assert!(!entry.is_expired(1_767_225_659_999) && entry.is_expired(1_767_225_660_000));
/// ```
#[derive(Debug, Clone, PartialEq)]
pub struct RawEntry {
    /// The value; empty for an absence.
    pub payload: Bytes,
    /// A value or an absence.
    pub kind: Kind,
    /// The version under which it was read.
    pub as_of: Version,
    /// When it was put; as all times here in ms since 1970, on Redis's clock.
    pub put_at: u64,
    /// When it ends.
    pub expires_at: u64,
    /// When it begins to be stale.
    pub fresh_until: Option<u64>,
    /// What computing it took.
    pub cost: Duration,
    /// Every commit that the value may hold ends here or earlier, as far as that is known.
    pub seen: Option<AtLeast>,
    keys: Keys,
}

/// The keys that an entry checks, as the field `meta` names them.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Keys {
    meta: Box<str>,
    /// Where in it they begin.
    at: usize,
    /// Is the last bump of any member of a family among them?
    any_members: bool,
}

impl RawEntry {
    /// Reads the two fields of an entry; `None` if `meta` is not what `cachetag_put` writes.
    pub fn parse(payload: impl Into<Bytes>, meta: impl Into<Box<str>>) -> Option<RawEntry> {
        let meta = meta.into();
        // By hand: this is a good part of what a hit costs the client.
        let bytes = meta.as_bytes();
        let as_of = meta.get(..Version::LEN)?.parse().ok()?;
        let mut at = Version::LEN;
        let put_at = number(bytes, &mut at)?;
        let expires_at = number(bytes, &mut at)?;
        let fresh_until = number_or_none(bytes, &mut at)?;
        let cost = Duration::from_millis(number(bytes, &mut at)?);
        let (kind, word) = if bytes[at..].starts_with(b" value") {
            (Kind::Value, " value")
        } else if bytes[at..].starts_with(b" absent") {
            (Kind::Absent, " absent")
        } else {
            return None;
        };
        at += word.len();
        let seen = position_or_none(&meta, &mut at)?;
        let keys_at = match bytes.get(at) {
            None => at,
            Some(b'\n') => at + 1,
            // A word more is a library's that knows more than this client: it may mean that there is more to check.
            Some(_) => return None,
        };
        let mut any_members = false;
        for key in Lines(meta.get(keys_at..)?) {
            match key.as_bytes() {
                [b't', b':', ..] => {}
                [b'a', b':', ..] => any_members = true,
                _ => return None,
            }
        }
        if keys_at < bytes.len() && bytes.ends_with(b"\n") {
            return None;
        }
        Some(RawEntry {
            payload: payload.into(),
            kind,
            as_of,
            put_at,
            expires_at,
            fresh_until,
            cost,
            seen,
            keys: Keys { meta, at: keys_at, any_members },
        })
    }

    /// Reads the reply of an HMGET; `None` for no entry, and for one of an older library, which has no `meta`.
    pub(super) fn read(reply: Value) -> Option<RawEntry> {
        let Value::Array(fields) = reply else { return None };
        let Ok([Value::BulkString(payload), Value::BulkString(meta)]) = <[Value; 2]>::try_from(fields) else {
            return None;
        };
        RawEntry::parse(payload, String::from_utf8(meta).ok()?)
    }

    /// The value; `None` for an absence.
    pub fn value(&self) -> Option<&Bytes> {
        (self.kind == Kind::Value).then_some(&self.payload)
    }

    /// What its validity depends on.
    pub fn checks(&self) -> impl Iterator<Item = Check<'_>> + Clone {
        self.keys.checks()
    }

    /// The same as keys of Redis, without the prefix.
    pub fn keys(&self) -> impl Iterator<Item = &str> + Clone {
        self.keys.all()
    }

    /// The tags that it was put with.
    pub fn tags(&self) -> impl Iterator<Item = &str> {
        self.keys.tags()
    }

    /// The payload, and what tells the tags without it.
    pub(crate) fn into_payload_and_keys(self) -> (Bytes, Keys) {
        (self.payload, self.keys)
    }

    /// Has its time run out?
    pub fn is_expired(&self, now_ms: u64) -> bool {
        now_ms >= self.expires_at
    }

    /// May it still be served without saying that it is stale, as far as its own time goes?
    pub fn is_fresh(&self, now_ms: u64) -> bool {
        self.fresh_until.is_none_or(|until| now_ms < until)
    }

    /// How long ago it was put.
    pub fn age(&self, now_ms: u64) -> Duration {
        Duration::from_millis(now_ms.saturating_sub(self.put_at))
    }

    /// XFetch: should this caller recompute it before its time has come? `draw` is uniform in (0, 1].
    ///
    /// ```
    /// # use cachetag_client::l2::RawEntry;
    /// let entry = RawEntry::parse("", "0000000001.00000000000000000100 0 10000 - 500 value -").unwrap();
    /// assert!(entry.is_early(9_000, 1.0, 0.1), "500 ms * -ln(0.1) reaches a second ahead");
    /// assert!(!entry.is_early(9_000, 1.0, 0.5) && !entry.is_early(9_000, 0.0, 0.1));
    /// ```
    pub fn is_early(&self, now_ms: u64, beta: f64, draw: f64) -> bool {
        let reach = self.cost.as_millis() as f64 * beta;
        let left = self.expires_at.min(self.fresh_until.unwrap_or(u64::MAX)).saturating_sub(now_ms);
        // Most are further away than any draw reaches.
        reach > 0.0
            && left as f64 <= reach * EARLY_REACH
            && is_early(Duration::from_millis(left), self.cost, beta, draw)
    }
}

impl Keys {
    fn all(&self) -> impl Iterator<Item = &str> + Clone {
        Lines(&self.meta[self.at..])
    }

    fn checks(&self) -> impl Iterator<Item = Check<'_>> + Clone {
        self.all().filter_map(check)
    }

    /// The tags that the entry was put with.
    pub(crate) fn tags(&self) -> impl Iterator<Item = &str> {
        // Every tag of a family brings `family:*` along: it is a tag of the entry only if its members are checked too.
        let members = |family: &str| self.any_members && self.checks().any(|check| check == Check::Members(family));
        self.checks().filter_map(move |check| match check {
            Check::Tag(tag) => match tag.strip_suffix(":*") {
                Some(family) if !members(family) => None,
                _ => Some(tag),
            },
            Check::Members("*") => Some("*"),
            Check::Members(_) => None,
        })
    }
}

/// The lines of a text, of which the last may end without a line's end. Keys are short: a search for its end that is made for long texts would take longer
/// to begin than to end.
#[derive(Clone)]
struct Lines<'a>(&'a str);

impl<'a> Iterator for Lines<'a> {
    type Item = &'a str;

    #[inline]
    fn next(&mut self) -> Option<&'a str> {
        if self.0.is_empty() {
            return None;
        }
        let (line, rest) = match self.0.bytes().position(|byte| byte == b'\n') {
            Some(end) => (self.0.get(..end)?, self.0.get(end + 1..)?),
            None => (self.0, ""),
        };
        self.0 = rest;
        Some(line)
    }
}

/// A space and a natural number of 64 bits, in at most twenty digits.
fn number(bytes: &[u8], at: &mut usize) -> Option<u64> {
    let text = bytes.get(*at..)?.strip_prefix(b" ")?;
    let (mut number, mut digits) = (0_u64, 0);
    while let Some(byte) = text.get(digits).filter(|byte| byte.is_ascii_digit()) {
        number = number.checked_mul(10)?.checked_add(u64::from(byte - b'0'))?;
        digits += 1;
    }
    *at += 1 + digits;
    (1..=20).contains(&digits).then_some(number)
}

/// A space and a dash for none, or a number.
fn number_or_none(bytes: &[u8], at: &mut usize) -> Option<Option<u64>> {
    if bytes.get(*at..)?.starts_with(b" -") {
        *at += 2;
        return Some(None);
    }
    number(bytes, at).map(Some)
}

/// A space and a dash for none, or a position.
fn position_or_none(meta: &str, at: &mut usize) -> Option<Option<AtLeast>> {
    let text = meta.get(*at..)?.strip_prefix(' ')?;
    let word = &text[..text.find([' ', '\n']).unwrap_or(text.len())];
    *at += 1 + word.len();
    if word == "-" {
        return Some(None);
    }
    // A version is no position in the log.
    word.contains('/').then(|| word.parse().ok().map(Some))?
}

fn check(key: &str) -> Option<Check<'_>> {
    if let Some(tag) = key.strip_prefix("t:") {
        return Some(Check::Tag(tag));
    }
    key.strip_prefix("a:").map(Check::Members)
}

#[cfg(test)]
mod tests {
    use cachetag_core::Lsn;

    use super::*;

    const HEAD: &str = "1767225600.00000000000000000100 1000 2000 1500 7 value 3@0/2A";

    #[test]
    fn both_fields_are_read() {
        let bulk = |text: &str| Value::BulkString(text.into());
        let entry = RawEntry::read(Value::Array(vec![bulk("v"), bulk(&format!("{HEAD}\nt:a:1\nt:a:*\na:*"))])).unwrap();
        assert_eq!((entry.value().map(|v| &v[..]), entry.as_of.lsn.0), (Some(&b"v"[..]), 100));
        assert_eq!((entry.put_at, entry.expires_at, entry.fresh_until), (1000, 2000, Some(1500)));
        assert_eq!((entry.cost, entry.kind), (Duration::from_millis(7), Kind::Value));
        assert_eq!(entry.seen, Some(AtLeast::on(3, Lsn(42))));
        assert_eq!(entry.keys().collect::<Vec<_>>(), ["t:a:1", "t:a:*", "a:*"]);
        assert_eq!(entry.tags().collect::<Vec<_>>(), ["a:1", "*"]);
        assert!(entry.is_fresh(1499) && !entry.is_fresh(1500));
        for none in [
            Value::Array(vec![Value::Nil, Value::Nil]),
            Value::Array(vec![bulk("v"), Value::Nil]),
            Value::Array(vec![bulk("v")]),
            Value::Nil,
        ] {
            assert_eq!(RawEntry::read(none), None);
        }
    }

    #[test]
    fn a_family_is_a_tag_if_its_members_are_checked() {
        let tags = |keys: &str| {
            let entry = RawEntry::parse("", format!("{HEAD}\n{keys}")).unwrap();
            entry.tags().map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!(tags("t:a:1\nt:a:*"), ["a:1"]);
        assert_eq!(tags("t:a:*\na:a\nt:b\nt:b:*"), ["a:*", "b"]);
        assert_eq!(RawEntry::parse("", HEAD).unwrap().tags().count(), 0);
    }

    #[test]
    fn what_is_not_of_this_shape_is_none() {
        let long = format!("{HEAD} more");
        let strange = format!("{HEAD}\nx:key");
        let cut: Vec<&str> = (0..HEAD.len() - 2).map(|end| &HEAD[..end]).collect();
        let digits = HEAD.replace("1000", "18446744073709551616");
        let (thing, negative, gap) =
            (HEAD.replace("value", "thing"), HEAD.replace("1000", "-1"), HEAD.replace(' ', "  "));
        let former = HEAD.replace(" 3@0/2A", "");
        let (valued, empty_line) = (format!("{HEAD}x"), format!("{HEAD}\nt:a\n\nt:b"));
        let ended = format!("{HEAD}\nt:a\n");
        let wrong =
            ["1 2 3", "ä", &former, &digits, &thing, &negative, &gap, &valued, &empty_line, &ended, &long, &strange];
        for meta in cut.into_iter().chain(wrong) {
            assert_eq!(RawEntry::parse("", meta), None, "{meta}");
        }
    }

    #[test]
    fn an_absence_has_no_value() {
        let entry =
            RawEntry::parse("", HEAD.replace("value", "absent").replace("3@0/2A", "-").replace("1500", "-")).unwrap();
        assert_eq!((entry.kind, entry.value(), entry.fresh_until, entry.seen), (Kind::Absent, None, None, None));
        assert!(entry.is_fresh(u64::MAX));
    }
}

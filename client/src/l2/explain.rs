//! `cachetag_explain`: an entry and the verdict on it, for people.

use cachetag_core::Version;
use redis::Value;

use super::reply::{text, unexpected};
use super::{Error, State, TagValue};

const CALL: &str = "cachetag_explain";

/// What the library says of an entry. [`Explain::field`] has what is not among the fields here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explain {
    /// What `cachetag_get` would answer; never `early`, which is chance.
    pub verdict: State,
    /// Why, in words.
    pub reason: String,
    /// The entry's version.
    pub as_of: Option<Version>,
    /// The keys that the entry checks.
    pub tags: Vec<ExplainedTag>,
    fields: Vec<(String, String)>,
}

/// A key that an entry checks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExplainedTag {
    /// `tag:<tag>` for the tag itself, `members:<family>` for what any member of the family did.
    pub name: String,
    /// Its versions; none if it is not registered.
    pub value: Option<TagValue>,
}

impl Explain {
    /// A field of the library's answer, by its name there (`lag_ms`, `expires_in_ms`, `lease`, …); empty where there is nothing.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(field, _)| field == name).map(|(_, value)| value.as_str())
    }

    /// All fields, in the library's order.
    pub fn fields(&self) -> impl Iterator<Item = (&str, &str)> {
        self.fields.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

/// Reads the reply.
pub(super) fn parse(reply: &Value) -> Result<Explain, Error> {
    read(reply).ok_or_else(|| unexpected(CALL, reply))
}

fn read(reply: &Value) -> Option<Explain> {
    let Value::Array(items) = reply else { return None };
    let shown = |value: &Value| match value {
        Value::Int(number) => Some(number.to_string()),
        Value::BulkString(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
        other => text(other).map(str::to_owned),
    };
    let pairs = items.chunks_exact(2);
    if !pairs.remainder().is_empty() {
        return None;
    }
    let fields: Vec<(String, String)> =
        pairs.map(|pair| Some((shown(&pair[0])?, shown(&pair[1])?))).collect::<Option<_>>()?;
    let field = |name: &str| fields.iter().find(|(field, _)| field == name).map(|(_, value)| value.as_str());
    let verdict = match field("verdict")? {
        "hit" => State::Hit,
        "stale" => State::Stale,
        "miss" => State::Miss,
        "wait" => State::Wait,
        "bypass" => State::Bypass,
        _ => return None,
    };
    let reason = field("reason")?.to_owned();
    let as_of = field("as_of").and_then(|text| text.parse().ok());
    let tags = fields
        .iter()
        .filter(|(name, _)| name.starts_with("tag:") || name.starts_with("members:"))
        .map(|(name, value)| ExplainedTag { name: name.clone(), value: TagValue::parse(value) })
        .collect();
    Some(Explain { verdict, reason, as_of, tags, fields })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(items: &[&str]) -> Value {
        Value::Array(items.iter().map(|text| Value::BulkString(text.as_bytes().to_vec())).collect())
    }

    #[test]
    fn an_answer_is_read() {
        let version = "1767225600.00000000000000000100";
        let items = [
            "verdict",
            "miss",
            "reason",
            "bumped",
            "as_of",
            version,
            "lag_ms",
            "3",
            "tag:a:1",
            version,
            "members:b",
            "absent",
        ];
        let explain = parse(&reply(&items)).unwrap();
        assert_eq!((explain.verdict, explain.reason.as_str()), (State::Miss, "bumped"));
        assert_eq!((explain.as_of, explain.field("lag_ms")), (version.parse().ok(), Some("3")));
        assert_eq!(explain.tags.len(), 2);
        assert_eq!(explain.tags[0].value.map(|value| value.hard), version.parse().ok());
        assert_eq!((explain.tags[1].name.as_str(), explain.tags[1].value), ("members:b", None));
        assert_eq!(explain.fields().count(), 6);
    }

    #[test]
    fn what_does_not_fit_is_an_error() {
        assert!(parse(&reply(&[])).is_err() && parse(&reply(&["verdict"])).is_err());
        assert!(parse(&reply(&["verdict", "good", "reason", ""])).is_err() && parse(&Value::Nil).is_err());
    }
}

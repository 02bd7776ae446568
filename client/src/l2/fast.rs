//! Reading by plain commands, with the verdict given here.

use redis::Value;

use super::reply::{natural, text, unexpected};
use super::{Error, RawEntry, ShardState, TagValue, Verdict};

/// Entries as they are, the state before them, and the time on Redis's clock.
#[derive(Debug, Clone, PartialEq)]
pub struct Reading {
    /// Where the shard stood just before the entries were read.
    pub state: ShardState,
    /// The time then, in ms since 1970 on Redis's clock.
    pub now_ms: u64,
    /// The entries, in the order of the keys; `None` for none, and for one of an older library.
    pub entries: Vec<Option<RawEntry>>,
}

/// Values of tags, the state and the time on Redis's clock, all of one moment.
#[derive(Debug, Clone, PartialEq)]
pub struct TagReading {
    /// Where the shard stood.
    pub state: ShardState,
    /// The time, in ms since 1970 on Redis's clock.
    pub now_ms: u64,
    /// The values, in the order of the keys.
    pub values: Vec<Option<TagValue>>,
}

impl TagReading {
    /// The values of the keys of an entry, where `names` are those that were read, in order.
    pub(crate) fn of(&self, names: &[&str], entry: &RawEntry) -> Vec<Option<TagValue>> {
        let value = |name| names.binary_search(&name).ok().and_then(|at| self.values.get(at).copied().flatten());
        entry.keys().map(value).collect()
    }
}

/// An entry and the verdict on it.
#[derive(Debug, Clone, PartialEq)]
pub struct Fast {
    /// May it be served?
    pub verdict: Verdict,
    /// The entry, also if it may not be served.
    pub entry: Option<RawEntry>,
}

/// Reads a reply of TIME, in ms.
pub(super) fn time(reply: &Value) -> Result<u64, Error> {
    let read = || {
        let Value::Array(fields) = reply else { return None };
        let [seconds, micros] = fields.as_slice() else { return None };
        natural(text(seconds)?)?.checked_mul(1000)?.checked_add(natural(text(micros)?)? / 1000)
    };
    read().ok_or_else(|| unexpected("TIME", reply))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_is_read_in_milliseconds() {
        let reply = |a: &str, b: &str| Value::Array(vec![Value::BulkString(a.into()), Value::BulkString(b.into())]);
        assert_eq!(time(&reply("1767225600", "123999")).unwrap(), 1_767_225_600_123);
        assert!(time(&reply("", "1")).is_err() && time(&Value::Array(vec![])).is_err() && time(&Value::Nil).is_err());
    }
}

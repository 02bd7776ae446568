//! Entries as Redis holds them: found by SCAN, each read with the verdict on it in one transaction. Nothing is written and no lease is taken.

use std::str::FromStr;
use std::time::Duration;

use cachetag_core::{Lsn, Version};
use redis::Value;
use redis::aio::MultiplexedConnection;

use super::AuditError;
use crate::config::Config;
use crate::sink::connect;

const RESPONSE_TIMEOUT: Duration = Duration::from_secs(10);
/// Keys that one SCAN looks at: some hundred microseconds of the server's time.
const SCAN_COUNT: usize = 500;

/// What `cachetag_get` would answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Served as true.
    Hit,
    /// Served while somebody refreshes it.
    Stale,
    /// Not served.
    Miss,
    /// Redis cannot vouch for anything.
    Bypass,
}

/// A key of an entry and the versions of it, as `cachetag_explain` shows them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntryTag {
    /// The tag; for an entry tagged with a whole family this is `family:*` twice, once for the members.
    pub name: String,
    /// Its hard version; none if the tag is not registered.
    pub hard: Option<Version>,
    /// Its soft version, if it has one.
    pub soft: Option<Version>,
}

/// An entry and the state of the cache at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// What `cachetag_get` would answer.
    pub verdict: Verdict,
    /// Why, in the words of the library.
    pub reason: String,
    /// The entry's version; none when there is no entry.
    pub as_of: Option<Version>,
    /// The payload; `None` for a cached absence.
    pub payload: Option<Vec<u8>>,
    /// When it was stored, on Redis's clock in ms: two entries of one key differ in it.
    pub put_at: Option<u64>,
    /// Whether its time was over.
    pub is_expired: bool,
    /// Its tags and their families.
    pub tags: Vec<EntryTag>,
    /// The soft floor, below which every entry is stale.
    pub soft_floor: Option<Version>,
    /// The watermark.
    pub watermark: Option<Version>,
    /// How long ago the cache was last proven to be caught up, in ms. A hit is a value that was true no longer ago.
    pub lag_ms: u64,
}

impl Entry {
    /// Would a reader be given the value?
    pub fn is_served(&self) -> bool {
        matches!(self.verdict, Verdict::Hit | Verdict::Stale)
    }

    /// Is this the same entry, stored by the same put?
    pub fn is_same(&self, other: &Entry) -> bool {
        (self.as_of, self.put_at, &self.payload) == (other.as_of, other.put_at, &other.payload)
    }

    /// Has a soft bump after it been applied, so that readers know that it may be old?
    pub fn is_softly_bumped(&self) -> bool {
        let newest = self.tags.iter().filter_map(|tag| tag.soft).chain(self.soft_floor).max();
        newest.is_some_and(|soft| self.as_of.is_some_and(|as_of| soft > as_of))
    }

    /// Has Redis applied everything up to a position, and do all snapshots see it?
    pub fn covers(&self, position: Lsn) -> bool {
        self.watermark.is_some_and(|watermark| watermark.lsn >= position)
    }
}

/// Reads entries of one namespace.
pub struct Entries {
    connection: MultiplexedConnection,
    namespace: String,
    max_lag: Option<Duration>,
}

impl Entries {
    /// Connects. `max_lag` is the bound that verdicts are given under; the daemon's without it.
    pub async fn connect(config: &Config, max_lag: Option<Duration>) -> Result<Entries, AuditError> {
        let connection = connect::connect(&config.redis, connect::CONNECT_TIMEOUT, RESPONSE_TIMEOUT).await?;
        Ok(Entries { connection, namespace: config.namespace.clone(), max_lag })
    }

    /// Who feeds this namespace; `None` before a daemon has opened its first epoch here.
    pub async fn source(&mut self) -> Result<Option<String>, AuditError> {
        let state = format!("{{{}}}:w", self.namespace);
        Ok(redis::cmd("HGET").arg(state).arg("source").query_async(&mut self.connection).await?)
    }

    /// One step of a walk over all keys, from cursor 0 until it is 0 again: the names of entries, without their prefix.
    pub async fn scan(&mut self, cursor: u64) -> Result<(u64, Vec<String>), AuditError> {
        let prefix = self.prefix();
        let (next, keys): (u64, Vec<Vec<u8>>) = redis::cmd("SCAN")
            .arg(cursor)
            .arg("MATCH")
            .arg(format!("{}*", glob_literal(&prefix)))
            .arg("COUNT")
            .arg(SCAN_COUNT)
            .query_async(&mut self.connection)
            .await?;
        // A key that is not text has no recipe: key templates are text.
        let name = |key: Vec<u8>| String::from_utf8(key).ok()?.strip_prefix(&prefix).map(str::to_owned);
        Ok((next, keys.into_iter().filter_map(name).collect()))
    }

    /// The entry and the verdict on it at one moment; `None` for a key that no entry can be read from.
    pub async fn read(&mut self, key: &str) -> Result<Option<Entry>, AuditError> {
        let name = format!("{}{key}", self.prefix());
        let mut explain = redis::cmd("FCALL_RO");
        explain.arg("cachetag_explain").arg(1).arg(&name).arg("NOLEASE");
        if let Some(max_lag) = self.max_lag {
            explain.arg("MAXLAG").arg(max_lag.as_millis() as u64);
        }
        let mut both = redis::pipe();
        both.atomic().add_command(explain).cmd("HMGET").arg(&name).arg(&["payload", "put_at"]);
        match both.query_async::<(Vec<Value>, (Option<Vec<u8>>, Option<String>))>(&mut self.connection).await {
            Ok((explained, (payload, put_at))) => Ok(Some(entry(&explained, payload, put_at.as_deref())?)),
            // The library's own refusals: a key of another type. So does HMGET's.
            Err(error) if matches!(error.code(), Some("CACHETAG" | "WRONGTYPE")) => Ok(None),
            Err(error) if error.to_string().contains("unction not found") => Err(AuditError::NoLibrary),
            Err(error) => Err(error.into()),
        }
    }

    fn prefix(&self) -> String {
        format!("{{{}}}:e:", self.namespace)
    }
}

/// A text as a glob pattern that matches only itself.
fn glob_literal(text: &str) -> String {
    let mut glob = String::with_capacity(text.len());
    for c in text.chars() {
        if matches!(c, '*' | '?' | '[' | ']' | '\\' | '^') {
            glob.push('\\');
        }
        glob.push(c);
    }
    glob
}

/// The reply of `cachetag_explain`, and what is not in it.
fn entry(reply: &[Value], payload: Option<Vec<u8>>, put_at: Option<&str>) -> Result<Entry, AuditError> {
    let text = |value: &Value| match value {
        Value::BulkString(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        Value::SimpleString(text) => text.clone(),
        Value::Int(number) => number.to_string(),
        _ => String::new(),
    };
    let fields: Vec<(String, String)> = reply.chunks_exact(2).map(|pair| (text(&pair[0]), text(&pair[1]))).collect();
    let field = |name: &str| fields.iter().find(|(field, _)| field == name).map_or("", |(_, value)| value.as_str());
    let version = |text: &str| Version::from_str(text).ok();
    let verdict = match field("verdict") {
        "hit" => Verdict::Hit,
        "stale" => Verdict::Stale,
        "miss" | "wait" => Verdict::Miss,
        "bypass" => Verdict::Bypass,
        other => return Err(AuditError::Reply { got: other.to_owned() }),
    };
    let tags = fields.iter().filter_map(|(name, value)| {
        let name = match name.split_once(':')? {
            ("tag", tag) => tag.to_owned(),
            ("members", "*") => "*".to_owned(),
            ("members", family) => format!("{family}:*"),
            _ => return None,
        };
        let (hard, soft) = value.split_once(' ').unwrap_or((value, ""));
        Some(EntryTag { name, hard: version(hard), soft: version(soft) })
    });
    Ok(Entry {
        verdict,
        reason: field("reason").to_owned(),
        as_of: version(field("as_of")),
        payload: payload.filter(|_| field("kind") != "absent"),
        put_at: put_at.and_then(|ms| ms.parse().ok()),
        is_expired: field("expires_in_ms").parse::<i64>().is_ok_and(|ms| ms <= 0),
        tags: tags.collect(),
        soft_floor: version(field("soft_floor")),
        watermark: version(field("watermark")),
        lag_ms: field("lag_ms").parse::<i64>().map_or(0, |ms| ms.max(0).unsigned_abs()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_prefix_is_no_pattern() {
        assert_eq!(glob_literal("{ct}:e:"), "{ct}:e:");
        assert_eq!(glob_literal("{a*b[c]?\\}:e:"), "{a\\*b\\[c\\]\\?\\\\}:e:");
    }

    #[test]
    fn a_reply_is_read() {
        let version = |lsn: u64| format!("1700000000.{lsn:020}");
        let fields = [
            ("verdict", "hit"),
            ("reason", "every tag is registered"),
            ("as_of", &version(5)),
            ("kind", "absent"),
            ("expires_in_ms", "-1"),
            ("soft_floor", ""),
            ("watermark", &version(9)),
            ("lag_ms", "12"),
            ("tag:product:1", &format!("{} {}", version(4), version(6))),
            ("tag:product:*", "absent"),
            ("members:list", &version(3)),
        ];
        let reply: Vec<Value> = fields
            .iter()
            .flat_map(|(name, value)| [name, value].map(|text| Value::BulkString(text.as_bytes().to_vec())))
            .collect();
        let read = entry(&reply, Some(Vec::new()), Some("7")).unwrap();
        let tags: Vec<&str> = read.tags.iter().map(|tag| tag.name.as_str()).collect();
        assert_eq!(tags, ["product:1", "product:*", "list:*"]);
        assert_eq!(read.tags[1].hard, None);
        assert_eq!((read.payload.as_ref(), read.put_at, read.lag_ms), (None, Some(7), 12));
        assert!(read.is_softly_bumped() && read.is_expired);
        assert!(read.covers(Lsn(9)) && !read.covers(Lsn(10)));
        assert!(entry(&[], None, None).is_err(), "a reply without a verdict is none of the library's");
    }
}

//! `cachetag_put`: what is stored and what is answered.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cachetag_core::{Tag, Version};
use redis::{Cmd, Value};

use super::get::millis;
use super::reply::{text, unexpected};
use super::{Error, Lease};
use crate::options::AtLeast;

const CALL: &str = "cachetag_put";

/// An entry to store.
#[derive(Debug, Clone, PartialEq)]
pub struct Put {
    /// The value; ignored for an absence.
    pub payload: Bytes,
    /// What the miss gave, before the snapshot was taken.
    pub token: Version,
    /// How long it lives; at least a millisecond.
    pub ttl: Duration,
    /// What it depends on; at most 4096. Repetitions do no harm.
    pub tags: Arc<[Tag]>,
    /// From then on it is served as stale.
    pub fresh: Option<Duration>,
    /// What computing it took: early refreshes weigh it.
    pub cost: Option<Duration>,
    /// The knowledge that there is nothing.
    pub absent: bool,
    /// The lease to give back, whatever the answer.
    pub lease: Option<Lease>,
    /// A position that no commit which the value may hold ends after: asked after the query. It comes back as [`Got::seen`](super::Got::seen).
    pub seen: Option<AtLeast>,
}

impl Put {
    /// A value without tags, which only its time and the floor end.
    ///
    /// ```
    /// use std::time::Duration;
    /// use cachetag_client::l2::Put;
    /// use cachetag_core::{Tag, Version};
    ///
    /// let mut put = Put::new("value", Version::default(), Duration::from_secs(60));
    /// put.tags = [Tag::parse("product:42")?].into();
    /// # Ok::<(), cachetag_core::TagError>(())
    /// ```
    pub fn new(payload: impl Into<Bytes>, token: Version, ttl: Duration) -> Put {
        let payload = payload.into();
        Put { payload, token, ttl, tags: Arc::new([]), fresh: None, cost: None, absent: false, lease: None, seen: None }
    }

    /// The knowledge that there is nothing, without tags.
    pub fn absence(token: Version, ttl: Duration) -> Put {
        Put { absent: true, ..Put::new(Bytes::new(), token, ttl) }
    }

    pub(super) fn write(&self, call: &mut Cmd) {
        let payload = if self.absent { &b""[..] } else { &self.payload };
        call.arg(payload).arg(self.token.to_bytes().as_slice()).arg(millis(self.ttl).max(1));
        call.arg("TAGS").arg(self.tags.len());
        for tag in self.tags.iter() {
            call.arg(tag.as_str());
        }
        if let Some(fresh) = self.fresh {
            call.arg("FRESH").arg(millis(fresh).max(1));
        }
        if let Some(cost) = self.cost {
            call.arg("COST").arg(millis(cost));
        }
        if self.absent {
            call.arg("ABSENT");
        }
        if let Some(lease) = &self.lease {
            call.arg("LEASE").arg(lease.id());
        }
        if let Some(seen) = self.seen {
            call.arg("SEEN").arg(seen.to_string());
        }
    }
}

/// The answer of `cachetag_put`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Stored {
    /// Stored; this is the entry's version.
    Stored(Version),
    /// Not stored. What was computed may be returned all the same.
    Refused {
        /// Why.
        reason: Reason,
        /// The tag that is the cause, for `bumped` and `unregistered`.
        tag: Option<Tag>,
    },
}

impl Stored {
    /// Is it stored?
    pub fn is_stored(&self) -> bool {
        matches!(self, Stored::Stored(_))
    }
}

/// Why a put is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// A tag changed after the token.
    Bumped,
    /// Whether a tag changed after the token cannot be told any more; it is registered now, the next try can succeed.
    Unregistered,
    /// The token is below the floor: everything as old was invalidated.
    Floor,
    /// The token is of another epoch.
    Epoch,
    /// There is no watermark.
    Bypass,
}

impl Reason {
    /// The library's word for it.
    ///
    /// ```
    /// assert_eq!(cachetag_client::l2::Reason::Bumped.as_str(), "bumped");
    /// ```
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::Bumped => "bumped",
            Reason::Unregistered => "unregistered",
            Reason::Floor => "floor",
            Reason::Epoch => "epoch",
            Reason::Bypass => "bypass",
        }
    }
}

/// Reads a reply of `cachetag_put`.
pub(super) fn parse(reply: &Value) -> Result<Stored, Error> {
    read(reply).ok_or_else(|| unexpected(CALL, reply))
}

fn read(reply: &Value) -> Option<Stored> {
    let Value::Array(fields) = reply else { return None };
    match fields.as_slice() {
        [kind, version] if text(kind) == Some("stored") => Some(Stored::Stored(text(version)?.parse().ok()?)),
        [kind, reason, tag] if text(kind) == Some("refused") => {
            let reason = match text(reason)? {
                "bumped" => Reason::Bumped,
                "unregistered" => Reason::Unregistered,
                "floor" => Reason::Floor,
                "epoch" => Reason::Epoch,
                "bypass" => Reason::Bypass,
                _ => return None,
            };
            let tag = match text(tag)? {
                "" => None,
                tag => Some(Tag::parse(tag).ok()?),
            };
            Some(Stored::Refused { reason, tag })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(fields: &[&str]) -> Value {
        Value::Array(fields.iter().map(|text| Value::BulkString(text.as_bytes().to_vec())).collect())
    }

    #[test]
    fn answers_are_read() {
        let version = "1767225600.00000000000000000100";
        assert_eq!(parse(&reply(&["stored", version])).unwrap(), Stored::Stored(version.parse().unwrap()));
        for reason in [Reason::Bumped, Reason::Unregistered, Reason::Floor, Reason::Epoch, Reason::Bypass] {
            let refused = parse(&reply(&["refused", reason.as_str(), ""])).unwrap();
            assert_eq!(refused, Stored::Refused { reason, tag: None });
        }
        let tag = Tag::parse("product:*").ok();
        let refused = parse(&reply(&["refused", "bumped", "product:*"])).unwrap();
        assert_eq!(refused, Stored::Refused { reason: Reason::Bumped, tag });
    }

    #[test]
    fn what_does_not_fit_is_an_error() {
        let wrong: &[&[&str]] =
            &[&[], &["stored"], &["stored", "1"], &["refused", "mood", ""], &["refused", "bumped"], &["kept", "1"]];
        for fields in wrong {
            assert!(matches!(parse(&reply(fields)), Err(Error::Reply { .. })), "{fields:?}");
        }
        assert!(parse(&Value::Okay).is_err());
    }

    #[test]
    fn everything_is_written() {
        let mut put = Put::absence("0000000001.00000000000000000002".parse().unwrap(), Duration::ZERO);
        put.tags = [Tag::parse("a:1").unwrap(), Tag::parse("b").unwrap()].into();
        put.fresh = Some(Duration::from_millis(5));
        put.cost = Some(Duration::from_millis(7));
        put.lease = Some(Lease::new("id"));
        let mut call = Cmd::new();
        put.write(&mut call);
        let args: Vec<_> = call
            .args_iter()
            .map(|arg| match arg {
                redis::Arg::Simple(bytes) => String::from_utf8_lossy(bytes).into_owned(),
                _ => String::new(),
            })
            .collect();
        let expected = ["", "0000000001.00000000000000000002", "1", "TAGS", "2", "a:1", "b", "FRESH", "5", "COST", "7"];
        assert_eq!(args[..11], expected);
        assert_eq!(args[11..], ["ABSENT", "LEASE", "id"]);
    }
}

//! `cachetag_get`: what is asked and what is answered.

use std::time::Duration;

use bytes::Bytes;
use cachetag_core::Version;
use redis::{Cmd, Value};

use super::reply::{text, unexpected};
use super::{Error, Lease};
use crate::options::AtLeast;

const CALL: &str = "cachetag_get";

/// What a reader demands.
///
/// ```
/// use std::time::Duration;
/// use cachetag_client::l2::GetOptions;
///
/// let options = GetOptions { max_lag: Some(Duration::from_secs(1)), no_lease: true, ..GetOptions::default() };
/// assert!(options.at_least.is_none());
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct GetOptions {
    /// How long ago an answer may have been true; without it, what the daemon was configured with.
    pub max_lag: Option<Duration>,
    /// Read your writes: a hit covers this commit.
    pub at_least: Option<AtLeast>,
    /// Eagerness of early refreshes, 0 to 1000; 1 without it, 0 for never.
    pub beta: Option<f64>,
    /// Takes no lease: never `wait`, never `early`.
    pub no_lease: bool,
    /// Asks for [`Got::seen`].
    pub seen: bool,
}

impl GetOptions {
    /// For a caller that has drawn for itself that it should refresh a hit early ([`super::RawEntry::is_early`]): with these options
    /// `get` is as good as sure to draw so too, and gives the lease if it is free.
    pub fn early(self) -> GetOptions {
        GetOptions { beta: Some(1000.0), no_lease: false, ..self }
    }

    pub(super) fn write(&self, call: &mut Cmd) {
        if let Some(max_lag) = self.max_lag {
            call.arg("MAXLAG").arg(millis(max_lag));
        }
        if let Some(at_least) = self.at_least {
            call.arg("ATLEAST").arg(at_least.to_string());
        }
        if let Some(beta) = self.beta.filter(|beta| beta.is_finite()) {
            // The library reads at most twenty characters.
            call.arg("BETA").arg(format!("{:.6}", beta.clamp(0.0, 1000.0)));
        }
        if self.no_lease {
            call.arg("NOLEASE");
        }
        if self.seen {
            call.arg("SEEN");
        }
    }
}

/// The longest time that the library takes: longer ones mean the same.
const MILLIS_MAX: u128 = 1_000_000_000_000;

/// A duration as the library wants it.
pub(super) fn millis(duration: Duration) -> u64 {
    duration.as_millis().min(MILLIS_MAX) as u64
}

/// The verdict of `cachetag_get`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum State {
    /// True no longer ago than `max_lag`: use it.
    Hit,
    /// Past its fresh time, or softly bumped: may be used; whoever got the lease should recompute.
    Stale,
    /// A hit, and this caller, who has the lease, was drawn to recompute it before it expires.
    Early,
    /// Nothing to serve.
    Miss,
    /// Nothing to serve, and another caller computes it already.
    Wait,
    /// Redis cannot vouch for anything now: read the database, store nothing.
    Bypass,
}

impl State {
    /// Is an entry served, a value or an absence?
    pub fn is_served(self) -> bool {
        matches!(self, State::Hit | State::Stale | State::Early)
    }
}

/// The answer of `cachetag_get`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Got {
    /// The verdict.
    pub state: State,
    /// The value; none for a served absence, and where nothing is served.
    pub payload: Option<Bytes>,
    /// The watermark: take the snapshot after this, and put under it. None for a bypass.
    pub token: Option<Version>,
    /// For the one caller that should recompute.
    pub lease: Option<Lease>,
    /// How long ago the entry was put; none where nothing is served.
    pub age: Option<Duration>,
    /// Every commit that the value may hold ends here or earlier, where that was asked for and is known.
    pub seen: Option<AtLeast>,
}

impl Got {
    /// The answer that nothing can be vouched for.
    pub const BYPASS: Got =
        Got { state: State::Bypass, payload: None, token: None, lease: None, age: None, seen: None };

    /// Is the served entry an absence: the knowledge that there is nothing?
    pub fn is_absent(&self) -> bool {
        self.state.is_served() && self.payload.is_none()
    }
}

/// Reads a reply of `cachetag_get` or `cachetag_peek`.
pub(super) fn parse(reply: Value) -> Result<Got, Error> {
    let Value::Array(mut fields) = reply else { return Err(unexpected(CALL, &reply)) };
    let payload = match fields.get_mut(1) {
        Some(payload) => std::mem::take(payload),
        None => return Err(unexpected(CALL, &Value::Array(fields))),
    };
    match read(&fields, payload) {
        Some(got) => Ok(got),
        None => Err(unexpected(CALL, &Value::Array(fields))),
    }
}

fn read(fields: &[Value], payload: Value) -> Option<Got> {
    let (fields, seen) = match fields {
        [fields @ .., seen] if fields.len() == 5 => (fields, Some(seen)),
        fields => (fields, None),
    };
    let [state, _, token, lease, Value::Int(age)] = fields else { return None };
    let state = match text(state)? {
        "hit" => State::Hit,
        "stale" => State::Stale,
        "early" => State::Early,
        "miss" => State::Miss,
        "wait" => State::Wait,
        "bypass" => State::Bypass,
        _ => return None,
    };
    let payload = match payload {
        Value::Nil => None,
        Value::BulkString(bytes) if state.is_served() => Some(Bytes::from(bytes)),
        _ => return None,
    };
    let token = match text(token)? {
        "" if state == State::Bypass => None,
        version => Some(version.parse().ok()?),
    };
    let lease = match text(lease)? {
        "" => None,
        id => Some(Lease::new(id)),
    };
    let age = if state.is_served() { Some(Duration::from_millis(u64::try_from(*age).ok()?)) } else { None };
    let seen = match seen.map(text) {
        None | Some(Some("")) => None,
        Some(position) => Some(position?.parse().ok()?),
    };
    Some(Got { state, payload, token, lease, age, seen })
}

#[cfg(test)]
mod tests {
    use cachetag_core::Lsn;

    use super::*;

    const TOKEN: &str = "1767225600.00000000000000000100";

    fn reply(state: &str, payload: Value, token: &str, lease: &str, age: i64) -> Value {
        let bulk = |text: &str| Value::BulkString(text.into());
        Value::Array(vec![bulk(state), payload, bulk(token), bulk(lease), Value::Int(age)])
    }

    #[test]
    fn each_state_is_read() {
        let got = parse(reply("hit", Value::BulkString(b"v".to_vec()), TOKEN, "", 12)).unwrap();
        assert_eq!((got.state, got.payload.as_deref(), got.lease.clone()), (State::Hit, Some(&b"v"[..]), None));
        assert_eq!((got.token, got.age), (TOKEN.parse().ok(), Some(Duration::from_millis(12))));
        assert!(!got.is_absent());
        let got = parse(reply("stale", Value::Nil, TOKEN, "id", 0)).unwrap();
        assert!(got.is_absent() && got.lease == Some(Lease::new("id")));
        let got = parse(reply("early", Value::BulkString(Vec::new()), TOKEN, "id", 0)).unwrap();
        assert!(!got.is_absent(), "an empty value is a value");
        let got = parse(reply("miss", Value::Nil, TOKEN, "id", -1)).unwrap();
        assert!(!got.is_absent() && got.age.is_none() && got.token.is_some());
        assert_eq!(parse(reply("wait", Value::Nil, TOKEN, "", -1)).unwrap().state, State::Wait);
        assert_eq!(parse(reply("bypass", Value::Nil, "", "", -1)).unwrap(), Got::BYPASS);
    }

    #[test]
    fn what_a_value_holds_is_read_where_it_was_asked_for() {
        let with = |seen: &str| {
            let Value::Array(mut fields) = reply("hit", Value::BulkString(b"v".to_vec()), TOKEN, "", 1) else {
                panic!()
            };
            fields.push(Value::BulkString(seen.into()));
            parse(Value::Array(fields))
        };
        assert_eq!(with("3@0/78").unwrap().seen, Some(AtLeast::on(3, Lsn(0x78))));
        assert_eq!(with("0/78").unwrap().seen, Some(Lsn(0x78).into()));
        assert_eq!(with("").unwrap().seen, None);
        assert!(with("120").is_err() && with("3@").is_err() && with("0/x").is_err());
    }

    #[test]
    fn what_does_not_fit_is_an_error() {
        let bulk = || Value::BulkString(b"v".to_vec());
        for wrong in [
            Value::Nil,
            Value::Array(vec![]),
            Value::Array(vec![Value::SimpleString("hit".into())]),
            reply("perhaps", Value::Nil, TOKEN, "", -1),
            reply("hit", Value::Int(1), TOKEN, "", 1),
            reply("hit", bulk(), "", "", 1),
            reply("hit", bulk(), "1.2", "", 1),
            reply("hit", bulk(), TOKEN, "", -1),
            reply("miss", bulk(), TOKEN, "", -1),
        ] {
            assert!(matches!(parse(wrong.clone()), Err(Error::Reply { .. })), "{wrong:?}");
        }
    }

    #[test]
    fn options_are_written_by_name() {
        let written = |options: GetOptions| {
            let mut call = Cmd::new();
            options.write(&mut call);
            let args = call.args_iter().map(|arg| match arg {
                redis::Arg::Simple(bytes) => String::from_utf8(bytes.to_vec()).unwrap(),
                _ => String::new(),
            });
            args.collect::<Vec<_>>().join(" ")
        };
        assert_eq!(written(GetOptions::default()), "");
        let options = GetOptions {
            max_lag: Some(Duration::from_millis(1500)),
            at_least: Some(Lsn(0x16_B374_D848).into()),
            beta: Some(0.5),
            no_lease: true,
            seen: true,
        };
        assert_eq!(written(options), "MAXLAG 1500 ATLEAST 16/B374D848 BETA 0.500000 NOLEASE SEEN");
        let version: Version = TOKEN.parse().unwrap();
        let options = GetOptions { max_lag: Some(Duration::MAX), at_least: Some(version.into()), ..options.early() };
        assert_eq!(written(options), format!("MAXLAG 1000000000000 ATLEAST {TOKEN} BETA 1000.000000 SEEN"));
    }
}

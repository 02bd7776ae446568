//! `{ct}:w` and the tags' keys, typed.

use std::time::Duration;

use cachetag_core::{Epoch, Version};
use redis::Value;

use super::Error;
use super::reply::{natural, text, unexpected};
use crate::options::timeline_of;

/// Where a shard stands: the fields of `{ct}:w` that a reader may want. What is missing or malformed there is `None`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ShardState {
    /// The present epoch.
    pub epoch: Option<Epoch>,
    /// Every entry below it is invalid.
    pub floor: Option<Version>,
    /// Every entry below it is stale.
    pub soft_floor: Option<Version>,
    /// Every commit up to here is applied, and visible to new snapshots. None until the daemon has given the first of an epoch.
    pub watermark: Option<Version>,
    /// Every commit up to here is applied.
    pub applied: Option<Version>,
    /// When the watermark was known to cover all that was flushed; ms since 1970 on Redis's clock.
    pub fresh_at: Option<u64>,
    /// The daemon's default bound of staleness.
    pub max_lag: Option<Duration>,
    /// Everything after it is in the log.
    pub log_from: Option<Version>,
    /// The database that feeds it.
    pub source: Option<String>,
    /// How long a lease lasts.
    pub lease: Option<Duration>,
    /// Version of the daemon's library.
    pub version: Option<String>,
}

impl ShardState {
    /// The fields, in the order in which [`ShardState::read`] wants them.
    pub(super) const FIELDS: [&'static str; 11] = [
        "epoch",
        "floor",
        "soft_floor",
        "watermark",
        "applied",
        "fresh_at",
        "max_lag",
        "log_from",
        "source",
        "lease_ms",
        "version",
    ];

    /// Reads the reply of an HMGET of the fields.
    pub(super) fn read(reply: &Value) -> Result<ShardState, Error> {
        let Value::Array(fields) = reply else { return Err(unexpected("HMGET of the state", reply)) };
        let [epoch, floor, soft_floor, watermark, applied, fresh_at, max_lag, log_from, source, lease, version] =
            fields.as_slice()
        else {
            return Err(unexpected("HMGET of the state", reply));
        };
        let at = |value: &Value| text(value).and_then(|text| text.parse::<Version>().ok());
        let number = |value: &Value| text(value).and_then(natural);
        Ok(ShardState {
            epoch: number(epoch).and_then(|number| Epoch::new(number).ok()),
            floor: at(floor),
            soft_floor: at(soft_floor),
            watermark: at(watermark),
            applied: at(applied),
            fresh_at: number(fresh_at),
            max_lag: number(max_lag).map(Duration::from_millis),
            log_from: at(log_from),
            source: text(source).map(str::to_owned),
            lease: number(lease).map(Duration::from_millis),
            version: text(version).map(str::to_owned),
        })
    }

    /// The timeline of the database that feeds it.
    ///
    /// ```
    /// use cachetag_client::l2::ShardState;
    ///
    /// let state = ShardState { source: Some("7312554/3/shop/cachetag".into()), ..ShardState::default() };
    /// assert_eq!(state.timeline(), Some(3));
    /// ```
    pub fn timeline(&self) -> Option<u32> {
        timeline_of(self.source.as_deref()?)
    }

    /// How long ago, at a moment on Redis's clock, the watermark was known to cover everything. None if that is unknown, or lies in
    /// the future: the clock went back.
    ///
    /// ```
    /// use std::time::Duration;
    /// use cachetag_client::l2::ShardState;
    ///
    /// let state = ShardState { fresh_at: Some(1_000), ..ShardState::default() };
    /// assert_eq!(state.lag(1_250), Some(Duration::from_millis(250)));
    /// assert_eq!(state.lag(999), None);
    /// ```
    pub fn lag(&self, now_ms: u64) -> Option<Duration> {
        now_ms.checked_sub(self.fresh_at?).map(Duration::from_millis)
    }
}

/// What a tag's key holds: when it was last bumped, or registered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TagValue {
    /// Entries older than it are invalid.
    pub hard: Version,
    /// Entries older than it are stale.
    pub soft: Option<Version>,
}

impl TagValue {
    /// Reads `<hard>` or `<hard> <soft>`; `None` for anything else, which counts as absent.
    ///
    /// ```
    /// use cachetag_client::l2::TagValue;
    ///
    /// let value = TagValue::parse("0000000001.00000000000000000002 0000000001.00000000000000000003").unwrap();
    /// assert_eq!((value.hard.lsn.0, value.soft.unwrap().lsn.0), (2, 3));
    /// assert_eq!(TagValue::parse("1.2"), None);
    /// ```
    pub fn parse(text: &str) -> Option<TagValue> {
        match text.split_once(' ') {
            None => Some(TagValue { hard: text.parse().ok()?, soft: None }),
            Some((hard, soft)) => Some(TagValue { hard: hard.parse().ok()?, soft: Some(soft.parse().ok()?) }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_is_read_and_what_is_malformed_is_none() {
        let mut fields: Vec<Value> = [
            "1767225600",
            "1767225600.00000000000000000100",
            "",
            "1767225600.00000000000000000200",
            "garbage",
            "1767225600123",
            "2000",
            "1767225600.00000000000000000100",
            "app@1",
            "10000",
            "0.1.0",
        ]
        .iter()
        .map(|text| Value::BulkString(text.as_bytes().to_vec()))
        .collect();
        fields[2] = Value::Nil;
        let state = ShardState::read(&Value::Array(fields.clone())).unwrap();
        assert_eq!(state.epoch.map(Epoch::get), Some(1_767_225_600));
        assert_eq!(state.watermark.map(|version| version.lsn.0), Some(200));
        assert_eq!((state.soft_floor, state.applied), (None, None));
        assert_eq!((state.fresh_at, state.max_lag), (Some(1_767_225_600_123), Some(Duration::from_secs(2))));
        assert_eq!((state.source.as_deref(), state.version.as_deref()), (Some("app@1"), Some("0.1.0")));
        fields.pop();
        assert!(ShardState::read(&Value::Array(fields)).is_err());
        assert!(ShardState::read(&Value::Nil).is_err());
        let empty = ShardState::read(&Value::Array(vec![Value::Nil; 11])).unwrap();
        assert_eq!(empty, ShardState::default());
    }
}

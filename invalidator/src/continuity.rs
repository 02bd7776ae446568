//! May the daemon go on where Redis stands, or must it open a new epoch? Pure, and the only place that decides.

use std::fmt;

use cachetag_core::{Epoch, Lsn};

use crate::broken;
use crate::sink::State;

/// The end of the stream that this daemon is about to read.
#[derive(Debug, Clone, Copy)]
pub struct Source<'a> {
    /// System identifier, timeline, database and slot.
    pub identity: &'a str,
    /// Up to where the slot has been acknowledged: nothing before it is ever sent again.
    pub confirmed: Lsn,
    /// The slot was created just now, or lost its WAL.
    pub slot_is_new: bool,
    /// Where the server's WAL ends.
    pub end: Lsn,
    /// The newest epoch that a daemon of this database has reported.
    pub last_epoch: Option<Epoch>,
}

/// Why continuity cannot be proven.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Discontinuity {
    /// Redis holds no state.
    RedisEmpty,
    /// Redis was filled from another stream.
    SourceChanged {
        /// The identity that it was filled from.
        from: String,
    },
    /// The slot is new: changes may lie between what Redis holds and where it begins.
    SlotIsNew,
    /// Redis lacks what the slot has been told is safe.
    RedisIsOlder {
        /// What Redis holds.
        applied: Lsn,
        /// What the slot has been told.
        confirmed: Lsn,
    },
    /// Redis holds an epoch older than the last.
    RedisIsOfAnOlderEpoch {
        /// The epoch in Redis.
        found: Epoch,
        /// The last one.
        last: Epoch,
    },
    /// Redis is ahead of the server: the server went back in time.
    ServerIsOlder {
        /// What Redis holds.
        applied: Lsn,
        /// Where the server's WAL ends.
        end: Lsn,
    },
}

impl fmt::Display for Discontinuity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RedisEmpty => f.write_str("Redis holds no state (new, flushed, evicted or restarted empty)"),
            Self::SourceChanged { from } => write!(f, "Redis was filled from another source, {from}"),
            Self::SlotIsNew => f.write_str("the replication slot is new (first start, dropped, or its WAL was lost)"),
            Self::RedisIsOlder { applied, confirmed } => {
                write!(f, "Redis is older ({applied}) than what was acknowledged to PostgreSQL ({confirmed})")
            }
            Self::RedisIsOfAnOlderEpoch { found, last } => {
                write!(f, "Redis holds epoch {found}, the last one was {last}: it was restored or failed over")
            }
            Self::ServerIsOlder { applied, end } => {
                write!(f, "PostgreSQL ends at {end}, before what Redis holds ({applied}): it was restored")
            }
        }
    }
}

/// The epoch and the position to continue from, or why there is none.
pub fn prove(state: &State, source: Source<'_>) -> Result<(Epoch, Lsn), Discontinuity> {
    let Some(applied) = state.applied else {
        return Err(Discontinuity::RedisEmpty);
    };
    match &state.source {
        Some(from) if from == source.identity => {}
        from => {
            return Err(Discontinuity::SourceChanged { from: from.clone().unwrap_or_else(|| "an unknown one".into()) });
        }
    }
    if source.slot_is_new {
        return Err(Discontinuity::SlotIsNew);
    }
    if let Some(last) = source.last_epoch
        && applied.epoch < last
        && !broken::is(broken::Variant::ForeignEpoch)
    {
        return Err(Discontinuity::RedisIsOfAnOlderEpoch { found: applied.epoch, last });
    }
    if applied.lsn < source.confirmed && !broken::is(broken::Variant::NoEpochAfterLoss) {
        return Err(Discontinuity::RedisIsOlder { applied: applied.lsn, confirmed: source.confirmed });
    }
    if applied.lsn > source.end {
        return Err(Discontinuity::ServerIsOlder { applied: applied.lsn, end: source.end });
    }
    if broken::is(broken::Variant::ReplayLowers) {
        return Ok((applied.epoch, source.confirmed));
    }
    Ok((applied.epoch, applied.lsn))
}

#[cfg(test)]
mod tests {
    use super::*;
    use cachetag_core::Version;

    fn version(epoch: u64, lsn: u64) -> Version {
        format!("{epoch:010}.{lsn:020}").parse().unwrap()
    }

    fn epoch(epoch: u64) -> Epoch {
        version(epoch, 0).epoch
    }

    fn state(applied: Option<Version>) -> State {
        State { applied, source: Some("s".into()), ..State::default() }
    }

    fn source() -> Source<'static> {
        Source { identity: "s", confirmed: Lsn(50), slot_is_new: false, end: Lsn(100), last_epoch: Some(epoch(7)) }
    }

    #[test]
    fn goes_on_where_redis_stands() {
        for applied in [50, 70, 100] {
            assert_eq!(prove(&state(Some(version(7, applied))), source()), Ok((epoch(7), Lsn(applied))));
        }
    }

    #[test]
    fn every_gap_is_a_discontinuity() {
        use Discontinuity::*;
        assert_eq!(prove(&state(None), source()), Err(RedisEmpty));
        let here = state(Some(version(7, 70)));
        assert!(matches!(prove(&here, Source { identity: "t", ..source() }), Err(SourceChanged { .. })));
        assert_eq!(prove(&here, Source { slot_is_new: true, ..source() }), Err(SlotIsNew));
        assert!(matches!(prove(&here, Source { confirmed: Lsn(71), ..source() }), Err(RedisIsOlder { .. })));
        assert!(matches!(prove(&here, Source { end: Lsn(69), ..source() }), Err(ServerIsOlder { .. })));
        assert!(matches!(
            prove(&here, Source { last_epoch: Some(epoch(8)), ..source() }),
            Err(RedisIsOfAnOlderEpoch { .. })
        ));
    }
}

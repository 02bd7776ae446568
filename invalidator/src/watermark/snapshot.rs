//! PostgreSQL snapshots as text, `xmin:xmax:xip,…`, and the 32-bit transaction ids of the replication stream.

use std::str::FromStr;

/// A 64-bit transaction id (`xid8`).
pub type FullXid = u64;

/// What `pg_current_snapshot()` returned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Snapshot {
    xmax: FullXid,
    in_progress: Vec<FullXid>,
}

/// The text is not a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a pg_snapshot (xmin:xmax:xip,…)")]
pub struct SnapshotError(String);

impl Snapshot {
    /// The 64-bit form of an id from the stream: the one nearest to this snapshot's `xmax`, since no two running
    /// transactions are 2^31 apart.
    pub fn widen(&self, xid: u32) -> FullXid {
        let distance = xid.wrapping_sub(self.xmax as u32) as i32;
        self.xmax.wrapping_add_signed(i64::from(distance))
    }

    /// May the transaction still be running, or be committed but not yet visible, in this snapshot?
    pub fn is_in_progress(&self, xid: FullXid) -> bool {
        xid >= self.xmax || self.in_progress.binary_search(&xid).is_ok()
    }

    /// The ids that were running when the snapshot was taken, in order.
    pub fn in_progress(&self) -> &[FullXid] {
        &self.in_progress
    }
}

impl FromStr for Snapshot {
    type Err = SnapshotError;

    fn from_str(text: &str) -> Result<Self, SnapshotError> {
        let error = || SnapshotError(text.to_string());
        let mut fields = text.splitn(3, ':');
        let mut field = || fields.next().ok_or_else(error);
        let xmin: FullXid = field()?.parse().map_err(|_| error())?;
        let xmax: FullXid = field()?.parse().map_err(|_| error())?;
        let xip = field()?;
        let mut in_progress = Vec::new();
        for xid in xip.split(',').filter(|x| !x.is_empty()) {
            in_progress.push(xid.parse().map_err(|_| error())?);
        }
        if xmin > xmax {
            return Err(error());
        }
        in_progress.sort_unstable();
        Ok(Snapshot { xmax, in_progress })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_postgresql_prints() {
        let snapshot: Snapshot = "10:20:10,14,15".parse().unwrap();
        assert!(snapshot.is_in_progress(14) && snapshot.is_in_progress(20) && snapshot.is_in_progress(21));
        assert!(!snapshot.is_in_progress(13) && !snapshot.is_in_progress(9));
        let quiet: Snapshot = "20:20:".parse().unwrap();
        assert!(quiet.in_progress().is_empty() && !quiet.is_in_progress(19));
    }

    #[test]
    fn refuses_anything_else() {
        for text in ["", "1", "1:2", "a:2:", "1:b:", "1:2:x", "9:2:"] {
            assert!(text.parse::<Snapshot>().is_err(), "{text}");
        }
    }

    #[test]
    fn ids_widen_across_the_wraparound() {
        let xmax = (3u64 << 32) + 5;
        let snapshot: Snapshot = format!("{xmax}:{xmax}:").parse().unwrap();
        assert_eq!(snapshot.widen(4), (3 << 32) + 4);
        assert_eq!(snapshot.widen(u32::MAX), (3 << 32) - 1);
        assert_eq!(snapshot.widen(7), (3 << 32) + 7);
    }
}

//! Positions: what a reader presents to read what was written.

use cachetag_core::Lsn;
use pgrx::prelude::*;

/// Header of a WAL page, and of the first one of a segment, in bytes.
const PAGE_HEADER: u64 = 24;
const SEGMENT_HEADER: u64 = 40;

/// `<timeline>@<LSN>`: covers every commit that this session has made or can have seen.
///
/// The timeline tells the history: after a failover that lost commits the positions of the promoted server may lie before those that the cache knows of
/// the old one. On a standby it is the position up to which it has replayed.
#[pg_extern(sql = false)]
fn position() -> String {
    // SAFETY: plain reads of shared memory; the timeline of insertion is known once recovery has ended.
    let (timeline, lsn) = unsafe {
        if pg_sys::RecoveryInProgress() {
            let mut timeline = 0;
            let lsn = pg_sys::GetXLogReplayRecPtr(&mut timeline);
            (timeline, lsn)
        } else {
            (pg_sys::GetWALInsertionTimeLine(), end_of_records(pg_sys::GetXLogInsertRecPtr(), pg_sys::wal_segment_size))
        }
    };
    format!("{timeline}@{}", Lsn(lsn))
}

/// The place of the next record may lie after the header of a page that has no record yet: nobody can confirm that until there is one.
fn end_of_records(next: u64, segment_size: i32) -> u64 {
    let header = if u64::try_from(segment_size).is_ok_and(|size| next % size == SEGMENT_HEADER) {
        SEGMENT_HEADER
    } else if next % u64::from(pg_sys::XLOG_BLCKSZ) == PAGE_HEADER {
        PAGE_HEADER
    } else {
        0
    };
    next - header
}

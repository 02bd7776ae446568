//! Waiting for what must come, and the positions that one waits for.

use std::time::{Duration, Instant};

/// How often a condition is looked at.
const POLL: Duration = Duration::from_millis(2);

/// A position in the write-ahead log, in bytes.
pub type Lsn = u64;

/// Reads PostgreSQL's `X/Y`.
#[track_caller]
pub fn lsn(text: &str) -> Lsn {
    let parsed = text
        .split_once('/')
        .and_then(|(high, low)| Some(u64::from_str_radix(high, 16).ok()? << 32 | u64::from_str_radix(low, 16).ok()?));
    parsed.unwrap_or_else(|| panic!("`{text}` is not an LSN"))
}

/// The position in a version `EEEEEEEEEE.LLLLLLLLLLLLLLLLLLLL`.
#[track_caller]
pub fn lsn_of_version(version: &str) -> Lsn {
    let position = version.split_once('.').and_then(|(_, position)| position.parse().ok());
    position.unwrap_or_else(|| panic!("`{version}` is not a version"))
}

/// Looks until `probe` returns something; panics after `timeout`, naming `what`.
#[track_caller]
pub fn eventually<T>(
    what: &str,
    timeout: Duration,
    mut probe: impl AsyncFnMut() -> Option<T>,
) -> impl Future<Output = T> {
    let caller = std::panic::Location::caller();
    async move {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(found) = probe().await {
                return found;
            }
            assert!(Instant::now() < deadline, "{caller}: {what}: not within {} ms", timeout.as_millis());
            tokio::time::sleep(POLL).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_are_read() {
        assert_eq!(lsn("1/A0"), (1 << 32) + 160);
        assert_eq!(lsn_of_version("1700000000.00000000000000000160"), 160);
    }
}

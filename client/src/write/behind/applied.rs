//! The table of what has been applied.

/// What a worker creates if it may and the table is not there: the keys of applied operations. In the first schema of the role's `search_path`.
///
/// ```
/// assert!(cachetag_client::write::behind::APPLIED_TABLE.contains("cachetag_applied"));
/// ```
pub const APPLIED_TABLE: &str = "\
CREATE TABLE IF NOT EXISTS cachetag_applied (
    queue text NOT NULL,
    key text NOT NULL,
    entry_ms bigint NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (queue, key)
);
CREATE INDEX IF NOT EXISTS cachetag_applied_at ON cachetag_applied (queue, applied_at);
";

/// Claims the keys of a batch; the answer is those that were not there. Sorted, so that two who insert the same keys cannot deadlock.
pub(super) const CLAIM: &str = "INSERT INTO cachetag_applied (queue, key, entry_ms)
    SELECT $1, u.key, u.ms FROM unnest($2::text[], $3::bigint[]) AS u(key, ms) ORDER BY u.key
    ON CONFLICT DO NOTHING RETURNING key, pg_current_xact_id()::text";

/// Whether the transaction is still the one that claimed.
pub(super) const SAME: &str = "SELECT pg_current_xact_id_if_assigned()::text";

/// Forgets old keys, some at a time, but none as old as something that the stream still holds: that may be delivered again.
pub(super) const PRUNE: &str = "DELETE FROM cachetag_applied WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM cachetag_applied WHERE queue = $1 AND applied_at < now() - $2::float8 * interval '1 second' AND entry_ms < $3
    ORDER BY applied_at LIMIT 1000))";

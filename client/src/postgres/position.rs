//! Where a commit ends in the write-ahead log.

use std::error::Error;

use deadpool_postgres::GenericClient;
use tokio_postgres::types::{FromSql, Type};

use super::PostgresError;
use crate::options::AtLeast;

/// A position that covers every commit whose COMMIT has returned, flushed or not. The name of a file of the log begins with its timeline.
///
/// The place of the next record may lie after the header of a page (24 bytes; 40 at the beginning of a segment) that has no record yet; no
/// watermark reaches it until there is one.
pub(crate) const AFTER_ASYNCHRONOUS_COMMIT: &str =
    "SELECT ('x' || left(pg_walfile_name(i.lsn), 8))::bit(32)::bigint || '@' || (i.lsn - CASE
    WHEN (i.lsn - '0/0'::pg_lsn) % pg_size_bytes(current_setting('wal_segment_size')) = 40 THEN 40
    WHEN (i.lsn - '0/0'::pg_lsn) % current_setting('wal_block_size')::int = 24 THEN 24
    ELSE 0 END::numeric) FROM (SELECT pg_current_wal_insert_lsn()) AS i(lsn)";

/// A position that covers every commit that was flushed before its COMMIT returned: closer, since others may have inserted what nobody flushes yet.
pub(crate) const AFTER_COMMIT: &str = "SELECT ('x' || left(pg_walfile_name(i.lsn), 8))::bit(32)::bigint || '@' || i.lsn FROM (SELECT pg_current_wal_flush_lsn()) AS i(lsn)";

/// A position that covers what this session has committed: after COMMIT, hand it to a reader as "at least" to read your writes. It is what
/// `cachetag.position()` gives, asked without the extension.
///
/// ```no_run
/// # async fn example(pool: deadpool_postgres::Pool) -> Result<(), Box<dyn std::error::Error>> {
/// let client = pool.get().await?;
/// client.execute("UPDATE products SET price = 34 WHERE id = 42", &[]).await?;
/// let at_least = cachetag_client::postgres::commit_position(&client).await?;
/// # let _ = at_least; Ok(())
/// # }
/// ```
pub async fn commit_position<C: GenericClient>(client: &C) -> Result<AtLeast, PostgresError> {
    let statement = client.prepare_cached(AFTER_ASYNCHRONOUS_COMMIT).await.map_err(PostgresError::Query)?;
    client.query_one(&statement, &[]).await.and_then(|row| row.try_get(0)).map_err(PostgresError::Query)
}

impl<'a> FromSql<'a> for AtLeast {
    fn from_sql(kind: &Type, raw: &'a [u8]) -> Result<AtLeast, Box<dyn Error + Sync + Send>> {
        Ok(<&str>::from_sql(kind, raw)?.parse()?)
    }

    fn accepts(kind: &Type) -> bool {
        <&str>::accepts(kind)
    }
}

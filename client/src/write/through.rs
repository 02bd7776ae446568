//! Write through: commit, then wait until the cache has caught up.

use std::fmt::{Debug, Display};
use std::time::Duration;

use deadpool_postgres::{ClientWrapper, GenericClient, Transaction};

use super::watermark::{CatchUp, Watermarks};
use crate::options::AtLeast;
use crate::postgres::error::full;
use crate::postgres::trouble::surely_not_committed;
use crate::postgres::{AFTER_ASYNCHRONOUS_COMMIT, AFTER_COMMIT};

/// Asked right before COMMIT. In a transaction that a failed statement has aborted it is an error, where COMMIT would silently roll back.
const BEFORE_COMMIT: &str =
    "SELECT current_setting('synchronous_commit') = 'off', pg_current_xact_id_if_assigned()::text";

/// A transaction that is committed.
///
/// ```
/// use cachetag_client::write::Committed;
///
/// fn is_seen_by_all<T>(done: &Committed<T>) -> bool {
///     done.cache.is_done()
/// }
/// ```
#[derive(Debug)]
pub struct Committed<T> {
    /// What the closure returned.
    pub value: T,
    /// A position that covers the commit: what to hand to readers as "at least". None if the connection was lost after COMMIT had returned, before
    /// the position was known: read `fresh` then.
    pub commit: Option<AtLeast>,
    /// Whether the cache has caught up with it.
    pub cache: CatchUp,
}

/// Why [`write_through`] did not end with a commit that is known.
///
/// ```
/// use cachetag_client::write::WriteError;
///
/// fn may_be_committed(error: &WriteError<std::io::Error>) -> bool {
///     matches!(error, WriteError::Unknown(_))
/// }
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WriteError<E: Display + Debug> {
    /// The transaction was not begun.
    #[error("nothing was written: the transaction could not begin: {}", full(.0))]
    Begin(#[source] tokio_postgres::Error),
    /// The closure failed.
    #[error("nothing is committed: {0}")]
    Application(E),
    /// The closure returned a value although a statement of it had failed, or the connection was lost before COMMIT was sent.
    #[error("nothing is committed: a statement had failed before COMMIT; return its error from the closure ({})", full(.0))]
    Aborted(#[source] tokio_postgres::Error),
    /// PostgreSQL refused COMMIT: a deferred constraint, a serialization failure.
    #[error("nothing is committed: PostgreSQL refused COMMIT: {}", full(.0))]
    Refused(#[source] tokio_postgres::Error),
    /// COMMIT was sent, and its answer was lost.
    #[error("it is not known whether transaction {} is committed: ask pg_xact_status ({})", .0.transaction.as_deref().unwrap_or("(read-only)"), full(&.0.source))]
    Unknown(Doubt),
}

/// A transaction that may be committed or not.
///
/// ```
/// use cachetag_client::write::{Doubt, Fate};
///
/// async fn is_committed(doubt: &Doubt, pool: deadpool_postgres::Pool) -> Option<bool> {
///     let fate = doubt.fate(&pool.get().await.ok()?).await.ok()?;
///     Some(fate == Fate::Committed)
/// }
/// ```
#[derive(Debug)]
pub struct Doubt {
    /// Its number (xid8), if it has written.
    pub transaction: Option<String>,
    /// What went wrong while COMMIT was under way.
    pub source: tokio_postgres::Error,
}

/// What became of a transaction.
///
/// ```
/// use cachetag_client::write::Fate;
///
/// fn ask_again(fate: Fate) -> bool {
///     fate == Fate::InProgress
/// }
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Fate {
    /// It is committed.
    Committed,
    /// It is rolled back.
    Aborted,
    /// It has not ended yet: ask again.
    InProgress,
    /// PostgreSQL does not remember, or it has written nothing.
    Forgotten,
}

impl Doubt {
    /// Asks the same server, in another session, what became of the transaction. (After a failover to a standby that has lost the commit, the
    /// number may belong to another transaction.)
    ///
    /// ```no_run
    /// # async fn example(doubt: cachetag_client::write::Doubt, pool: deadpool_postgres::Pool) -> Result<(), Box<dyn std::error::Error>> {
    /// let fate = doubt.fate(&pool.get().await?).await?;
    /// # let _ = fate; Ok(())
    /// # }
    /// ```
    pub async fn fate<C: GenericClient>(&self, client: &C) -> Result<Fate, tokio_postgres::Error> {
        let Some(transaction) = &self.transaction else { return Ok(Fate::Forgotten) };
        let row = client.query_one("SELECT pg_xact_status($1::text::xid8)", &[transaction]).await?;
        Ok(match row.try_get::<_, Option<&str>>(0)? {
            Some("committed") => Fate::Committed,
            Some("aborted") => Fate::Aborted,
            Some("in progress") => Fate::InProgress,
            _ => Fate::Forgotten,
        })
    }
}

/// Runs a closure in a transaction, commits, and waits until the cache has caught up with the commit.
///
/// `timeout` bounds the wait for the cache only. A commit that the cache did not catch up with in time is a success that says so
/// ([`Committed::cache`]); an error other than [`WriteError::Unknown`] means that nothing is committed. In-process layers of other processes follow
/// the same log, and may be behind by their own `max_lag`.
///
/// A future that is dropped before COMMIT is sent rolls back; while COMMIT is under way, the outcome is unknown.
///
/// ```no_run
/// # async fn example(pool: deadpool_postgres::Pool) -> Result<(), Box<dyn std::error::Error>> {
/// use std::time::Duration;
/// use cachetag_client::write::{Watermarks, write_through};
///
/// let watermarks = Watermarks::at("redis://cache", "ct")?;
/// let mut client = pool.get().await?;
/// let done = write_through(&mut client, &watermarks, Duration::from_millis(500), async |tx| {
///     tx.execute("UPDATE products SET price = 34 WHERE id = 42", &[]).await
/// })
/// .await?;
/// assert_eq!(done.value, 1);
/// if !done.cache.is_done() { /* committed all the same: readers should present done.commit */ }
/// # Ok(())
/// # }
/// ```
pub async fn write_through<T, E: Display + Debug>(
    client: &mut ClientWrapper,
    watermarks: &Watermarks,
    timeout: Duration,
    work: impl AsyncFnOnce(&Transaction<'_>) -> Result<T, E>,
) -> Result<Committed<T>, WriteError<E>> {
    let transaction = client.transaction().await.map_err(WriteError::Begin)?;
    let value = match work(&transaction).await {
        Ok(value) => value,
        Err(error) => {
            // Dropping it would roll back too, but nobody would know when.
            let _ = transaction.rollback().await;
            return Err(WriteError::Application(error));
        }
    };
    let (asynchronous, number) = before_commit(&transaction).await.map_err(WriteError::Aborted)?;
    if let Err(error) = transaction.commit().await {
        let refused = surely_not_committed(&error);
        return Err(if refused {
            WriteError::Refused(error)
        } else {
            WriteError::Unknown(Doubt { transaction: number, source: error })
        });
    }
    let position = if asynchronous { AFTER_ASYNCHRONOUS_COMMIT } else { AFTER_COMMIT };
    let commit = position_of(client, position).await.ok();
    let cache = match commit {
        Some(commit) => watermarks.reach(commit, timeout).await,
        None => CatchUp::Late { slowest: None, trouble: None },
    };
    Ok(Committed { value, commit, cache })
}

/// Whether COMMIT will return before it is flushed, and the transaction's number.
async fn before_commit(transaction: &Transaction<'_>) -> Result<(bool, Option<String>), tokio_postgres::Error> {
    let row = transaction.query_one(BEFORE_COMMIT, &[]).await?;
    Ok((row.try_get(0)?, row.try_get(1)?))
}

async fn position_of(client: &ClientWrapper, sql: &str) -> Result<AtLeast, tokio_postgres::Error> {
    let statement = client.prepare_cached(sql).await?;
    client.query_one(&statement, &[]).await?.try_get(0)
}

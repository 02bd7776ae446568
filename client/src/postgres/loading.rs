//! A loader's queries: may what they read be stored under the token, and with which tags?

use std::collections::BTreeSet;

use cachetag_core::{Tag, Version};
use deadpool_postgres::GenericClient;
use parking_lot::Mutex;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Row, Statement};

use super::PostgresError;
use super::pipelined::pipelined;
use super::tags::tags_of;
use crate::options::AtLeast;

/// The extension's verdict, and the facts behind a "no".
const COVERS: &str = "SELECT cachetag.covers($1), current_setting('transaction_isolation'), pg_is_in_recovery(),
    pg_current_xact_id_if_assigned() IS NOT NULL,
    cachetag.position()";

/// The reading of a value that is to be stored under the token of a miss.
///
/// Each query is asked for together with `cachetag.covers(token)`, before and after it in the same session and in one round trip:
/// before, since a standby must have replayed as far as the token when the query takes its snapshot; after, since a query that writes in a
/// transaction shows what may yet be rolled back. In READ COMMITTED every statement takes its snapshot when it starts, which is after the token was
/// given. A transaction of REPEATABLE READ or SERIALIZABLE may have taken its only snapshot before: its rows are returned, and not storable.
///
/// A column named [`TAGS_COLUMN`](super::TAGS_COLUMN), text or text[], gives the tags. Rows that are not there give none: name the tag of an absence yourself.
///
/// ```no_run
/// # use cachetag_core::Version;
/// # async fn example(pool: deadpool_postgres::Pool, token: Option<Version>) -> Result<(), Box<dyn std::error::Error>> {
/// use cachetag_client::postgres::Loading;
///
/// let client = pool.get().await?;
/// let loading = Loading::new(token);
/// let found = loading
///     .query(&client, "SELECT name, cachetag.tags_of('products', p) AS cachetag_tags FROM products p WHERE category_id = $1", &[&7_i32])
///     .await?;
/// let names: Vec<String> = found.rows.iter().map(|row| row.get("name")).collect();
/// if loading.storable().is_ok() {
///     let tags = loading.tags(); // store `names` under these
/// #   let _ = (names, tags);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Loading {
    token: Option<Version>,
    found: Mutex<Found>,
}

/// What the queries so far have come to.
#[derive(Debug, Default)]
struct Found {
    refused: Option<NotStorable>,
    tags: BTreeSet<Tag>,
}

/// The answer to one query of a [`Loading`].
#[derive(Debug)]
pub struct Rows {
    /// The rows, the column of tags included.
    pub rows: Vec<Row>,
    /// Whether they may be stored under the token; [`Loading::storable`] says it of all queries together, and why not.
    pub storable: bool,
    /// The tags that the column [`TAGS_COLUMN`](super::TAGS_COLUMN) holds, each once, sorted.
    pub tags: Vec<Tag>,
    /// Every commit that the query saw ends here or earlier.
    pub seen: Option<AtLeast>,
}

/// Why what was read must not be stored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NotStorable {
    /// There is no token.
    #[error("the cache gave no token (it cannot vouch for anything now): use the value, store nothing")]
    NoToken,
    /// The only snapshot may be older than the token.
    #[error(
        "the transaction is {isolation}: its snapshot may be older than the token; load in READ COMMITTED or outside a transaction"
    )]
    Snapshot {
        /// The isolation level, as PostgreSQL writes it.
        isolation: String,
    },
    /// The transaction has written.
    #[error(
        "the transaction has written: it sees what may yet be rolled back; load after COMMIT or in another session"
    )]
    Wrote,
    /// A standby has not replayed up to the token.
    #[error("the standby has not replayed up to the token {token}: load on the primary, or later")]
    Behind {
        /// The token.
        token: Version,
    },
    /// The server's log ends before the token.
    #[error("the server's log ends before the token {token}: is it the server that the daemon follows?")]
    History {
        /// The token.
        token: Version,
    },
}

impl Loading {
    /// A reading for this token; without one (the cache answered `bypass`) nothing is storable.
    pub fn new(token: impl Into<Option<Version>>) -> Loading {
        let token = token.into();
        let refused = token.is_none().then_some(NotStorable::NoToken);
        Loading { token, found: Mutex::new(Found { refused, tags: BTreeSet::new() }) }
    }

    /// The token that everything is read for.
    pub fn token(&self) -> Option<Version> {
        self.token
    }

    /// Runs a query, prepared once a connection, on a pooled client or in a transaction.
    pub async fn query<C: GenericClient>(
        &self,
        client: &C,
        sql: &str,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<Rows, PostgresError> {
        // Prepared first: what follows is then sent in the order in which it is written.
        let query = client.prepare_cached(sql).await.map_err(PostgresError::Query)?;
        let (rows, refused, seen) = match self.token {
            Some(token) => covered(client, &query, params, token).await?,
            // A session does not go back behind what cannot be stored, either.
            None => {
                let (rows, _, seen) = covered(client, &query, params, Version::default()).await?;
                (rows, Some(NotStorable::NoToken), seen)
            }
        };
        let tags = tags_of(&rows)?;
        let answer = Rows { rows, storable: refused.is_none(), tags: tags.iter().cloned().collect(), seen };
        let mut found = self.found.lock();
        found.tags.extend(tags);
        found.refused = found.refused.take().or(refused);
        Ok(answer)
    }

    /// Whether everything that was read may be stored under the token, and why not.
    pub fn storable(&self) -> Result<(), NotStorable> {
        self.found.lock().refused.clone().map_or(Ok(()), Err)
    }

    /// The tags of all queries, each once, sorted.
    pub fn tags(&self) -> Vec<Tag> {
        self.found.lock().tags.iter().cloned().collect()
    }
}

/// The rows, and why they are not covered by the token, if they are not.
async fn covered<C: GenericClient>(
    client: &C,
    query: &Statement,
    params: &[&(dyn ToSql + Sync)],
    token: Version,
) -> Result<(Vec<Row>, Option<NotStorable>, Option<AtLeast>), PostgresError> {
    let covers = client.prepare_cached(COVERS).await.map_err(PostgresError::of_extension)?;
    let text = token.to_string();
    let asked: &[&(dyn ToSql + Sync)] = &[&text];
    let sent = vec![client.query(&covers, asked), client.query(query, params), client.query(&covers, asked)];
    let mut answers = pipelined(sent).await.into_iter();
    let (before, rows, after) = (answers.next(), answers.next(), answers.next());
    let (Some(before), Some(rows), Some(after)) = (before, rows, after) else { unreachable!("three were sent") };
    let before = before.map_err(PostgresError::of_extension)?;
    // In a transaction a failed query fails the verdict after it too: the query's error is the one to tell.
    let rows = rows.map_err(PostgresError::Query)?;
    let after = after.map_err(PostgresError::of_extension)?;
    // Asked after the query, so that it covers whatever that saw.
    let seen: Option<AtLeast> = after.first().map(|row| row.try_get(4)).transpose().map_err(PostgresError::Query)?;
    for verdict in before.iter().chain(&after) {
        if let Some(refused) = refused(verdict, token).map_err(PostgresError::Query)? {
            return Ok((rows, Some(refused), seen));
        }
    }
    Ok((rows, None, seen))
}

fn refused(verdict: &Row, token: Version) -> Result<Option<NotStorable>, tokio_postgres::Error> {
    let (covers, isolation): (bool, String) = (verdict.try_get(0)?, verdict.try_get(1)?);
    let (standby, wrote): (bool, bool) = (verdict.try_get(2)?, verdict.try_get(3)?);
    Ok(match isolation.as_str() {
        _ if covers => None,
        "repeatable read" | "serializable" => Some(NotStorable::Snapshot { isolation: isolation.to_uppercase() }),
        _ if wrote => Some(NotStorable::Wrote),
        _ if standby => Some(NotStorable::Behind { token }),
        _ => Some(NotStorable::History { token }),
    })
}

//! Tags that the extension finds by itself: what unchanged queries depend on.

use cachetag_core::{Tag, Version};
use deadpool_postgres::GenericClient;

use super::PostgresError;
use crate::options::AtLeast;

/// Which of the two functions are there. By name: their arguments may grow.
const PRESENT: &str =
    "SELECT to_regproc('cachetag.capture_begin') IS NOT NULL, to_regproc('cachetag.capture_end') IS NOT NULL";
const BEGIN: &str = "SELECT cachetag.capture_begin($1)";
const END: &str = "SELECT tags, as_of::text, cacheable, reasons, cachetag.position() FROM cachetag.capture_end()";

/// What was read while the extension watched.
#[derive(Debug, Clone)]
pub struct Captured<T> {
    /// What the closure returned.
    pub value: T,
    /// The tags that its queries depend on.
    pub tags: Vec<Tag>,
    /// The version to store it under: the token, or a newer one that its snapshots cover.
    pub as_of: Option<Version>,
    /// Whether it may be stored at all.
    pub cacheable: bool,
    /// Why not.
    pub reasons: Vec<String>,
    /// Every commit that the queries saw ends here or earlier.
    pub seen: AtLeast,
}

/// Runs unchanged queries while the extension notes what they depend on.
///
/// `cachetag.capture_begin(token)`, then the queries of the closure, then `cachetag.capture_end()`, all in the session of `client`: other sessions are not
/// watched. If the closure fails, capture ends too. A future that is dropped in between leaves the session capturing: have the pool recycle it.
///
/// An extension that cannot capture is [`PostgresError::CaptureMissing`], before anything is run.
///
/// ```no_run
/// # use cachetag_core::Version;
/// # use cachetag_client::postgres::PostgresError;
/// # async fn example(pool: deadpool_postgres::Pool, token: Version) -> Result<(), Box<dyn std::error::Error>> {
/// use cachetag_client::postgres::capture;
///
/// let client = pool.get().await?;
/// let page = capture(&client, token, async || client.query("SELECT name FROM products", &[]).await.map_err(PostgresError::Query)).await?;
/// if page.cacheable { /* store page.value under page.tags as of page.as_of */ }
/// # Ok(())
/// # }
/// ```
pub async fn capture<C: GenericClient, T, E: From<PostgresError>>(
    client: &C,
    token: impl Into<Option<Version>>,
    read: impl AsyncFnOnce() -> Result<T, E>,
) -> Result<Captured<T>, E> {
    let token: Option<Version> = token.into();
    begin(client, token).await?;
    let value = read().await;
    let end = end(client).await;
    // The closure's error comes first: it may be the reason of the other.
    let value = value?;
    let (tags, as_of, cacheable, reasons, seen) = end?;
    Ok(Captured { value, tags, as_of, cacheable, reasons, seen })
}

async fn begin<C: GenericClient>(client: &C, token: Option<Version>) -> Result<(), PostgresError> {
    let present = client.query_one(PRESENT, &[]).await.map_err(PostgresError::Query)?;
    for (column, function) in ["cachetag.capture_begin", "cachetag.capture_end"].into_iter().enumerate() {
        if !present.try_get(column).map_err(PostgresError::Query)? {
            return Err(PostgresError::CaptureMissing { function });
        }
    }
    let statement = client.prepare_cached(BEGIN).await.map_err(PostgresError::of_extension)?;
    let token = token.map(|token| token.to_string());
    client.query(&statement, &[&token]).await.map_err(PostgresError::of_extension)?;
    Ok(())
}

type Ended = (Vec<Tag>, Option<Version>, bool, Vec<String>, AtLeast);

async fn end<C: GenericClient>(client: &C) -> Result<Ended, PostgresError> {
    let statement = client.prepare_cached(END).await.map_err(PostgresError::of_extension)?;
    let row = client.query_one(&statement, &[]).await.map_err(PostgresError::of_extension)?;
    let tags: Option<Vec<String>> = row.try_get(0).map_err(PostgresError::Query)?;
    let as_of: Option<String> = row.try_get(1).map_err(PostgresError::Query)?;
    let cacheable: Option<bool> = row.try_get(2).map_err(PostgresError::Query)?;
    let reasons: Option<Vec<String>> = row.try_get(3).map_err(PostgresError::Query)?;
    let seen: AtLeast = row.try_get(4).map_err(PostgresError::Query)?;
    let tags: Result<Vec<Tag>, _> = tags.unwrap_or_default().iter().map(|tag| Tag::parse(tag)).collect();
    let as_of = as_of.filter(|text| !text.is_empty()).map(|text| text.parse()).transpose()?;
    Ok((
        tags.map_err(|source| PostgresError::Tag { source })?,
        as_of,
        cacheable.unwrap_or(false),
        reasons.unwrap_or_default(),
        seen,
    ))
}

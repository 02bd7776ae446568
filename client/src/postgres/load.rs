//! The short way: a query inside of a cache's loader.

use deadpool_postgres::GenericClient;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::{Loading, NotStorable, PostgresError, capture};
use crate::load::Load;

impl Load {
    /// Runs a query for the value that is being loaded: the tags in its column [`TAGS_COLUMN`](super::TAGS_COLUMN) become the value's, and a
    /// snapshot that the token does not cover keeps it from being stored. See [`Loading`], which says when that is.
    ///
    /// ```no_run
    /// # async fn example(cache: cachetag_client::Cache, pool: deadpool_postgres::Pool) -> Result<(), cachetag_client::Error> {
    /// let name = cache
    ///     .get_or_load("product:42:name", |load| async move {
    ///         let client = pool.get().await?;
    ///         let sql = "SELECT name, cachetag.tags_of('products', p) AS cachetag_tags FROM products p WHERE id = $1";
    ///         let rows = load.query(&client, sql, &[&42_i64]).await?;
    ///         let name: String = rows.first().ok_or("there is no product 42")?.get("name");
    ///         Ok::<_, Box<dyn std::error::Error + Send + Sync>>(name)
    ///     })
    ///     .await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn query<C: GenericClient>(
        &self,
        client: &C,
        sql: &str,
        params: &[&(dyn ToSql + Sync)],
    ) -> Result<Vec<Row>, PostgresError> {
        let loading = Loading::new(self.token());
        let found = loading.query(client, sql, params).await?;
        self.tags(found.tags);
        if let Some(position) = found.seen {
            self.seen(position);
        }
        match loading.storable() {
            // Without a token nothing is stored anyway.
            Ok(()) | Err(NotStorable::NoToken) => {}
            Err(refused) => {
                self.do_not_store(refused.to_string());
            }
        }
        Ok(found.rows)
    }

    /// Runs unchanged queries for the value that is being loaded, while the extension notes what they depend on: their tags become the value's, and what may not
    /// be cached is not stored, for the reasons that the extension gives. See [`capture`], and the README on what is cacheable.
    ///
    /// ```no_run
    /// # async fn example(cache: cachetag_client::Cache, pool: deadpool_postgres::Pool) -> Result<(), cachetag_client::Error> {
    /// use cachetag_client::postgres::PostgresError;
    ///
    /// let name = cache
    ///     .get_or_load("product:42:name", |load| async move {
    ///         let client = pool.get().await?;
    ///         let read = async || {
    ///             client.query_one("SELECT name FROM products WHERE id = 42", &[]).await.map_err(PostgresError::Query)
    ///         };
    ///         let row = load.capture(&client, read).await?;
    ///         Ok::<String, Box<dyn std::error::Error + Send + Sync>>(row.get("name"))
    ///     })
    ///     .await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn capture<C: GenericClient, T, E: From<PostgresError>>(
        &self,
        client: &C,
        read: impl AsyncFnOnce() -> Result<T, E>,
    ) -> Result<T, E> {
        let found = capture(client, self.token(), read).await?;
        self.tags(found.tags);
        self.seen(found.seen);
        if let Some(version) = found.as_of {
            self.as_of(version);
        }
        // Without a token nothing is stored anyway.
        if !found.cacheable && self.token().is_some() {
            self.do_not_store(found.reasons.join("; "));
        }
        Ok(found.value)
    }
}

//! The PostgreSQL side of the audit: recipes, and the values that their queries make, each in a read-only transaction of its own.

use std::time::Duration;

use bytes::BytesMut;
use cachetag_core::{KeyTemplate, Lsn};
use tokio_postgres::types::{Format, FromSql, IsNull, ToSql, Type, to_sql_checked};
use tokio_postgres::{Client, SimpleQueryMessage, Statement};

use super::AuditError;
use crate::config::Config;
use crate::source::ConnectOptions;

/// How a payload is compared with a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compare {
    /// The payload is the value's text.
    Text,
    /// The payload is the value, a bytea.
    Bytes,
    /// Payload and value are the same jsonb.
    Jsonb,
}

/// A row of `cachetag.recipe`.
#[derive(Debug)]
pub struct Recipe {
    /// Which keys it is for.
    pub template: KeyTemplate,
    /// The statement that gives the value: one column, and NULL for what is not there.
    pub statement: String,
    /// How to compare.
    pub compare: Compare,
    path: String,
    prepared: Option<Statement>,
}

/// What a query gave.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Value {
    /// The bytes to compare with; `None`: there is nothing.
    pub bytes: Option<Vec<u8>>,
    /// Every commit that the query's snapshot shows ends at or before this, and an idle stream reaches it.
    pub position: Lsn,
    /// The end of the WAL then.
    pub end: Lsn,
    /// Asked again in the same snapshot because it differed from `expected`, the query gave something else.
    pub is_unsteady: bool,
}

/// Why a value is not known.
#[derive(Debug)]
pub enum ValueError {
    /// The query failed: it is wrong, or took too long. The words of the server.
    Recipe(String),
    /// The audit cannot go on.
    Fatal(AuditError),
}

impl From<tokio_postgres::Error> for ValueError {
    fn from(error: tokio_postgres::Error) -> Self {
        match error.as_db_error() {
            // Class 57 is the server's: it shuts down, an administrator ended the session. A statement that took too long is ours.
            Some(db) if !db.code().code().starts_with("57P") => ValueError::Recipe(describe(db)),
            _ if error.is_closed() || error.as_db_error().is_some() => ValueError::Fatal(error.into()),
            _ => match std::error::Error::source(&error) {
                Some(source) if source.downcast_ref::<std::io::Error>().is_none() => {
                    ValueError::Recipe(format!("{error}: {source}"))
                }
                _ => ValueError::Fatal(error.into()),
            },
        }
    }
}

fn describe(error: &tokio_postgres::error::DbError) -> String {
    format!("{} ({})", error.message(), error.code().code())
}

/// The SQL connection.
pub struct Database {
    client: Client,
    timeout: Duration,
}

impl Database {
    /// Connects to the primary and makes sure that it is the one that `source`, the feed of the Redis, comes from.
    pub async fn connect(config: &Config, timeout: Duration, source: &str) -> Result<Database, AuditError> {
        let options = ConnectOptions::parse(&config.postgres)?.with_application_name("cachetag-audit");
        let client = crate::source::sql::connect(&options).await?;
        let row = client
            .query_one(
                "SELECT pg_is_in_recovery(), (SELECT system_identifier::text FROM pg_control_system()), \
                 (SELECT oid::text || ':' || datname FROM pg_database WHERE datname = current_database()), \
                 to_regclass('cachetag.recipe') IS NOT NULL",
                &[],
            )
            .await?;
        if row.get(0) {
            return Err(AuditError::Standby);
        }
        let mut parts = source.splitn(4, '/');
        let (system, _timeline, database) = (parts.next(), parts.next(), parts.next());
        let (own_system, own_database): (String, String) = (row.get(1), row.get(2));
        if system != Some(&own_system) || database != Some(&own_database) {
            return Err(AuditError::ForeignSource {
                feed: source.to_owned(),
                own: format!("{own_system}/…/{own_database}"),
            });
        }
        if !row.get::<_, bool>(3) {
            return Err(AuditError::NoRecipes);
        }
        Ok(Database { client, timeout })
    }

    /// The recipes, those first that fix more of a key.
    pub async fn recipes(&self) -> Result<Vec<Recipe>, AuditError> {
        let rows = self
            .client
            .query(
                "SELECT key_template, cachetag._recipe_statement(query, compare), compare, path FROM cachetag.recipe \
                 ORDER BY key_template COLLATE \"C\"",
                &[],
            )
            .await?;
        let mut recipes = rows
            .iter()
            .map(|row| {
                let template: &str = row.get(0);
                Ok(Recipe {
                    template: template.parse().map_err(AuditError::KeyTemplate)?,
                    statement: row.get(1),
                    compare: match row.get(2) {
                        "bytes" => Compare::Bytes,
                        "jsonb" => Compare::Jsonb,
                        _ => Compare::Text,
                    },
                    path: row.get(3),
                    prepared: None,
                })
            })
            .collect::<Result<Vec<_>, AuditError>>()?;
        recipes.sort_by_key(|recipe| std::cmp::Reverse(recipe.template.fixed_len()));
        Ok(recipes)
    }

    /// The value that the recipe's query gives now, in a snapshot taken after this was called.
    pub async fn value(
        &self,
        recipe: &mut Recipe,
        parameters: &[Option<String>],
        expected: Option<&[u8]>,
    ) -> Result<Value, ValueError> {
        let (position, end) = self.begin(&recipe.path).await?;
        let value = self.ask(recipe, parameters).await;
        let value = match value {
            // Twice the same in one snapshot, or it says nothing about the cache.
            Ok(bytes) if bytes.as_deref() != expected => {
                self.ask(recipe, parameters).await.map(|again| (again != bytes, bytes))
            }
            other => other.map(|bytes| (false, bytes)),
        };
        self.end().await?;
        let (is_unsteady, bytes) = value?;
        Ok(Value { bytes, position, end, is_unsteady })
    }

    /// Opens a transaction whose snapshot is that of its first query, which tells where the WAL ends after the snapshot was taken.
    /// Right behind a page header nothing ends, and an idle stream would never reach it.
    async fn begin(&self, path: &str) -> Result<(Lsn, Lsn), ValueError> {
        let ms = self.timeout.as_millis();
        // Several users of a big table may begin to read it anywhere, and then it comes in another order.
        let begin = format!(
            "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET LOCAL statement_timeout = {ms}; SET LOCAL lock_timeout = {ms}; \
             SET LOCAL synchronize_seqscans = off; SET LOCAL max_parallel_workers_per_gather = 0; \
             SELECT p - CASE WHEN p % b IN (24, 40) THEN p % b ELSE 0 END, p \
             FROM (SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn AS p, current_setting('wal_block_size')::numeric AS b) AS x; \
             SET LOCAL search_path = {path}",
            path = if path.is_empty() { "''" } else { path },
        );
        let messages = match self.client.simple_query(&begin).await {
            Ok(messages) => messages,
            Err(error) => {
                self.end().await?;
                return Err(error.into());
            }
        };
        let position = messages.iter().find_map(|message| match message {
            SimpleQueryMessage::Row(row) => {
                let lsn = |at| row.get(at).and_then(|text| text.parse().ok()).map(Lsn);
                Some((lsn(0)?, lsn(1)?))
            }
            _ => None,
        });
        position.ok_or_else(|| ValueError::Fatal(AuditError::Reply { got: "no WAL position".into() }))
    }

    async fn end(&self) -> Result<(), ValueError> {
        self.client.batch_execute("ROLLBACK").await.map_err(|error| ValueError::Fatal(error.into()))
    }

    async fn ask(&self, recipe: &mut Recipe, parameters: &[Option<String>]) -> Result<Option<Vec<u8>>, ValueError> {
        let statement = match &recipe.prepared {
            Some(statement) => statement.clone(),
            None => recipe.prepared.insert(self.client.prepare(&recipe.statement).await?).clone(),
        };
        let parameters = bound(&statement, parameters)?;
        let row = self.client.query_one(&statement, &references(&parameters)).await?;
        let Raw(bytes) = row.try_get(0)?;
        Ok(bytes)
    }

    /// Rows of a diagnosing query under the recipe's path, every value as text. `{}` in it is where the recipe's statement goes.
    pub(super) async fn diagnose(
        &self,
        recipe: &Recipe,
        query: &str,
        parameters: &[Option<String>],
    ) -> Result<Vec<Vec<Option<String>>>, ValueError> {
        self.begin(&recipe.path).await?;
        let rows = async {
            let statement = self.client.prepare(query).await?;
            let parameters = bound(&statement, parameters)?;
            let rows = self.client.query(&statement, &references(&parameters)).await?;
            rows.iter()
                .map(|row| (0..row.len()).map(|at| Ok(row.try_get::<_, Raw>(at)?.text())).collect())
                .collect::<Result<_, ValueError>>()
        }
        .await;
        self.end().await?;
        rows
    }

    /// Are payload and value the same?
    pub async fn is_same(
        &self,
        compare: Compare,
        payload: Option<&[u8]>,
        value: Option<&[u8]>,
    ) -> Result<bool, AuditError> {
        let (Some(payload), Some(value), true) = (payload, value, payload != value) else {
            return Ok(payload == value);
        };
        let (Compare::Jsonb, Ok(payload), Ok(value)) = (compare, str::from_utf8(payload), str::from_utf8(value)) else {
            return Ok(false);
        };
        match self.client.query_one("SELECT $1::text::jsonb = $2::text::jsonb", &[&payload, &value]).await {
            Ok(row) => Ok(row.get(0)),
            // The payload is no JSON.
            Err(error) if error.as_db_error().is_some_and(|db| db.code().code().starts_with("22")) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

fn bound<'p>(statement: &Statement, parameters: &'p [Option<String>]) -> Result<Vec<Text<'p>>, ValueError> {
    let wanted = statement.params().len();
    match parameters.get(..wanted) {
        Some(parameters) => Ok(parameters.iter().map(|value| Text(value.as_deref())).collect()),
        None => Err(ValueError::Recipe(format!(
            "the query has {wanted} parameters, the key template {} names; register the recipe again",
            parameters.len()
        ))),
    }
}

fn references<'p>(parameters: &'p [Text<'_>]) -> Vec<&'p (dyn ToSql + Sync)> {
    parameters.iter().map(|parameter| parameter as &(dyn ToSql + Sync)).collect()
}

/// A parameter of any type, as text: what stands in a key.
#[derive(Debug)]
struct Text<'a>(Option<&'a str>);

impl ToSql for Text<'_> {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        Ok(self.0.map_or(IsNull::Yes, |text| {
            out.extend_from_slice(text.as_bytes());
            IsNull::No
        }))
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    fn encode_format(&self, _: &Type) -> Format {
        Format::Text
    }

    to_sql_checked!();
}

/// A text or a bytea, or NULL: their binary format is their bytes.
struct Raw(Option<Vec<u8>>);

impl Raw {
    fn text(self) -> Option<String> {
        self.0.map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
    }
}

impl<'a> FromSql<'a> for Raw {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Raw(Some(raw.to_vec())))
    }

    fn from_sql_null(_: &Type) -> Result<Self, Box<dyn std::error::Error + Sync + Send>> {
        Ok(Raw(None))
    }

    fn accepts(kind: &Type) -> bool {
        matches!(*kind, Type::TEXT | Type::BYTEA | Type::JSON)
    }
}

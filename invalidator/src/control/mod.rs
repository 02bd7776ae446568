//! The daemon's ordinary SQL connection: checks before the start, the slot's state, rules and dependencies, and the
//! observations that move the watermark.

mod preflight;
mod slot;

use cachetag_core::Lsn;
use tokio_postgres::{Client, SimpleQueryMessage, Statement};

use crate::mapping::{self, MetadataError, MetadataTable};
use crate::source::sql::SqlError;
use crate::watermark::{FullXid, Snapshot};

pub use preflight::Preflight;
pub(crate) use slot::{COLUMNS, TRANSACTIONS, slot as slot_of, transaction as transaction_of};
pub use slot::{Slot, Transaction, Walsender, list};

/// Why the SQL side cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The connection could not be made.
    #[error(transparent)]
    Connect(#[from] SqlError),
    /// A query failed.
    #[error("postgres, while {doing}: {}", describe(.source))]
    Query {
        /// What was being done.
        doing: &'static str,
        /// What the server or the connection said.
        source: tokio_postgres::Error,
    },
    /// The server is not set up for this daemon.
    #[error("{problem}; {remedy}")]
    Setup {
        /// What is not as it should be.
        problem: String,
        /// What to do about it.
        remedy: String,
    },
    /// Rules or dependencies cannot be read.
    #[error(transparent)]
    Metadata(#[from] MetadataError),
    /// The server answered something that it never should.
    #[error("postgres answered {got:?} where {expected} was expected")]
    Reply {
        /// What was expected.
        expected: &'static str,
        /// What came.
        got: String,
    },
}

impl ControlError {
    /// Must a person act before another try can succeed?
    pub fn is_configuration(&self) -> bool {
        match self {
            ControlError::Setup { .. } => true,
            ControlError::Connect(e) => e.is_configuration(),
            ControlError::Query { source, .. } => {
                source.code().is_some_and(|c| *c == tokio_postgres::error::SqlState::INSUFFICIENT_PRIVILEGE)
            }
            ControlError::Metadata(_) | ControlError::Reply { .. } => false,
        }
    }
}

/// tokio-postgres prints only `db error`: the server's own words, its detail and its hint are what helps.
fn describe(error: &tokio_postgres::Error) -> String {
    let Some(db) = error.as_db_error() else {
        return match std::error::Error::source(error) {
            Some(source) => format!("{error}: {source}"),
            None => error.to_string(),
        };
    };
    let mut text = format!("{} ({})", db.message(), db.code().code());
    for more in [db.detail(), db.hint()].into_iter().flatten() {
        text.push_str("; ");
        text.push_str(more);
    }
    text
}

/// Queries with what they are for, so that an error says it.
pub(crate) trait Doing<T> {
    fn doing(self, doing: &'static str) -> Result<T, ControlError>;
}

impl<T> Doing<T> for Result<T, tokio_postgres::Error> {
    fn doing(self, doing: &'static str) -> Result<T, ControlError> {
        self.map_err(|source| ControlError::Query { doing, source })
    }
}

/// Rules and dependencies, and the position at which they were read.
#[derive(Debug)]
pub struct Metadata {
    /// The rows.
    pub rows: mapping::Metadata,
    /// Number of rules.
    pub rules: usize,
    /// Number of dependencies.
    pub dependencies: usize,
    /// The rows show every change of metadata whose commit ends at or before this, but for those of `writers`.
    pub read_at: Lsn,
    /// Transactions that were changing metadata when it was read: their commit may be decoded already and not visible yet.
    pub writers: Vec<FullXid>,
}

/// What one look at PostgreSQL shows; see [`crate::watermark::Observation`].
#[derive(Debug, Clone)]
pub struct Look {
    /// Transactions as new snapshots see them.
    pub snapshot: Snapshot,
    /// Flush position.
    pub flushed: Lsn,
    /// Where the last record written ends, flushed or not.
    pub end: Lsn,
    /// Whether commits wait for the replication connection of this daemon.
    pub synchronous: bool,
}

/// Where the last record written ends, flushed or not, as text. Right behind a page header nothing ends, and an idle stream would never reach it.
const LAST_END: &str = "(SELECT (p - CASE WHEN p % b IN (24, 40) THEN p % b ELSE 0 END)::text \
     FROM (SELECT pg_current_wal_insert_lsn() - '0/0'::pg_lsn AS p, current_setting('wal_block_size')::numeric AS b) AS position)";

/// The SQL connection.
pub struct Control {
    client: Client,
    look: Statement,
}

impl Control {
    /// Connects and prepares.
    pub async fn connect(options: &crate::source::ConnectOptions) -> Result<Control, ControlError> {
        let client = crate::source::sql::connect(options).await?;
        // Synchronous means: a commit may be waiting for what this very daemon acknowledges. A role without pg_read_all_stats does not
        // see who is; then any synchronous standby will do, since holding back would be a deadlock.
        let look = client
            .prepare(&format!(
                "SELECT pg_current_snapshot()::text, (pg_current_wal_flush_lsn() - '0/0'::pg_lsn)::text, \
                 coalesce((SELECT r.sync_state <> 'async' FROM pg_stat_replication r WHERE r.pid = $1), \
                          current_setting('synchronous_standby_names') <> ''), \
                 {LAST_END}"
            ))
            .await
            .doing("preparing the visibility check")?;
        Ok(Control { client, look })
    }

    /// The connection is gone.
    pub fn is_closed(&self) -> bool {
        self.client.is_closed()
    }

    /// Sees to it that the publication exists and holds the catalog and every tracked table.
    pub async fn attach(&self) -> Result<(), ControlError> {
        self.client.batch_execute("SELECT cachetag.attach()").await.doing("preparing the publication")
    }

    /// Has decoding read the catalog anew from here on.
    pub async fn republish(&self) -> Result<(), ControlError> {
        self.client.batch_execute("SELECT cachetag.republish()").await.doing("stating the publication anew")
    }

    /// Name of the database.
    pub async fn database(&self) -> Result<String, ControlError> {
        let row =
            self.client.query_one("SELECT current_database()::text", &[]).await.doing("asking for the database")?;
        Ok(row.get(0))
    }

    /// Where the WAL ends.
    pub async fn end(&self) -> Result<Lsn, ControlError> {
        let row = self
            .client
            .query_one("SELECT (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::text", &[])
            .await
            .doing("asking for the end of the WAL")?;
        lsn(&row.get::<_, String>(0))
    }

    /// Reads rules and dependencies.
    pub async fn metadata(&self) -> Result<Metadata, ControlError> {
        const DOING: &str = "reading rules and dependencies";
        // First who is changing them, then the rows: a transaction that ends in between is in the rows, one that begins in between
        // commits later than the position read last.
        let writers = self
            .client
            .query(
                "SELECT DISTINCT x.transactionid::text FROM pg_locks l \
                 JOIN pg_locks x ON x.virtualtransaction = l.virtualtransaction \
                   AND x.locktype = 'transactionid' AND x.mode = 'ExclusiveLock' AND x.granted \
                 WHERE l.locktype = 'relation' AND l.granted AND l.mode <> 'AccessShareLock' \
                   AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()) \
                   AND l.relation IN ('cachetag.rule'::regclass, 'cachetag.binding'::regclass, \
                     'cachetag.dependency'::regclass)",
                &[],
            )
            .await
            .doing(DOING)?;
        self.client.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await.doing(DOING)?;
        let mut rows = mapping::Metadata::default();
        let (mut rules, mut dependencies) = (0, 0);
        for table in [MetadataTable::Rule, MetadataTable::Binding, MetadataTable::Dependency] {
            // The simple protocol returns text, which is what the stream brings too.
            for message in self.client.simple_query(table.query()).await.doing(DOING)? {
                if let SimpleQueryMessage::Row(row) = message {
                    rows.add(table, |name| row.try_get(name).ok().flatten())?;
                    rules += usize::from(table == MetadataTable::Rule);
                    dependencies += usize::from(table == MetadataTable::Dependency);
                }
            }
        }
        // An asynchronous commit can be visible and not flushed yet, so not where the flushed part of the log ends.
        let last = self
            .client
            .query_one(&format!("SELECT {LAST_END}, pg_current_snapshot()::text"), &[])
            .await
            .doing(DOING)?;
        self.client.batch_execute("COMMIT").await.doing(DOING)?;
        let snapshot = snapshot(&last.get::<_, String>(1))?;
        let mut xids = Vec::new();
        for row in &writers {
            let text: String = row.get(0);
            let xid: u32 = text.parse().map_err(|_| ControlError::Reply { expected: "a transaction id", got: text })?;
            xids.push(snapshot.widen(xid));
        }
        xids.retain(|&xid| snapshot.is_in_progress(xid));
        Ok(Metadata { rows, rules, dependencies, read_at: lsn(&last.get::<_, String>(0))?, writers: xids })
    }

    /// One look at what new snapshots see and what is flushed. `walsender` is the server process of the replication connection.
    pub async fn look(&self, walsender: i32) -> Result<Look, ControlError> {
        let row = self.client.query_one(&self.look, &[&walsender]).await.doing("checking what is visible")?;
        Ok(Look {
            snapshot: snapshot(row.try_get(0).doing("checking what is visible")?)?,
            flushed: lsn(row.try_get(1).doing("checking what is visible")?)?,
            synchronous: row.try_get(2).doing("checking what is visible")?,
            end: lsn(row.try_get(3).doing("checking what is visible")?)?,
        })
    }

    /// Sees to it that everything written is flushed soon, without waiting for it: by a commit that changes nothing.
    pub async fn flush(&self) -> Result<(), ControlError> {
        let flush =
            "SELECT set_config('synchronous_commit', 'off', true), pg_logical_emit_message(true, 'cachetag.flush', '')";
        self.client.query_one(flush, &[]).await.doing("having the end of the log flushed")?;
        Ok(())
    }

    /// Whether a walsender waits: for more WAL, or for its client to take what it sends. A busy one does neither.
    pub async fn waits(&self, walsender: i32) -> Result<bool, ControlError> {
        let waits = "SELECT coalesce(wait_event LIKE 'WalSender%', false) FROM pg_stat_activity WHERE pid = $1";
        let row = self.client.query_opt(waits, &[&walsender]).await.doing("looking at the walsender")?;
        Ok(row.is_some_and(|row| row.get(0)))
    }

    /// The newest epoch that a daemon of this database has opened; Redis may have forgotten it.
    pub async fn last_epoch(&self) -> Result<Option<u64>, ControlError> {
        let row = self
            .client
            .query_one("SELECT cachetag.last_report() ->> 'epoch'", &[])
            .await
            .doing("reading the last report")?;
        Ok(row.get::<_, Option<String>>(0).and_then(|t| t.parse().ok()))
    }

    /// Adds to the last report, whose time stays as it was: the daemon has an event to tell, and is not streaming.
    pub async fn add_to_report(&self, event: &serde_json::Value) -> Result<(), ControlError> {
        self.client
            .execute(
                "SELECT cachetag.report(coalesce(cachetag.last_report(), '{\"reported_at\": \"1970-01-01\"}') || $1::text::jsonb)",
                &[&event.to_string()],
            )
            .await
            .doing("storing an event in the report")?;
        Ok(())
    }

    /// Stores the daemon's report, which `status()` and `doctor()` show.
    pub async fn report(&self, report: &serde_json::Value) -> Result<(), ControlError> {
        self.client
            .execute("SELECT cachetag.report($1::text::jsonb)", &[&report.to_string()])
            .await
            .doing("storing the report")?;
        Ok(())
    }
}

/// Positions travel as decimal text: the difference to 0/0.
fn lsn(text: &str) -> Result<Lsn, ControlError> {
    text.parse().map(Lsn).map_err(|_| ControlError::Reply { expected: "a WAL position", got: text.into() })
}

fn snapshot(text: &str) -> Result<Snapshot, ControlError> {
    text.parse().map_err(|_| ControlError::Reply { expected: "a snapshot", got: text.into() })
}

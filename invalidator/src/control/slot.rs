//! The replication slot as PostgreSQL shows it, and what can be done to it from outside of its stream.

use std::fmt;

use cachetag_core::Lsn;

use super::{Control, ControlError, Doing, lsn};
use crate::budget::Retained;

/// How many transactions a message names.
const NAMED: i64 = 5;

/// A replication slot as `pg_replication_slots` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slot {
    /// Output plugin.
    pub plugin: String,
    /// Database that it decodes.
    pub database: String,
    /// Process that uses it.
    pub active: Option<Walsender>,
    /// Up to where it has been acknowledged.
    pub confirmed: Option<Lsn>,
    /// Where the log is kept from.
    pub restart: Option<Lsn>,
    /// Up to where the server has flushed.
    pub current: Lsn,
    /// Why it cannot be used any more: its WAL is gone, or PostgreSQL has invalidated it.
    pub lost: Option<String>,
}

impl Slot {
    /// What it keeps of the log.
    pub fn retained(&self) -> Option<Retained> {
        Some(Retained { restart: self.restart?, confirmed: self.confirmed?, current: self.current })
    }
}

/// A server process that uses the slot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Walsender {
    /// Its process id.
    pub pid: i32,
    /// When it began: process ids come again. Empty when the role may not see it.
    pub since: String,
    /// Where its client is, and how it calls itself.
    pub client: String,
}

/// A transaction that others wait for.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Transaction {
    /// `pid 123`, or the name of a prepared transaction.
    pub who: String,
    /// Its transaction id.
    pub xid: String,
    /// For how long it has been open, if the role may see that.
    pub seconds: Option<i64>,
    /// What it is doing, if the role may see that.
    pub state: Option<String>,
    /// It has committed, and waits for a synchronous standby.
    pub waits_for_standby: bool,
}

impl fmt::Display for Transaction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (xid {}", self.who, self.xid)?;
        if let Some(state) = &self.state {
            write!(f, ", {state}")?;
        }
        if let Some(seconds) = self.seconds {
            write!(f, ", open for {seconds} s")?;
        }
        f.write_str(")")
    }
}

/// Transactions for a message: the oldest first.
pub fn list(transactions: &[Transaction]) -> String {
    match transactions {
        [] => "none that this role can see".into(),
        some => some.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "),
    }
}

/// The oldest transactions that have an id, prepared ones included. The xid is visible to every role, the rest may be NULL.
pub(crate) const TRANSACTIONS: &str = "
    SELECT who, xid, seconds, state, waits FROM (
        SELECT 'pid ' || a.pid AS who, a.backend_xid::text AS xid, extract(epoch FROM clock_timestamp() - a.xact_start)::bigint AS seconds,
               a.state, coalesce(a.wait_event = 'SyncRep', false) AS waits, age(a.backend_xid) AS age
          FROM pg_stat_activity a WHERE a.backend_xid IS NOT NULL AND a.pid <> pg_backend_pid()
        UNION ALL
        SELECT 'prepared transaction ' || quote_literal(p.gid), p.transaction::text,
               extract(epoch FROM clock_timestamp() - p.prepared)::bigint, 'prepared', false, age(p.transaction)
          FROM pg_prepared_xacts p) AS t
     ORDER BY t.age DESC LIMIT $1";

/// A row of [`TRANSACTIONS`].
pub(crate) fn transaction(row: &tokio_postgres::Row) -> Transaction {
    Transaction {
        who: row.get(0),
        xid: row.get(1),
        seconds: row.get(2),
        state: row.get(3),
        waits_for_standby: row.get(4),
    }
}

/// Columns of a [`Slot`], from `pg_replication_slots s`. Why a slot was invalidated is a column since PostgreSQL 17 (16: `conflicting`).
pub(crate) const COLUMNS: &str = "
    coalesce(s.plugin, ''), coalesce(s.database, ''), s.active_pid,
    (s.confirmed_flush_lsn - '0/0'::pg_lsn)::text, (s.restart_lsn - '0/0'::pg_lsn)::text,
    (pg_current_wal_flush_lsn() - '0/0'::pg_lsn)::text,
    CASE WHEN to_jsonb(s) ->> 'invalidation_reason' IS NOT NULL THEN to_jsonb(s) ->> 'invalidation_reason'
         WHEN (to_jsonb(s) ->> 'conflicting')::boolean THEN 'conflicting'
         WHEN s.wal_status = 'lost' THEN 'wal_removed' END,
    coalesce((SELECT a.backend_start::text FROM pg_stat_activity a WHERE a.pid = s.active_pid), ''),
    coalesce((SELECT a.application_name || coalesce(' at ' || host(a.client_addr), '') FROM pg_stat_activity a WHERE a.pid = s.active_pid), '')";

/// A row of [`COLUMNS`].
pub(crate) fn slot(row: &tokio_postgres::Row) -> Result<Slot, ControlError> {
    let position = |column| row.get::<_, Option<String>>(column).map(|text| lsn(&text)).transpose();
    Ok(Slot {
        plugin: row.get(0),
        database: row.get(1),
        active: row.get::<_, Option<i32>>(2).map(|pid| Walsender { pid, since: row.get(7), client: row.get(8) }),
        confirmed: position(3)?,
        restart: position(4)?,
        current: position(5)?.unwrap_or(Lsn::ZERO),
        lost: row.get::<_, Option<String>>(6).map(|reason| reason_of_loss(&reason)),
    })
}

fn reason_of_loss(reason: &str) -> String {
    match reason {
        "wal_removed" => "its WAL is gone (max_slot_wal_keep_size)".into(),
        "idle_timeout" => "nobody had used it for idle_replication_slot_timeout".into(),
        "rows_removed" => "catalog rows that it needs are gone (rows_removed)".into(),
        "wal_level_insufficient" => "wal_level was below logical".into(),
        other => format!("PostgreSQL has invalidated it ({other})"),
    }
}

impl Control {
    /// The slot of that name, if there is one.
    pub async fn slot(&self, name: &str) -> Result<Option<Slot>, ControlError> {
        let query = format!("SELECT {COLUMNS} FROM pg_replication_slots s WHERE s.slot_name = $1");
        let row = self.client.query_opt(&query, &[&name]).await.doing("looking at the replication slot")?;
        row.as_ref().map(slot).transpose()
    }

    /// Moves a slot that nobody uses on to `to`: what comes before is never sent. The server reads the log in between.
    pub async fn advance_slot(&self, name: &str, to: Lsn) -> Result<(), ControlError> {
        self.client
            .execute("SELECT pg_replication_slot_advance($1, $2::text::pg_lsn)", &[&name, &to.to_string()])
            .await
            .doing("moving the replication slot on")?;
        Ok(())
    }

    /// Drops the slot.
    pub async fn drop_slot(&self, name: &str) -> Result<(), ControlError> {
        self.client
            .execute("SELECT pg_drop_replication_slot($1)", &[&name])
            .await
            .doing("dropping the replication slot")?;
        Ok(())
    }

    /// Ends a server process, if it is still the one that was seen.
    pub async fn terminate(&self, walsender: &Walsender) -> Result<(), ControlError> {
        self.client
            .execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = $1 AND backend_start::text = $2",
                &[&walsender.pid, &walsender.since],
            )
            .await
            .doing("ending a server process that was left behind")?;
        Ok(())
    }

    /// The oldest transactions in progress.
    pub async fn oldest_transactions(&self) -> Result<Vec<Transaction>, ControlError> {
        let rows = self.client.query(TRANSACTIONS, &[&NAMED]).await.doing("looking for old transactions")?;
        Ok(rows.iter().map(transaction).collect())
    }

    /// Uses up a transaction id, as text. Every transaction that has one by now has a lower one, and is in the next snapshot while it is in
    /// progress: a snapshot does not list those above the newest id that has ended.
    pub async fn use_up_an_id(&self) -> Result<String, ControlError> {
        const QUERY: &str = "SELECT pg_current_xact_id()::text";
        Ok(self.client.query_one(QUERY, &[]).await.doing("asking for a transaction id")?.get(0))
    }

    /// Have all transactions with ids below this one ended?
    pub async fn has_none_before(&self, xid: &str) -> Result<bool, ControlError> {
        const QUERY: &str = "SELECT pg_snapshot_xmin(pg_current_snapshot()) >= $1::text::xid8";
        Ok(self.client.query_one(QUERY, &[&xid]).await.doing("waiting for transactions to end")?.get(0))
    }

    /// `synchronous_standby_names`.
    pub async fn synchronous_standby_names(&self) -> Result<String, ControlError> {
        let row = self
            .client
            .query_one("SELECT current_setting('synchronous_standby_names')", &[])
            .await
            .doing("asking for synchronous_standby_names")?;
        Ok(row.get(0))
    }

    /// Under this name other sessions see the connection.
    pub async fn call_itself(&self, application_name: &str) -> Result<(), ControlError> {
        self.client
            .execute("SELECT set_config('application_name', $1, false)", &[&application_name])
            .await
            .doing("setting application_name")?;
        Ok(())
    }
}

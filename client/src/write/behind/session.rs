//! The worker's session: it holds the queue's lock, and every transaction of the queue runs in it. Who has lost the one can commit nothing by the other.

use std::collections::HashMap;
use std::time::Duration;

use deadpool_postgres::{ClientWrapper, Object, Pool};
use tokio::time::{sleep, timeout};
use tokio_postgres::Statement;

use super::applied::{APPLIED_TABLE, CLAIM, PRUNE, SAME};
use super::worker::WorkerError;
use crate::postgres::error::full;
use crate::postgres::trouble::Trouble;

/// How often a worker that stands by tries to get the lock.
const LOCK_POLL: Duration = Duration::from_millis(300);
/// Prepared statements that a session keeps; SQL with literals in it would fill the server's memory.
const STATEMENTS: usize = 256;

/// Why a batch, or anything else in the session, was not done.
#[derive(Debug, Clone)]
pub(super) struct Failure {
    /// Which operation of the batch it was, if that is known.
    pub(super) at: Option<usize>,
    /// What to do about it.
    pub(super) trouble: Trouble,
    /// What happened.
    pub(super) error: String,
    /// PostgreSQL's code; empty if it does not come from PostgreSQL.
    pub(super) sqlstate: String,
}

impl Failure {
    pub(super) fn of(error: &tokio_postgres::Error) -> Failure {
        let sqlstate = error.code().map(|code| code.code().to_owned()).unwrap_or_default();
        Failure { at: None, trouble: Trouble::of(error), error: full(error), sqlstate }
    }

    /// Something that is wrong with the operation itself.
    pub(super) fn permanent(at: usize, error: String) -> Failure {
        Failure { at: Some(at), trouble: Trouble::Permanent, error, sqlstate: String::new() }
    }

    pub(super) fn away(error: impl Into<String>) -> Failure {
        Failure { at: None, trouble: Trouble::Away, error: error.into(), sqlstate: String::new() }
    }

    pub(super) fn at(self, at: usize) -> Failure {
        Failure { at: Some(at), ..self }
    }
}

impl From<tokio_postgres::Error> for Failure {
    fn from(error: tokio_postgres::Error) -> Failure {
        Failure::of(&error)
    }
}

/// Why there is no session.
#[derive(Debug)]
pub(super) enum NoSession {
    /// Not now.
    Away(Failure),
    /// Never, until somebody does something.
    Fatal(WorkerError),
}

impl From<tokio_postgres::Error> for NoSession {
    fn from(error: tokio_postgres::Error) -> NoSession {
        NoSession::Away(Failure::of(&error))
    }
}

/// A connection of its own, not of the pool any more: when it is dropped it is closed, and the lock is free.
pub(super) struct Session {
    pub(super) client: ClientWrapper,
    pub(super) queue: String,
    pub(super) claim: Statement,
    pub(super) same: Statement,
    pub(super) patience: Duration,
    statements: HashMap<String, Statement>,
}

impl Session {
    /// Connects and waits for the lock, however long another worker has it.
    pub(super) async fn open(pool: &Pool, queue: &str, patience: Duration, create: bool) -> Result<Session, NoSession> {
        let client = within(patience, connect(pool, patience)).await?;
        let lock = format!("cachetag write behind {queue}");
        let mut told = false;
        while !within(patience, try_lock(&client, &lock)).await? {
            if !std::mem::replace(&mut told, true) {
                tracing::info!(queue, "another worker has the queue: standing by");
            }
            sleep(LOCK_POLL).await;
        }
        within(patience, prepare_table(&client, create)).await?;
        let (claim, same) = (client.prepare(CLAIM).await?, client.prepare(SAME).await?);
        tracing::info!(queue, "this worker has the queue");
        Ok(Session { client, queue: queue.to_owned(), claim, same, patience, statements: HashMap::new() })
    }

    /// The statement of a text, prepared once.
    pub(super) async fn statement(&mut self, sql: &str) -> Result<Statement, Failure> {
        if let Some(statement) = self.statements.get(sql) {
            return Ok(statement.clone());
        }
        let statement = self.client.prepare(sql).await?;
        if self.statements.len() >= STATEMENTS {
            self.statements.clear();
        }
        self.statements.insert(sql.to_owned(), statement.clone());
        Ok(statement)
    }

    /// After a failure: a change of the schema may have made any of them invalid.
    pub(super) fn forget_statements(&mut self) {
        self.statements.clear();
    }

    /// Keeps the session from being idle too long, and finds out if it is gone.
    pub(super) async fn touch(&self) -> Result<(), Failure> {
        match timeout(self.patience, self.client.batch_execute("")).await {
            Ok(done) => Ok(done?),
            Err(_) => Err(Failure::away("PostgreSQL does not answer")),
        }
    }

    /// Forgets keys that are older than this, if nothing as old is in the stream any more; answers how many.
    pub(super) async fn prune(&self, remember: Duration, oldest_ms: i64) -> Result<u64, Failure> {
        Ok(self.client.execute(PRUNE, &[&self.queue, &remember.as_secs_f64(), &oldest_ms]).await?)
    }
}

async fn within<T>(patience: Duration, step: impl Future<Output = Result<T, NoSession>>) -> Result<T, NoSession> {
    timeout(patience, step).await.unwrap_or_else(|_| Err(NoSession::Away(Failure::away("PostgreSQL does not answer"))))
}

async fn connect(pool: &Pool, patience: Duration) -> Result<ClientWrapper, NoSession> {
    let object = pool.get().await.map_err(|error| NoSession::Away(Failure::away(error.to_string())))?;
    let client = Object::take(object);
    // A worker that froze, or whose host is gone, must not keep the lock. And nothing is settled in Redis that a crash of PostgreSQL could undo.
    let ms = patience.as_millis();
    let settings = format!(
        "SET idle_session_timeout = {ms}; SET idle_in_transaction_session_timeout = {ms};
         SELECT set_config('synchronous_commit', 'on', false) WHERE current_setting('synchronous_commit') = 'off'"
    );
    client.batch_execute(&settings).await?;
    if client.query_one("SELECT pg_is_in_recovery()", &[]).await?.try_get(0)? {
        let standby = Failure::away("the server is a standby: the pool must lead to the primary");
        return Err(NoSession::Away(standby));
    }
    Ok(client)
}

async fn try_lock(client: &ClientWrapper, name: &str) -> Result<bool, NoSession> {
    Ok(client.query_one("SELECT pg_try_advisory_lock(hashtextextended($1, 0))", &[&name]).await?.try_get(0)?)
}

async fn prepare_table(client: &ClientWrapper, create: bool) -> Result<(), NoSession> {
    if has_table(client).await? {
        return Ok(());
    }
    if !create {
        return Err(NoSession::Fatal(WorkerError::NoTable));
    }
    match client.batch_execute(APPLIED_TABLE).await {
        Ok(()) => Ok(()),
        // The worker of another queue may have been faster: then it is an error although the table is there.
        Err(error) if Trouble::of(&error) == Trouble::Permanent && !has_table(client).await? => {
            Err(NoSession::Fatal(WorkerError::Table(error)))
        }
        Err(error) if Trouble::of(&error) == Trouble::Permanent => Ok(()),
        Err(error) => Err(error.into()),
    }
}

async fn has_table(client: &ClientWrapper) -> Result<bool, tokio_postgres::Error> {
    client.query_one("SELECT to_regclass('cachetag_applied') IS NOT NULL", &[]).await?.try_get(0)
}

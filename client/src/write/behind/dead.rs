//! Dead letters: operations that cannot be applied, kept with their error until somebody decides.

use redis::{RedisError, RedisResult, Value, cmd};

use super::entry::{Entry, entries};
use super::error::EnqueueError;
use super::queue::WriteBehind;
use super::script::REPLAY;

/// An operation that was given up.
///
/// ```no_run
/// # async fn example(queue: cachetag_client::write::behind::WriteBehind) -> Result<(), Box<dyn std::error::Error>> {
/// for letter in queue.dead_letters(10).await? {
///     println!("{} after {} attempts: {}", letter.text, letter.attempts, letter.error);
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// Its id among the dead letters.
    pub id: String,
    /// The idempotency key of the operation.
    pub key: String,
    /// The name of its statement, or its SQL.
    pub text: String,
    /// Its parameters, a JSON array.
    pub params: String,
    /// Why it was given up.
    pub error: String,
    /// PostgreSQL's code of that; empty if it did not come from PostgreSQL.
    pub sqlstate: String,
    /// How often it was tried.
    pub attempts: u32,
    /// The stream id that it was acknowledged with.
    pub acknowledged: String,
}

impl DeadLetter {
    fn of(entry: &Entry) -> DeadLetter {
        let text = |name| entry.text(name).unwrap_or_default();
        DeadLetter {
            key: text("key"),
            text: text("text"),
            params: text("params"),
            error: text("error"),
            sqlstate: text("sqlstate"),
            attempts: text("attempts").parse().unwrap_or(0),
            acknowledged: text("acknowledged"),
            id: entry.id.clone(),
        }
    }
}

impl WriteBehind {
    /// The oldest dead letters, at most so many.
    ///
    /// ```no_run
    /// # async fn example(queue: cachetag_client::write::behind::WriteBehind) -> Result<(), Box<dyn std::error::Error>> {
    /// for letter in queue.dead_letters(100).await? {
    ///     eprintln!("{}: {}", letter.text, letter.error);
    ///     queue.replay(&letter.id).await?; // once the cause is gone; or queue.discard(&letter.id)
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn dead_letters(&self, count: usize) -> RedisResult<Vec<DeadLetter>> {
        let answer: Value =
            self.link.call(cmd("XRANGE").arg(&self.dead).arg("-").arg("+").arg("COUNT").arg(count)).await?;
        Ok(entries(&answer).iter().map(DeadLetter::of).collect())
    }

    /// Puts a dead letter back, at the end of the queue and under its old key. `false` if it is not there.
    ///
    /// ```no_run
    /// # async fn example(queue: cachetag_client::write::behind::WriteBehind) -> Result<(), Box<dyn std::error::Error>> {
    /// for letter in queue.dead_letters(10).await? {
    ///     queue.replay(&letter.id).await?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn replay(&self, id: &str) -> Result<bool, EnqueueError> {
        let mut script = cmd("EVAL");
        script.arg(REPLAY).arg(2).arg(&self.dead).arg(&self.operations).arg(id).arg(self.limit);
        match self.link.call::<i64>(&script).await.map_err(EnqueueError::Unknown)? {
            -1 => Err(EnqueueError::Full { queue: self.name.clone(), length: self.limit, limit: self.limit }),
            moved => Ok(moved == 1),
        }
    }

    /// Forgets a dead letter. `false` if it is not there.
    ///
    /// ```no_run
    /// # async fn example(queue: cachetag_client::write::behind::WriteBehind) -> Result<(), Box<dyn std::error::Error>> {
    /// for letter in queue.dead_letters(10).await? {
    ///     queue.discard(&letter.id).await?;
    /// }
    /// # Ok(())
    /// # }
    /// ```
    pub async fn discard(&self, id: &str) -> Result<bool, RedisError> {
        let deleted: u64 = self.link.call(cmd("XDEL").arg(&self.dead).arg(id)).await?;
        Ok(deleted == 1)
    }
}

//! The worker: takes operations from the queue and applies them, in order, exactly once.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use deadpool_postgres::Pool;
use redis::RedisError;
use tokio::time::{Instant, sleep};

use super::applied::APPLIED_TABLE;
use super::batch::Statements;
use super::entry::Entry;
use super::queue::WriteBehind;
use super::session::{Failure, NoSession, Session};
use super::stream::{Burial, Stream};
use crate::postgres::error::full;
use crate::postgres::trouble::Trouble;

/// How long one read waits for operations.
const BLOCK: Duration = Duration::from_secs(1);
/// How often a batch is tried as a whole before it is split over something transient.
const WHOLE: u32 = 3;
/// How often old keys are looked for.
const PRUNE_EVERY: Duration = Duration::from_secs(60);

/// Why a worker gave up.
///
/// ```
/// use cachetag_client::write::behind::WorkerError;
///
/// assert!(WorkerError::NoTable.to_string().contains("CREATE TABLE"));
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WorkerError {
    /// The table of applied operations is not there.
    #[error("there is no table cachetag_applied, and the worker was told not to create it; run:\n{APPLIED_TABLE}")]
    NoTable,
    /// The worker may not create the table of applied operations.
    #[error("could not create the table cachetag_applied ({}); run, as a role that may:\n{APPLIED_TABLE}", full(.0))]
    Table(#[source] tokio_postgres::Error),
}

/// What a worker has done so far. Clones count together.
///
/// ```
/// use cachetag_client::write::behind::Numbers;
///
/// fn line(numbers: &Numbers) -> String {
///     format!("{} applied, {} dead", numbers.applied(), numbers.dead())
/// }
/// ```
#[derive(Debug, Clone, Default)]
pub struct Numbers {
    counts: Arc<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    applied: AtomicU64,
    skipped: AtomicU64,
    dead: AtomicU64,
    retries: AtomicU64,
}

impl Numbers {
    /// Operations that were run and committed.
    ///
    /// ```
    /// # use cachetag_client::write::behind::Numbers;
    /// assert_eq!(Numbers::default().applied(), 0);
    /// ```
    pub fn applied(&self) -> u64 {
        self.counts.applied.load(Ordering::Relaxed)
    }

    /// Operations that were applied before.
    ///
    /// ```
    /// # use cachetag_client::write::behind::Numbers;
    /// assert_eq!(Numbers::default().skipped(), 0);
    /// ```
    pub fn skipped(&self) -> u64 {
        self.counts.skipped.load(Ordering::Relaxed)
    }

    /// Operations that went to the dead letters.
    ///
    /// ```
    /// # use cachetag_client::write::behind::Numbers;
    /// assert_eq!(Numbers::default().dead(), 0);
    /// ```
    pub fn dead(&self) -> u64 {
        self.counts.dead.load(Ordering::Relaxed)
    }

    /// Tries that failed and were or will be repeated.
    ///
    /// ```
    /// # use cachetag_client::write::behind::Numbers;
    /// assert_eq!(Numbers::default().retries(), 0);
    /// ```
    pub fn retries(&self) -> u64 {
        self.counts.retries.load(Ordering::Relaxed)
    }
}

/// How a worker is set up; see [`Worker::builder`].
///
/// ```no_run
/// # use cachetag_client::write::behind::{Worker, WriteBehind};
/// # fn example(queue: WriteBehind, pool: deadpool_postgres::Pool) {
/// let builder = Worker::builder(&queue, pool).statement("set_price", "UPDATE products SET price = $2 WHERE id = $1").batch(10);
/// # }
/// ```
#[derive(Debug)]
pub struct WorkerBuilder {
    worker: Worker,
}

/// Takes operations from a queue and applies them. Several may run: one works, the others stand by.
///
/// ```no_run
/// # async fn example(pool: deadpool_postgres::Pool) -> Result<(), Box<dyn std::error::Error>> {
/// use cachetag_client::write::behind::{Worker, WriteBehind};
///
/// let queue = WriteBehind::builder("redis://queue").name("prices").open().await?;
/// let worker = Worker::builder(&queue, pool)
///     .statement("set_price", "UPDATE products SET price = $2 WHERE id = $1")
///     .build();
/// let (stop, stopped) = tokio::sync::oneshot::channel::<()>();
/// let running = tokio::spawn(worker.run(async { _ = stopped.await }));
/// // … and when the program ends:
/// let _ = stop.send(());
/// running.await??;
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
pub struct Worker {
    queue: WriteBehind,
    pool: Pool,
    statements: Statements,
    batch: usize,
    attempts: u32,
    first_pause: Duration,
    longest_pause: Duration,
    remember: Duration,
    patience: Duration,
    create_table: bool,
    numbers: Numbers,
    /// Connections lost in a row while a batch was run: then batches get smaller, to find the operation that does it.
    losses: u32,
}

/// Why the worker has to begin anew.
enum Interruption {
    Postgres(Failure),
    Redis(RedisError),
    DeadLettersFull,
    Fatal(WorkerError),
}

impl From<RedisError> for Interruption {
    fn from(error: RedisError) -> Self {
        Interruption::Redis(error)
    }
}

impl From<Failure> for Interruption {
    fn from(failure: Failure) -> Self {
        Interruption::Postgres(failure)
    }
}

impl WorkerBuilder {
    /// A statement that operations name. It must be idempotent only in that it may be tried again after it was rolled back.
    ///
    /// ```no_run
    /// # use cachetag_client::write::behind::{Worker, WriteBehind};
    /// # fn example(queue: WriteBehind, pool: deadpool_postgres::Pool) {
    /// let builder = Worker::builder(&queue, pool).statement("set_price", "UPDATE products SET price = $2 WHERE id = $1");
    /// # }
    /// ```
    pub fn statement(mut self, name: impl Into<String>, sql: impl Into<String>) -> Self {
        self.worker.statements.named.insert(name.into(), sql.into());
        self
    }

    /// Runs SQL that comes from the stream: whoever can write to Redis can then do with PostgreSQL what the pool's role can.
    ///
    /// ```no_run
    /// # use cachetag_client::write::behind::{Worker, WriteBehind};
    /// # fn example(queue: WriteBehind, pool: deadpool_postgres::Pool) {
    /// let builder = Worker::builder(&queue, pool).allow_sql();
    /// # }
    /// ```
    pub fn allow_sql(mut self) -> Self {
        self.worker.statements.any_sql = true;
        self
    }

    /// The most operations of one transaction (100).
    ///
    /// ```no_run
    /// # use cachetag_client::write::behind::{Worker, WriteBehind};
    /// # fn example(queue: WriteBehind, pool: deadpool_postgres::Pool) {
    /// let builder = Worker::builder(&queue, pool).batch(10);
    /// # }
    /// ```
    pub fn batch(mut self, operations: usize) -> Self {
        self.worker.batch = operations.max(1);
        self
    }

    /// How often an operation is tried, alone, before it goes to the dead letters (10). While PostgreSQL is away nothing counts.
    ///
    /// ```no_run
    /// # use cachetag_client::write::behind::{Worker, WriteBehind};
    /// # fn example(queue: WriteBehind, pool: deadpool_postgres::Pool) {
    /// let builder = Worker::builder(&queue, pool).attempts(3);
    /// # }
    /// ```
    pub fn attempts(mut self, attempts: u32) -> Self {
        self.worker.attempts = attempts.max(1);
        self
    }

    /// The first pause before another try (50 ms), and the longest (5 s); each is twice the last.
    ///
    /// ```no_run
    /// # use cachetag_client::write::behind::{Worker, WriteBehind};
    /// # fn example(queue: WriteBehind, pool: deadpool_postgres::Pool) {
    /// let builder = Worker::builder(&queue, pool).pauses(std::time::Duration::from_millis(10), std::time::Duration::from_secs(1));
    /// # }
    /// ```
    pub fn pauses(mut self, first: Duration, longest: Duration) -> Self {
        (self.worker.first_pause, self.worker.longest_pause) = (first, longest);
        self
    }

    /// How long a key is remembered after it was applied (7 days): the same operation enqueued later than that is applied again.
    ///
    /// ```no_run
    /// # use cachetag_client::write::behind::{Worker, WriteBehind};
    /// # fn example(queue: WriteBehind, pool: deadpool_postgres::Pool) {
    /// let builder = Worker::builder(&queue, pool).remember(std::time::Duration::from_secs(24 * 3600));
    /// # }
    /// ```
    pub fn remember(mut self, time: Duration) -> Self {
        self.worker.remember = time;
        self
    }

    /// How long a batch may take, and for how long a worker that froze keeps the queue (60 s).
    ///
    /// ```no_run
    /// # use cachetag_client::write::behind::{Worker, WriteBehind};
    /// # fn example(queue: WriteBehind, pool: deadpool_postgres::Pool) {
    /// let builder = Worker::builder(&queue, pool).patience(std::time::Duration::from_secs(30));
    /// # }
    /// ```
    pub fn patience(mut self, time: Duration) -> Self {
        self.worker.patience = time.max(BLOCK * 4);
        self
    }

    /// Does not create the table [`APPLIED_TABLE`], but wants it to be there.
    ///
    /// ```no_run
    /// # use cachetag_client::write::behind::{Worker, WriteBehind};
    /// # fn example(queue: WriteBehind, pool: deadpool_postgres::Pool) {
    /// let builder = Worker::builder(&queue, pool).without_creating_the_table();
    /// # }
    /// ```
    pub fn without_creating_the_table(mut self) -> Self {
        self.worker.create_table = false;
        self
    }

    /// The worker.
    ///
    /// ```no_run
    /// # use cachetag_client::write::behind::{Worker, WriteBehind};
    /// # fn example(queue: WriteBehind, pool: deadpool_postgres::Pool) {
    /// let builder = Worker::builder(&queue, pool).build();
    /// # }
    /// ```
    pub fn build(self) -> Worker {
        self.worker
    }
}

impl Worker {
    /// A worker of this queue. It takes one connection out of the pool and keeps it; it must be one to the server itself, or through a pooler in session
    /// mode.
    ///
    /// ```no_run
    /// # use cachetag_client::write::behind::{Worker, WriteBehind};
    /// # fn example(queue: WriteBehind, pool: deadpool_postgres::Pool) {
    /// let builder = Worker::builder(&queue, pool);
    /// # }
    /// ```
    pub fn builder(queue: &WriteBehind, pool: Pool) -> WorkerBuilder {
        let worker = Worker {
            queue: queue.clone(),
            pool,
            statements: Statements::default(),
            batch: 100,
            attempts: 10,
            first_pause: Duration::from_millis(50),
            longest_pause: Duration::from_secs(5),
            remember: Duration::from_secs(7 * 24 * 3600),
            patience: Duration::from_secs(60),
            create_table: true,
            numbers: Numbers::default(),
            losses: 0,
        };
        WorkerBuilder { worker }
    }

    /// What it has done, also while it runs.
    ///
    /// ```no_run
    /// # fn example(worker: cachetag_client::write::behind::Worker) {
    /// let numbers = worker.numbers();
    /// tokio::spawn(worker.run(std::future::pending()));
    /// println!("{} applied", numbers.applied());
    /// # }
    /// ```
    pub fn numbers(&self) -> Numbers {
        self.numbers.clone()
    }

    /// Works until `shutdown`. Dropped at any moment it loses nothing: what was not settled is delivered again, what was applied is skipped.
    ///
    /// ```no_run
    /// # async fn example(worker: cachetag_client::write::behind::Worker) -> Result<(), cachetag_client::write::behind::WorkerError> {
    /// worker.run(async { let _ = tokio::signal::ctrl_c().await; }).await?;
    /// # Ok(())
    /// # }
    /// ```
    pub async fn run(mut self, shutdown: impl Future<Output = ()>) -> Result<(), WorkerError> {
        let mut shutdown = pin!(shutdown);
        let mut failures = 0;
        loop {
            let applied = self.numbers.applied();
            // Cancel safe: see above.
            let interruption = tokio::select! {
                biased;
                () = &mut shutdown => return Ok(()),
                interruption = self.work() => interruption,
            };
            failures = if self.numbers.applied() > applied { 1 } else { failures + 1 };
            let queue = self.queue.name();
            match interruption {
                Interruption::Fatal(error) => return Err(error),
                Interruption::Postgres(failure) => {
                    tracing::warn!(queue, error = failure.error, "PostgreSQL is away: the queue waits")
                }
                Interruption::Redis(error) => tracing::warn!(queue, %error, "Redis is away"),
                Interruption::DeadLettersFull => {
                    tracing::error!(
                        queue,
                        "as many dead letters as there may be: the queue waits until some are replayed or discarded"
                    );
                }
            }
            tokio::select! {
                () = &mut shutdown => return Ok(()),
                () = sleep(self.pause(failures)) => {}
            }
        }
    }

    /// Works until something is lost.
    async fn work(&mut self) -> Interruption {
        match self.try_work().await {
            Ok(never) => match never {},
            Err(interruption) => interruption,
        }
    }

    async fn try_work(&mut self) -> Result<std::convert::Infallible, Interruption> {
        let session = Session::open(&self.pool, self.queue.name(), self.patience, self.create_table).await;
        let mut session = session.map_err(|none| match none {
            NoSession::Away(failure) => Interruption::Postgres(failure),
            NoSession::Fatal(error) => Interruption::Fatal(error),
        })?;
        let stream = Stream::new(&self.queue, BLOCK);
        stream.prepare().await?;
        loop {
            let batch = stream.unsettled(self.size()).await?;
            if batch.is_empty() {
                break;
            }
            self.settle(&mut session, &stream, batch).await?;
        }
        let mut pruned = Instant::now();
        loop {
            let batch = stream.next(self.size()).await?;
            if batch.is_empty() {
                session.touch().await?;
            } else {
                self.settle(&mut session, &stream, batch).await?;
            }
            if pruned.elapsed() > PRUNE_EVERY.min(self.remember) {
                while session.prune(self.remember, stream.oldest_ms().await?).await? > 0 {}
                pruned = Instant::now();
            }
        }
    }

    /// Applies or buries operations, in order.
    async fn settle(&mut self, session: &mut Session, stream: &Stream, batch: Vec<Entry>) -> Result<(), Interruption> {
        let mut chunks = VecDeque::from([(batch, 1)]);
        while let Some((mut chunk, attempt)) = chunks.pop_front() {
            let failure = match session.apply(&chunk, &self.statements).await {
                Ok(applied) => {
                    stream.settle(&chunk).await?;
                    self.losses = 0;
                    self.count(&self.numbers.counts.applied, "applied", applied.run);
                    self.count(&self.numbers.counts.skipped, "skipped", applied.skipped);
                    continue;
                }
                Err(failure) => failure,
            };
            let alone = chunk.len() == 1;
            if failure.trouble == Trouble::Away {
                self.losses += 1;
                // Batches have shrunk to one operation, and the connection was lost with it as often as an operation may be tried.
                if alone && self.losses >= self.attempts + self.batch.ilog2() {
                    self.bury(stream, &chunk[0], &failure, self.losses).await?;
                    self.losses = 0;
                }
                self.count(&self.numbers.counts.retries, "retries", 1);
                return Err(failure.into());
            }
            let permanent = failure.trouble == Trouble::Permanent;
            if !alone && (permanent || attempt >= WHOLE) {
                // The one that failed is tried alone, between those before and those after it; if it is not known which, halves are tried.
                let (from, to) = failure.at.map_or((chunk.len() / 2, chunk.len()), |at| (at, at + 1));
                let (after, own) = (chunk.split_off(to), chunk.split_off(from));
                let parts = [after, own, chunk].into_iter().filter(|part| !part.is_empty());
                parts.for_each(|part| chunks.push_front((part, 1)));
            } else if permanent || attempt >= self.attempts {
                self.bury(stream, &chunk[0], &failure, attempt).await?;
                continue;
            } else {
                tracing::info!(queue = self.queue.name(), error = failure.error, attempt, "trying again");
                sleep(self.pause(attempt)).await;
                chunks.push_front((chunk, attempt + 1));
            }
            self.count(&self.numbers.counts.retries, "retries", 1);
        }
        Ok(())
    }

    async fn bury(&self, stream: &Stream, entry: &Entry, failure: &Failure, attempts: u32) -> Result<(), Interruption> {
        match stream.bury(entry, failure, attempts).await? {
            Burial::Full => return Err(Interruption::DeadLettersFull),
            Burial::Settled => {}
            Burial::Done => {
                tracing::error!(
                    queue = self.queue.name(),
                    id = entry.id,
                    error = failure.error,
                    "given up: see the dead letters"
                );
                self.count(&self.numbers.counts.dead, "dead", 1);
            }
        }
        Ok(())
    }

    fn count(&self, counter: &AtomicU64, what: &'static str, number: usize) {
        counter.fetch_add(number as u64, Ordering::Relaxed);
        let queue = self.queue.name().to_owned();
        metrics::counter!("cachetag_write_behind_operations_total", "queue" => queue, "what" => what)
            .increment(number as u64);
    }

    fn size(&self) -> usize {
        (self.batch >> self.losses.min(usize::BITS - 1)).max(1)
    }

    /// Twice as long each time, with jitter, so that workers do not come back in step.
    fn pause(&self, attempt: u32) -> Duration {
        let pause = self.first_pause.saturating_mul(1 << attempt.saturating_sub(1).min(16)).min(self.longest_pause);
        pause.mul_f64(0.75 + fastrand::f64() / 2.0)
    }
}

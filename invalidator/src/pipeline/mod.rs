//! The way of a commit: source → mapping → batch → sink → watermark and acknowledgement. One task, one loop; PostgreSQL is read
//! only while the batch has room, so an outage of Redis reaches PostgreSQL as backpressure and memory stays as it is.

mod acknowledgement;
mod calls;
mod changes;
mod looks;
mod unflushed;

use std::collections::HashSet;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use cachetag_core::{Epoch, Lsn};
use tokio::time::{Instant, MissedTickBehavior, interval, interval_at, sleep_until, timeout};
use tracing::{info, warn};

use self::looks::LOOK_AGAIN;
use self::unflushed::Unflushed;
use crate::batch::Batch;
use crate::budget::Budget;
use crate::config::Config;
use crate::control::{Control, ControlError, Look, Slot};
use crate::mapping::Mapper;
use crate::report::{self, Reporter};
use crate::session::SessionError;
use crate::sink::{Calls, Confirmed, Replicas, Sink, SinkError};
use crate::source::{ReplicationConnection, pgoutput};
use crate::watermark::{FullXid, Watermark};

/// Under a stream of commits that never ends, a batch is sent at most this often: many small calls would cost Redis, and the walsender
/// that shares its processors, more than the bumps themselves. At ordinary rates a batch never waits.
const PACE: Duration = Duration::from_millis(2);
/// Commits in one batch: bounds the memory of batches whose commits touch no tag.
const MAX_BATCH_COMMITS: usize = 20_000;
/// The walsender ends a connection that says nothing for wal_sender_timeout (60 s); long before, it is told where we are, and asked
/// to answer, whether anything is read from it or not.
const STATUS_INTERVAL: Duration = Duration::from_secs(5);
const SHORTEST_STATUS_INTERVAL: Duration = Duration::from_millis(50);
/// How often the slot is weighed against its budget.
const WEIGH_INTERVAL: Duration = Duration::from_secs(1);
/// How long a clean end waits for what is in flight.
const FAREWELL: Duration = Duration::from_secs(5);

/// What a call to Redis was for.
enum Call {
    Apply { to: Lsn, commits: usize },
    Advance { to: Lsn },
}

type Underway<T> = Pin<Box<dyn Future<Output = T>>>;
/// Redis's clock, what PostgreSQL said later, and whether the walsender of a doubtful stream has nothing to do.
type LookFuture = Underway<Result<(u64, Look, bool), SessionError>>;

/// What [`crate::session::open`] has opened.
pub struct Parts {
    /// The stream, begun.
    pub source: ReplicationConnection,
    /// The SQL connection.
    pub control: Rc<Control>,
    /// Redis, claimed.
    pub sink: Rc<Sink>,
    /// Rules and dependencies as they were read.
    pub mapper: Mapper,
    /// The watermark, where the slot stands.
    pub watermark: Watermark,
    /// Which stream this is.
    pub identity: String,
    /// The epoch.
    pub epoch: Epoch,
    /// Where Redis stands.
    pub applied: Lsn,
    /// Server process of the stream.
    pub walsender: i32,
    /// Tells PostgreSQL about this session.
    pub reporter: Reporter,
    /// Where rules and dependencies were read.
    pub metadata_at: Lsn,
    /// Who was changing them then.
    pub writers: Vec<FullXid>,
    /// Who else must hold what is acknowledged.
    pub replicas: Option<Replicas>,
    /// What the slot may hold back.
    pub budget: Budget,
    /// The server ends a connection that is silent for this long.
    pub sender_timeout: Option<Duration>,
}

/// A session at work; see the module's documentation.
pub struct Pipeline {
    source: ReplicationConnection,
    parser: pgoutput::Parser,
    offsets: RowBuffers,
    control: Rc<Control>,
    sink: Rc<Sink>,
    mapper: Mapper,
    batch: Batch,
    calls: Calls<Call>,
    watermark: Watermark,
    identity: String,
    epoch: Epoch,
    /// Where Redis will stand once every call under way is answered.
    position: Lsn,
    /// Where Redis has said that it stands.
    applied: Lsn,
    /// Commits up to here were applied by an earlier session: mapped again for their metadata, not bumped again.
    skip_to: Lsn,
    /// Rules are as of here; before it, a table that no rule tracks may just have been untracked since.
    metadata_at: Lsn,
    /// Transactions that were changing rules when they were read.
    writers: Vec<FullXid>,
    /// One of them has ended: when the stream has passed this, its commit has come along or never will.
    writers_decided_at: Option<Lsn>,
    /// The whole transaction that the stream is in.
    xid: u32,
    /// Tables that were warned of.
    unbound: HashSet<u32>,
    walsender: i32,
    heartbeat: Duration,
    max_tags: usize,
    /// When the last batch was sent, and whether it was one of a stream of commits that never ends.
    sent: Instant,
    busy: bool,
    /// Everything that was received is mapped.
    dry: bool,
    /// Commits wait for the acknowledgement: no batch waits for anything.
    synchronous: bool,
    reporter: Reporter,
    reporting: Option<Underway<Result<(), SessionError>>>,
    look: Option<LookFuture>,
    look_at: Option<Instant>,
    looked: Instant,
    look_again: Duration,
    unflushed: Unflushed,
    flushing: Option<Underway<Result<(), ControlError>>>,
    flush_failed: Option<Instant>,
    acknowledged: Lsn,
    heard: Instant,
    /// Since when a question for the position has not been answered, and how often the walsender was seen to wait all the same.
    asked: Option<Instant>,
    doubts: u32,
    replicas: Option<Replicas>,
    waiting: Option<Underway<(Lsn, Result<Confirmed, SinkError>)>>,
    /// Replicas hold everything up to here.
    replicated: Lsn,
    /// Not enough of them have confirmed in time.
    replica_missing: bool,
    budget: Budget,
    slot: String,
    weighing: Option<Underway<Result<Option<Slot>, ControlError>>>,
    /// When it was last told that an old transaction holds the log back.
    held_told: Option<Instant>,
    status_interval: Duration,
}

/// Reused memory for random access to the columns of a changed row.
#[derive(Default)]
struct RowBuffers {
    old: pgoutput::Offsets,
    new: pgoutput::Offsets,
}

impl Pipeline {
    /// Puts the parts of a session together.
    pub fn new(config: &Config, parts: Parts) -> Pipeline {
        let now = Instant::now();
        let acknowledged = parts.watermark.received();
        Pipeline {
            source: parts.source,
            parser: pgoutput::Parser::new(),
            offsets: RowBuffers::default(),
            control: parts.control,
            sink: parts.sink,
            mapper: parts.mapper,
            batch: Batch::default(),
            calls: Calls::default(),
            watermark: parts.watermark,
            identity: parts.identity,
            epoch: parts.epoch,
            position: parts.applied,
            applied: parts.applied,
            skip_to: parts.applied,
            metadata_at: parts.metadata_at,
            writers: parts.writers,
            writers_decided_at: None,
            xid: 0,
            unbound: HashSet::new(),
            walsender: parts.walsender,
            heartbeat: config.heartbeat,
            max_tags: config.max_tags_per_batch,
            sent: now,
            busy: false,
            dry: true,
            synchronous: false,
            reporter: parts.reporter,
            reporting: None,
            look: None,
            look_at: Some(now),
            looked: now,
            look_again: LOOK_AGAIN,
            unflushed: Unflushed::default(),
            flushing: None,
            flush_failed: None,
            // Told at once: a standby that has never said where it is does not count as synchronous, and the first watermark may be
            // waiting for a commit that waits for it.
            acknowledged,
            heard: now,
            asked: None,
            doubts: 0,
            replicas: parts.replicas,
            waiting: None,
            replicated: acknowledged,
            replica_missing: false,
            budget: parts.budget,
            slot: config.slot.clone(),
            weighing: None,
            held_told: None,
            status_interval: parts
                .sender_timeout
                .map_or(STATUS_INTERVAL, |t| (t / 4).clamp(SHORTEST_STATUS_INTERVAL, STATUS_INTERVAL)),
        }
    }

    /// What is known of the slot's past, for the next session.
    pub fn into_budget(self) -> Budget {
        self.budget
    }

    /// Runs until `shutdown` is ready (then `Ok`) or something fails.
    pub async fn run(&mut self, shutdown: &mut (impl Future<Output = ()> + Unpin)) -> Result<(), SessionError> {
        let result = self.stream(shutdown).await;
        match &result {
            Ok(()) => self.farewell().await,
            // What was missed cannot be told: the epoch is opened here and now, not when the next session comes around.
            Err(e) if e.needs_epoch() && !e.is_over_budget() => self.open_epoch(e).await,
            Err(_) => {}
        }
        result
    }

    async fn stream(&mut self, shutdown: &mut (impl Future<Output = ()> + Unpin)) -> Result<(), SessionError> {
        let mut heartbeat = interval(self.heartbeat);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut status = interval(self.status_interval);
        status.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut weigh = interval(WEIGH_INTERVAL);
        weigh.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // The session has just reported.
        let mut report = interval_at(Instant::now() + report::INTERVAL, report::INTERVAL);
        loop {
            self.start_calls();
            self.wait_for_replicas();
            // A batch that waits need not be woken for every few bytes: they gather in the socket, and one read takes them all.
            let room = self.has_room() && !(self.dry && self.is_filling());
            let look_at = self.look_at;
            // Cancel safety: a call, a look and a received frame leave their place only together with their result.
            tokio::select! {
                biased;
                () = &mut *shutdown => return Ok(()),
                (call, reply) = self.calls.next() => self.on_reply(call, reply).await?,
                look = pending_or(&mut self.look) => {
                    self.look = None;
                    self.on_look(look?).await?;
                }
                flushed = pending_or(&mut self.flushing) => {
                    self.flushing = None;
                    self.on_flushed(flushed)?;
                }
                _ = heartbeat.tick() => self.on_heartbeat()?,
                _ = status.tick() => self.send_status(true).await?,
                _ = report.tick(), if self.reporting.is_none() => {
                    let (sink, control, watermark) = (self.sink.clone(), self.control.clone(), self.watermark.published());
                    self.reporting = Some(Box::pin(self.reporter.clone().send(sink, control, watermark)));
                }
                reported = pending_or(&mut self.reporting) => {
                    self.reporting = None;
                    reported?;
                }
                (to, confirmed) = pending_or(&mut self.waiting) => {
                    self.waiting = None;
                    self.on_replicas(to, confirmed?).await?;
                }
                _ = weigh.tick(), if self.weighing.is_none() => {
                    let (control, slot) = (self.control.clone(), self.slot.clone());
                    self.weighing = Some(Box::pin(async move { control.slot(&slot).await }));
                }
                slot = pending_or(&mut self.weighing) => {
                    self.weighing = None;
                    self.on_slot(slot?)?;
                }
                () = sleep_until(look_at.unwrap_or_else(Instant::now)), if look_at.is_some() && self.look.is_none() => {
                    self.look_at = None;
                    self.begin_look();
                }
                () = sleep_until(self.sent + PACE), if self.is_filling() => {}
                ready = self.source.ready(), if room => {
                    ready?;
                    self.drain_frames().await?;
                }
            }
        }
    }

    fn has_room(&self) -> bool {
        self.batch.tags() < self.max_tags && self.batch.commits() < MAX_BATCH_COMMITS
    }

    /// A clean end: what is in flight is awaited, what Redis holds is acknowledged, and PostgreSQL is told good-bye.
    async fn farewell(&mut self) {
        let ended = timeout(FAREWELL, async {
            while !self.calls.is_empty() {
                let (call, reply) = self.calls.next().await;
                self.on_reply(call, reply).await?;
            }
            self.send_status(false).await?;
            self.source.finish().await.map_err(SessionError::from)
        })
        .await;
        match ended {
            Ok(Ok(())) => info!(acknowledged = %self.acknowledged, "stopped"),
            Ok(Err(error)) => warn!(%error, "stopped; the last acknowledgement may not have arrived"),
            Err(_) => warn!("stopped without an answer from Redis; the next start proves continuity"),
        }
    }

    async fn open_epoch(&mut self, reason: &SessionError) {
        let next = Epoch::new(self.epoch.get() + 1).unwrap_or(Epoch::MAX);
        match self.sink.reset(&self.identity, self.applied, next).await {
            Ok(floor) => warn!(%floor, %reason, "new epoch: every entry stored before is invalid"),
            Err(error) => warn!(%error, %reason, "a new epoch is needed and could not be opened yet"),
        }
    }
}

/// The future if there is one, otherwise one that is never ready.
async fn pending_or<T>(underway: &mut Option<Underway<T>>) -> T {
    match underway {
        Some(future) => future.as_mut().await,
        None => std::future::pending().await,
    }
}

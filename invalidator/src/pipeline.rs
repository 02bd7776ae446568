//! The way of a commit: source → mapping → batch → sink → watermark and acknowledgement. One task, one loop; PostgreSQL is read
//! only while the batch has room, so an outage of Redis reaches PostgreSQL as backpressure and memory stays as it is.

use std::collections::HashSet;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use cachetag_core::{Epoch, Lsn, MESSAGE_PREFIX, Tag};
use tokio::time::{Instant, MissedTickBehavior, interval, interval_at, sleep_until, timeout};
use tracing::{debug, error, info, warn};

use crate::batch::Batch;
use crate::broken;
use crate::budget::{Budget, Excess};
use crate::config::Config;
use crate::control::{Control, ControlError, Look, Slot, list};
use crate::mapping::{Mapper, Outcome, TransactionBumps};
use crate::report::{self, Reporter};
use crate::rows::{self, Columns};
use crate::session::SessionError;
use crate::sink::{Calls, Confirmed, Replicas, Sink, SinkError};
use crate::source::{Frame, ReplicationConnection, pgoutput};
use crate::watermark::{FullXid, Observation, Watermark};

/// Commits in one batch: bounds the memory of batches whose commits touch no tag.
const MAX_BATCH_COMMITS: usize = 20_000;
/// Frames mapped before the loop looks at everything else.
const FRAMES_A_TURN: usize = 512;
/// Under a stream of commits that never ends, a batch is sent at most this often: many small calls would cost Redis, and the walsender
/// that shares its processors, more than the bumps themselves. At ordinary rates a batch never waits.
const PACE: Duration = Duration::from_millis(2);
/// Commits in a batch that make it one of such a stream.
const BUSY_COMMITS: usize = 32;
/// Two looks at PostgreSQL under load are at least this far apart; each costs a snapshot.
const LOOK_INTERVAL: Duration = Duration::from_millis(2);
/// A look that found an invisible commit is repeated after this, doubling up to the heartbeat.
const LOOK_AGAIN: Duration = Duration::from_millis(1);
/// The walsender ends a connection that says nothing for wal_sender_timeout (60 s); long before, it is told where we are, and asked
/// to answer, whether anything is read from it or not.
const STATUS_INTERVAL: Duration = Duration::from_secs(5);
const SHORTEST_STATUS_INTERVAL: Duration = Duration::from_millis(50);
/// How often the slot is weighed against its budget.
const WEIGH_INTERVAL: Duration = Duration::from_secs(1);
/// How often it is told that an old transaction holds the log back.
const HELD_AGAIN: Duration = Duration::from_secs(60);
/// Every status of that kind is answered, so a stream that is silent for this long is gone.
const SILENCE: Duration = Duration::from_secs(30);
const LOOK_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a clean end waits for what is in flight.
const FAREWELL: Duration = Duration::from_secs(5);

/// What a call to Redis was for.
enum Call {
    Apply { to: Lsn, commits: usize },
    Advance { to: Lsn },
}

type Underway<T> = Pin<Box<dyn Future<Output = T>>>;
type LookFuture = Underway<Result<(u64, Look), SessionError>>;

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
    acknowledged: Lsn,
    heard: Instant,
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
            // Told at once: a standby that has never said where it is does not count as synchronous, and the first watermark may be
            // waiting for a commit that waits for it.
            acknowledged,
            heard: now,
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

    // --- source → mapping → batch --------------------------------------------------------------------------------------

    /// Maps what has been received already, up to a turn's worth.
    async fn drain_frames(&mut self) -> Result<(), SessionError> {
        self.heard = Instant::now();
        let mut reply = false;
        self.dry = false;
        for _ in 0..FRAMES_A_TURN {
            if !self.has_room() {
                break;
            }
            let Some(frame) = self.source.try_next_frame()? else {
                self.dry = true;
                break;
            };
            match frame {
                Frame::XLogData(data) => self.on_message(&data.data)?,
                Frame::Keepalive(keepalive) => {
                    self.watermark.passed(keepalive.wal_end);
                    reply |= keepalive.reply_requested;
                }
            }
        }
        if reply {
            self.send_status(false).await?;
        }
        Ok(())
    }

    fn on_message(&mut self, bytes: &[u8]) -> Result<(), SessionError> {
        use pgoutput::Message;
        match self.parser.parse(bytes)? {
            Message::Begin(begin) => {
                self.xid = begin.xid;
                self.mapper.begin();
            }
            Message::Commit(commit) => {
                let bumps = self.mapper.commit();
                self.on_commit(self.xid, commit.end_lsn, &bumps);
            }
            Message::StreamStart(start) => self.mapper.begin_block(start.xid, start.first_segment)?,
            Message::StreamStop => self.mapper.end_block(),
            Message::StreamCommit(commit) => {
                let bumps = self.mapper.commit_streamed(commit.xid)?;
                self.on_commit(commit.xid, commit.end_lsn, &bumps);
            }
            Message::StreamAbort(abort) => self.mapper.abort_streamed(abort.xid, abort.subxid),
            Message::Relation(relation) => self.mapper.relation(rows::described(&relation)),
            Message::Insert(insert) => {
                self.within(insert.xid);
                let new = self.offsets.new.index(insert.new);
                let outcome = self.mapper.insert(insert.relation, &Columns(new))?;
                self.on_outcome(insert.relation, outcome);
            }
            Message::Update(update) => {
                self.within(update.xid);
                let new = self.offsets.new.index(update.new);
                let old = update.old.map(|old| self.offsets.old.index(old.tuple()));
                let outcome = self.mapper.update(
                    update.relation,
                    rows::old_row(update.old.as_ref(), &old.map(Columns)),
                    &Columns(new),
                )?;
                self.on_outcome(update.relation, outcome);
            }
            Message::Delete(delete) => {
                self.within(delete.xid);
                let old = Columns(self.offsets.old.index(delete.old.tuple()));
                let outcome = self.mapper.delete(delete.relation, rows::old_row(Some(&delete.old), &Some(old)))?;
                self.on_outcome(delete.relation, outcome);
            }
            Message::Truncate(truncate) => {
                self.within(truncate.xid);
                for relation in truncate.relations {
                    let outcome = self.mapper.truncate(relation)?;
                    self.on_outcome(relation, outcome);
                }
            }
            Message::Logical(message) if message.prefix == MESSAGE_PREFIX.as_bytes() => {
                self.within(message.xid.filter(|_| message.transactional));
                self.on_logical(&message);
            }
            Message::Logical(_) | Message::Origin(_) | Message::Type(_) => {}
            // Two-phase transactions were not asked for: they come whole, when they commit.
            Message::BeginPrepare(_)
            | Message::Prepare(_)
            | Message::CommitPrepared(_)
            | Message::RollbackPrepared(_)
            | Message::StreamPrepare(_) => {
                return Err(SessionError::Unexpected { message: "of a prepared transaction" });
            }
        }
        Ok(())
    }

    /// Inside a block of a streamed transaction, a change names its subtransaction.
    fn within(&mut self, subxid: Option<u32>) {
        if let Some(subxid) = subxid {
            self.mapper.within(subxid);
        }
    }

    fn on_commit(&mut self, xid: u32, end: Lsn, bumps: &TransactionBumps) {
        if !self.writers.is_empty() {
            self.writers.retain(|&writer| writer as u32 != xid);
            self.writers_decided_at = None;
        }
        self.watermark.commit(end, xid);
        if end > self.skip_to {
            self.batch.push(end, bumps.hard.iter().map(Tag::as_str), bumps.soft.iter().map(Tag::as_str));
        }
    }

    fn on_logical(&mut self, message: &pgoutput::LogicalMessage<'_>) {
        if let Outcome::Malformed(reason) = self.mapper.message(message.content) {
            warn!(%reason, "a message with prefix cachetag could not be read: everything is invalidated");
        }
        // Outside of a transaction it counts at its own place in the log, behind every commit before it.
        if !message.transactional {
            let end = Lsn(message.lsn.0 + 1).max(self.watermark.received());
            let bumps = self.mapper.commit();
            self.watermark.passed(end);
            if end > self.skip_to {
                self.batch.push(end, bumps.hard.iter().map(Tag::as_str), bumps.soft.iter().map(Tag::as_str));
            }
        }
    }

    fn on_outcome(&mut self, relation: u32, outcome: Outcome) {
        if outcome != Outcome::Unbound || self.watermark.received() < self.metadata_at {
            // Before the position at which rules were read, an unknown table has been untracked since: its removal is still to
            // come, and bumps its family.
            return;
        }
        if self.unbound.insert(relation) {
            warn!(
                relation,
                "a table is published but no rule is bound to it: each of its changes invalidates everything; \
                 run SELECT * FROM cachetag.doctor()"
            );
        }
        self.mapper.bump_everything();
    }

    // --- batch → sink --------------------------------------------------------------------------------------------------

    /// Sends what can be sent: the batch once the previous one is answered, and the watermark right behind it.
    fn start_calls(&mut self) {
        if let Some(to) = self.batch.end()
            && !self.calls.any(|call| matches!(call, Call::Apply { .. }))
            && !self.is_filling()
        {
            self.sent = Instant::now();
            self.busy = self.batch.commits() >= BUSY_COMMITS;
            let call = self.sink.apply(self.epoch, self.position, to, &self.batch);
            self.calls.push(Call::Apply { to, commits: self.batch.commits() }, call);
            self.position = to;
            self.batch.clear();
        }
        if !self.calls.any(|call| matches!(call, Call::Advance { .. })) {
            // With nothing waiting, Redis may move on to whatever the stream has passed.
            let to = match self.batch.end() {
                None => self.position.max(self.watermark.received()),
                Some(_) => self.position,
            };
            let advance = self.watermark.advance(to);
            // Without a watermark too, Redis moves past the position at which rules were read: acknowledgements wait for that, and in
            // strict mode the very transaction that an epoch's first watermark waits for may be waiting for one.
            let passes_metadata = self.watermark.is_held(self.position) && !self.watermark.is_held(to);
            if advance.is_some() || passes_metadata {
                let call = self.sink.advance(self.epoch, self.position, to, advance);
                self.calls.push(Call::Advance { to }, call);
                self.position = to;
            }
        }
    }

    /// Does the batch wait to become larger?
    fn is_filling(&self) -> bool {
        self.busy
            && !self.synchronous
            && self.batch.end().is_some()
            && self.batch.tags() < self.max_tags / 4
            && self.sent.elapsed() < PACE
    }

    async fn on_reply(&mut self, call: Call, reply: Result<u64, SinkError>) -> Result<(), SessionError> {
        reply?;
        match call {
            Call::Apply { to, commits } => {
                self.applied = to;
                debug!(%to, commits, "applied");
                // By now the commits are most likely visible.
                self.look_at(Instant::now().max(self.looked + LOOK_INTERVAL));
            }
            Call::Advance { to } => self.applied = to,
        }
        self.watermark.applied(self.applied);
        self.acknowledge().await
    }

    // --- watermark -----------------------------------------------------------------------------------------------------

    fn on_heartbeat(&mut self) -> Result<(), SessionError> {
        self.look_at(Instant::now());
        let silent = self.heard.elapsed();
        if self.has_room() && silent > SILENCE {
            return Err(SessionError::Silent { what: "the replication stream", after: silent });
        }
        Ok(())
    }

    /// Brings the next look forward to `at`.
    fn look_at(&mut self, at: Instant) {
        self.look_at = Some(self.look_at.map_or(at, |planned| planned.min(at)));
    }

    fn begin_look(&mut self) {
        self.looked = Instant::now();
        let (sink, control, walsender) = (self.sink.clone(), self.control.clone(), self.walsender);
        self.look = Some(Box::pin(async move {
            // Redis's clock first: what PostgreSQL has flushed later than that covers this moment.
            let asked_at = sink.now().await?;
            match timeout(LOOK_TIMEOUT, control.look(walsender)).await {
                Ok(look) => Ok((asked_at, look?)),
                Err(_) => Err(SessionError::Silent { what: "PostgreSQL's SQL connection", after: LOOK_TIMEOUT }),
            }
        }));
    }

    async fn on_look(&mut self, (asked_at, look): (u64, Look)) -> Result<(), SessionError> {
        self.see_to_writers(&look)?;
        self.synchronous = look.synchronous;
        let draining = self.watermark.draining().len();
        self.watermark.observe(&Observation {
            asked_at,
            snapshot: look.snapshot,
            flushed: look.flushed,
            synchronous: look.synchronous,
        });
        if draining > 0 && self.watermark.draining().is_empty() {
            info!("transactions that were running at the start have ended");
        }
        if self.watermark.wants_position() {
            self.send_status(true).await?;
        }
        if self.watermark.waits_for_visibility() {
            self.look_at(self.looked + self.look_again);
            self.look_again = (self.look_again * 2).min(self.heartbeat);
        } else {
            self.look_again = LOOK_AGAIN;
        }
        self.acknowledge().await
    }

    /// A transaction that was changing rules when they were read, and has ended without coming along in the stream: its change was
    /// decoded before the start and became visible only now, so the rules are not what the stream was mapped with.
    fn see_to_writers(&mut self, look: &Look) -> Result<(), SessionError> {
        if self.writers.iter().all(|&xid| look.snapshot.is_in_progress(xid)) {
            return Ok(());
        }
        // Its commit may still be on the way; it is not once the stream has passed what is flushed now. Nothing is published before.
        let decided_at = *self.writers_decided_at.get_or_insert(look.flushed);
        self.watermark.hold_until(decided_at);
        if self.watermark.received() < decided_at {
            return Ok(());
        }
        Err(SessionError::MetadataIncomplete)
    }

    /// The session ends when the slot holds back too much; the next one moves it.
    fn on_slot(&mut self, slot: Option<Slot>) -> Result<(), SessionError> {
        let Some(retained) = slot.and_then(|slot| slot.retained()) else { return Ok(()) };
        match self.budget.look(Instant::now(), retained) {
            // A new slot waits for the transactions that are running, and those may be waiting for this one.
            Some(excess @ Excess::Held { .. }) if self.synchronous => {
                if self.held_told.is_none_or(|told| told.elapsed() > HELD_AGAIN) {
                    self.held_told = Some(Instant::now());
                    let control = self.control.clone();
                    self.weighing = Some(Box::pin(async move {
                        let transactions = list(&control.oldest_transactions().await?);
                        error!(%excess, transactions, "the WAL budget is exceeded, and not because of Redis: end the transaction");
                        Ok(None)
                    }));
                }
                Ok(())
            }
            Some(excess) => Err(SessionError::OverBudget(excess)),
            None => Ok(()),
        }
    }

    // --- acknowledgement -----------------------------------------------------------------------------------------------

    /// What may be acknowledged: what Redis holds and, where replicas must hold it too, what they do.
    fn acknowledgeable(&self) -> Option<Lsn> {
        if broken::never_acknowledges() {
            return None;
        }
        let lsn = self.watermark.acknowledge()?;
        Some(if self.replicas.is_some() { lsn.min(self.replicated) } else { lsn })
    }

    /// Asks the replicas for what is applied and not known to be with them. The feed goes on meanwhile.
    fn wait_for_replicas(&mut self) {
        if let Some(replicas) = &self.replicas
            && self.waiting.is_none()
            && self.applied > self.replicated
        {
            let (to, wait) = (self.applied, replicas.clone().wait());
            self.waiting = Some(Box::pin(async move { (to, wait.await) }));
        }
    }

    async fn on_replicas(&mut self, to: Lsn, confirmed: Confirmed) -> Result<(), SessionError> {
        let missing = !confirmed.is_enough();
        if missing && !self.replica_missing {
            warn!(
                confirmed = confirmed.replicas,
                wanted = confirmed.wanted,
                "replicas of Redis are missing: nothing is acknowledged to PostgreSQL, which keeps its WAL until they are back \
                 or the WAL budget is exceeded; see INFO replication, or lower redis_replicas"
            );
        } else if !missing && self.replica_missing {
            info!(confirmed = confirmed.replicas, "the replicas of Redis are back");
        }
        if missing != self.replica_missing {
            self.replica_missing = missing;
            self.reporter.replicas(confirmed);
        }
        if !missing {
            self.replicated = self.replicated.max(to);
        }
        self.acknowledge().await
    }

    async fn acknowledge(&mut self) -> Result<(), SessionError> {
        match self.acknowledgeable() {
            Some(lsn) if lsn > self.acknowledged => self.send_status(false).await,
            _ => Ok(()),
        }
    }

    async fn send_status(&mut self, reply_requested: bool) -> Result<(), SessionError> {
        if let Some(lsn) = self.acknowledgeable() {
            self.acknowledged = self.acknowledged.max(lsn);
        }
        let lsn = self.acknowledged;
        self.source.send_status(lsn, lsn, lsn, reply_requested).await?;
        Ok(())
    }

    // --- ends ----------------------------------------------------------------------------------------------------------

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

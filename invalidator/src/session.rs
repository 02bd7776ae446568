//! From two URLs to a running pipeline: connect, check, take the slot, claim Redis, prove continuity or open an epoch.

use std::rc::Rc;
use std::time::Duration;

use cachetag_core::{Epoch, Lsn};
use tracing::{debug, info, warn};

use crate::broken;
use crate::budget::{self, Budget, Excess};
use crate::config::Config;
use crate::continuity::{self, Source};
use crate::control::{Control, ControlError, Metadata, Preflight, Slot, Walsender};
use crate::mapping::{Limits, Mapper, MappingError};
use crate::pipeline::{Parts, Pipeline};
use crate::report::Reporter;
use crate::sink::{Sink, SinkError, State};
use crate::slot;
use crate::source::{ConnectOptions, ReplicationConnection, SourceError, StartOptions, pgoutput::ParseError};
use crate::standstill::Standstill;
use crate::watermark::Watermark;

/// A namespace whose watermark another source proved fresh this recently is in use: taking it over would open an epoch for every
/// call of either daemon.
const FOREIGN_GRACE: Duration = Duration::from_secs(10);

/// A server process that has let go of the slot has said why.
const LAST_WORD: Duration = Duration::from_secs(1);

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The SQL connection.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// The replication connection.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// Redis.
    #[error(transparent)]
    Sink(#[from] SinkError),
    /// The replication stream holds something that is not a message.
    #[error("replication stream: {0}")]
    Parse(#[from] ParseError),
    /// Rules or dependencies could not be read.
    #[error("the changes could not be mapped: {0}; everything is invalidated rather than something forgotten")]
    Metadata(#[from] MappingError),
    /// The stream holds a message that was not asked for.
    #[error(
        "the replication stream holds a message {message}, which was not asked for; everything is invalidated rather than something forgotten"
    )]
    Unexpected {
        /// Which.
        message: &'static str,
    },
    /// A change of rules or dependencies became visible that the stream will not bring again.
    #[error("a change of rules became visible that the stream had brought before the start")]
    MetadataIncomplete,
    /// Somebody dropped the slot, or ended its process, in the middle of the start.
    #[error("replication slot {slot} went away while it was being taken")]
    SlotGone {
        /// Its name.
        slot: String,
    },
    /// The slot holds more of the log back than it may.
    #[error("{0}; the slot moves to the present")]
    OverBudget(Excess),
    /// The server said nothing for too long.
    #[error("{what} did not answer for {} s", .after.as_secs())]
    Silent {
        /// Which connection.
        what: &'static str,
        /// For how long.
        after: Duration,
    },
}

impl SessionError {
    /// Must a person act before another try can succeed?
    pub fn is_configuration(&self) -> bool {
        match self {
            Self::Control(e) => e.is_configuration(),
            Self::Source(e) => e.is_configuration() || e.is_authentication(),
            Self::Sink(e) => e.is_configuration(),
            Self::Parse(_)
            | Self::Metadata(_)
            | Self::MetadataIncomplete
            | Self::Unexpected { .. }
            | Self::SlotGone { .. }
            | Self::OverBudget(_)
            | Self::Silent { .. } => false,
        }
    }

    /// Does the stream hold what ended the session, and will it hold it again?
    pub fn is_of_the_stream(&self) -> bool {
        match self {
            Self::Source(e) => e.is_of_the_stream(),
            Self::Parse(_) | Self::Metadata(_) | Self::Unexpected { .. } => true,
            _ => false,
        }
    }

    /// Can the slot not get past where it stands? Of what this does not know, the second failure tells.
    pub fn needs_new_slot(&self) -> bool {
        match self {
            Self::Source(e) => e.is_publication_missing(),
            // It would come again, and be as large.
            Self::Metadata(e) => matches!(e, MappingError::TooMuchMetadata(_)),
            Self::Unexpected { .. } => true,
            _ => false,
        }
    }

    /// May bumps have been missed, so that only a new epoch makes the cache honest again?
    pub fn needs_epoch(&self) -> bool {
        matches!(
            self,
            Self::Parse(_)
                | Self::Metadata(_)
                | Self::MetadataIncomplete
                | Self::Unexpected { .. }
                | Self::Control(ControlError::Metadata(_))
        ) || self.is_over_budget()
    }

    /// Is what is missing still in the log, and about to be given up?
    pub fn is_over_budget(&self) -> bool {
        matches!(self, Self::OverBudget(_))
    }
}

/// What outlives a session.
#[derive(Debug, Default)]
pub struct Memory {
    /// The newest epoch that this process knows of.
    pub epoch: Option<Epoch>,
    /// A new epoch must be opened whatever Redis says: why.
    pub epoch_needed: Option<String>,
    /// Where the slot stood when the session began to stream; `None` if it did not get there.
    pub confirmed: Option<Lsn>,
    /// How often sessions have ended there.
    pub standstill: Standstill,
    /// The slot cannot get past where it stands: why.
    pub slot_needed: Option<String>,
    /// What the slot holds back, over time.
    pub budget: Budget,
    /// The slot must be dropped: an old transaction makes it hold back too much.
    pub held: Option<Excess>,
    /// The last time that the budget moved the slot, for the report.
    pub moved: Option<serde_json::Value>,
    /// The server process of the last session.
    pub walsender: Option<Walsender>,
}

impl Memory {
    /// Nothing remembered yet.
    pub fn new(config: &Config) -> Memory {
        let limits = budget::Limits { bytes: config.wal_budget, age: config.wal_budget_age };
        Memory { budget: Budget::new(limits), ..Memory::default() }
    }
}

/// Opens a session: everything that must be so before the first message is mapped.
pub async fn open(config: &Config, claimant: &str, memory: &mut Memory) -> Result<Pipeline, SessionError> {
    memory.confirmed = None;
    let (options, control, preflight) = connect_to_primary(config).await?;
    // Before Redis is asked for anything: it may be away for hours, and PostgreSQL's disk must not pay for it.
    slot::wait_until_free(config, &control, memory).await?;
    if let Some(excess) = memory.held.take() {
        slot::give_up(config, &control, memory, excess).await?;
    }
    slot::keep_within_budget(config, &control, memory).await?;
    let sink = Sink::connect(config, claimant).await?;
    control.attach().await?;

    let mut source = ReplicationConnection::connect(&options).await?;
    let system = source.identify_system().await?;
    let identity = format!("{}/{}/{}/{}", system.system_id, system.timeline, preflight.database, config.slot);
    let slot_is_new = slot::see_to(config, &control, &mut source, memory).await?;
    memory.slot_needed = None;
    // The slot admits one daemon at a time; only who holds it claims Redis, so a second daemon started by mistake just waits.
    source.start_replication(&StartOptions::new(&config.slot).streaming()).await?;
    let Some(Slot { confirmed: Some(confirmed), active, .. }) = control.slot(&config.slot).await? else {
        return Err(SessionError::SlotGone { slot: config.slot.clone() });
    };
    memory.confirmed = Some(confirmed);
    let Some(user) = active else { return Err(why_it_ended(source, config).await) };
    let walsender = user.pid;
    memory.walsender = Some(user);

    let before = sink.peek().await?;
    refuse_foreign(config, &before, &identity)?;
    let claimed = sink.claim(&identity, config).await?;
    // Claiming for another source takes the position out of the state; what was there before tells why there is none.
    let state = if before.source.as_ref() == Some(&identity) { claimed } else { before };
    let reported = control.last_epoch().await?.and_then(|e| Epoch::new(e).ok());
    let last_epoch = memory.epoch.max(reported);
    let proof = continuity::prove(
        &state,
        Source { identity: &identity, confirmed, slot_is_new, end: control.end().await?, last_epoch },
    );
    let reason = memory.epoch_needed.clone().or_else(|| proof.as_ref().err().map(ToString::to_string));
    let (epoch, applied) = match (reason, proof) {
        (None, Ok(proof)) => {
            info!(epoch = %proof.0, applied = %proof.1, %confirmed, "continuing");
            proof
        }
        (reason, _) => {
            if !slot_is_new {
                // It may be by the hand of somebody, or of a daemon that did not live to see to it.
                control.republish().await?;
            }
            let next = last_epoch.map_or(0, |e| e.get() + 1);
            let floor = sink.reset(&identity, confirmed, Epoch::new(next).unwrap_or(Epoch::MAX)).await?;
            warn!(
                epoch = %floor.epoch, floor = %floor, reason = reason.as_deref().unwrap_or("unknown"),
                "new epoch: every entry stored before is invalid"
            );
            (floor.epoch, floor.lsn)
        }
    };
    memory.epoch = Some(epoch);
    memory.epoch_needed = None;

    let replicas = sink.replicas(config).await?;
    let (control, sink) = (Rc::new(control), Rc::new(sink));
    let reporter = Reporter::new(config, claimant, epoch, memory.moved.clone());
    reporter.clone().send(sink.clone(), control.clone(), state_watermark(&state, epoch)).await?;

    // From here on the order matters: who is changing rules, then the rules, then the position.
    let Metadata { rows, rules, dependencies, read_at, writers } = control.metadata().await?;
    let mapper = Mapper::load(rows, Limits { tags: config.max_tags_per_transaction, ..Limits::default() });
    // Commits up to `confirmed` are not sent again; unless the watermark has passed them, they may still be invisible.
    let must_drain =
        state_watermark(&state, epoch).is_none_or(|w| w < confirmed) && !broken::is(broken::Variant::EpochNotDrained);
    let mut watermark = Watermark::new(confirmed, applied, read_at, must_drain);
    if must_drain {
        // Or the snapshot might not list the very last of those that are waited for.
        control.use_up_an_id().await?;
    }
    let look = control.look(walsender).await?;
    watermark.begin_drain(&look.snapshot);
    if !watermark.draining().is_empty() {
        info!(transactions = ?watermark.draining(), "the first watermark waits for transactions that were running");
    }
    info!(
        rules, dependencies, %read_at,
        slot = config.slot, postgres = preflight.version, "streaming"
    );
    let parts = Parts {
        source,
        control,
        sink,
        mapper,
        watermark,
        identity,
        epoch,
        applied,
        walsender,
        reporter,
        metadata_at: read_at,
        writers,
        replicas,
        budget: memory.budget.clone(),
        sender_timeout: preflight.sender_timeout,
    };
    Ok(Pipeline::new(config, parts))
}

/// Why a stream that had begun has ended: its last word.
async fn why_it_ended(mut source: ReplicationConnection, config: &Config) -> SessionError {
    let last_word = async {
        loop {
            if let Err(error) = source.recv().await {
                return error.into();
            }
        }
    };
    let silent = SessionError::SlotGone { slot: config.slot.clone() };
    tokio::time::timeout(LAST_WORD, last_word).await.unwrap_or(silent)
}

/// The first of the hosts that is a primary and set up as it should be; otherwise, why the last one is not.
async fn connect_to_primary(config: &Config) -> Result<(ConnectOptions, Control, Preflight), SessionError> {
    let mut failure = None;
    for options in ConnectOptions::parse_all(&config.postgres)? {
        let options = options.with_application_name(&config.application_name);
        let connected = async {
            let control = Control::connect(&options).await?;
            let preflight = control.preflight().await?;
            Ok::<_, ControlError>((control, preflight))
        };
        match connected.await {
            Ok((control, preflight)) => return Ok((options, control, preflight)),
            Err(error) => {
                debug!(server = options.server(), %error, "not the primary");
                // A host that cannot be reached may be the primary; one that can, and is a standby, is none.
                failure = Some(match failure {
                    Some(earlier @ ControlError::Connect(_)) if error.is_configuration() => earlier,
                    _ => error,
                });
            }
        }
    }
    Err(failure.map_or_else(|| SourceError::Options("no host is given".into()).into(), SessionError::from))
}

/// The watermark in Redis, if it is of this epoch.
fn state_watermark(state: &State, epoch: Epoch) -> Option<Lsn> {
    state.watermark.filter(|w| w.epoch == epoch).map(|w| w.lsn)
}

fn refuse_foreign(config: &Config, state: &State, identity: &str) -> Result<(), SinkError> {
    let (Some(other), Some(fresh_at)) = (&state.source, state.fresh_at) else { return Ok(()) };
    let fresh = state.now.saturating_sub(fresh_at) < FOREIGN_GRACE.as_millis() as u64;
    if fresh && without_timeline(other) != without_timeline(identity) {
        return Err(SinkError::ForeignSource {
            namespace: config.namespace.clone(),
            other: other.clone(),
            own: identity.into(),
        });
    }
    Ok(())
}

/// A promoted standby is the same source on another timeline.
fn without_timeline(identity: &str) -> Vec<&str> {
    identity.split('/').enumerate().filter(|(i, _)| *i != 1).map(|(_, part)| part).collect()
}

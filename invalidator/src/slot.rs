//! Seeing to the replication slot: wait until it is free, keep it within the WAL budget, create it, replace it.

use std::time::Duration;

use cachetag_core::Lsn;
use serde_json::json;
use tokio::time::{Instant, sleep};
use tracing::{error, info, warn};

use crate::budget::{self, Bytes, Excess};
use crate::config::Config;
use crate::control::{Control, ControlError, Slot, list};
use crate::session::{Memory, SessionError};
use crate::source::ReplicationConnection;
use crate::standstill::Remedy;

/// How often a slot that somebody else uses is looked at.
const FREE_POLL: Duration = Duration::from_millis(200);
/// The server process of a session that has ended goes by itself when it notices; after this it is ended.
const LEFT_BEHIND: Duration = Duration::from_millis(600);
/// A slot is moved in steps of this many bytes: each reads the log in between, and has to end before statement_timeout.
const STEP: u64 = 256 << 20;
/// Creating a slot waits for transactions; after this, and again after each of it, the log names them.
const CREATION_PATIENCE: Duration = Duration::from_secs(3);
/// How often it is looked whether the transactions that began before a new slot have ended.
const SETTLE_POLL: Duration = Duration::from_millis(20);
/// Transactions younger than this hold nothing back for long.
const OLD: i64 = 30;

/// Waits until nobody uses the slot. A second daemon stays here, visible by its connection's name, until the first one is gone.
pub async fn wait_until_free(config: &Config, control: &Control, memory: &Memory) -> Result<(), SessionError> {
    let began = Instant::now();
    let mut told = false;
    loop {
        let Some(Slot { active: Some(user), .. }) = control.slot(&config.slot).await? else { break };
        // Our own of an earlier session, which does not know yet that its client is gone.
        let is_ours = memory.walsender.as_ref() == Some(&user) && !user.since.is_empty();
        if is_ours && began.elapsed() > LEFT_BEHIND {
            info!(pid = user.pid, "ending the server process of the last session, which still holds the slot");
            control.terminate(&user).await?;
        }
        if !is_ours && !told {
            warn!(
                slot = config.slot,
                pid = user.pid,
                client = user.client,
                "another daemon uses the slot; waiting until it is gone (one daemon for each slot; --slot names another)"
            );
            control.call_itself(&waiting_name(config)).await?;
            told = true;
        }
        sleep(FREE_POLL).await;
    }
    if told {
        info!(slot = config.slot, "the slot is free");
        control.call_itself(&sql_name(config)).await?;
    }
    Ok(())
}

/// The SQL connection's name while this daemon waits for another one to go.
pub fn waiting_name(config: &Config) -> String {
    format!("{}-waiting", config.application_name)
}

/// The SQL connection's name otherwise.
pub fn sql_name(config: &Config) -> String {
    format!("{}-sql", config.application_name)
}

/// Is the slot one that this daemon may touch?
pub async fn refuse_stranger(config: &Config, control: &Control, slot: &Slot) -> Result<(), ControlError> {
    let (name, database) = (&config.slot, control.database().await?);
    if slot.plugin == "pgoutput" && slot.database == database {
        return Ok(());
    }
    Err(ControlError::Setup {
        problem: format!(
            "replication slot {name} belongs to plugin {:?} and database {:?}, not to pgoutput and {database:?}",
            slot.plugin, slot.database
        ),
        remedy: "give this daemon a name of its own with --slot, or drop that slot".into(),
    })
}

/// Gives up on what the slot holds back when that is more than the budget. Called before Redis, which may be away for hours.
pub async fn keep_within_budget(config: &Config, control: &Control, memory: &mut Memory) -> Result<(), SessionError> {
    let name = &config.slot;
    let Some(slot) = control.slot(name).await? else { return Ok(()) };
    let Some(retained) = slot.retained() else { return Ok(()) };
    let Some(excess) = memory.budget.look(Instant::now(), retained) else { return Ok(()) };
    // Whoever uses it keeps the budget; and a stranger's slot is not ours to move.
    if slot.active.is_some() || slot.lost.is_some() {
        return Ok(());
    }
    refuse_stranger(config, control, &slot).await?;

    // Said before anything is done: whatever interrupts us, the epoch is opened.
    memory.epoch_needed = Some(format!("{excess}; the slot was moved to the present"));
    let moved = move_to_present(name, control, &slot).await?;
    let Some(retained) = moved.retained() else { return Ok(()) };
    let transactions = old_transactions(control).await?;
    warn!(
        slot = %name, %excess, retained_now = %Bytes(retained.bytes()), old_transactions = list(&transactions),
        "the WAL budget was exceeded: the slot was moved to the present, and a new epoch makes everything a miss once; \
         see why Redis was away or too slow, or raise wal_budget and wal_budget_age"
    );
    memory.moved = Some(json!({ "reason": excess.to_string(), "to": retained.confirmed.to_string() }));
    tell(control, memory).await;

    match memory.budget.look(Instant::now(), retained) {
        Some(held @ Excess::Held { .. }) => give_up(config, control, memory, held).await,
        _ => Ok(()),
    }
}

/// Moves a slot to the present. Unlike a new slot, which waits for every transaction that is running, this waits for none: in strict mode
/// those transactions may be waiting for this daemon.
async fn move_to_present(name: &str, control: &Control, slot: &Slot) -> Result<Slot, SessionError> {
    let gone = || SessionError::SlotGone { slot: name.into() };
    let target = slot.current;
    let mut slot = slot.clone();
    loop {
        let confirmed = slot.confirmed.ok_or_else(gone)?;
        let to = Lsn((confirmed.0.saturating_add(STEP)).min(target.0)).max(confirmed);
        control.advance_slot(name, to).await?;
        let next = control.slot(name).await?.ok_or_else(gone)?;
        // The first call over a stretch moves what is confirmed; `restart` follows in the one after it.
        let stands = (next.restart, next.confirmed) == (slot.restart, slot.confirmed);
        slot = next;
        if stands {
            return Ok(slot);
        }
    }
}

/// Drops a slot that an old transaction keeps from moving, unless commits wait for this daemon: a new slot waits for the transactions that
/// are running, and those would be waiting for the slot.
pub async fn give_up(
    config: &Config,
    control: &Control,
    memory: &mut Memory,
    excess: Excess,
) -> Result<(), SessionError> {
    // One that was being created is gone with the process that created it.
    if control.slot(&config.slot).await?.is_none_or(|slot| slot.active.is_some()) {
        return Ok(());
    }
    let transactions = list(&old_transactions(control).await?);
    if is_strict(config, control).await? {
        error!(
            slot = config.slot, %excess, transactions,
            "the WAL budget is exceeded, and not because of Redis: end the transaction \
             (the slot cannot be replaced while synchronous_standby_names makes commits wait for this daemon)"
        );
        return Ok(());
    }
    memory.epoch_needed = Some(format!("{excess}; the slot was dropped"));
    control.drop_slot(&config.slot).await?;
    warn!(
        slot = config.slot, %excess, transactions,
        "the WAL budget is exceeded, and not because of Redis: the slot was dropped; \
         a new one can begin when these transactions have ended, until then the cache answers bypass"
    );
    memory.moved = Some(json!({ "reason": excess.to_string(), "to": "dropped" }));
    tell(control, memory).await;
    Ok(())
}

/// Do commits wait for this daemon?
async fn is_strict(config: &Config, control: &Control) -> Result<bool, ControlError> {
    Ok(budget::names(&control.synchronous_standby_names().await?, &config.application_name))
}

/// What happened is told to `status()` now: a report comes only with the next session.
async fn tell(control: &Control, memory: &Memory) {
    if let Some(moved) = &memory.moved
        && let Err(error) = control.add_to_report(&json!({ "slot_moved": moved })).await
    {
        warn!(%error, "the report could not be stored");
    }
}

async fn old_transactions(control: &Control) -> Result<Vec<crate::control::Transaction>, ControlError> {
    let mut transactions = control.oldest_transactions().await?;
    transactions.retain(|t| t.seconds.is_none_or(|seconds| seconds >= OLD));
    Ok(transactions)
}

/// Creates the slot when it is missing and replaces it when it cannot be used any more; tells whether it is new.
pub async fn see_to(
    config: &Config,
    control: &Control,
    source: &mut ReplicationConnection,
    memory: &mut Memory,
) -> Result<bool, SessionError> {
    let name = &config.slot;
    if let Some(slot) = control.slot(name).await? {
        refuse_stranger(config, control, &slot).await?;
        memory.confirmed = slot.confirmed;
        let reason = match (&slot.lost, &memory.slot_needed) {
            (None, None) => return Ok(false),
            (None, Some(failure)) => {
                let reason = format!("the stream does not get past where the slot stands: {failure}");
                if memory.standstill.remedy(is_strict(config, control).await?) == Remedy::Move {
                    warn!(slot = %name, reason, "moving the replication slot to the present");
                    memory.epoch_needed = Some(reason);
                    move_to_present(name, control, &slot).await?;
                    return Ok(false);
                }
                reason
            }
            (Some(lost), _) => lost.clone(),
        };
        warn!(slot = %name, reason, "replacing the replication slot");
        control.drop_slot(name).await?;
    }
    info!(slot = %name, "creating the replication slot; this waits for the transactions that are running");
    create(config, control, source, memory).await?;
    settle(config, control, memory).await?;
    Ok(true)
}

/// Creates the slot, and says what it waits for. The new slot keeps the log from the moment of its creation, so the budget holds already.
async fn create(
    config: &Config,
    control: &Control,
    source: &mut ReplicationConnection,
    memory: &Memory,
) -> Result<(), SessionError> {
    let began = Instant::now();
    let mut creation = std::pin::pin!(source.create_slot(&config.slot));
    loop {
        tokio::select! {
            biased;
            created = &mut creation => {
                created?;
                return Ok(());
            }
            () = sleep(CREATION_PATIENCE) => {}
        }
        // Its process lets nobody know that its client has given up.
        if let Some((excess, slot)) = still_waiting(config, control, memory, began).await?
            && let Some(walsender) = &slot.active
        {
            control.terminate(walsender).await?;
            return Err(SessionError::OverBudget(excess));
        }
    }
}

/// Has the stream of a new slot begin where decoding knows the catalog.
///
/// PostgreSQL takes no note of what commits while a slot's creation waits for the first transactions: of a table that was tracked meanwhile it
/// would send nothing, and of one that was emptied it could decode nothing. A change of the publication makes it read the catalog anew;
/// what began before that is waited for and left out, as the epoch that begins here needs none of it.
async fn settle(config: &Config, control: &Control, memory: &Memory) -> Result<(), SessionError> {
    control.republish().await?;
    let own = control.use_up_an_id().await?;
    let began = Instant::now();
    let mut told = began;
    // In strict mode they may be waiting for this daemon; they are streamed then, and the epoch's first watermark comes after them.
    while !is_strict(config, control).await? && !control.has_none_before(&own).await? {
        sleep(SETTLE_POLL).await;
        if told.elapsed() > CREATION_PATIENCE {
            told = Instant::now();
            if let Some((excess, _)) = still_waiting(config, control, memory, began).await? {
                control.drop_slot(&config.slot).await?;
                return Err(SessionError::OverBudget(excess));
            }
        }
    }
    let slot = control.slot(&config.slot).await?.ok_or_else(|| SessionError::SlotGone { slot: config.slot.clone() })?;
    move_to_present(&config.slot, control, &slot).await?;
    Ok(())
}

/// Says what a new slot waits for; when it holds back more than the budget, how much that is.
async fn still_waiting(
    config: &Config,
    control: &Control,
    memory: &Memory,
    began: Instant,
) -> Result<Option<(Excess, Slot)>, SessionError> {
    let transactions = control.oldest_transactions().await?;
    if is_strict(config, control).await? && transactions.iter().all(|t| t.waits_for_standby || t.state.is_none()) {
        error!(
            waited_s = began.elapsed().as_secs(),
            transactions = list(&transactions),
            "creating the slot waits for commits that wait for this very daemon: set synchronous_standby_names = '' \
             (ALTER SYSTEM, SELECT pg_reload_conf()), and set it again when the daemon streams"
        );
    } else {
        warn!(
            waited_s = began.elapsed().as_secs(),
            transactions = list(&transactions),
            "creating the slot waits for transactions that are running; until they end the cache answers bypass"
        );
    }
    let Some(slot) = control.slot(&config.slot).await? else { return Ok(None) };
    let kept = slot.restart.map_or(0, |restart| slot.current.0.saturating_sub(restart.0));
    let Some(limit) = memory.budget.limits().bytes.filter(|limit| kept > *limit) else { return Ok(None) };
    let excess = Excess::Held { retained: kept, limit };
    warn!(%excess, "creating the slot is given up for now");
    Ok(Some((excess, slot)))
}

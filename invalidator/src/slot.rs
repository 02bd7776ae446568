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

/// How often a slot that somebody else uses is looked at.
const FREE_POLL: Duration = Duration::from_millis(200);
/// The server process of a session that has ended goes by itself when it notices; after this it is ended.
const LEFT_BEHIND: Duration = Duration::from_millis(600);
/// A slot is moved in steps of this many bytes: each reads the log in between, and has to end before statement_timeout.
const STEP: u64 = 256 << 20;
/// Creating a slot waits for transactions; after this, and again after each of it, the log names them.
const CREATION_PATIENCE: Duration = Duration::from_secs(3);
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
    if budget::names(&control.synchronous_standby_names().await?, &config.application_name) {
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
        let reason = match slot.lost {
            None if !memory.slot_needed => return Ok(false),
            None => "decoding cannot get past where it stands".into(),
            Some(reason) => reason,
        };
        warn!(slot = %name, reason, "replacing the replication slot");
        control.drop_slot(name).await?;
    }
    info!(slot = %name, "creating the replication slot; this waits for the transactions that are running");
    create(config, control, source, memory).await?;
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
        let transactions = control.oldest_transactions().await?;
        let strict = budget::names(&control.synchronous_standby_names().await?, &config.application_name);
        if strict && transactions.iter().all(|t| t.waits_for_standby || t.state.is_none()) {
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
        // Seen in the slot that is being made: its process lets nobody know that its client has given up.
        let Some(slot) = control.slot(&config.slot).await? else { continue };
        let kept = slot.restart.map_or(0, |restart| slot.current.0.saturating_sub(restart.0));
        if let Some(limit) = memory.budget.limits().bytes
            && kept > limit
            && let Some(walsender) = &slot.active
        {
            let excess = Excess::Held { retained: kept, limit };
            warn!(%excess, "creating the slot is given up for now");
            control.terminate(walsender).await?;
            return Err(SessionError::OverBudget(excess));
        }
    }
}

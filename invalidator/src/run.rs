//! `cachetag run`: one session after the other, with back-off in between, until told to stop.

use std::future::Future;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tracing::{error, info, warn};

use crate::broken;
use crate::config::Config;
use crate::session::{self, Memory, SessionError};

const FIRST_BACK_OFF: Duration = Duration::from_millis(100);
/// Short enough that the system is back within seconds of a fault's end, also where a remedy takes several sessions.
const LONGEST_BACK_OFF: Duration = Duration::from_millis(500);
/// A session that lasted this long was healthy: the next failure starts with a short wait again.
const HEALTHY: Duration = Duration::from_secs(10);

/// Runs the daemon until `shutdown` is ready.
///
/// # Errors
/// Only before the first session has been opened, and only for what a person must change: wrong passwords, a server that is not set
/// up for logical decoding, a missing extension. Later, and for everything else, it tries again and says why in the log.
pub async fn run(config: &Config, shutdown: impl Future<Output = ()>) -> Result<(), SessionError> {
    let mut shutdown = std::pin::pin!(shutdown);
    let process = claimant();
    // Every session claims under a name of its own: what an earlier one has left in a socket is refused.
    let mut session = 0u64;
    let mut memory = Memory::new(config);
    let mut back_off = FIRST_BACK_OFF;
    let mut was_open = false;
    if !broken::NOTICE.is_empty() {
        let variant = std::env::var(broken::VARIABLE).unwrap_or_else(|_| "nothing".into());
        warn!(%variant, "this daemon is{}: {} takes a guard out", broken::NOTICE, broken::VARIABLE);
    }
    info!(version = env!("CARGO_PKG_VERSION"), process, slot = config.slot, namespace = config.namespace, "starting");
    loop {
        let began = Instant::now();
        session += 1;
        let claimant = format!("{process}:{session}");
        let opened = tokio::select! {
            biased;
            () = &mut shutdown => return Ok(()),
            opened = session::open(config, &claimant, &mut memory) => opened,
        };
        let failure = match opened {
            Ok(mut pipeline) => {
                was_open = true;
                let ended = pipeline.run(&mut shutdown).await;
                memory.budget = pipeline.into_budget();
                match ended {
                    Ok(()) => return Ok(()),
                    Err(failure) => failure,
                }
            }
            Err(failure) if failure.is_configuration() && !was_open => {
                error!(error = %failure, "cannot start");
                return Err(failure);
            }
            Err(failure) => failure,
        };
        if failure.needs_epoch() {
            memory.epoch_needed = Some(failure.to_string());
        }
        if began.elapsed() > HEALTHY {
            back_off = FIRST_BACK_OFF;
            memory.standstill.overcome();
        }
        let stands = failure.is_of_the_stream() && memory.confirmed.is_some_and(|at| memory.standstill.failed(at));
        if stands || failure.needs_new_slot() {
            memory.slot_needed = Some(failure.to_string());
        }
        if let SessionError::OverBudget(excess) = failure
            && excess.is_held()
        {
            memory.held = Some(excess);
        }
        warn!(error = %failure, again_in_ms = back_off.as_millis() as u64, "not streaming");
        tokio::select! {
            biased;
            () = &mut shutdown => return Ok(()),
            () = sleep(back_off) => {}
        }
        back_off = (back_off * 2).min(LONGEST_BACK_OFF);
    }
}

/// An id that no other daemon has: host, process, moment.
fn claimant() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    format!("{}:{}:{:x}", host.trim(), std::process::id(), since.as_nanos())
}

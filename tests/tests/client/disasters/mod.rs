//! The classic disasters of caching, on real servers and in real processes: what is counted is loads, connections and wrong values, not time.

mod cascade;
mod coalescing;
mod cold_start;
mod feed;
mod flapping;
mod gate;
mod memory;
mod poison;
mod process;
mod stampede;

use cachetag_client::Builder;
use cachetag_client::l2::Timeouts;

use crate::trial::{PATIENCE, Trial};

/// For tests that count loads: on a busy machine a timeout, or a late watermark, would be no fault of the cache, and a load more.
fn patient(trial: &Trial) -> Builder {
    let timeouts = Timeouts { connect: PATIENCE, response: PATIENCE };
    trial.builder().timeouts(timeouts).max_lag(PATIENCE).lease_wait(PATIENCE)
}

/// Is there a valid entry in Redis? Asks for it as people do: a caller who misses would get the lease.
async fn is_stored(trial: &Trial, key: &str) -> bool {
    trial.stack.explain(key).await["verdict"] == "hit"
}

//! What keeps a slow or dead layer from taking the application with it.
//!
//! Each part is small, knows nothing of the others, and takes the time as an argument where it can: [`Breaker`] leaves a broken layer
//! alone, [`Limiter`] bounds how many loaders run at once, [`with_timeout`] bounds how long a layer may take, [`Switches`] take parts out
//! at run time, and [`Backoff`] says how long to wait before the next try.

mod backoff;
mod breaker;
mod limiter;
mod switches;
mod timeout;

pub use backoff::Backoff;
pub use breaker::{Breaker, BreakerOptions, BreakerState, Permit};
pub use limiter::{LimitError, Limiter, LimiterOptions, Slot};
pub use switches::{Switches, sampled};
pub use timeout::{TimedOut, with_timeout};

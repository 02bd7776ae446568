//! How long an entry lives, and when it is made anew.
//!
//! Pure functions: the time and the randomness are arguments. Each says its formula.

mod jitter;
mod layers;
mod popularity;
mod refresh;
mod xfetch;

pub use jitter::jittered;
pub use layers::LayerTtl;
pub use popularity::{AccessRate, PopularityTtl};
pub use refresh::{RefreshPolicy, Verdict};
pub(crate) use xfetch::is_early;

//! How long an entry lives, when it is made anew, and how far it is trusted.
//!
//! Pure functions: the time and the randomness are arguments. Each says its formula.

mod confidence;
mod jitter;
mod layers;
mod popularity;
mod refresh;
mod xfetch;

pub use confidence::Confidence;
pub use jitter::jittered;
pub use layers::LayerTtl;
pub use popularity::{AccessRate, PopularityTtl};
pub use refresh::{RefreshPolicy, Verdict};
pub use xfetch::{early_probability, is_early};

//! The consistency rule as a model that is explored exhaustively: every order of every step of all parties, within bounds.
//!
//! Commits are written, become visible in any order, are applied in batches; readers miss, raise their token or not, take a snapshot, put;
//! Redis evicts, trims its log, is flushed, fails over to an older copy of itself; the daemon crashes and replays while the one before it may
//! wake up; the slot is lost; an in-process cache follows the log. Each guard of the rule can be taken out ([`crate::Variant`]): then there
//! must be a counterexample.
//!
//! What the model leaves out: time (a hit between a failover and the daemon's next call is bounded by `max_lag`, not by this), soft bumps,
//! families, expiry (an eviction, here), and how tags are computed.

mod bounds;
mod check;
mod daemon;
mod in_process;
mod reader;
mod redis;
mod variants;
mod version;
mod world;

pub use bounds::{Bounds, Fault};
pub use check::{Counterexample, Outcome, check};
pub use variants::bounds_of;
pub use world::{NO_EARLY_WATERMARK, NO_FALLING_VERSION, NO_FALSE_HIT, NO_FALSE_IN_PROCESS_HIT, World};

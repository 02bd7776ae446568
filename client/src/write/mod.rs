//! The write side: [write through](write_through()), where the writer waits until the cache has caught up, and [write behind](behind), where it does not
//! wait for the database at all.

// Without PostgreSQL there is the producing half.
#![cfg_attr(not(feature = "postgres"), allow(dead_code))]

pub mod behind;
mod link;
#[cfg(feature = "postgres")]
mod through;
mod watermark;

#[cfg(feature = "postgres")]
pub use through::{Committed, Doubt, Fate, WriteError, write_through};
pub use watermark::{CatchUp, Watermarks};

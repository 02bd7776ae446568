//! The read side of cachetag for Rust applications: an in-process layer, a Redis layer, one call.

#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod adaptive;
mod behind;
mod builder;
mod cache;
mod cached;
mod codec;
mod engine;
pub mod envelope;
mod error;
pub mod feed;
mod fetch;
mod fill;
mod flight;
#[cfg(test)]
mod interleave;
pub mod l1;
pub mod l2;
mod load;
mod loader;
mod many;
pub mod observe;
mod options;
#[cfg(feature = "postgres")]
pub mod postgres;
mod reader;
mod refresh;
pub mod resilience;
mod session;
mod shard;
mod target;
pub mod third;
pub mod warm;
pub mod write;

pub use builder::Builder;
pub use cache::Cache;
pub use cached::{Cached, Metadata, Source};
pub use cachetag_core as core;
pub use error::Error;
pub use load::{IntoTag, Load};
pub use loader::{LoaderError, LoaderFuture, Value};
pub use options::{AtLeast, PositionError, ReadOptions};
pub use reader::Reader;
pub use session::Session;

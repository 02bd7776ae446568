//! The read side of cachetag for Rust applications: an in-process layer, a Redis layer, one call.

#![forbid(unsafe_code)]
#![cfg_attr(test, allow(clippy::unwrap_used))]

pub mod adaptive;
pub mod envelope;
pub mod feed;
pub mod l1;
pub mod l2;
pub mod observe;
#[cfg(feature = "postgres")]
pub mod postgres;
pub mod resilience;
pub mod write;

//! daemon
pub mod dev;

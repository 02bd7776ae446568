//! daemon

pub mod mapping;

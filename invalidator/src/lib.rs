//! daemon

pub mod source;

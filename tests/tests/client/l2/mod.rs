//! The client's Redis layer on real servers, with a daemon played by the test.
#![allow(clippy::unwrap_used)]

mod calls;
mod outages;
mod server;
mod speed;
mod verdicts;

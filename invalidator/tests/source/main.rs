//! The source against real PostgreSQL servers: authentication, TLS, slots, streams, and what is said when something is wrong.
#![allow(clippy::unwrap_used, missing_docs, reason = "a test may fail")]

mod authentication;
mod network;
mod refusals;
mod server;
mod slots;
mod stream;
mod streaming;
mod tls;

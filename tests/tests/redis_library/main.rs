//! `redis/cachetag.lua` on real servers: every test starts its own, and `CACHETAG_REDIS_SERVER` selects the binary (redis-server or
//! valkey-server).
#![allow(clippy::unwrap_used)]

mod arguments;
mod cache;
mod chance;
mod daemon;
mod explaining;
mod filling;
mod fuzzing;
mod model;
mod outside;
mod reading;
mod server;

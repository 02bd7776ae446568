//! The program `cachetag`: what its commands do, say and end with, on real servers.

mod audit;
mod bad_input;
mod dev;
mod large_transactions;
mod role;
mod status;
mod strict_mode;
mod wal_budget;

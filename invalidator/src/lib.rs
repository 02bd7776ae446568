//! The cachetag daemon: what PostgreSQL commits becomes version bumps in Redis.
//!
//! The way of a commit: [`source`] (replication connection, pgoutput) → [`mapping`] (rules, dependency graph) → [`batch`] → [`sink`]
//! (Redis) → [`watermark`] and acknowledgement, driven by [`pipeline`]; [`session`] opens it, [`run`] keeps it open.

pub mod audit;
pub mod batch;
pub mod broken;
pub mod budget;
pub mod config;
pub mod continuity;
pub mod control;
pub mod dev;
pub mod mapping;
pub mod pipeline;
pub mod report;
mod rows;
pub mod run;
pub mod session;
pub mod sink;
pub mod slot;
pub mod source;
pub mod standstill;
pub mod status;
pub mod watermark;

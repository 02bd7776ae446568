//! Where changes come from: PostgreSQL's logical replication, from the socket to parsed `pgoutput` messages.
//!
//! [`ConnectOptions`] → [`ReplicationConnection`] → [`Frame`]s ([`wire`]) → [`pgoutput`] messages; [`sql`] opens the ordinary
//! connection to the same server.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test may fail"))]

mod auth;
mod commands;
mod connection;
pub(crate) mod dsn;
mod error;
mod frames;
mod options;
pub mod pgoutput;
mod pgpass;
mod server_error;
pub mod sql;
mod startup;
mod stream;
mod time;
mod tls;
pub mod wire;

pub use cachetag_core::Lsn;
pub use commands::{StartOptions, SystemIdentity};
pub use connection::ReplicationConnection;
pub use error::SourceError;
pub use options::{ConnectOptions, TlsMode};
pub use server_error::ServerError;
pub use time::PgTime;
pub use wire::{Frame, Keepalive, XLogData};

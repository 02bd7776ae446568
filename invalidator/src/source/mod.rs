//! Where changes come from: PostgreSQL's logical replication, from the socket to parsed `pgoutput` messages.

mod auth;
mod connection;
mod error;
mod options;
pub mod pgoutput;
pub mod sql;
mod stream;
mod time;
mod tls;
pub mod wire;

pub use cachetag_core::Lsn;
pub use connection::{ReplicationConnection, StartOptions, SystemIdentity};
pub use error::SourceError;
pub use options::ConnectOptions;
pub use time::PgTime;
pub use wire::{Frame, Keepalive, XLogData};

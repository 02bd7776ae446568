//! Where changes come from: PostgreSQL's logical replication, from the socket to parsed `pgoutput` messages.

mod lsn;
pub mod pgoutput;
mod time;

pub use lsn::Lsn;
pub use time::PgTime;

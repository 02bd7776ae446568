//! Mapping.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod bumps;
mod graph;
mod operation;
mod relation;
mod row;
mod scope;
mod text;
pub use bumps::TransactionBumps;
pub use graph::Dependency;
pub use operation::{Operations, OperationsError};
pub use relation::{Column, Relation, ReplicaIdentity};
pub use row::{OldRow, Row, Value};

//! From changed rows to changed tags.
//!
//! Data flows one way: a [`Row`] of a [`Relation`] meets the rules of its table (`rules`), the tags that it renders are
//! gathered (`bumps`), the dependency graph adds what follows from them (`graph`), and the transaction leaves as
//! [`TransactionBumps`]. The catalog itself arrives in the same stream (`metadata`, `catalog`) and counts from the place
//! where it changes. Nothing here does I/O, and nothing allocates for a tag that the transaction has already.
//!
//! Whenever a precise tag cannot be computed, a coarser one is bumped, never none.

#![cfg_attr(test, allow(clippy::unwrap_used))]

mod bumps;
mod catalog;
mod graph;
mod mapper;
mod metadata;
mod operation;
mod relation;
mod row;
mod rules;
mod scope;
mod streamed;
mod target;
#[cfg(test)]
mod tests;
mod text;

pub use bumps::TransactionBumps;
pub use mapper::{Limits, Mapper, MappingError, Outcome};
pub use metadata::{Metadata, MetadataError, MetadataTable};
pub use relation::{Column, Relation, ReplicaIdentity};
pub use row::{OldRow, Row, Value};
pub use rules::Widened;

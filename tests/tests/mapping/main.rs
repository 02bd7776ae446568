//! From a change in PostgreSQL to exactly the tags that it touches.

mod bumps;
mod catalog;
mod columns;
mod partitions;
mod rows;
mod schema_changes;
mod streamed;
mod transactions;
mod types;
mod writers;

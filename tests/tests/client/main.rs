//! The Rust client on real servers: rows are changed by plain SQL, and what the cache serves is compared with what the database says.

mod consistency;
mod disasters;
mod examples;
mod feed;
mod l2;
mod layers;
mod loading;
mod postgres;
mod refresh;
mod sentinel;
mod shards;
mod shelf;
mod trial;
mod warming;
mod write;

//! The Rust client on real servers: rows are changed by plain SQL, and what the cache serves is compared with what the database says.

mod consistency;
mod examples;
mod layers;
mod loading;
mod refresh;
#[expect(dead_code, reason = "some of it is for the disasters")]
mod shelf;
mod trial;
mod warming;

//! Harness of the end-to-end tests: a PostgreSQL, a Redis and the daemon of their own for every test, up in less than a second, gone with it.
//!
//! ```no_run
//! # #[tokio::main(flavor = "current_thread")] async fn main() {
//! use cachetag_tests::{Stack, StackOptions};
//!
//! let stack = Stack::start(StackOptions::new().schema(
//!     "CREATE TABLE products (id int PRIMARY KEY, price int); SELECT cachetag.track('products', 'product:{id}')",
//! )).await;
//! stack.fill("p1", "10", &["product:1"]).await;
//! let commit = stack.commit("UPDATE products SET price = 11 WHERE id = 1").await;
//! stack.wait_caught_up(commit).await;
//! assert!(stack.get("p1").await.is_miss());
//! # }
//! ```
//!
//! The harness panics where something cannot be set up: in a test that is the message one wants. Servers come from the same code as `cachetag dev`
//! ([`cachetag_invalidator::dev`]), and end with the test's process whatever ends it.
//!
//! | variable | meaning |
//! | --- | --- |
//! | `CACHETAG_BIN` | the `cachetag` program; by default the one built beside the test |
//! | `CACHETAG_PG_BIN` | folder of the PostgreSQL programs |
//! | `CACHETAG_REDIS_SERVER` | the Redis or Valkey server |

pub mod bench;
pub mod broken;
mod cache;
pub mod capture;
pub mod checker;
mod daemon;
pub mod fault;
pub mod fuzz;
mod load;
mod log;
pub mod memory;
pub mod model;
mod random;
pub mod regression;
mod stack;
pub mod stampede;
mod template;
mod variant;
mod wait;

pub use cache::{Cache, Explain, Get, GetOptions, Put, PutOptions, State};
pub use cachetag_invalidator::dev::{Folder, Installation, Postgres, Redis, User};
pub use daemon::{Daemon, DaemonOptions, program};
pub use load::Load;
pub use random::Random;
pub use stack::{DATABASE, Stack, StackOptions};
pub use variant::Variant;
pub use wait::{Lsn, eventually, lsn, lsn_of_version};

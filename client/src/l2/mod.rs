//! The Redis layer: the library's protocol, typed.
//!
//! A [`Shard`] is one Redis (or Valkey) and one namespace in it, fed by a daemon. It is a handle: clone it freely, all clones share one
//! connection, which comes back by itself. Every call is one round trip and may be dropped at any point.
//!
//! All keys of a namespace share the hash tag `{namespace}`, so in a cluster a shard is **one slot**: point the URL at the node that holds
//! it. `MOVED` is not followed; it is an error that says so ([`Error::is_moved`]). To use more nodes, use more shards.
//!
//! There are two ways to read:
//!
//! - [`Shard::get`] and [`Shard::get_many`] call `cachetag_get`: the verdict is given inside Redis, with token and lease.
//! - [`Shard::entries`] reads entries as they are, by plain commands at several times the rate, for a caller that judges them itself by a
//!   feed of the log. [`Shard::fast_many`] judges those that such a caller cannot, by [`judge`], the library's verdict as a pure function.
//!
//! ```no_run
//! use std::time::Duration;
//! use cachetag_client::l2::{Error, GetOptions, Put, Shard, State, Timeouts};
//! use cachetag_core::Tag;
//!
//! # async fn run() -> Result<(), Error> {
//! let shard = Shard::connect("redis://127.0.0.1/", "ct", Timeouts::default()).await?;
//! let got = shard.get("page:42", &GetOptions::default()).await?;
//! if got.state == State::Miss && let Some(token) = got.token {
//!     let page = "rendered after the token was given";
//!     let mut put = Put::new(page, token, Duration::from_secs(600));
//!     put.tags = [Tag::new("product", &["42"]).expect("a tag")].into();
//!     put.lease = got.lease;
//!     println!("{:?}", shard.put("page:42", &put).await?);
//! }
//! # Ok(())
//! # }
//! ```

mod asked;
mod connection;
mod entry;
mod error;
mod explain;
mod fast;
mod get;
mod hot;
mod lease;
mod put;
mod reply;
mod shard;
mod state;
mod verdict;

pub(crate) use entry::Keys;
pub use entry::{Check, Kind, RawEntry};
pub use error::Error;
pub use explain::{Explain, ExplainedTag};
pub use fast::{Fast, Reading, TagReading};
pub use get::{GetOptions, Got, State};
pub use lease::{Lease, LeaseGuard};
pub use put::{Put, Reason, Stored};
pub use shard::{Shard, Timeouts};
pub use state::{ShardState, TagValue};
pub(crate) use verdict::judge_unmoved;
pub use verdict::{BypassCause, MissCause, StaleCause, Terms, Verdict, judge};

//! Hits, misses by reason, latencies, hot keys: what a cache does, in numbers.
//!
//! An [`Observer`] is told by the cache, one [`Access`] at a time, and read as a [`Snapshot`], which can also be [published](Snapshot::publish)
//! through the `metrics` facade. Memory is bounded, however many keys there are: numbers are kept by layer and key prefix, of which the first so many
//! are told apart; single keys only in a sketch of the hottest and in the last few miss paths.
//!
//! A hit of the first layer is counted by two relaxed additions to a counter that few threads share; only one access in so many is also timed and
//! shown to the sketch.

mod access;
mod counters;
mod event;
mod histogram;
mod layer;
mod observer;
mod path;
mod prefixes;
mod publish;
mod reason;
mod snapshot;
mod topk;

pub use access::Access;
pub use event::{Event, Eviction};
pub use histogram::{Histogram, Latency};
pub use layer::Layer;
pub use observer::{Observer, ObserverOptions};
pub use path::{Answer, MissPath, Step};
pub use prefixes::prefix_of;
pub use publish::describe;
pub use reason::MissReason;
pub use snapshot::{HotKey, LayerNumbers, Numbers, PrefixNumbers, Snapshot};
pub use topk::{Counted, SpaceSaving};

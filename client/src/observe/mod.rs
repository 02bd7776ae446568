//! Hits, misses by reason, latencies, hot keys.

mod layer;

pub use layer::Layer;

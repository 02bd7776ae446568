//! Hits, misses by reason, latencies, hot keys.

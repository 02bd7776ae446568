//! The log of a shard, followed by one connection: what makes hits of the in-process layer provable.

//! Every fault under load: no hit is ever wrong, and afterwards the system is back by itself.

mod daemon;
mod failover;
mod memory;
mod network;
mod postgres;
mod redis;
mod trial;

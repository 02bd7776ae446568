//! The consistency rule, number by number, on real servers with a real daemon.

mod daemon;
mod epoch;
mod fill;
mod freshness;
mod metadata;
mod strict;
mod visibility;

//! The cachetag PostgreSQL extension: which cache tags a table, a row or a query stands for.
//!
//! What needs the server's internals or the grammar of `cachetag-core` is here, a concern a module; everything else is SQL, in `sql/`, which also
//! declares the functions of this library.

// ErrorReport is what pgrx takes at the boundary, large as it is; it is made once, when a call fails.
#![allow(clippy::result_large_err)]

mod agg;
mod broken;
mod capture;
mod catalog;
mod column;
mod commands;
mod error;
mod floor;
mod graph;
mod key;
mod message;
mod position;
mod predicate;
mod render;
mod rules;
mod settings;
mod snapshot;
mod tags;
mod template;
mod token;

use pgrx::prelude::*;

pgrx::pg_module_magic!(name, version);

/// Called when a process loads the library: the server at its start, if it is preloaded, or a session with the first call.
#[pg_guard]
pub extern "C-unwind" fn _PG_init() {
    settings::init();
    #[cfg(feature = "broken")]
    broken::init();
    floor::init();
    capture::init();
}

//! The cachetag PostgreSQL extension: which cache tags a table, a row or a query stands for.
//!
//! SQL lives in `sql/`; what is here are the functions that it declares with `LANGUAGE c`. Tags, templates and versions are
//! `cachetag_core`'s, so that a query and the daemon compute the same bytes.

mod agg;
mod error;
mod keys;
mod render;
mod rules;
mod tags;
mod token;

pgrx::pg_module_magic!(name, version);

//! The cachetag PostgreSQL extension.
pgrx::pg_module_magic!(name, version);

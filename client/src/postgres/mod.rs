//! Helpers around tokio-postgres and deadpool.

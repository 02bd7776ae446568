//! The table that all benchmarks change.

use crate::StackOptions;

/// Rows of `products`.
pub(super) const PRODUCTS: u32 = 100_000;
/// Distinct values of `category_id`.
pub(super) const CATEGORIES: u32 = 500;

/// Servers large enough that neither checkpoints nor vacuum nor buffers are what is measured, and the tracked table.
pub(super) fn stack() -> StackOptions {
    let settings = [
        ("shared_buffers", "256MB"),
        ("max_wal_size", "32GB"),
        ("checkpoint_timeout", "1h"),
        ("autovacuum", "off"),
        ("max_replication_slots", "40"),
        ("max_wal_senders", "20"),
    ];
    let stack = StackOptions::new().schema(format!(
        "CREATE TABLE products (id int PRIMARY KEY, category_id int NOT NULL, name text NOT NULL, price int NOT NULL)
             WITH (fillfactor = 50);
         INSERT INTO products SELECT i, i % {CATEGORIES}, 'A product with a name ' || i, 0 FROM generate_series(1, {PRODUCTS}) i;
         SELECT cachetag.track('products', ARRAY['product:{{id}}', 'category:{{category_id}}'], identity => 'full')"
    ));
    settings.into_iter().fold(stack, |stack, (name, value)| stack.setting(name, value))
}

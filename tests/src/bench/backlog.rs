//! Changes that wait for whoever drains them, and the slots that each drain begins at.

use std::time::{Duration, Instant};

use super::shop::PRODUCTS;
use crate::{Lsn, Stack};

/// Connections that prepare single-row transactions side by side.
const WRITERS: u32 = 8;

/// A stretch of WAL between the slots' position and `end`.
pub(super) struct Backlog {
    /// Everything is in the WAL before here.
    pub(super) end: Lsn,
    /// The same as PostgreSQL writes it.
    pub(super) end_text: String,
    /// What it is, for the table.
    pub(super) name: String,
}

impl Backlog {
    /// Many transactions of one row each.
    pub(super) async fn of_transactions(stack: &Stack, transactions: u32) -> Backlog {
        let mut running = Vec::new();
        for writer in 0..WRITERS {
            let count = transactions / WRITERS + u32::from(writer < transactions % WRITERS);
            let sql = format!(
                "DO $$ DECLARE product int; BEGIN FOR i IN 1..{count} LOOP
                     product := 1 + floor(random() * {PRODUCTS});
                     UPDATE products SET price = price + 1 WHERE id = product; COMMIT;
                 END LOOP; END $$"
            );
            let client = stack.connect().await;
            running.push(tokio::spawn(async move {
                client.batch_execute("SET synchronous_commit = off").await.expect("a setting");
                client.batch_execute(&sql).await.expect("the backlog is written");
            }));
        }
        for writer in running {
            writer.await.expect("a writer");
        }
        Self::closed(stack, format!("{transactions} transactions of one row")).await
    }

    /// One transaction of many rows.
    pub(super) async fn of_rows(stack: &Stack, rows: u32) -> Backlog {
        let mut sql = String::from("BEGIN;");
        let (mut left, mut from) = (rows, 1);
        while left > 0 {
            let count = left.min(PRODUCTS);
            sql.push_str(&format!("UPDATE products SET price = price + 1 WHERE id BETWEEN {from} AND {count};"));
            (left, from) = (left - count, 1);
        }
        stack.sql(&format!("{sql} COMMIT")).await;
        Self::closed(stack, format!("one transaction of {rows} rows")).await
    }

    /// A commit that flushes what is before it, then the end, then a record behind it that tells either side that it has got there.
    async fn closed(stack: &Stack, name: String) -> Backlog {
        const MARKER: &str = "UPDATE products SET price = price + 1 WHERE id = 1";
        let end = stack.commit(MARKER).await;
        let end_text = format!("{:X}/{:X}", end >> 32, end & 0xffff_ffff);
        stack.sql(MARKER).await;
        Backlog { end, end_text, name }
    }
}

/// Copies of the daemon's slot at its position, for one drain each.
pub(super) async fn copy_slots(stack: &Stack, names: &[String]) {
    for name in names {
        stack.sql(&format!("SELECT pg_copy_logical_replication_slot('cachetag', '{name}')")).await;
    }
}

/// Drops a slot as soon as its user has let go, so that its WAL can go too.
pub(super) async fn drop_slot(stack: &Stack, name: &str) {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let sql = format!(
            "SELECT pg_drop_replication_slot('{name}') FROM pg_replication_slots WHERE slot_name = '{name}' AND NOT active"
        );
        if !stack.rows(&sql).await.is_empty() {
            return;
        }
        assert!(Instant::now() < deadline, "slot {name} stays in use");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

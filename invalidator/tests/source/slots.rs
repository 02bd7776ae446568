//! The life of a slot, and how it can end.

use cachetag_invalidator::source::StartOptions;
use tokio::time::{Duration, timeout};

use crate::server::{private, shared};

#[tokio::test]
async fn created_used_and_dropped() {
    let server = shared().await;
    let client = server.database("slots", "CREATE PUBLICATION cachetag").await;
    let mut connection = server.replication("slots").await;
    let name = "slots_odd_name_0";

    let error = connection.start_replication(&StartOptions::new(name)).await.unwrap_err();
    assert!(error.is_slot_missing() && !error.is_configuration() && !error.is_transient(), "{error:?}");
    let error = connection.drop_slot(name).await.unwrap_err();
    assert!(error.is_slot_missing(), "{error:?}");

    let point = connection.create_slot(name).await.unwrap();
    let row = client
        .query_one("SELECT plugin::text, database::text, confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = $1", &[&name])
        .await
        .unwrap();
    assert_eq!([row.get::<_, &str>(0), row.get(1), row.get(2)], ["pgoutput", "slots", point.to_string().as_str()]);
    let error = connection.create_slot(name).await.unwrap_err();
    assert!(error.is_slot_duplicate(), "{error:?}");
    // After three errors, the connection still answers to what it is asked.
    assert!(connection.identify_system().await.unwrap().position >= point);

    connection.start_replication(&StartOptions::new(name)).await.unwrap();
    assert!(connection.identify_system().await.unwrap_err().is_transient(), "a stream takes no commands");
    let mut second = server.replication("slots").await;
    let error = second.start_replication(&StartOptions::new(name)).await.unwrap_err();
    assert!(error.is_slot_active() && error.is_transient() && !error.is_configuration(), "{error:?}");
    assert!(error.to_string().contains("another daemon"), "{error}");

    // A polite end frees the slot at once.
    connection.finish().await.unwrap();
    second.start_replication(&StartOptions::new(name)).await.unwrap();
    // WAIT: dropped as soon as its user is gone.
    let mut third = server.replication("slots").await;
    let dropping = third.drop_slot(name);
    tokio::pin!(dropping);
    assert!(timeout(Duration::from_millis(200), &mut dropping).await.is_err());
    drop(second);
    timeout(Duration::from_secs(20), dropping).await.unwrap().unwrap();
}

#[tokio::test]
async fn names_are_quoted() {
    let server = shared().await;
    server.database("Odd \"name\"", "CREATE PUBLICATION \"o'd\"\"d p\"").await;
    let mut connection = server.replication("Odd \"name\"").await;
    let error = connection.create_slot("Bad Slot").await.unwrap_err();
    assert_eq!(error.server_error().unwrap().code, "42602", "the server saw the whole name: {error}");
    connection.create_slot("odd_slot").await.unwrap();
    let options = StartOptions::new("odd_slot").publication("o'd\"d p");
    connection.start_replication(&options).await.unwrap();
    connection.finish().await.unwrap();
    server.replication("Odd \"name\"").await.drop_slot("odd_slot").await.unwrap();
}

/// The budget for WAL is spent while nobody reads: the slot is there and useless.
#[tokio::test]
async fn lost() {
    let server = private(|builder| {
        builder.setting("max_slot_wal_keep_size", "1MB").setting("min_wal_size", "32MB").setting("max_wal_size", "32MB")
    })
    .await;
    let client = server.client("postgres").await;
    client.batch_execute("CREATE TABLE t (x text); CREATE PUBLICATION cachetag FOR TABLE t").await.unwrap();
    let mut connection = server.replication("postgres").await;
    connection.create_slot("lost").await.unwrap();
    for _ in 0..3 {
        client.batch_execute("INSERT INTO t SELECT repeat('x', 1000) FROM generate_series(1, 1000)").await.unwrap();
        client.batch_execute("SELECT pg_switch_wal(); CHECKPOINT").await.unwrap();
    }
    let status = client.query_one("SELECT wal_status FROM pg_replication_slots", &[]).await.unwrap();
    assert_eq!(status.get::<_, &str>(0), "lost");
    let error = connection.start_replication(&StartOptions::new("lost")).await.unwrap_err();
    assert!(error.is_slot_lost() && !error.is_slot_missing() && !error.is_configuration(), "{error:?}");
    assert!(error.to_string().contains("max_slot_wal_keep_size"), "{error}");
    connection.drop_slot("lost").await.unwrap();
}

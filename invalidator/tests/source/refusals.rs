//! Servers that cannot serve, and what a person is told.

use std::time::Duration;

use cachetag_invalidator::source::StartOptions;

use crate::server::{private, refused};

#[tokio::test]
async fn wal_level_replica() {
    let server = private(|builder| builder.setting("wal_level", "replica")).await;
    let mut connection = server.replication("postgres").await;
    let error = connection.create_slot("s").await.unwrap_err();
    assert!(error.is_configuration() && !error.is_transient(), "{error:?}");
    assert!(error.to_string().contains("set wal_level = logical"), "{error}");
}

#[tokio::test]
async fn no_free_slot_and_no_free_sender() {
    let server = private(|builder| builder.setting("max_replication_slots", "1").setting("max_wal_senders", "2")).await;
    let mut connection = server.replication("postgres").await;
    connection.create_slot("first").await.unwrap();
    let error = connection.create_slot("second").await.unwrap_err();
    assert!(error.is_configuration() && !error.is_transient(), "{error:?}");
    assert!(error.to_string().contains("pg_replication_slots"), "{error}");

    let second = server.replication("postgres").await;
    let error = refused(&server.local("postgres")).await;
    assert!(error.is_configuration() && error.is_transient(), "{error:?}");
    assert!(error.to_string().contains("raise max_wal_senders"), "{error}");
    drop(second);
}

/// PostgreSQL 15 does not decode on a standby; later ones do, if the primary's wal_level allows it.
#[tokio::test]
async fn a_standby() {
    let mut server = private(|builder| builder).await;
    server.postgres.stop().await;
    std::fs::write(server.postgres.data().join("standby.signal"), "").unwrap();
    server.postgres.start_again().await.unwrap();
    let mut connection = server.replication("postgres").await;
    assert_eq!(connection.query("SELECT pg_is_in_recovery()").await.unwrap(), [[Some("t".to_owned())]]);
    if server.postgres.installation().major().as_deref() == Some("15") {
        let error = connection.create_slot("s").await.unwrap_err();
        assert!(error.is_configuration() && !error.is_transient(), "{error:?}");
        assert!(error.to_string().contains("connect to the primary"), "{error}");
    }
}

/// Where the publication did not exist, the WAL cannot be decoded, now or ever.
#[tokio::test]
async fn a_publication_that_came_and_went() {
    let server = crate::server::shared().await;
    let client = server.database("publications", "CREATE TABLE t (id int)").await;
    let mut connection = server.replication("publications").await;
    connection.create_slot("publications").await.unwrap();
    client.batch_execute("INSERT INTO t VALUES (1)").await.unwrap();
    client.batch_execute("CREATE PUBLICATION cachetag FOR TABLE t").await.unwrap();
    for _ in 0..2 {
        let mut connection = server.replication("publications").await;
        // The server reports an error first and lets go of the slot then.
        while let Err(error) = connection.start_replication(&StartOptions::new("publications")).await {
            assert!(error.is_slot_active(), "{error:?}");
        }
        let error = tokio::time::timeout(Duration::from_secs(20), async {
            loop {
                if let Err(error) = connection.recv().await {
                    return error;
                }
            }
        });
        let error = error.await.unwrap();
        assert!(error.is_publication_missing() && !error.is_slot_missing() && !error.is_transient(), "{error:?}");
        assert!(error.to_string().contains("replace the slot"), "{error}");
    }
    // WAIT, for the same reason.
    connection.drop_slot("publications").await.unwrap();
}

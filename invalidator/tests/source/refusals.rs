//! Servers that cannot serve, and what a person is told.

use std::process::Command;
use std::time::Duration;

use cachetag_invalidator::dev::{Postgres, Process, User};
use cachetag_invalidator::source::{ConnectOptions, StartOptions};

use crate::server::{PASSWORD_IN_URL, private, refused};

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
    let server = private(|builder| builder).await;
    let copy = server.file("standby");
    let mut command = Command::new(server.postgres.installation().program("pg_basebackup"));
    command.args(["--write-recovery-conf", "--checkpoint=fast", "--pgdata"]).arg(&copy);
    command.args(["--dbname", &format!("{}&", server.postgres.url("postgres")).replace('&', "")]);
    let user = User::for_servers().unwrap();
    let log = server.folder.path().join("pg_basebackup.log");
    Process::spawn("pg_basebackup", command, &log, user.as_ref(), libc::SIGKILL).unwrap().success().await.unwrap();
    // The primary's password is asked for here too: this is its copy.
    let url = format!("postgres://postgres:{PASSWORD_IN_URL}@localhost");
    let standby = Postgres::builder(&copy).password(crate::server::PASSWORD).start().await.unwrap();
    let options = ConnectOptions::parse(&format!("{url}:{}/postgres", standby.port())).unwrap();
    let mut connection = cachetag_invalidator::source::ReplicationConnection::connect(&options).await.unwrap();
    assert_eq!(connection.query("SELECT pg_is_in_recovery()").await.unwrap(), [[Some("t".to_owned())]]);
    if standby.installation().major().as_deref() == Some("15") {
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
        connection.start_replication(&StartOptions::new("publications")).await.unwrap();
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
    connection.drop_slot("publications").await.unwrap();
}

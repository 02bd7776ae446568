//! Nobody there, somebody else there, and a server that goes away.

use std::time::Duration;

use cachetag_invalidator::source::{ConnectOptions, SourceError, StartOptions, sql};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

use crate::server::{private, refused, shared};

fn local(port: u16, more: &str) -> ConnectOptions {
    ConnectOptions::parse(&format!("postgres://u@127.0.0.1:{port}/d?{more}")).unwrap()
}

#[tokio::test]
async fn nobody_there() {
    let port = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap().port()
    };
    let options = local(port, "");
    for error in [refused(&options).await, sql::connect(&options).await.unwrap_err()] {
        assert!(error.is_transient() && !error.is_configuration(), "{error:?}");
        assert!(error.to_string().contains(&format!("127.0.0.1:{port}")), "{error}");
    }
    let nowhere = ConnectOptions::parse("host=/nowhere user=u").unwrap();
    assert!(refused(&nowhere).await.to_string().contains("/nowhere/.s.PGSQL.5432"));
}

/// Something that is no PostgreSQL: it says `answer` and nothing else.
async fn impostor(answer: &'static [u8]) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let mut guests = Vec::new();
        while let Ok((mut guest, _)) = listener.accept().await {
            guest.write_all(answer).await.unwrap();
            guests.push(guest);
        }
    });
    port
}

#[tokio::test]
async fn somebody_else_there() {
    for answer in [
        b"HTTP/1.1 400 Bad Request\r\n\r\n".as_slice(),
        b"SSH-2.0-OpenSSH_9.2",
        b"\0\0\0\0\0\0\0",
        b"R\0\0\0\x08\0\0\0\x0B",
    ] {
        let port = impostor(answer).await;
        let error = refused(&local(port, "sslmode=disable")).await;
        assert!(!error.is_transient(), "{error:?}");
    }
    let error = refused(&local(impostor(b"HTTP/1.1 400").await, "sslmode=prefer")).await;
    assert!(matches!(error, SourceError::Protocol { .. }), "{error:?}");
    // Agrees to TLS and then talks plainly.
    let error = refused(&local(impostor(b"SR\0\0\0\x08\0\0\0\0").await, "sslmode=prefer")).await;
    assert!(matches!(error, SourceError::Tls(_)), "{error:?}");
}

#[tokio::test]
async fn somebody_silent_there() {
    for mode in ["disable", "require"] {
        let options = local(impostor(b"").await, &format!("sslmode={mode}&connect_timeout=1"));
        for error in [refused(&options).await, sql::connect(&options).await.unwrap_err()] {
            assert!(matches!(error, SourceError::Timeout { .. }) && error.is_transient(), "{error:?}");
        }
    }
}

/// A message that announces more than it may before anybody has proved anything.
#[tokio::test]
async fn somebody_boastful_there() {
    let error = refused(&local(impostor(b"E\x3F\xFF\xFF\xFFSERROR").await, "sslmode=disable")).await;
    assert!(matches!(error, SourceError::Protocol { .. }), "{error:?}");
}

#[tokio::test]
async fn a_backend_that_is_terminated() {
    let server = shared().await;
    let client = server.database("terminated", "CREATE PUBLICATION cachetag").await;
    let mut connection = server.replication("terminated").await;
    connection.create_slot("terminated").await.unwrap();
    let pid = connection.query("SELECT pg_backend_pid()").await.unwrap()[0][0].clone().unwrap();
    connection.start_replication(&StartOptions::new("terminated")).await.unwrap();
    client.execute(&format!("SELECT pg_terminate_backend({pid})"), &[]).await.unwrap();
    let error = loop {
        if let Err(error) = connection.recv().await {
            break error;
        }
    };
    assert_eq!(error.server_error().unwrap().code, "57P01");
    assert!(error.is_transient() && !error.is_configuration());
    server.replication("terminated").await.drop_slot("terminated").await.unwrap();
}

/// The server shuts down in order: it waits until what it sent is confirmed, and says good-bye.
#[tokio::test]
async fn a_server_that_shuts_down() {
    let mut server = private(|builder| builder).await;
    server.client("postgres").await.batch_execute("CREATE PUBLICATION cachetag").await.unwrap();
    let mut connection = server.replication("postgres").await;
    connection.create_slot("s").await.unwrap();
    connection.start_replication(&StartOptions::new("s")).await.unwrap();
    let stream = tokio::spawn(async move {
        loop {
            match connection.recv().await {
                Ok(cachetag_invalidator::source::Frame::Keepalive(keepalive)) => {
                    let lsn = keepalive.wal_end;
                    if let Err(error) = connection.send_status(lsn, lsn, lsn, false).await {
                        return error;
                    }
                }
                Ok(_) => {}
                Err(error) => return error,
            }
        }
    });
    assert!(server.postgres.stop().await.unwrap().success());
    let error = tokio::time::timeout(Duration::from_secs(20), stream).await.unwrap().unwrap();
    assert!(error.is_transient(), "{error:?}");
}

//! Who may come in, and what the session is like then.

use cachetag_core::RENDER_SETTINGS;
use cachetag_invalidator::source::{ConnectOptions, ReplicationConnection, SourceError, sql};

use crate::server::{PASSWORD, refused, shared};

#[tokio::test]
async fn scram_md5_and_cleartext() {
    let server = shared().await;
    for user in ["scramuser", "md5user", "clearuser"] {
        let options = server.tcp(user, "postgres");
        let mut connection = ReplicationConnection::connect(&options).await.unwrap();
        let rows = connection.query("SELECT current_user").await.unwrap();
        assert_eq!(rows, [[Some(user.to_owned())]]);
        let client = sql::connect(&options).await.unwrap();
        assert_eq!(client.query_one("SELECT current_user::text", &[]).await.unwrap().get::<_, &str>(0), user);
    }
}

#[tokio::test]
async fn a_password_in_name_value_form() {
    let server = shared().await;
    let password = PASSWORD.replace('\'', "\\'");
    let text = format!("host=127.0.0.1 port={} user=scramuser dbname=postgres password='{password}'", server.port());
    ReplicationConnection::connect(&ConnectOptions::parse(&text).unwrap()).await.unwrap();
}

#[tokio::test]
async fn a_wrong_password_and_none() {
    let server = shared().await;
    for user in ["scramuser", "md5user", "clearuser"] {
        for (password, word) in [(":wrong", "28P01"), ("", "PGPASSWORD")] {
            let url = format!("postgres://{user}{password}@localhost:{}/postgres", server.port());
            let options = ConnectOptions::parse(&url).unwrap();
            for error in [refused(&options).await, sql::connect(&options).await.unwrap_err()] {
                assert!(error.is_authentication() && error.is_configuration() && !error.is_transient(), "{error:?}");
                assert!(error.to_string().contains(word), "{error}");
            }
        }
    }
}

#[tokio::test]
async fn no_such_role_database_or_permission() {
    let server = shared().await;
    for (options, code, remedy) in [
        (server.tcp("nobody", "postgres"), "28P01", "check user and password"),
        (server.tcp("scramuser", "nowhere"), "3D000", "create the database"),
        (server.tcp("plainuser", "postgres"), "42501", "ALTER ROLE"),
    ] {
        let error = refused(&options).await;
        assert!(error.is_authentication(), "{error:?}");
        let text = error.to_string();
        assert!(text.contains(code) && text.contains(remedy), "{text}");
    }
}

#[tokio::test]
async fn a_socket_asks_for_nothing() {
    let server = shared().await;
    let mut connection = server.replication("postgres").await;
    let identity = connection.identify_system().await.unwrap();
    assert_eq!(identity.timeline, 1);
    assert!(identity.system_id.parse::<u64>().is_ok(), "{identity:?}");
    assert!(identity.position.0 > 0);
    assert_eq!(connection.parameter("server_encoding"), Some("UTF8"));
    let client = sql::connect(&server.local("postgres")).await.unwrap();
    let sent = client.query_one("SELECT pg_current_wal_flush_lsn()::text", &[]).await.unwrap();
    assert!(sent.get::<_, &str>(0).contains('/'));
}

/// What a role or a database is set to must not change how values are rendered, nor what a commit of ours waits for.
#[tokio::test]
async fn settings_are_ours() {
    let server = shared().await;
    let client = server
        .database(
            "settings",
            "ALTER DATABASE settings SET datestyle = 'German';
             ALTER DATABASE settings SET timezone = 'Asia/Tokyo';
             ALTER DATABASE settings SET extra_float_digits = -5;
             ALTER DATABASE settings SET bytea_output = 'escape';
             ALTER DATABASE settings SET intervalstyle = 'sql_standard';
             ALTER DATABASE settings SET statement_timeout = '1ms';
             ALTER DATABASE settings SET client_min_messages = 'error';
             ALTER DATABASE settings SET client_encoding = 'LATIN1';",
        )
        .await;
    drop(client);
    let options = server.local("settings").with_application_name("my cachetag");
    let mut connection = ReplicationConnection::connect(&options).await.unwrap();
    let client = sql::connect(&options).await.unwrap();
    for (name, value) in RENDER_SETTINGS {
        let query = format!("SELECT current_setting('{name}')");
        let seen = connection.query(&query).await.unwrap()[0][0].clone().unwrap();
        let seen_by_sql = client.query_one(&query, &[]).await.unwrap().get::<_, String>(0);
        for seen in [seen, seen_by_sql] {
            // The order of day and month, which datestyle holds too, is for input.
            let seen = seen.split(", ").next().unwrap();
            assert_eq!(seen, *value, "{name}");
        }
    }
    for (name, replication, sql) in [
        ("client_encoding", "UTF8", "UTF8"),
        ("application_name", "my cachetag", "my cachetag-sql"),
        ("statement_timeout", "0", "30s"),
        ("client_min_messages", "warning", "error"),
        ("synchronous_commit", "on", "local"),
    ] {
        let query = format!("SELECT current_setting('{name}')");
        assert_eq!(connection.query(&query).await.unwrap(), [[Some(replication.to_owned())]], "{name}");
        assert_eq!(client.query_one(&query, &[]).await.unwrap().get::<_, &str>(0), sql, "{name}");
    }
}

#[tokio::test]
async fn the_users_own_options_stay() {
    let server = shared().await;
    let options = server.tcp("scramuser", "postgres?options=-c%20work_mem%3D1234kB%20-c%20datestyle%3DGerman");
    let mut connection = ReplicationConnection::connect(&options).await.unwrap();
    let rows = connection.query("SELECT current_setting('work_mem'), current_setting('datestyle')").await.unwrap();
    let row: Vec<_> = rows[0].iter().map(|value| value.as_deref().unwrap()).collect();
    assert!(row[0] == "1234kB" && row[1].starts_with("ISO"), "{row:?}");
}

/// An error of a command leaves the connection usable, and its answer is not taken for the next one's.
#[tokio::test]
async fn a_failed_query_does_no_harm() {
    let server = shared().await;
    let mut connection = server.replication("postgres").await;
    let error = connection.query("SELECT 1; SELECT 1/0").await.unwrap_err();
    assert_eq!(error.server_error().unwrap().code, "22012");
    assert!(!error.is_transient() && !error.is_configuration());
    let rows = connection.query("SELECT 'x', NULL; SELECT 'ä'").await.unwrap();
    assert_eq!(rows, [vec![Some("x".to_owned()), None], vec![Some("ä".to_owned())]]);

    // Given up halfway: the answer of the first must not become the second's.
    let slow = connection.query("SELECT pg_sleep(60)");
    assert!(tokio::time::timeout(std::time::Duration::from_millis(50), slow).await.is_err());
    assert!(matches!(connection.query("SELECT 1").await, Err(SourceError::Busy)));
}

//! Every `sslmode` promises something; here is what is kept.

use cachetag_invalidator::source::{ConnectOptions, ReplicationConnection, SourceError, sql};

use crate::server::{PASSWORD_IN_URL, Server, authority, private, refused, self_signed, shared};

fn options(server: &Server, host: &str, parameters: &str) -> ConnectOptions {
    let port = server.port();
    ConnectOptions::parse(&format!("postgres://scramuser:{PASSWORD_IN_URL}@{host}:{port}/postgres?{parameters}"))
        .unwrap()
}

async fn is_encrypted(options: &ConnectOptions) -> bool {
    const QUERY: &str = "SELECT ssl::text FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
    let rows = ReplicationConnection::connect(options).await.unwrap().query(QUERY).await.unwrap();
    let replication = rows[0][0].as_deref() == Some("true");
    let client = sql::connect(options).await.unwrap();
    let sql = client.query_one(QUERY, &[]).await.unwrap().get::<_, &str>(0) == "true";
    assert_eq!(replication, sql, "both connections are made alike");
    sql
}

#[tokio::test]
async fn what_is_promised_is_kept() {
    let server = shared().await;
    let (ca, other) = (server.file("ca.crt"), server.file("other.crt"));
    let (ca, other) = (ca.display(), other.display());
    assert!(!is_encrypted(&options(&server, "localhost", "sslmode=disable")).await);
    assert!(is_encrypted(&options(&server, "localhost", "")).await, "prefer is the default");
    // Nobody's word is asked for.
    assert!(is_encrypted(&options(&server, "127.0.0.1", "sslmode=require")).await);
    // The authority's is.
    assert!(is_encrypted(&options(&server, "127.0.0.1", &format!("sslmode=verify-ca&sslrootcert={ca}"))).await);
    // And the name's.
    assert!(is_encrypted(&options(&server, "localhost", &format!("sslmode=verify-full&sslrootcert={ca}"))).await);
    let by_address = format!("hostaddr=127.0.0.1&sslmode=verify-full&sslrootcert={ca}");
    assert!(is_encrypted(&options(&server, "localhost", &by_address)).await);

    for (host, parameters, remedy) in [
        ("localhost", format!("sslmode=verify-ca&sslrootcert={other}"), "sslrootcert"),
        ("localhost", format!("sslmode=verify-full&sslrootcert={other}"), "sslrootcert"),
        // As libpq does: an authority that is named is asked.
        ("localhost", format!("sslmode=require&sslrootcert={other}"), "sslrootcert"),
        ("127.0.0.1", format!("sslmode=verify-full&sslrootcert={ca}"), "subjectAltName"),
        ("localhost", "sslmode=verify-full&sslrootcert=system".into(), "sslrootcert"),
        ("localhost", "sslmode=verify-full&sslrootcert=/nowhere.crt".into(), "/nowhere.crt"),
        ("localhost", format!("sslmode=verify-full&sslrootcert={}", server.file("ca.key").display()), "certificate"),
    ] {
        let options = options(&server, host, &parameters);
        for error in [refused(&options).await, sql::connect(&options).await.unwrap_err()] {
            assert!(matches!(error, SourceError::Tls(_)), "{parameters}: {error:?}");
            assert!(error.is_configuration() && !error.is_transient());
            assert!(error.to_string().contains(remedy), "{parameters}: {error}");
        }
    }
}

#[tokio::test]
async fn a_certificate_of_our_own() {
    let server = shared().await;
    let (certificate, key) = (server.file("client.crt"), server.file("client.key"));
    let with = format!("sslcert={}&sslkey={}", certificate.display(), key.display());
    let options = |parameters: &str| {
        let url = format!("postgres://certuser@localhost:{}/postgres?sslmode=require&{parameters}", server.port());
        ConnectOptions::parse(&url).unwrap()
    };
    assert!(is_encrypted(&options(&with)).await);
    let error = refused(&options("")).await;
    assert!(error.is_authentication(), "{error:?}");
    let error = refused(&options(&format!("sslcert={}&sslkey=/nowhere.key", certificate.display()))).await;
    assert!(error.is_configuration() && error.to_string().contains("sslkey /nowhere.key"), "{error}");
}

#[tokio::test]
async fn a_large_row_comes_through_tls() {
    let server = shared().await;
    let mut connection =
        ReplicationConnection::connect(&server.tcp("scramuser", "postgres?sslmode=require")).await.unwrap();
    let rows = connection.query("SELECT repeat('x', 20000000)").await.unwrap();
    assert_eq!(rows[0][0].as_ref().map(String::len), Some(20_000_000));
}

/// The recipe of PostgreSQL's documentation: one self-signed certificate, which clients are told to trust.
#[tokio::test]
async fn a_self_signed_certificate() {
    let mut server = private(|builder| builder).await;
    let plain = |server: &Server, parameters: &str| {
        let port = server.port();
        ConnectOptions::parse(&format!("postgres://postgres:{PASSWORD_IN_URL}@localhost:{port}/postgres?{parameters}"))
            .unwrap()
    };
    // As long as there is none:
    ReplicationConnection::connect(&plain(&server, "sslmode=prefer")).await.unwrap();
    let error = refused(&plain(&server, "sslmode=require")).await;
    assert!(matches!(error, SourceError::Tls(_)) && error.to_string().contains("ssl = on"), "{error}");

    let folder = server.file("");
    self_signed(&folder, "self", "DNS:localhost");
    self_signed(&folder, "named", "DNS:db.example");
    authority(&folder, "other");
    let settings = [("ssl", "on"), ("ssl_cert_file", "../self.crt"), ("ssl_key_file", "../self.key")];
    server.postgres.configure(&settings).unwrap();
    server.postgres.reload().await.unwrap();
    for mode in ["require", "verify-ca", "verify-full"] {
        let certificate = server.file("self.crt");
        let options = plain(&server, &format!("sslmode={mode}&sslrootcert={}", certificate.display()));
        ReplicationConnection::connect(&options).await.unwrap();
        let options = plain(&server, &format!("sslmode={mode}&sslrootcert={}", server.file("other.crt").display()));
        assert!(matches!(refused(&options).await, SourceError::Tls(_)));
    }

    server.postgres.configure(&[("ssl_cert_file", "../named.crt"), ("ssl_key_file", "../named.key")]).unwrap();
    server.postgres.reload().await.unwrap();
    let certificate = server.file("named.crt");
    let trusted = |mode: &str| plain(&server, &format!("sslmode={mode}&sslrootcert={}", certificate.display()));
    ReplicationConnection::connect(&trusted("verify-ca")).await.unwrap();
    let error = refused(&trusted("verify-full")).await;
    assert!(error.to_string().contains("subjectAltName"), "{error}");
}

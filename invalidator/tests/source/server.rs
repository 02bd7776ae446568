//! Servers to test against: one that most tests share, and private ones for what would disturb it.

use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Weak};

use cachetag_invalidator::dev::{Folder, Postgres, PostgresBuilder, User};
use cachetag_invalidator::source::{ConnectOptions, ReplicationConnection, SourceError};
use tokio::sync::Mutex;
use tokio_postgres::Client;

/// With characters that every form of a connection string has to carry.
pub const PASSWORD: &str = "p@ss:w/o?r'd 100%";
pub const PASSWORD_IN_URL: &str = "p%40ss%3Aw%2Fo%3Fr%27d%20100%25";

/// The first match counts; what is not listed asks for SCRAM.
const HBA: &str = "\
local   all  all                     trust
host    all  md5user    samehost     md5
host    all  clearuser  samehost     password
hostssl all  certuser   samehost     cert
host    all  all        samehost     scram-sha-256
";

/// A running server and the folder that holds it and its certificates.
pub struct Server {
    pub postgres: Postgres,
    pub folder: Folder,
}

/// The server that most tests share; it ends with the last of them.
pub async fn shared() -> Arc<Server> {
    static SERVER: Mutex<Weak<Server>> = Mutex::const_new(Weak::new());
    let mut slot = SERVER.lock().await;
    if let Some(server) = slot.upgrade() {
        return server;
    }
    let server = Arc::new(encrypted().await);
    *slot = Arc::downgrade(&server);
    server
}

/// A server without TLS, changed as a test needs it.
pub async fn private(configure: impl FnOnce(PostgresBuilder) -> PostgresBuilder) -> Server {
    start(configure, |_| ()).await
}

/// A server with TLS, a certificate for `localhost`, and roles for each kind of authentication.
async fn encrypted() -> Server {
    let server = start(
        |builder| {
            builder
                .setting("ssl", "on")
                .setting("ssl_cert_file", "../server.crt")
                .setting("ssl_key_file", "../server.key")
                .setting("ssl_ca_file", "../ca.crt")
                .setting("logical_decoding_work_mem", "64kB")
        },
        |folder| {
            authority(folder, "ca");
            authority(folder, "other");
            signed(folder, "server", "ca", "/CN=server");
            signed(folder, "client", "ca", "/CN=certuser");
        },
    )
    .await;
    let client = server.client("postgres").await;
    client
        .batch_execute(&format!(
            "CREATE ROLE scramuser LOGIN REPLICATION PASSWORD '{0}';
             CREATE ROLE certuser LOGIN REPLICATION;
             CREATE ROLE clearuser LOGIN REPLICATION PASSWORD '{0}';
             CREATE ROLE plainuser LOGIN PASSWORD '{0}';
             SET password_encryption = 'md5';
             CREATE ROLE md5user LOGIN REPLICATION PASSWORD '{0}';",
            PASSWORD.replace('\'', "''")
        ))
        .await
        .unwrap();
    server
}

async fn start(configure: impl FnOnce(PostgresBuilder) -> PostgresBuilder, prepare: impl FnOnce(&Path)) -> Server {
    let folder = Folder::temporary("cachetag-source-test").unwrap();
    let user = User::for_servers().unwrap();
    let private = folder.private("server", user.as_ref()).unwrap();
    prepare(&private);
    let builder = Postgres::builder(private.join("data")).password(PASSWORD);
    let mut postgres = configure(builder).start().await.unwrap();
    std::fs::write(postgres.data().join("pg_hba.conf"), HBA).unwrap();
    postgres.reload().await.unwrap();
    Server { postgres, folder }
}

impl Server {
    /// A file of the server's folder.
    pub fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join("server").join(name)
    }

    pub fn port(&self) -> u16 {
        self.postgres.port()
    }

    /// The superuser over the Unix socket.
    pub fn local(&self, database: &str) -> ConnectOptions {
        let (folder, port) = (self.postgres.data().display(), self.port());
        ConnectOptions::parse(&format!("host={folder} port={port} user=postgres dbname='{database}'")).unwrap()
    }

    /// Somebody over TCP, with more parameters behind the database's name.
    pub fn tcp(&self, user: &str, database_and_more: &str) -> ConnectOptions {
        let port = self.port();
        ConnectOptions::parse(&format!("postgres://{user}:{PASSWORD_IN_URL}@localhost:{port}/{database_and_more}"))
            .unwrap()
    }

    /// A replication connection of the superuser.
    pub async fn replication(&self, database: &str) -> ReplicationConnection {
        ReplicationConnection::connect(&self.local(database)).await.unwrap()
    }

    /// An SQL connection of the superuser.
    pub async fn client(&self, database: &str) -> Client {
        self.postgres.connect(database).await.unwrap()
    }

    /// A new database with this SQL in it, and a connection to it.
    pub async fn database(&self, name: &str, sql: &str) -> Client {
        assert!(self.postgres.create_database(name).await.unwrap());
        let client = self.client(name).await;
        client.batch_execute(sql).await.unwrap();
        client
    }
}

/// The error of a connection that must not come about.
pub async fn refused(options: &ConnectOptions) -> SourceError {
    match ReplicationConnection::connect(options).await {
        Ok(_) => panic!("{options:?} must not connect"),
        Err(error) => error,
    }
}

/// Makes an authority: `<name>.crt` and `<name>.key`.
pub fn authority(folder: &Path, name: &str) {
    let subject = format!("/CN=Test authority {name}");
    openssl(folder, &["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", &subject], name, &[]);
}

/// Makes a self-signed certificate of the kind that PostgreSQL's documentation recommends.
pub fn self_signed(folder: &Path, name: &str, subject_alt_name: &str) {
    let (subject, alt_name) = ("/CN=localhost", format!("subjectAltName={subject_alt_name}"));
    let command =
        ["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", subject, "-addext", &alt_name];
    openssl(folder, &command, name, &[]);
}

/// Makes a certificate for `localhost` that an authority has signed.
fn signed(folder: &Path, name: &str, authority: &str, subject: &str) {
    let (ca, key) = (format!("{authority}.crt"), format!("{authority}.key"));
    let mut command = vec!["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", subject];
    command.extend(["-addext", "subjectAltName=DNS:localhost", "-addext", "basicConstraints=critical,CA:FALSE"]);
    openssl(folder, &command, name, &["-CA", &ca, "-CAkey", &key]);
}

fn openssl(folder: &Path, command: &[&str], name: &str, more: &[&str]) {
    let (certificate, key) = (format!("{name}.crt"), format!("{name}.key"));
    let output = Command::new("openssl")
        .args(command)
        .args(["-keyout", &key, "-out", &certificate])
        .args(more)
        .current_dir(folder)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let user = User::for_servers().unwrap();
    for file in [certificate, key] {
        let file = folder.join(file);
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        if let Some(user) = &user {
            chown(&file, Some(user.uid), Some(user.gid)).unwrap();
        }
    }
}

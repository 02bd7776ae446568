//! What must be true of the server before the daemon can start; each failure names the remedy.

use std::time::Duration;

use super::{Control, ControlError, Doing};

/// The server's answers.
#[derive(Debug, Clone)]
pub struct Preflight {
    /// `server_version_num`.
    pub version: i32,
    /// Version of the extension.
    pub extension: String,
    /// Name and OID of the database: with the system identifier and the slot, which stream of changes this is.
    pub database: String,
    /// `wal_sender_timeout`: a replication connection that is silent for longer is ended by the server; `None`: never.
    pub sender_timeout: Option<Duration>,
}

impl Control {
    /// Checks the server; an error says what to change.
    pub async fn preflight(&self) -> Result<Preflight, ControlError> {
        let row = self
            .client
            .query_one(
                "SELECT current_setting('server_version_num')::int, pg_is_in_recovery(), \
                 current_setting('wal_level'), getdatabaseencoding()::text, \
                 (SELECT extversion FROM pg_extension WHERE extname = 'cachetag'), \
                 (SELECT rolreplication OR rolsuper FROM pg_roles WHERE rolname = current_user), \
                 current_user::text, current_database()::text, \
                 (SELECT oid::text FROM pg_database WHERE datname = current_database()), \
                 (SELECT setting::bigint FROM pg_settings WHERE name = 'wal_sender_timeout')",
                &[],
            )
            .await
            .doing("checking the server")?;
        let version: i32 = row.get(0);
        let database: String = row.get(7);
        if version < 150_000 {
            return setup(
                format!("PostgreSQL {} is too old", version / 10_000),
                "cachetag needs PostgreSQL 15 or newer",
            );
        }
        if row.get(1) {
            return setup(
                "the server is a standby: it cannot see its own commits become visible".into(),
                "give the primary's address; after a promotion the daemon finds it by itself",
            );
        }
        let wal_level: String = row.get(2);
        if wal_level != "logical" {
            return setup(
                format!("wal_level is {wal_level}"),
                "run ALTER SYSTEM SET wal_level = 'logical' and restart PostgreSQL",
            );
        }
        let encoding: String = row.get(3);
        if encoding != "UTF8" {
            return setup(
                format!("database {database} has encoding {encoding}"),
                "tags are UTF-8: cachetag needs a database with ENCODING 'UTF8'",
            );
        }
        let Some(extension) = row.get::<_, Option<String>>(4) else {
            return setup(
                format!("database {database} has no extension cachetag"),
                "run CREATE EXTENSION cachetag in it (make install brings the files)",
            );
        };
        let user: String = row.get(6);
        if row.get::<_, Option<bool>>(5) != Some(true) {
            return setup(
                format!("role {user} may not replicate"),
                &format!("run ALTER ROLE {} REPLICATION", quote(&user)),
            );
        }
        let sender_timeout = u64::try_from(row.get::<_, i64>(9)).ok().filter(|&ms| ms > 0).map(Duration::from_millis);
        Ok(Preflight {
            version,
            extension,
            database: format!("{}:{database}", row.get::<_, String>(8)),
            sender_timeout,
        })
    }
}

fn setup<T>(problem: String, remedy: &str) -> Result<T, ControlError> {
    Err(ControlError::Setup { problem, remedy: remedy.into() })
}

fn quote(identifier: &str) -> String {
    format!("\"{}\"", identifier.replace('"', "\"\""))
}

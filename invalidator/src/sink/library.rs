//! Loading the Functions library: versioned, and never over a newer one.

use redis::aio::MultiplexedConnection;
use redis::{RedisError, Value};

use super::reply::{array, text};
use crate::broken;

const SOURCE: &str = include_str!("../../../redis/cachetag.lua");

/// What is to be loaded.
fn source() -> &'static str {
    broken::library().unwrap_or(SOURCE)
}

/// Version of the library that this daemon brings; the same text stands in the library itself.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

pub(super) enum LibraryError {
    Newer(String),
    NoFunctions(String),
    Redis(RedisError),
}

impl From<RedisError> for LibraryError {
    fn from(error: RedisError) -> Self {
        let message = error.to_string();
        if message.to_lowercase().contains("unknown command") {
            return LibraryError::NoFunctions(message);
        }
        LibraryError::Redis(error)
    }
}

/// Loads the library unless the same code is there already.
pub(super) async fn see_to(mut connection: MultiplexedConnection) -> Result<(), LibraryError> {
    let listed: Value = redis::cmd("FUNCTION")
        .arg("LIST")
        .arg("LIBRARYNAME")
        .arg("cachetag")
        .arg("WITHCODE")
        .query_async(&mut connection)
        .await?;
    if let Some(code) = library_code(listed) {
        if code == source() {
            return Ok(());
        }
        let found = library_version(&code).unwrap_or_else(|| "0.0.0".into());
        if is_newer(&found, VERSION) {
            return Err(LibraryError::Newer(found));
        }
        tracing::info!(%found, own = VERSION, "replacing the library in Redis");
    }
    let _: Value = redis::cmd("FUNCTION").arg("LOAD").arg("REPLACE").arg(source()).query_async(&mut connection).await?;
    Ok(())
}

/// The source text of the one library in a reply of FUNCTION LIST.
fn library_code(listed: Value) -> Option<String> {
    let library = array(listed).ok()?.into_iter().next()?;
    let mut fields = array(library).ok()?.into_iter();
    while let Some(field) = fields.next() {
        let value = fields.next()?;
        if text(field).as_deref() == Some("library_code") {
            return text(value);
        }
    }
    None
}

/// The version that a library's source states: `local VERSION = '1.2.3'`.
fn library_version(code: &str) -> Option<String> {
    let line = code.lines().find(|l| l.trim_start().starts_with("local VERSION"))?;
    let start = line.find(['\'', '"'])? + 1;
    let end = line[start..].find(['\'', '"'])? + start;
    Some(line[start..end].to_string())
}

fn is_newer(a: &str, b: &str) -> bool {
    let numbers = |v: &str| v.split('.').map(|n| n.parse::<u64>().unwrap_or(0)).collect::<Vec<_>>();
    numbers(a) > numbers(b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_as_numbers() {
        assert!(is_newer("0.10.0", "0.9.9") && !is_newer("0.1.0", "0.1.0") && !is_newer("0.1.0", "0.1.1"));
    }

    #[test]
    fn the_library_states_this_version() {
        assert_eq!(library_version(SOURCE).as_deref(), Some(VERSION));
    }
}

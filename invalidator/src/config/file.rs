//! The configuration file: TOML, the same names as the flags.

use std::path::Path;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize};

use super::{Config, ConfigError, Limit, LogFormat, duration, redact, size};

/// What the file may hold; every name is optional, an unknown one is an error.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct File {
    pub postgres: Option<String>,
    pub redis: Option<String>,
    pub namespace: Option<String>,
    pub slot: Option<String>,
    #[serde(deserialize_with = "duration_text")]
    pub max_lag: Option<Duration>,
    #[serde(deserialize_with = "duration_text")]
    pub lease: Option<Duration>,
    #[serde(deserialize_with = "duration_text")]
    pub heartbeat: Option<Duration>,
    pub max_tags_per_transaction: Option<usize>,
    pub max_tags_per_batch: Option<usize>,
    #[serde(deserialize_with = "size_text")]
    pub wal_budget: Option<Limit<u64>>,
    #[serde(deserialize_with = "age_text")]
    pub wal_budget_age: Option<Limit<Duration>>,
    pub redis_replicas: Option<u32>,
    #[serde(deserialize_with = "duration_text")]
    pub redis_replicas_timeout: Option<Duration>,
    pub application_name: Option<String>,
    pub log_format: Option<LogFormat>,
    pub log: Option<String>,
}

#[derive(Serialize)]
struct Printed<'a> {
    postgres: String,
    redis: String,
    namespace: &'a str,
    slot: &'a str,
    max_lag: String,
    lease: String,
    heartbeat: String,
    max_tags_per_transaction: usize,
    max_tags_per_batch: usize,
    wal_budget: String,
    wal_budget_age: String,
    redis_replicas: u32,
    redis_replicas_timeout: String,
    application_name: &'a str,
    log_format: LogFormat,
    log: &'a str,
}

pub(super) fn read(path: &Path) -> Result<File, ConfigError> {
    let text =
        std::fs::read_to_string(path).map_err(|source| ConfigError::Read { path: path.to_path_buf(), source })?;
    parse(&text, path)
}

/// The text of the file that is said to be at `path`.
pub(super) fn parse(text: &str, path: &Path) -> Result<File, ConfigError> {
    toml::from_str(text).map_err(|e| ConfigError::Parse { path: path.to_path_buf(), message: e.to_string() })
}

pub(super) fn render(config: &Config) -> String {
    let printed = Printed {
        postgres: redact(&config.postgres),
        redis: redact(&config.redis),
        namespace: &config.namespace,
        slot: &config.slot,
        max_lag: duration::render(config.max_lag),
        lease: duration::render(config.lease),
        heartbeat: duration::render(config.heartbeat),
        max_tags_per_transaction: config.max_tags_per_transaction,
        max_tags_per_batch: config.max_tags_per_batch,
        wal_budget: size::render_size(config.wal_budget),
        wal_budget_age: config.wal_budget_age.map_or_else(|| "none".into(), duration::render),
        redis_replicas: config.redis_replicas,
        redis_replicas_timeout: duration::render(config.redis_replicas_timeout),
        application_name: &config.application_name,
        log_format: config.log_format,
        log: &config.log,
    };
    // Strings and numbers always have a TOML form; the empty text is never seen.
    toml::to_string(&printed).unwrap_or_default()
}

fn duration_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    let text = String::deserialize(deserializer)?;
    duration::parse_duration(&text).map(Some).map_err(serde::de::Error::custom)
}

fn size_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Limit<u64>>, D::Error> {
    let text = String::deserialize(deserializer)?;
    size::parse_size(&text).map(Some).map_err(serde::de::Error::custom)
}

fn age_text<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Limit<Duration>>, D::Error> {
    let text = String::deserialize(deserializer)?;
    size::parse_age(&text).map(Some).map_err(serde::de::Error::custom)
}

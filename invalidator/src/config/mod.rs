//! Configuration of the daemon: flags, then environment, then file, then defaults.

mod duration;
mod file;
mod redact;
mod size;

use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;

use crate::broken;

pub use duration::parse_duration;
pub use redact::redact;
pub use size::{Limit, parse_age, parse_size, render_size};

/// What is wrong with the configuration, and what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The configuration file cannot be read.
    #[error("configuration file {path}: {source}; give the path of a readable TOML file to --config")]
    Read {
        /// The path as given.
        path: PathBuf,
        /// Why it cannot be read.
        source: std::io::Error,
    },
    /// The configuration file is not what it should be.
    #[error(
        "configuration file {path}: {message}; `cachetag run --print-config` prints every name that may stand in it"
    )]
    Parse {
        /// The path as given.
        path: PathBuf,
        /// Line and reason.
        message: String,
    },
    /// A required setting is missing.
    #[error("{name} is not set: give --{flag}, {env} in the environment, or `{name}` in the configuration file")]
    Missing {
        /// Name in the file.
        name: &'static str,
        /// Name of the flag.
        flag: &'static str,
        /// Name of the environment variable.
        env: &'static str,
    },
    /// A sound daemon is asked to be a broken one.
    #[error(
        "{} is set, which is for a daemon that was built with --features broken, to test the checker with: unset it",
        broken::VARIABLE
    )]
    NotBroken,
    /// A setting has a value that cannot be used.
    #[error("{name}: {reason}")]
    Invalid {
        /// Name of the setting.
        name: &'static str,
        /// What is wrong with it and what is expected.
        reason: String,
    },
}

/// Flags of `cachetag run`; each has an environment variable and a name in the configuration file.
#[derive(Debug, Default, Clone, clap::Args)]
pub struct RunArgs {
    /// Configuration file (TOML; the names of the long flags, `-` written `_`)
    #[arg(long, env = "CACHETAG_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// PostgreSQL: postgres://user:password@host:port/database, or key=value pairs; of several hosts (a,b) the primary is taken
    #[arg(long, env = "CACHETAG_POSTGRES", hide_env_values = true, value_name = "URL")]
    pub postgres: Option<String>,
    /// Redis or Valkey: redis://[user:password@]host:port/0, rediss:// for TLS, redis+unix:///path, or
    /// redis+sentinel://[user:password@]host:port,host:port/name-of-the-primary/0
    #[arg(long, env = "CACHETAG_REDIS", hide_env_values = true, value_name = "URL")]
    pub redis: Option<String>,
    /// Namespace of the Redis keys: they begin with this name in braces [default: ct]
    #[arg(long, env = "CACHETAG_NAMESPACE")]
    pub namespace: Option<String>,
    /// Replication slot; created when missing [default: cachetag]
    #[arg(long, env = "CACHETAG_SLOT")]
    pub slot: Option<String>,
    /// Staleness that readers who name none accept; beyond it they are told to bypass the cache [default: 2s]
    #[arg(long, env = "CACHETAG_MAX_LAG", value_name = "DURATION", value_parser = parse_duration)]
    pub max_lag: Option<Duration>,
    /// How long one reader may take to recompute a value before another is asked [default: 10s]
    #[arg(long, env = "CACHETAG_LEASE", value_name = "DURATION", value_parser = parse_duration)]
    pub lease: Option<Duration>,
    /// How often an idle stream proves that it is caught up [default: a tenth of max-lag, at most 250ms]
    #[arg(long, env = "CACHETAG_HEARTBEAT", value_name = "DURATION", value_parser = parse_duration)]
    pub heartbeat: Option<Duration>,
    /// Distinct tags of one transaction above which whole families are bumped [default: 10000]
    #[arg(long, env = "CACHETAG_MAX_TAGS_PER_TRANSACTION", value_name = "N")]
    pub max_tags_per_transaction: Option<usize>,
    /// Tags in one call to Redis; a transaction is never split [default: 10000]
    #[arg(long, env = "CACHETAG_MAX_TAGS_PER_BATCH", value_name = "N")]
    pub max_tags_per_batch: Option<usize>,
    /// WAL that the slot may hold back; past it a new epoch is opened and the slot moved to the present [default: 8GiB; none: no limit]
    #[arg(long, env = "CACHETAG_WAL_BUDGET", value_name = "SIZE", value_parser = parse_size)]
    pub wal_budget: Option<Limit<u64>>,
    /// How long a change may wait for Redis; past it as above [default: 1h; none: no limit]
    #[arg(long, env = "CACHETAG_WAL_BUDGET_AGE", value_name = "DURATION", value_parser = parse_age)]
    pub wal_budget_age: Option<Limit<Duration>>,
    /// Replicas of Redis that must hold what is acknowledged to PostgreSQL [default: 0]
    #[arg(long, env = "CACHETAG_REDIS_REPLICAS", value_name = "N")]
    pub redis_replicas: Option<u32>,
    /// A replica that takes longer than this to confirm is reported as missing; acknowledgements wait on [default: 1s]
    #[arg(long, env = "CACHETAG_REDIS_REPLICAS_TIMEOUT", value_name = "DURATION", value_parser = parse_duration)]
    pub redis_replicas_timeout: Option<Duration>,
    /// Name of the replication connection, for synchronous_standby_names [default: cachetag]
    #[arg(long, env = "CACHETAG_APPLICATION_NAME", value_name = "NAME")]
    pub application_name: Option<String>,
    /// Log output: text or json [default: text]
    #[arg(long, env = "CACHETAG_LOG_FORMAT", value_name = "FORMAT")]
    pub log_format: Option<LogFormat>,
    /// Log filter, such as info or cachetag_invalidator=debug [default: info]
    #[arg(long, env = "CACHETAG_LOG", value_name = "FILTER")]
    pub log: Option<String>,
    /// Print the configuration that results, passwords hidden, and end
    #[arg(long)]
    pub print_config: bool,
}

/// How log lines look.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, clap::ValueEnum, serde::Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One line of text an event.
    #[default]
    Text,
    /// One JSON object an event.
    Json,
}

/// The resolved configuration.
#[derive(Clone, PartialEq, Eq)]
pub struct Config {
    /// Connection string of PostgreSQL.
    pub postgres: String,
    /// URL of Redis.
    pub redis: String,
    /// Namespace of the keys, without braces.
    pub namespace: String,
    /// Replication slot.
    pub slot: String,
    /// Default staleness bound of readers.
    pub max_lag: Duration,
    /// Life of a lease.
    pub lease: Duration,
    /// Longest time between two proofs that the cache is caught up.
    pub heartbeat: Duration,
    /// Distinct tags of one transaction before families are bumped instead.
    pub max_tags_per_transaction: usize,
    /// Tags in one call to Redis.
    pub max_tags_per_batch: usize,
    /// WAL that the slot may hold back.
    pub wal_budget: Option<u64>,
    /// How long a change may wait for Redis before it is given up.
    pub wal_budget_age: Option<Duration>,
    /// Replicas of Redis that must hold what is acknowledged.
    pub redis_replicas: u32,
    /// How long a replica may take before it is reported.
    pub redis_replicas_timeout: Duration,
    /// Name of the replication connection.
    pub application_name: String,
    /// Log output.
    pub log_format: LogFormat,
    /// Log filter.
    pub log: String,
}

impl Config {
    /// Merges flags and environment (already merged by clap), the file and the defaults.
    pub fn resolve(args: RunArgs) -> Result<Config, ConfigError> {
        if cfg!(not(feature = "broken")) && std::env::var_os(broken::VARIABLE).is_some() {
            return Err(ConfigError::NotBroken);
        }
        let file = match &args.config {
            Some(path) => file::read(path)?,
            None => file::File::default(),
        };
        Config::merge(args, file)
    }

    /// A configuration from the text of a file alone.
    pub fn from_toml(text: &str) -> Result<Config, ConfigError> {
        Config::merge(RunArgs::default(), file::parse(text, Path::new("-"))?)
    }

    fn merge(args: RunArgs, file: file::File) -> Result<Config, ConfigError> {
        let max_lag = args.max_lag.or(file.max_lag).unwrap_or(Duration::from_secs(2));
        let config = Config {
            postgres: required(args.postgres.or(file.postgres), "postgres", "postgres", "CACHETAG_POSTGRES")?,
            redis: required(args.redis.or(file.redis), "redis", "redis", "CACHETAG_REDIS")?,
            namespace: args.namespace.or(file.namespace).unwrap_or_else(|| "ct".into()),
            slot: args.slot.or(file.slot).unwrap_or_else(|| "cachetag".into()),
            max_lag,
            lease: args.lease.or(file.lease).unwrap_or(Duration::from_secs(10)),
            heartbeat: args
                .heartbeat
                .or(file.heartbeat)
                .unwrap_or((max_lag / 10).clamp(Duration::from_millis(5), Duration::from_millis(250))),
            max_tags_per_transaction: args.max_tags_per_transaction.or(file.max_tags_per_transaction).unwrap_or(10_000),
            max_tags_per_batch: args.max_tags_per_batch.or(file.max_tags_per_batch).unwrap_or(10_000),
            wal_budget: args.wal_budget.or(file.wal_budget).map_or(Some(8 << 30), |limit| limit.0),
            wal_budget_age: args
                .wal_budget_age
                .or(file.wal_budget_age)
                .map_or(Some(Duration::from_secs(3600)), |limit| limit.0),
            redis_replicas: args.redis_replicas.or(file.redis_replicas).unwrap_or(0),
            redis_replicas_timeout: args
                .redis_replicas_timeout
                .or(file.redis_replicas_timeout)
                .unwrap_or(Duration::from_secs(1)),
            application_name: args.application_name.or(file.application_name).unwrap_or_else(|| "cachetag".into()),
            log_format: args.log_format.or(file.log_format).unwrap_or_default(),
            log: args.log.or(file.log).unwrap_or_else(|| "info".into()),
        };
        config.check()?;
        Ok(config)
    }

    /// A configuration with defaults for everything but the two servers.
    pub fn with_defaults(postgres: String, redis: String) -> Result<Config, ConfigError> {
        Config::resolve(RunArgs { postgres: Some(postgres), redis: Some(redis), ..RunArgs::default() })
    }

    fn check(&self) -> Result<(), ConfigError> {
        let invalid = |name, reason: &str| Err(ConfigError::Invalid { name, reason: reason.into() });
        if self.namespace.is_empty() || self.namespace.bytes().any(|b| b <= b' ' || matches!(b, b'{' | b'}' | 0x7f)) {
            return invalid("namespace", "must be a non-empty name without braces, spaces or control characters");
        }
        let slot_byte = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
        if self.slot.is_empty() || self.slot.len() > 63 || !self.slot.bytes().all(slot_byte) {
            return invalid(
                "slot",
                "must be 1 to 63 lower-case letters, digits and underscores, as PostgreSQL demands",
            );
        }
        if self.max_lag < Duration::from_millis(10) {
            return invalid("max_lag", "must be at least 10ms: below it every read would bypass the cache");
        }
        if self.heartbeat * 2 > self.max_lag {
            return invalid(
                "heartbeat",
                "must be at most half of max_lag, otherwise an idle cache is bypassed between two proofs of freshness",
            );
        }
        if self.heartbeat < Duration::from_millis(1) {
            return invalid("heartbeat", "must be at least 1ms");
        }
        if self.lease < Duration::from_millis(1) {
            return invalid("lease", "must be at least 1ms");
        }
        // A wait may not outlast the patience with Redis, nor be none at all.
        if !(Duration::from_millis(1)..=Duration::from_secs(60)).contains(&self.redis_replicas_timeout) {
            return invalid("redis_replicas_timeout", "must be 1ms to 60s");
        }
        if self.redis_replicas > 100 {
            return invalid("redis_replicas", "must be 0 to 100");
        }
        if !(1..=1_000_000).contains(&self.max_tags_per_transaction) {
            return invalid("max_tags_per_transaction", "must be 1 to 1000000");
        }
        if !(1..=1_000_000).contains(&self.max_tags_per_batch) {
            return invalid("max_tags_per_batch", "must be 1 to 1000000");
        }
        Ok(())
    }

    /// The configuration as TOML, with the passwords in its URLs hidden.
    pub fn to_toml(&self) -> String {
        file::render(self)
    }
}

impl fmt::Debug for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_toml())
    }
}

fn required(
    value: Option<String>,
    name: &'static str,
    flag: &'static str,
    env: &'static str,
) -> Result<String, ConfigError> {
    match value {
        Some(v) if !v.trim().is_empty() => Ok(v),
        _ => Err(ConfigError::Missing { name, flag, env }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args() -> RunArgs {
        RunArgs { postgres: Some("postgres://u:p@h/d".into()), redis: Some("redis://h".into()), ..Default::default() }
    }

    #[test]
    fn defaults_are_complete() {
        let config = Config::resolve(args()).unwrap();
        assert_eq!(config.namespace, "ct");
        assert_eq!(config.slot, "cachetag");
        assert_eq!(config.heartbeat, Duration::from_millis(200));
        assert_eq!((config.wal_budget, config.wal_budget_age), (Some(8 << 30), Some(Duration::from_secs(3600))));
    }

    #[test]
    fn a_missing_server_is_named_with_all_its_sources() {
        let error = Config::resolve(RunArgs { redis: None, ..args() }).unwrap_err().to_string();
        assert!(error.contains("--redis") && error.contains("CACHETAG_REDIS"), "{error}");
    }

    #[test]
    fn flags_win_over_the_file() {
        let dir = std::env::temp_dir().join(format!("cachetag-config-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("cachetag.toml");
        std::fs::write(&path, "slot = \"from_file\"\nmax_lag = \"5s\"\nnamespace = \"shop\"\n").unwrap();
        let config =
            Config::resolve(RunArgs { config: Some(path.clone()), slot: Some("from_flag".into()), ..args() }).unwrap();
        assert_eq!((config.slot.as_str(), config.namespace.as_str()), ("from_flag", "shop"));
        assert_eq!(config.max_lag, Duration::from_secs(5));
        std::fs::write(&path, "slott = \"x\"\n").unwrap();
        let error = Config::resolve(RunArgs { config: Some(path), ..args() }).unwrap_err().to_string();
        assert!(error.contains("slott") && error.contains("cachetag.toml"), "{error}");
        std::fs::remove_dir_all(dir).unwrap();
    }

    #[test]
    fn the_printed_configuration_reads_back_and_hides_passwords() {
        let text = Config::resolve(args()).unwrap().to_toml();
        assert!(!text.contains(":p@"), "{text}");
        let file: file::File = toml::from_str(&text).unwrap();
        assert_eq!(file.slot.as_deref(), Some("cachetag"));
        assert_eq!(file.max_lag, Some(Duration::from_secs(2)));
        assert_eq!(file.wal_budget, Some(Limit(Some(8 << 30))));
        assert_eq!(file.wal_budget_age, Some(Limit(Some(Duration::from_secs(3600)))));
    }

    #[test]
    fn bad_values_are_refused_by_name() {
        for (args, name) in [
            (RunArgs { namespace: Some("a{b".into()), ..args() }, "namespace"),
            (RunArgs { slot: Some("No".into()), ..args() }, "slot"),
            (RunArgs { max_lag: Some(Duration::from_millis(1)), ..args() }, "max_lag"),
            (RunArgs { heartbeat: Some(Duration::from_secs(9)), ..args() }, "heartbeat"),
            (RunArgs { max_tags_per_transaction: Some(0), ..args() }, "max_tags_per_transaction"),
            (RunArgs { redis_replicas_timeout: Some(Duration::ZERO), ..args() }, "redis_replicas_timeout"),
        ] {
            let error = Config::resolve(args).unwrap_err().to_string();
            assert!(error.starts_with(name), "{error}");
        }
    }
}

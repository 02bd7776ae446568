//! Configuration files and connection strings, as people write them.

use cachetag_invalidator::config::{Config, parse_duration, redact};
use cachetag_invalidator::source::ConnectOptions;

/// The text of a configuration file; its lines as durations, too.
pub(super) fn config(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    match Config::from_toml(&text) {
        Ok(config) => {
            let printed = config.to_toml();
            let again = Config::from_toml(&printed).unwrap_or_else(|error| panic!("{printed}: {error}"));
            assert_eq!(again.to_toml(), printed, "what is printed reads back");
            assert!(config.heartbeat * 2 <= config.max_lag, "an idle cache is bypassed");
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
    for line in text.lines() {
        match parse_duration(line) {
            Ok(duration) => assert!(duration.as_secs_f64().is_finite()),
            Err(error) => assert!(!error.is_empty()),
        }
    }
}

/// A connection string. No password is shown, neither by what was read nor by the text with it hidden.
pub(super) fn connection_string(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let hidden = redact(&text);
    assert_eq!(redact(&hidden), hidden, "what is hidden stays as it is");
    let options = match ConnectOptions::parse(&text) {
        Ok(options) => options,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    // What else stands in the text may hold a short password by chance.
    let Some(password) = options.password().filter(|password| password.len() >= 6) else { return };
    if text.matches(password).count() == 1 && !"***password".contains(password) {
        assert!(!hidden.contains(password), "{text:?} is shown as {hidden:?}");
        assert!(!format!("{options:?}").contains(password), "{options:?}");
    }
}

//! What Redis answers to the daemon, from bytes on the wire: a reply of the library or an error that shows it.

use cachetag_invalidator::sink::reply;

/// One reply as it is on the wire.
pub(super) fn replies(data: &[u8]) {
    let Ok(value) = redis::parse_redis_value(data) else { return };
    let state = reply::state(value.clone()).map(drop);
    let applied = reply::applied(value.clone()).map(drop);
    let reset = reply::reset(value).map(drop);
    assert!(applied.is_err() || reset.is_err(), "one reply cannot be both");
    for error in [state, applied, reset].into_iter().filter_map(Result::err) {
        assert!(!error.to_string().is_empty());
        assert!(!error.is_configuration(), "no reply is a matter of configuration: {error}");
    }
}

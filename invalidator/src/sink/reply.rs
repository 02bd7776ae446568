//! Replies of the Redis library, from bytes to types; anything unexpected is an error that shows it.

use cachetag_core::Version;
use redis::Value;

use super::SinkError;

/// What Redis knows, field by field.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct State {
    /// Up to where everything is applied; `None` in an empty Redis.
    pub applied: Option<Version>,
    /// The watermark of the epoch; `None` before its first.
    pub watermark: Option<Version>,
    /// Who filled it: the identity that the last epoch was opened with.
    pub source: Option<String>,
    /// Who has claimed it.
    pub claimant: Option<String>,
    /// When the watermark was last proven fresh, on Redis's clock in ms.
    pub fresh_at: Option<u64>,
    /// Redis's clock in ms.
    pub now: u64,
}

/// A reply of `cachetag_apply` or `cachetag_advance` that lets the daemon go on: Redis's clock in ms.
pub fn applied(reply: Value) -> Result<u64, SinkError> {
    let mut items = array(reply)?.into_iter();
    let state = items.next().and_then(text);
    match state.as_deref() {
        Some("applied") => number(items.next()),
        Some("fenced") => Err(SinkError::Fenced { by: items.next().and_then(text).filter(|s| !s.is_empty()) }),
        Some("discontinuity") => {
            Err(SinkError::Discontinuity { applied: items.next().and_then(text).filter(|s| !s.is_empty()) })
        }
        _ => Err(unexpected("applied, fenced or discontinuity", &state)),
    }
}

/// The reply of `cachetag_reset`: the floor of the new epoch.
pub fn reset(reply: Value) -> Result<Version, SinkError> {
    let mut items = array(reply)?.into_iter();
    let state = items.next().and_then(text);
    match state.as_deref() {
        Some("reset") => version(items.next().and_then(text))?.ok_or_else(|| unexpected("a version", &None::<String>)),
        Some("fenced") => Err(SinkError::Fenced { by: items.next().and_then(text) }),
        _ => Err(unexpected("reset or fenced", &state)),
    }
}

/// The reply of `cachetag_claim`: field, value, ….
pub fn state(reply: Value) -> Result<State, SinkError> {
    let mut state = State::default();
    let mut items = array(reply)?.into_iter();
    while let Some(field) = items.next() {
        let field = text(field).unwrap_or_default();
        let value = items.next();
        match field.as_str() {
            "applied" => state.applied = version(value.and_then(text))?,
            "watermark" => state.watermark = version(value.and_then(text))?,
            "source" => state.source = value.and_then(text).filter(|s| !s.is_empty()),
            "claimant" => state.claimant = value.and_then(text).filter(|s| !s.is_empty()),
            "fresh_at" => state.fresh_at = number(value).ok(),
            "now_ms" => state.now = number(value)?,
            _ => {}
        }
    }
    Ok(state)
}

pub(crate) fn text(value: Value) -> Option<String> {
    match value {
        Value::BulkString(bytes) => String::from_utf8(bytes).ok(),
        Value::SimpleString(text) => Some(text),
        Value::VerbatimString { text, .. } => Some(text),
        Value::Int(n) => Some(n.to_string()),
        Value::Okay => Some("OK".into()),
        _ => None,
    }
}

pub(crate) fn array(value: Value) -> Result<Vec<Value>, SinkError> {
    match value {
        Value::Array(items) => Ok(items),
        Value::Map(pairs) => Ok(pairs.into_iter().flat_map(|(k, v)| [k, v]).collect()),
        other => Err(unexpected("an array", &other)),
    }
}

fn number(value: Option<Value>) -> Result<u64, SinkError> {
    let shown = format!("{value:?}");
    value.and_then(text).and_then(|t| t.parse().ok()).ok_or_else(|| unexpected("a number", &shown))
}

fn version(text: Option<String>) -> Result<Option<Version>, SinkError> {
    match text {
        None => Ok(None),
        Some(t) if t.is_empty() => Ok(None),
        Some(t) => t.parse().map(Some).map_err(|_| unexpected("a version", &t)),
    }
}

fn unexpected(expected: &'static str, got: &dyn std::fmt::Debug) -> SinkError {
    SinkError::Reply { expected, got: format!("{got:?}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bulk(text: &str) -> Value {
        Value::BulkString(text.into())
    }

    #[test]
    fn an_applied_call_tells_the_time() {
        assert_eq!(applied(Value::Array(vec![bulk("applied"), Value::Int(17), Value::Int(2)])).unwrap(), 17);
    }

    #[test]
    fn refusals_are_typed() {
        let fenced = applied(Value::Array(vec![bulk("fenced"), bulk("other")])).unwrap_err();
        assert!(matches!(fenced, SinkError::Fenced { by: Some(by) } if by == "other"));
        let gap = applied(Value::Array(vec![bulk("discontinuity"), bulk("")])).unwrap_err();
        assert!(matches!(gap, SinkError::Discontinuity { applied: None }));
    }

    #[test]
    fn anything_else_is_an_error_that_shows_it() {
        for reply in [Value::Nil, Value::Int(3), Value::Array(vec![]), Value::Array(vec![bulk("hello")])] {
            assert!(matches!(applied(reply), Err(SinkError::Reply { .. })));
        }
        assert!(matches!(reset(Value::Array(vec![bulk("reset"), bulk("x")])), Err(SinkError::Reply { .. })));
    }

    #[test]
    fn a_state_is_read_by_field() {
        let v = "1700000000.00000000000000000042";
        let reply =
            Value::Array(vec![bulk("applied"), bulk(v), bulk("fresh_at"), bulk("9"), bulk("now_ms"), Value::Int(12)]);
        let state = state(reply).unwrap();
        assert_eq!(state.applied.unwrap().to_string(), v);
        assert_eq!((state.watermark, state.fresh_at, state.now), (None, Some(9), 12));
    }
}

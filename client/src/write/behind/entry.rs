//! Entries of a stream: what an operation looks like in Redis, and the answers that carry entries.
//!
//! ```text
//! key     the idempotency key
//! kind    statement | sql
//! text    the statement's name, or the SQL
//! params  a JSON array of strings and nulls
//! ```

use redis::Value;

use super::operation::{Operation, What};

/// An entry as it was delivered.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Entry {
    /// Its stream id, `<ms>-<n>`.
    pub(super) id: String,
    /// Names and values, alternating.
    pub(super) fields: Vec<Vec<u8>>,
}

/// The four values of an operation, in the order of the table above.
pub(super) fn encode(operation: &Operation) -> [String; 4] {
    let (kind, text) = match &operation.what {
        What::Statement(name) => ("statement", name),
        What::Sql(sql) => ("sql", sql),
    };
    let params = serde_json::to_string(&operation.params).unwrap_or_default();
    [operation.key.clone(), kind.to_owned(), text.clone(), params]
}

impl Entry {
    /// A value as text; what is not UTF-8 in it is replaced.
    pub(super) fn text(&self, name: &str) -> Option<String> {
        let pair = self.fields.chunks_exact(2).find(|pair| pair[0] == name.as_bytes())?;
        Some(String::from_utf8_lossy(&pair[1]).into_owned())
    }

    /// The operation in it, or what is wrong with it.
    pub(super) fn operation(&self) -> Result<Operation, String> {
        let value = |name: &str| {
            let pair = self.fields.chunks_exact(2).find(|pair| pair[0] == name.as_bytes());
            let (_, value) = pair.map(|pair| (&pair[0], &pair[1])).ok_or_else(|| format!("field {name} is missing"))?;
            String::from_utf8(value.clone()).map_err(|_| format!("field {name} is not UTF-8"))
        };
        let (key, kind, text, params) = (value("key")?, value("kind")?, value("text")?, value("params")?);
        let what = match kind.as_str() {
            "statement" => What::Statement(text),
            "sql" => What::Sql(text),
            _ => return Err(format!("kind {kind:?} is unknown: was it enqueued by a newer version?")),
        };
        let params = serde_json::from_str(&params).map_err(|error| format!("field params: {error}"))?;
        Ok(Operation { what, params, key })
    }

    /// The milliseconds of its id.
    pub(super) fn ms(&self) -> i64 {
        ms_of(&self.id)
    }
}

/// The milliseconds of a stream id; 0 if it is none.
pub(super) fn ms_of(id: &str) -> i64 {
    id.split('-').next().and_then(|ms| ms.parse().ok()).unwrap_or(0)
}

/// The entries in an answer of XRANGE, or in the second part of one of XAUTOCLAIM. What was deleted meanwhile is left out.
pub(super) fn entries(value: &Value) -> Vec<Entry> {
    array(value).iter().filter_map(entry).collect()
}

/// The entries in an answer of XREADGROUP for one stream.
pub(super) fn read_entries(value: &Value) -> Vec<Entry> {
    match value {
        Value::Map(streams) => streams.iter().flat_map(|(_, list)| entries(list)).collect(),
        other => array(other).iter().filter_map(|stream| array(stream).get(1)).flat_map(entries).collect(),
    }
}

fn entry(value: &Value) -> Option<Entry> {
    let [id, fields] = array(value) else { return None };
    let fields = match fields {
        Value::Map(pairs) => pairs.iter().flat_map(|(name, value)| [bytes(name), bytes(value)]).collect::<Option<_>>(),
        Value::Array(values) => values.iter().map(bytes).collect(),
        _ => None,
    };
    Some(Entry { id: String::from_utf8(bytes(id)?).ok()?, fields: fields? })
}

pub(super) fn array(value: &Value) -> &[Value] {
    if let Value::Array(values) = value { values } else { &[] }
}

fn bytes(value: &Value) -> Option<Vec<u8>> {
    match value {
        Value::BulkString(bytes) => Some(bytes.clone()),
        Value::SimpleString(text) => Some(text.clone().into_bytes()),
        Value::Int(number) => Some(number.to_string().into_bytes()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry_of(operation: &Operation) -> Entry {
        let names = ["key", "kind", "text", "params"];
        let fields =
            names.into_iter().zip(encode(operation)).flat_map(|(name, value)| [name.into(), value.into_bytes()]);
        Entry { id: "1700000000000-3".into(), fields: fields.collect() }
    }

    #[test]
    fn an_operation_comes_back() {
        for operation in [
            Operation::statement("set price").param(42).null().param("it's \"x\"\n\u{1F3F7}"),
            Operation::sql("SELECT 1").key("k"),
        ] {
            assert_eq!(entry_of(&operation).operation(), Ok(operation));
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        let mut entry = entry_of(&Operation::sql("SELECT 1"));
        entry.fields[3] = b"lua".to_vec();
        assert_eq!(entry.operation().unwrap_err(), "kind \"lua\" is unknown: was it enqueued by a newer version?");
        entry.fields[7] = b"[1]".to_vec();
        entry.fields[3] = b"sql".to_vec();
        assert!(entry.operation().unwrap_err().starts_with("field params: invalid type: integer `1`"));
        entry.fields.truncate(4);
        assert_eq!(entry.operation().unwrap_err(), "field text is missing");
        entry.fields[1] = vec![0xFF];
        assert_eq!(entry.operation().unwrap_err(), "field key is not UTF-8");
    }

    #[test]
    fn answers_are_read() {
        let text = |text: &str| Value::BulkString(text.as_bytes().to_vec());
        let one = Value::Array(vec![text("5-1"), Value::Array(vec![text("key"), text("k")])]);
        let gone = Value::Array(vec![text("5-0"), Value::Nil]);
        let list = Value::Array(vec![gone, one]);
        let expected = [Entry { id: "5-1".into(), fields: vec![b"key".to_vec(), b"k".to_vec()] }];
        assert_eq!(entries(&list), expected);
        assert_eq!(expected[0].ms(), 5);
        let stream = Value::Array(vec![text("s"), list.clone()]);
        assert_eq!(read_entries(&Value::Array(vec![stream])), expected);
        assert_eq!(read_entries(&Value::Map(vec![(text("s"), list)])), expected);
        assert_eq!(read_entries(&Value::Nil), []);
    }
}

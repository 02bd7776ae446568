//! Cache keys: equal arguments give equal keys, different ones different keys.

use cachetag_core::encode_part;
use pgrx::prelude::*;
use serde_json::Value;

use crate::error::{Error, raise};

/// `namespace:part:part`, every part encoded as in a tag. NULL is `%`, which no encoded text is.
#[pg_extern(sql = false)]
fn key_of_parts(namespace: &str, parts: Vec<Option<String>>) -> String {
    let mut key = String::new();
    encode_part(namespace, &mut key);
    for part in parts {
        key.push(':');
        match part {
            Some(part) => encode_part(&part, &mut key),
            None => key.push('%'),
        }
    }
    key
}

/// `namespace:<canonical JSON, encoded>`: members sorted, numbers without trailing zeros.
#[pg_extern(sql = false)]
fn key_of_json(namespace: &str, args: &str) -> String {
    let value: Value = raise(serde_json::from_str(args).map_err(Error::from));
    let mut json = String::new();
    write(&value, &mut json);
    let mut key = String::new();
    encode_part(namespace, &mut key);
    key.push(':');
    encode_part(&json, &mut key);
    key
}

fn write(value: &Value, out: &mut String) {
    match value {
        Value::Array(items) => {
            for (i, item) in items.iter().enumerate() {
                out.push(if i == 0 { '[' } else { ',' });
                write(item, out);
            }
            out.push_str(if items.is_empty() { "[]" } else { "]" });
        }
        Value::Object(members) => {
            let mut sorted: Vec<_> = members.iter().collect();
            sorted.sort_unstable_by_key(|(name, _)| *name);
            for (i, (name, member)) in sorted.iter().enumerate() {
                out.push(if i == 0 { '{' } else { ',' });
                out.push_str(&Value::String((*name).clone()).to_string());
                out.push(':');
                write(member, out);
            }
            out.push_str(if sorted.is_empty() { "{}" } else { "}" });
        }
        // jsonb prints numbers in plain decimals: 1.50 and 1.5 differ only in zeros at the end.
        Value::Number(number) => {
            let text = number.to_string();
            let plain = if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.') } else { &text };
            out.push_str(if plain == "-0" { "0" } else { plain });
        }
        scalar => out.push_str(&scalar.to_string()),
    }
}

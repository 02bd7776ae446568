//! One look at the shard: what is asked in one atomic step, and what the answer means. Pure: values in, a [`Look`] out. Whatever has another shape than
//! `redis/cachetag.lua` gives it is unreadable, which ends all trust: a bump that is not understood must not be skipped.

use std::sync::Arc;
use std::time::Duration;

use cachetag_core::{Epoch, Lsn, Version};
use redis::{Pipeline, Value};

use super::ring::Bumped;
use super::trail::Lost;

/// No tag is longer.
const TAG_BYTES: usize = 512;
/// The fields of the state that are read, in this order.
const FIELDS: [&str; 10] =
    ["epoch", "floor", "soft_floor", "watermark", "applied", "fresh_at", "log_from", "log_len", "max_lag", "source"];

/// Which part of the log is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// What follows a position.
    After(Lsn),
    /// The end.
    Latest,
}

/// A look to be taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Question {
    /// Of this part of the log,
    pub(super) part: Part,
    /// this many records at most; at least one.
    pub(super) count: usize,
}

/// What a look showed, all of it at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Look {
    pub(super) question: Question,
    pub(super) epoch: Epoch,
    pub(super) floor: Version,
    pub(super) soft_floor: Option<Version>,
    pub(super) watermark: Option<Version>,
    pub(super) applied: Version,
    /// How long ago, on Redis's clock, the daemon knew the watermark to cover everything; `None` if it never did, or if that clock went back.
    pub(super) behind: Option<Duration>,
    pub(super) log_from: Version,
    pub(super) log_len: u64,
    pub(super) max_lag: Option<Duration>,
    pub(super) source: Arc<str>,
    /// The length of the log itself.
    pub(super) length: u64,
    /// The records asked for, oldest first.
    pub(super) records: Vec<Record>,
}

/// A record of the log: what the commits in `(from, to]` bumped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record {
    pub(super) from: Version,
    pub(super) to: Version,
    pub(super) bumped: Bumped,
}

impl Question {
    /// The commands, in one transaction, for the instance whose keys begin with `prefix` (`{ct}:`).
    pub(super) fn commands(self, prefix: &str) -> Pipeline {
        let log = format!("{prefix}log");
        let mut pipeline = redis::pipe();
        pipeline.atomic().cmd("TIME").cmd("HMGET").arg(format!("{prefix}w")).arg(&FIELDS[..]).cmd("XLEN").arg(&log);
        match self.part {
            Part::After(position) => pipeline.cmd("XRANGE").arg(&log).arg(format!("({}-0", position.0)).arg("+"),
            Part::Latest => pipeline.cmd("XREVRANGE").arg(&log).arg("+").arg("-"),
        };
        pipeline.arg("COUNT").arg(self.count);
        pipeline
    }

    /// What the answer to [`Question::commands`] says.
    pub(super) fn read(self, answer: &Value) -> Result<Look, Lost> {
        let [time, state, length, records] = array(answer).ok_or(Lost::Unreadable("the answer"))? else {
            return Err(Lost::Unreadable("the answer"));
        };
        let now = microseconds(time).ok_or(Lost::Unreadable("TIME"))?;
        let state: &[Value; FIELDS.len()] =
            array(state).and_then(|fields| fields.try_into().ok()).ok_or(Lost::Unreadable("the state"))?;
        let [epoch, floor, soft_floor, watermark, applied, fresh_at, log_from, log_len, max_lag, source] = state;
        if [epoch, floor, applied, log_from].iter().any(|field| **field == Value::Nil) {
            return Err(Lost::NoState);
        }
        let epoch = required(epoch, read_epoch, "epoch")?;
        let fresh_at = optional(fresh_at, natural, "fresh_at")?;
        let mut records = read_records(records, epoch)?;
        if self.part == Part::Latest {
            records.reverse();
        }
        Ok(Look {
            question: self,
            epoch,
            floor: required(floor, version, "floor")?,
            soft_floor: optional(soft_floor, version, "soft_floor")?,
            watermark: optional(watermark, version, "watermark")?,
            applied: required(applied, version, "applied")?,
            behind: fresh_at.and_then(|fresh_at| behind(now, fresh_at)),
            log_from: required(log_from, version, "log_from")?,
            log_len: required(log_len, natural, "log_len")?,
            max_lag: optional(max_lag, natural, "max_lag")?.map(Duration::from_millis),
            source: required(source, |value| text(value).map(Arc::from), "source")?,
            length: match length {
                Value::Int(length) => u64::try_from(*length).map_err(|_| Lost::Unreadable("XLEN"))?,
                _ => return Err(Lost::Unreadable("XLEN")),
            },
            records,
        })
    }
}

/// The time since `fresh_at` (ms) at `now` (µs). One more millisecond: a server may give its time in whole ones, rounded down.
fn behind(now: u64, fresh_at: u64) -> Option<Duration> {
    let since = now.checked_sub(fresh_at.checked_mul(1000)?)?;
    Some(Duration::from_micros(since.checked_add(1000)?))
}

fn required<T>(value: &Value, read: impl Fn(&Value) -> Option<T>, name: &'static str) -> Result<T, Lost> {
    read(value).ok_or(Lost::Unreadable(name))
}

fn optional<T>(value: &Value, read: impl Fn(&Value) -> Option<T>, name: &'static str) -> Result<Option<T>, Lost> {
    if *value == Value::Nil { Ok(None) } else { required(value, read, name).map(Some) }
}

fn array(value: &Value) -> Option<&[Value]> {
    if let Value::Array(values) = value { Some(values) } else { None }
}

fn text(value: &Value) -> Option<&str> {
    match value {
        Value::BulkString(bytes) => std::str::from_utf8(bytes).ok(),
        _ => None,
    }
}

/// Decimal digits and nothing else.
fn number(text: &str) -> Option<u64> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().ok() } else { None }
}

fn natural(value: &Value) -> Option<u64> {
    text(value).and_then(number)
}

fn version(value: &Value) -> Option<Version> {
    text(value)?.parse().ok()
}

fn read_epoch(value: &Value) -> Option<Epoch> {
    natural(value).and_then(|number| Epoch::new(number).ok())
}

fn microseconds(time: &Value) -> Option<u64> {
    let [seconds, micros] = array(time)? else { return None };
    natural(seconds)?.checked_mul(1_000_000)?.checked_add(natural(micros)?)
}

fn read_records(value: &Value, epoch: Epoch) -> Result<Vec<Record>, Lost> {
    let records = array(value).ok_or(Lost::Unreadable("the log"))?;
    records.iter().map(|value| record(value, epoch).ok_or(Lost::Unreadable("a record of the log"))).collect()
}

/// `[id, [from, version, hard, tags, soft, tags]]`, of which `hard` or `soft` may be missing.
fn record(value: &Value, epoch: Epoch) -> Option<Record> {
    let [id, fields] = array(value)? else { return None };
    let (lsn, "0") = text(id)?.split_once('-')? else { return None };
    let to = Version::new(epoch, Lsn(number(lsn)?));
    let (from, rest) = match array(fields)? {
        [name, from, rest @ ..] if text(name)? == "from" => (version(from)?, rest),
        _ => return None,
    };
    if from.epoch != epoch || from >= to {
        return None;
    }
    let mut bumped = Bumped::default();
    match rest {
        [name, tags] if text(name)? == "hard" => bumped.hard = list(tags)?,
        [name, tags] if text(name)? == "soft" => bumped.soft = list(tags)?,
        [hard, hard_tags, soft, soft_tags] if text(hard)? == "hard" && text(soft)? == "soft" => {
            bumped = Bumped { hard: list(hard_tags)?, soft: list(soft_tags)? };
        }
        _ => return None,
    }
    Some(Record { from, to, bumped })
}

/// Tags, each between line feeds.
fn list(value: &Value) -> Option<Vec<Arc<str>>> {
    let inner = text(value)?.strip_prefix('\n')?.strip_suffix('\n')?;
    let tag = |tag: &str| ((1..=TAG_BYTES).contains(&tag.len())).then(|| Arc::from(tag));
    inner.split('\n').map(tag).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUESTION: Question = Question { part: Part::After(Lsn(90)), count: 16 };

    fn bulk(text: &str) -> Value {
        Value::BulkString(text.as_bytes().to_vec())
    }

    fn bulks(texts: &[&str]) -> Value {
        Value::Array(texts.iter().map(|text| bulk(text)).collect())
    }

    fn v(lsn: u64) -> String {
        format!("1767225600.{lsn:020}")
    }

    /// An answer as Redis gives it.
    fn answer() -> [Value; 4] {
        let (floor, watermark, applied, log_from) = (v(10), v(95), v(120), v(10));
        let state = [
            bulk("1767225600"),
            bulk(&floor),
            Value::Nil,
            bulk(&watermark),
            bulk(&applied),
            bulk("1767229999500"),
            bulk(&log_from),
            bulk("7"),
            bulk("2000"),
            bulk("a database"),
        ];
        let record = |id: &str, fields: &[&str]| Value::Array(vec![bulk(id), bulks(fields)]);
        [
            bulks(&["1767230000", "250000"]),
            Value::Array(state.to_vec()),
            Value::Int(7),
            Value::Array(vec![
                record("100-0", &["from", &v(90), "hard", "\nproduct:1\nproduct:2\n"]),
                record("120-0", &["from", &v(100), "hard", "\n*\n", "soft", "\nhomepage\n"]),
            ]),
        ]
    }

    fn read(change: impl FnOnce(&mut [Value; 4])) -> Result<Look, Lost> {
        let mut answer = answer();
        change(&mut answer);
        QUESTION.read(&Value::Array(answer.to_vec()))
    }

    fn set(value: &mut Value, i: usize, new: Value) {
        let Value::Array(values) = value else { panic!("no array") };
        values[i] = new;
    }

    #[test]
    fn the_question_is_one_transaction() {
        let commands = |question: Question| {
            let packed = question.commands("{ct}:").get_packed_pipeline();
            let text = String::from_utf8(packed).unwrap();
            text.split("\r\n")
                .filter(|word| !word.is_empty() && !word.starts_with(['*', '$']))
                .collect::<Vec<_>>()
                .join(" ")
        };
        assert_eq!(
            commands(QUESTION),
            "MULTI TIME HMGET {ct}:w epoch floor soft_floor watermark applied fresh_at log_from log_len max_lag source XLEN {ct}:log \
             XRANGE {ct}:log (90-0 + COUNT 16 EXEC"
        );
        assert!(commands(Question { part: Part::Latest, count: 5 }).ends_with("XREVRANGE {ct}:log + - COUNT 5 EXEC"));
    }

    #[test]
    fn an_answer_is_read() {
        let look = read(|_| ()).unwrap();
        let version = |lsn| v(lsn).parse::<Version>().unwrap();
        let shared = |tags: &[&str]| tags.iter().map(|tag| Arc::from(*tag)).collect::<Vec<Arc<str>>>();
        assert_eq!((look.epoch.get(), look.floor, look.soft_floor), (1_767_225_600, version(10), None));
        assert_eq!((look.watermark, look.applied, look.log_from), (Some(version(95)), version(120), version(10)));
        assert_eq!((look.log_len, look.length, look.max_lag), (7, 7, Some(Duration::from_secs(2))));
        assert_eq!((&*look.source, look.behind), ("a database", Some(Duration::from_millis(751))));
        let first = Bumped { hard: shared(&["product:1", "product:2"]), soft: vec![] };
        let second = Bumped { hard: shared(&["*"]), soft: shared(&["homepage"]) };
        assert_eq!(look.records[0], Record { from: version(90), to: version(100), bumped: first });
        assert_eq!(look.records[1], Record { from: version(100), to: version(120), bumped: second });
    }

    #[test]
    fn the_end_of_the_log_is_read_backwards() {
        let mut answer = answer();
        let Value::Array(records) = &mut answer[3] else { panic!() };
        records.reverse();
        let look = Question { part: Part::Latest, count: 2 }.read(&Value::Array(answer.to_vec())).unwrap();
        assert!(look.records[0].to < look.records[1].to);
    }

    #[test]
    fn without_a_state_there_is_none() {
        for field in [0, 1, 4, 6] {
            assert_eq!(read(|a| set(&mut a[1], field, Value::Nil)), Err(Lost::NoState));
        }
        let flushed = [bulks(&["1", "2"]), Value::Array(vec![Value::Nil; 10]), Value::Int(0), Value::Array(vec![])];
        assert_eq!(QUESTION.read(&Value::Array(flushed.to_vec())), Err(Lost::NoState));
    }

    #[test]
    fn what_may_be_missing_may() {
        let look = read(|a| [2, 3, 5, 8].into_iter().for_each(|field| set(&mut a[1], field, Value::Nil))).unwrap();
        assert_eq!((look.watermark, look.behind, look.max_lag), (None, None, None));
    }

    #[test]
    fn a_clock_that_went_back_vouches_for_nothing() {
        assert_eq!(read(|a| set(&mut a[1], 5, bulk("1767230000251"))).unwrap().behind, None);
        assert_eq!(read(|a| set(&mut a[1], 5, bulk("1767230000250"))).unwrap().behind, Some(Duration::from_millis(1)));
        assert_eq!(read(|a| set(&mut a[1], 5, bulk("18446744073709551615"))).unwrap().behind, None);
    }

    #[test]
    fn any_other_state_is_unreadable() {
        let wrong = ["", "x", "-1", "1767225600.1", "1767225600.99999999999999999999", " 7", "+7", "17672256000"];
        for field in [0, 1, 2, 3, 4, 6] {
            for text in wrong {
                let read = read(|a| set(&mut a[1], field, bulk(text)));
                // The shapes of the fields differ: some of these are an epoch.
                assert!(matches!(read, Err(Lost::Unreadable(_))), "{field} {text:?} {read:?}");
            }
            assert!(matches!(read(|a| set(&mut a[1], field, Value::Int(7))), Err(Lost::Unreadable(_))));
        }
        for field in [5, 7, 8] {
            for text in ["", "x", "-1", "+7", " 7", "1.5", "18446744073709551616"] {
                assert!(
                    matches!(read(|a| set(&mut a[1], field, bulk(text))), Err(Lost::Unreadable(_))),
                    "{field} {text:?}"
                );
            }
        }
        assert!(matches!(read(|a| set(&mut a[1], 7, Value::Nil)), Err(Lost::Unreadable("log_len"))));
        assert!(matches!(read(|a| set(&mut a[1], 9, Value::Nil)), Err(Lost::Unreadable("source"))));
        assert!(matches!(read(|a| set(&mut a[1], 9, Value::BulkString(vec![255]))), Err(Lost::Unreadable("source"))));
    }

    #[test]
    fn any_other_answer_is_unreadable() {
        for other in [Value::Nil, Value::Okay, Value::Int(1), Value::Array(vec![]), bulks(&["a", "b", "c", "d"])] {
            assert!(matches!(QUESTION.read(&other), Err(Lost::Unreadable(_))));
            for part in 0..4 {
                let other = if part == 3 && other == Value::Array(vec![]) || part == 2 && other == Value::Int(1) {
                    Value::Nil
                } else {
                    other.clone()
                };
                assert!(matches!(read(|a| a[part] = other.clone()), Err(Lost::Unreadable(_))), "{part} {other:?}");
            }
        }
        assert!(matches!(read(|a| a[2] = Value::Int(-1)), Err(Lost::Unreadable("XLEN"))));
        assert!(matches!(read(|a| a[0] = bulks(&["1", "2", "3"])), Err(Lost::Unreadable("TIME"))));
    }

    #[test]
    fn any_other_record_is_unreadable() {
        let good: [&str; 4] = ["from", &v(90), "hard", "\na\n"];
        let record = |id: &str, fields: &[&str]| {
            read(|a| a[3] = Value::Array(vec![Value::Array(vec![bulk(id), bulks(fields)])]))
        };
        assert!(record("100-0", &good).is_ok());
        for id in ["100-1", "100", "x-0", "-0", "", "100-0-0", "+100-0", "90-0", "18446744073709551616-0"] {
            assert!(matches!(record(id, &good), Err(Lost::Unreadable(_))), "{id}");
        }
        let foreign = format!("1767225601.{:020}", 90);
        let lists = ["", "\n", "\n\n", "a", "\na", "a\n", "\na\n\nb\n", "\n\na\n"];
        for list in lists {
            assert!(matches!(record("100-0", &["from", &v(90), "hard", list]), Err(Lost::Unreadable(_))), "{list:?}");
            assert!(matches!(record("100-0", &["from", &v(90), "soft", list]), Err(Lost::Unreadable(_))), "{list:?}");
        }
        let others: [&[&str]; 9] = [
            &[],
            &["from", &v(90)],
            &["from", &foreign, "hard", "\na\n"],
            &["from", "90", "hard", "\na\n"],
            &["hard", "\na\n", "from", &v(90)],
            &["from", &v(90), "firm", "\na\n"],
            &["from", &v(90), "soft", "\na\n", "hard", "\na\n"],
            &["from", &v(90), "hard", "\na\n", "hard", "\nb\n"],
            &["from", &v(90), "hard", "\na\n", "soft", "\nb\n", "more", "x"],
        ];
        for fields in others {
            assert!(matches!(record("100-0", fields), Err(Lost::Unreadable(_))), "{fields:?}");
        }
        assert!(matches!(
            record("100-0", &["from", &v(90), "hard", &format!("\n{}\n", "x".repeat(513))]),
            Err(Lost::Unreadable(_))
        ));
        let nil = Value::Array(vec![Value::Array(vec![bulk("100-0"), Value::Nil])]);
        assert!(matches!(read(|a| a[3] = nil), Err(Lost::Unreadable(_))));
    }
}

//! The server's side of the protocol, for tests: owned messages and their bytes.

use crate::source::pgoutput::{self as parsed, OldTuple, ReplicaIdentity};
use crate::source::{Lsn, PgTime};

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Value {
    Null,
    Unchanged,
    Text(Vec<u8>),
    Binary(Vec<u8>),
}

pub(crate) type Tuple = Vec<Value>;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Old {
    None,
    Key(Tuple),
    Full(Tuple),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Column {
    pub(crate) key: bool,
    pub(crate) name: String,
    pub(crate) type_oid: u32,
    pub(crate) type_modifier: i32,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TwoPhase {
    pub(crate) lsn: u64,
    pub(crate) end_lsn: u64,
    pub(crate) time: i64,
    pub(crate) xid: u32,
    pub(crate) gid: Vec<u8>,
}

/// Mirrors `pgoutput::Message`, owned. `xid` is `Some` inside a stream block.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Message {
    Begin { final_lsn: u64, time: i64, xid: u32 },
    Commit { commit_lsn: u64, end_lsn: u64, time: i64 },
    Origin { lsn: u64, name: Vec<u8> },
    Relation { xid: Option<u32>, id: u32, namespace: String, name: String, identity: u8, columns: Vec<Column> },
    Type { xid: Option<u32>, id: u32, namespace: String, name: String },
    Insert { xid: Option<u32>, relation: u32, new: Tuple },
    Update { xid: Option<u32>, relation: u32, old: Old, new: Tuple },
    Delete { xid: Option<u32>, relation: u32, old: Old },
    Truncate { xid: Option<u32>, cascade: bool, restart: bool, relations: Vec<u32> },
    Logical { xid: Option<u32>, transactional: bool, lsn: u64, prefix: Vec<u8>, content: Vec<u8> },
    StreamStart { xid: u32, first: bool },
    StreamStop,
    StreamCommit { xid: u32, commit_lsn: u64, end_lsn: u64, time: i64 },
    StreamAbort { xid: u32, subxid: u32 },
    BeginPrepare(TwoPhase),
    Prepare(TwoPhase),
    CommitPrepared(TwoPhase),
    RollbackPrepared { prepare_end: u64, rollback_end: u64, prepared: i64, rolled_back: i64, xid: u32, gid: Vec<u8> },
    StreamPrepare(TwoPhase),
}

/// Appends fields as the server does.
#[derive(Default)]
struct Writer(Vec<u8>);

impl Writer {
    fn tagged(tag: u8, xid: Option<u32>) -> Writer {
        let mut writer = Writer(vec![tag]);
        if let Some(xid) = xid {
            writer.u32(xid);
        }
        writer
    }

    fn u8(&mut self, value: u8) -> &mut Writer {
        self.0.push(value);
        self
    }

    fn u16(&mut self, value: usize) -> &mut Writer {
        self.0.extend_from_slice(&u16::try_from(value).unwrap().to_be_bytes());
        self
    }

    fn u32(&mut self, value: u32) -> &mut Writer {
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }

    fn u64(&mut self, value: u64) -> &mut Writer {
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }

    fn i64(&mut self, value: i64) -> &mut Writer {
        self.0.extend_from_slice(&value.to_be_bytes());
        self
    }

    fn c_string(&mut self, value: &[u8]) -> &mut Writer {
        self.0.extend_from_slice(value);
        self.u8(0)
    }

    fn counted(&mut self, value: &[u8]) -> &mut Writer {
        self.u32(u32::try_from(value.len()).unwrap());
        self.0.extend_from_slice(value);
        self
    }

    fn tuple(&mut self, kind: u8, tuple: &[Value]) -> &mut Writer {
        self.u8(kind).u16(tuple.len());
        for value in tuple {
            match value {
                Value::Null => self.u8(b'n'),
                Value::Unchanged => self.u8(b'u'),
                Value::Text(bytes) => self.u8(b't').counted(bytes),
                Value::Binary(bytes) => self.u8(b'b').counted(bytes),
            };
        }
        self
    }

    fn old(&mut self, old: &Old) -> &mut Writer {
        match old {
            Old::None => self,
            Old::Key(tuple) => self.tuple(b'K', tuple),
            Old::Full(tuple) => self.tuple(b'O', tuple),
        }
    }

    fn two_phase(&mut self, body: &TwoPhase) -> &mut Writer {
        self.u64(body.lsn).u64(body.end_lsn).i64(body.time).u32(body.xid).c_string(&body.gid)
    }

    fn done(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.0)
    }
}

/// `pg_catalog` travels as an empty string.
fn namespace(name: &str) -> &[u8] {
    if name == "pg_catalog" { b"" } else { name.as_bytes() }
}

impl Message {
    /// The bytes that the server would send.
    pub(crate) fn encode(&self) -> Vec<u8> {
        match self {
            Message::Begin { final_lsn, time, xid } => {
                Writer::tagged(b'B', None).u64(*final_lsn).i64(*time).u32(*xid).done()
            }
            Message::Commit { commit_lsn, end_lsn, time } => {
                Writer::tagged(b'C', None).u8(0).u64(*commit_lsn).u64(*end_lsn).i64(*time).done()
            }
            Message::Origin { lsn, name } => Writer::tagged(b'O', None).u64(*lsn).c_string(name).done(),
            Message::Relation { xid, id, namespace: schema, name, identity, columns } => {
                let mut writer = Writer::tagged(b'R', *xid);
                writer.u32(*id).c_string(namespace(schema)).c_string(name.as_bytes()).u8(*identity).u16(columns.len());
                for column in columns {
                    writer.u8(u8::from(column.key)).c_string(column.name.as_bytes()).u32(column.type_oid);
                    writer.u32(column.type_modifier.cast_unsigned());
                }
                writer.done()
            }
            Message::Type { xid, id, namespace: schema, name } => {
                Writer::tagged(b'Y', *xid).u32(*id).c_string(namespace(schema)).c_string(name.as_bytes()).done()
            }
            Message::Insert { xid, relation, new } => Writer::tagged(b'I', *xid).u32(*relation).tuple(b'N', new).done(),
            Message::Update { xid, relation, old, new } => {
                Writer::tagged(b'U', *xid).u32(*relation).old(old).tuple(b'N', new).done()
            }
            Message::Delete { xid, relation, old } => Writer::tagged(b'D', *xid).u32(*relation).old(old).done(),
            Message::Truncate { xid, cascade, restart, relations } => {
                let mut writer = Writer::tagged(b'T', *xid);
                writer.u32(u32::try_from(relations.len()).unwrap()).u8(u8::from(*cascade) | u8::from(*restart) << 1);
                for relation in relations {
                    writer.u32(*relation);
                }
                writer.done()
            }
            Message::Logical { xid, transactional, lsn, prefix, content } => {
                let mut writer = Writer::tagged(b'M', *xid);
                writer.u8(u8::from(*transactional)).u64(*lsn).c_string(prefix).counted(content).done()
            }
            Message::StreamStart { xid, first } => Writer::tagged(b'S', None).u32(*xid).u8(u8::from(*first)).done(),
            Message::StreamStop => Writer::tagged(b'E', None).done(),
            Message::StreamCommit { xid, commit_lsn, end_lsn, time } => {
                Writer::tagged(b'c', None).u32(*xid).u8(0).u64(*commit_lsn).u64(*end_lsn).i64(*time).done()
            }
            Message::StreamAbort { xid, subxid } => Writer::tagged(b'A', None).u32(*xid).u32(*subxid).done(),
            Message::BeginPrepare(body) => Writer::tagged(b'b', None).two_phase(body).done(),
            Message::Prepare(body) => Writer::tagged(b'P', None).u8(0).two_phase(body).done(),
            Message::CommitPrepared(body) => Writer::tagged(b'K', None).u8(0).two_phase(body).done(),
            Message::RollbackPrepared { prepare_end, rollback_end, prepared, rolled_back, xid, gid } => {
                let mut writer = Writer::tagged(b'r', None);
                writer.u8(0).u64(*prepare_end).u64(*rollback_end).i64(*prepared).i64(*rolled_back);
                writer.u32(*xid).c_string(gid).done()
            }
            Message::StreamPrepare(body) => Writer::tagged(b'p', None).u8(0).two_phase(body).done(),
        }
    }
}

impl From<parsed::Value<'_>> for Value {
    fn from(value: parsed::Value<'_>) -> Value {
        match value {
            parsed::Value::Null => Value::Null,
            parsed::Value::Unchanged => Value::Unchanged,
            parsed::Value::Text(bytes) => Value::Text(bytes.to_vec()),
            parsed::Value::Binary(bytes) => Value::Binary(bytes.to_vec()),
        }
    }
}

fn tuple(tuple: parsed::Tuple<'_>) -> Tuple {
    tuple.iter().map(Value::from).collect()
}

fn old(old: OldTuple<'_>) -> Old {
    match old {
        OldTuple::Key(columns) => Old::Key(tuple(columns)),
        OldTuple::Full(columns) => Old::Full(tuple(columns)),
    }
}

fn two_phase(body: parsed::TwoPhase<'_>) -> TwoPhase {
    let parsed::TwoPhase { lsn: Lsn(lsn), end_lsn: Lsn(end_lsn), time: PgTime(time), xid, gid } = body;
    TwoPhase { lsn, end_lsn, time, xid, gid: gid.to_vec() }
}

impl From<parsed::Message<'_>> for Message {
    fn from(message: parsed::Message<'_>) -> Message {
        match message {
            parsed::Message::Begin(m) => Message::Begin { final_lsn: m.final_lsn.0, time: m.commit_time.0, xid: m.xid },
            parsed::Message::Commit(m) => {
                Message::Commit { commit_lsn: m.commit_lsn.0, end_lsn: m.end_lsn.0, time: m.commit_time.0 }
            }
            parsed::Message::Origin(m) => Message::Origin { lsn: m.commit_lsn.0, name: m.name.to_vec() },
            parsed::Message::Relation(m) => Message::Relation {
                xid: m.xid,
                id: m.id,
                namespace: m.namespace.to_owned(),
                name: m.name.to_owned(),
                identity: match m.replica_identity {
                    ReplicaIdentity::Default => b'd',
                    ReplicaIdentity::Nothing => b'n',
                    ReplicaIdentity::Full => b'f',
                    ReplicaIdentity::Index => b'i',
                },
                columns: m
                    .columns
                    .map(|column| Column {
                        key: column.key,
                        name: column.name.to_owned(),
                        type_oid: column.type_oid,
                        type_modifier: column.type_modifier,
                    })
                    .collect(),
            },
            parsed::Message::Type(m) => {
                Message::Type { xid: m.xid, id: m.id, namespace: m.namespace.to_owned(), name: m.name.to_owned() }
            }
            parsed::Message::Insert(m) => Message::Insert { xid: m.xid, relation: m.relation, new: tuple(m.new) },
            parsed::Message::Update(m) => Message::Update {
                xid: m.xid,
                relation: m.relation,
                old: m.old.map_or(Old::None, old),
                new: tuple(m.new),
            },
            parsed::Message::Delete(m) => Message::Delete { xid: m.xid, relation: m.relation, old: old(m.old) },
            parsed::Message::Truncate(m) => Message::Truncate {
                xid: m.xid,
                cascade: m.cascade,
                restart: m.restart_identity,
                relations: m.relations.collect(),
            },
            parsed::Message::Logical(m) => Message::Logical {
                xid: m.xid,
                transactional: m.transactional,
                lsn: m.lsn.0,
                prefix: m.prefix.to_vec(),
                content: m.content.to_vec(),
            },
            parsed::Message::StreamStart(m) => Message::StreamStart { xid: m.xid, first: m.first_segment },
            parsed::Message::StreamStop => Message::StreamStop,
            parsed::Message::StreamCommit(m) => Message::StreamCommit {
                xid: m.xid,
                commit_lsn: m.commit_lsn.0,
                end_lsn: m.end_lsn.0,
                time: m.commit_time.0,
            },
            parsed::Message::StreamAbort(m) => Message::StreamAbort { xid: m.xid, subxid: m.subxid },
            parsed::Message::BeginPrepare(m) => Message::BeginPrepare(two_phase(m)),
            parsed::Message::Prepare(m) => Message::Prepare(two_phase(m)),
            parsed::Message::CommitPrepared(m) => Message::CommitPrepared(two_phase(m)),
            parsed::Message::RollbackPrepared(m) => Message::RollbackPrepared {
                prepare_end: m.prepare_end_lsn.0,
                rollback_end: m.rollback_end_lsn.0,
                prepared: m.prepare_time.0,
                rolled_back: m.rollback_time.0,
                xid: m.xid,
                gid: m.gid.to_vec(),
            },
            parsed::Message::StreamPrepare(m) => Message::StreamPrepare(two_phase(m)),
        }
    }
}

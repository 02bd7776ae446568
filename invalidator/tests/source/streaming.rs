//! Protocol version 2: a transaction that comes before its commit, in blocks.

use std::collections::HashMap;
use std::time::Duration;

use cachetag_invalidator::source::pgoutput::{Message, Parser};
use cachetag_invalidator::source::{Frame, StartOptions};
use tokio::time::timeout;

use crate::server::shared;

#[tokio::test]
async fn a_large_transaction_in_blocks() {
    const ROWS: usize = 20_000;
    let server = shared().await;
    let client = server
        .database("blocks", "CREATE TABLE t (id int PRIMARY KEY, pad text); CREATE PUBLICATION cachetag FOR TABLE t")
        .await;
    let mut connection = server.replication("blocks").await;
    connection.create_slot("blocks").await.unwrap();
    connection.start_replication(&StartOptions::new("blocks").streaming()).await.unwrap();

    // Two large transactions at a time, each with a subtransaction that is rolled back; one is rolled back altogether.
    let other = server.client("blocks").await;
    client.batch_execute("BEGIN").await.unwrap();
    other.batch_execute("BEGIN").await.unwrap();
    let insert = |from: usize| {
        format!("INSERT INTO t SELECT i, repeat('x', 50) FROM generate_series({from}, {}) i", from + ROWS - 1)
    };
    client.batch_execute(&insert(0)).await.unwrap();
    other.batch_execute(&insert(1_000_000)).await.unwrap();
    client.batch_execute(&format!("SAVEPOINT s; {}; ROLLBACK TO s", insert(2_000_000))).await.unwrap();
    client.batch_execute("DELETE FROM t; SELECT pg_logical_emit_message(true, 'cachetag', 'hard')").await.unwrap();
    client.batch_execute("COMMIT").await.unwrap();
    other.batch_execute("ROLLBACK").await.unwrap();
    client.batch_execute("INSERT INTO t VALUES (-1, 'small')").await.unwrap();

    #[derive(Default, Debug)]
    struct Seen {
        inserts: HashMap<u32, usize>,
        deletes: HashMap<u32, usize>,
        messages: usize,
        blocks: usize,
        aborted: Vec<(u32, u32)>,
        committed: Vec<u32>,
    }
    let mut seen = Seen::default();
    let mut parser = Parser::new();
    let mut top = None;
    loop {
        let frame =
            timeout(Duration::from_secs(60), connection.recv()).await.expect("the server has more to say").unwrap();
        let Frame::XLogData(data) = frame else { continue };
        let was_in_stream = parser.in_stream();
        match parser.parse(&data.data).unwrap_or_else(|e| panic!("{e}: {:?}", data.data)) {
            Message::StreamStart(start) => {
                seen.blocks += 1;
                top = Some(start.xid);
            }
            Message::StreamStop => top = None,
            Message::Insert(insert) => {
                assert_eq!(insert.xid.is_some(), was_in_stream);
                assert_eq!(insert.new.len(), 2);
                *seen.inserts.entry(insert.xid.unwrap_or(0)).or_default() += 1;
            }
            Message::Delete(delete) => *seen.deletes.entry(delete.xid.unwrap()).or_default() += 1,
            Message::Logical(message) => {
                assert_eq!((message.prefix, message.content), (b"cachetag".as_slice(), b"hard".as_slice()));
                assert_eq!(message.xid, top);
                seen.messages += 1;
            }
            Message::StreamAbort(abort) => seen.aborted.push((abort.xid, abort.subxid)),
            Message::StreamCommit(commit) => {
                assert!(commit.end_lsn > commit.commit_lsn);
                seen.committed.push(commit.xid);
            }
            Message::Relation(_) | Message::Begin(_) => {}
            Message::Commit(_) => break,
            other => panic!("unexpected {other:?}"),
        }
    }
    assert!(seen.blocks > 2 && seen.messages == 1, "{seen:?}");
    let [committed] = seen.committed[..] else { panic!("{seen:?}") };
    assert_eq!(seen.inserts[&committed], ROWS);
    // ROLLBACK TO begins a new subtransaction in the place of the old one.
    assert_eq!(seen.deletes.values().copied().collect::<Vec<_>>(), [ROWS]);
    // The small transaction is not streamed.
    assert_eq!(seen.inserts[&0], 1);
    // What was rolled back was either taken back or never sent.
    for (&xid, _) in seen.inserts.iter().filter(|&(&xid, _)| xid != committed && xid != 0) {
        assert!(seen.aborted.iter().any(|&(_, subxid)| subxid == xid), "{xid} {seen:?}");
    }
    assert!(seen.aborted.iter().all(|&(_, subxid)| subxid != committed));
    connection.finish().await.unwrap();
    server.replication("blocks").await.drop_slot("blocks").await.unwrap();
}

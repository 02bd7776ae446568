//! A stream of every kind of change, as the server really sends it.

use std::time::Duration;

use cachetag_invalidator::source::pgoutput::{Message, OldTuple, Parser, ReplicaIdentity, Tuple, Value};
use cachetag_invalidator::source::{Frame, Lsn, ReplicationConnection, StartOptions};
use tokio::time::timeout;

use crate::server::shared;

/// The messages up to and including the n-th Commit, in a form that a test can compare.
async fn messages(connection: &mut ReplicationConnection, commits: usize) -> Vec<String> {
    let (mut parser, mut seen, mut out) = (Parser::new(), 0, Vec::<String>::new());
    while seen < commits {
        let frame =
            timeout(Duration::from_secs(20), connection.recv()).await.expect("the server has more to say").unwrap();
        let Frame::XLogData(data) = frame else { continue };
        let message = parser.parse(&data.data).unwrap_or_else(|e| panic!("{e}: {:?}", data.data));
        seen += usize::from(matches!(message, Message::Commit(_)));
        let text = text(&message);
        // A server may describe a table again though it is as it was, and TRUNCATE makes it do so.
        let again = matches!(message, Message::Relation(_) | Message::Type(_)) && out.contains(&text);
        if !again {
            out.push(text);
        }
    }
    out
}

fn text(message: &Message<'_>) -> String {
    match message {
        Message::Begin(_) => "begin".into(),
        Message::Commit(_) => "commit".into(),
        Message::Relation(relation) => {
            let identity = match relation.replica_identity {
                ReplicaIdentity::Default => "default",
                ReplicaIdentity::Nothing => "nothing",
                ReplicaIdentity::Full => "full",
                ReplicaIdentity::Index => "index",
            };
            let columns =
                relation.columns.map(|column| format!("{}{}", column.name, if column.key { "*" } else { "" }));
            let columns = columns.collect::<Vec<_>>().join(" ");
            format!("relation {}.{} {identity} {columns}", relation.namespace, relation.name)
        }
        Message::Type(r#type) => format!("type {}.{}", r#type.namespace, r#type.name),
        Message::Insert(insert) => format!("insert {}", row(insert.new)),
        Message::Update(update) => match update.old {
            None => format!("update {}", row(update.new)),
            Some(OldTuple::Key(key)) => format!("update key {} to {}", row(key), row(update.new)),
            Some(OldTuple::Full(old)) => format!("update {} to {}", row(old), row(update.new)),
        },
        Message::Delete(delete) => match delete.old {
            OldTuple::Key(key) => format!("delete key {}", row(key)),
            OldTuple::Full(old) => format!("delete {}", row(old)),
        },
        Message::Truncate(truncate) => format!(
            "truncate {}{}{}",
            truncate.relations.len(),
            if truncate.cascade { " cascade" } else { "" },
            if truncate.restart_identity { " restart identity" } else { "" }
        ),
        Message::Logical(message) => format!(
            "message {} {}: {}",
            if message.transactional { "transactional" } else { "at once" },
            String::from_utf8_lossy(message.prefix),
            String::from_utf8_lossy(message.content)
        ),
        Message::Origin(origin) => format!("origin {}", String::from_utf8_lossy(origin.name)),
        other => panic!("unexpected {other:?}"),
    }
}

fn row(tuple: Tuple<'_>) -> String {
    let values = tuple.iter().map(|value| match value {
        Value::Null => "NULL".to_owned(),
        Value::Unchanged => "unchanged".to_owned(),
        Value::Text(text) if text.len() > 40 => format!("<{} bytes>", text.len()),
        Value::Text(text) => String::from_utf8_lossy(text).into_owned(),
        Value::Binary(_) => panic!("no binary was asked for"),
    });
    format!("({})", values.collect::<Vec<_>>().join(","))
}

#[tokio::test]
async fn every_kind_of_change() {
    let server = shared().await;
    let client = server
        .database(
            "changes",
            "ALTER DATABASE changes SET datestyle = 'German, DMY';
             CREATE TYPE mood AS ENUM ('sad', 'glad');
             CREATE TABLE keyed (id int PRIMARY KEY, name text, big text, mood mood);
             ALTER TABLE keyed ALTER big SET STORAGE EXTERNAL;
             CREATE TABLE whole (day date, amount float8, at timestamptz, raw bytea);
             ALTER TABLE whole REPLICA IDENTITY FULL;
             CREATE TABLE indexed (a int NOT NULL, b int);
             CREATE UNIQUE INDEX by_a ON indexed (a);
             ALTER TABLE indexed REPLICA IDENTITY USING INDEX by_a;
             CREATE TABLE silent (id int PRIMARY KEY);
             CREATE PUBLICATION cachetag FOR TABLE keyed, whole, indexed;",
        )
        .await;
    let mut connection = server.replication("changes").await;
    connection.create_slot("changes").await.unwrap();
    for sql in [
        "BEGIN; INSERT INTO keyed VALUES (1, 'ä', repeat('x', 10000), 'sad'), (2, NULL, '', NULL); INSERT INTO silent VALUES (1); COMMIT",
        "UPDATE keyed SET name = 'b' WHERE id = 1",
        "UPDATE keyed SET id = 3 WHERE id = 1",
        "DELETE FROM keyed WHERE id = 3",
        "BEGIN; SET LOCAL timezone = 'Asia/Tokyo';
         INSERT INTO whole VALUES ('2026-02-01', 0.1, '2026-02-01 12:00+02', '\\xAB');
         UPDATE whole SET amount = 1e20; DELETE FROM whole; COMMIT",
        "BEGIN; INSERT INTO indexed VALUES (1, 2); UPDATE indexed SET b = 3; UPDATE indexed SET a = 2; DELETE FROM indexed; COMMIT",
        "BEGIN; TRUNCATE keyed, whole RESTART IDENTITY CASCADE; SAVEPOINT s; INSERT INTO indexed VALUES (9, 9); ROLLBACK TO s; COMMIT",
        "BEGIN; SELECT pg_logical_emit_message(true, 'cachetag', 'hard'); SELECT pg_logical_emit_message(false, 'other', 'now'); COMMIT",
        "BEGIN; SELECT pg_logical_emit_message(true, 'cachetag', 'lost'); ROLLBACK",
        "ALTER TABLE keyed DROP COLUMN name",
        "INSERT INTO keyed VALUES (4, 'y', 'glad')",
    ] {
        client.batch_execute(sql).await.unwrap();
    }
    connection.start_replication(&StartOptions::new("changes")).await.unwrap();
    let expected = [
        "begin",
        "type public.mood",
        "relation public.keyed default id* name big mood",
        "insert (1,ä,<10000 bytes>,sad)",
        "insert (2,NULL,,NULL)",
        "commit",
        "begin",
        "update (1,b,unchanged,sad)",
        "commit",
        "begin",
        "update key (1,NULL,NULL,NULL) to (3,b,unchanged,sad)",
        "commit",
        "begin",
        "delete key (3,NULL,NULL,NULL)",
        "commit",
        "begin",
        "relation public.whole full day* amount* at* raw*",
        "insert (2026-02-01,0.1,2026-02-01 10:00:00+00,\\xab)",
        "update (2026-02-01,0.1,2026-02-01 10:00:00+00,\\xab) to (2026-02-01,1e+20,2026-02-01 10:00:00+00,\\xab)",
        "delete (2026-02-01,1e+20,2026-02-01 10:00:00+00,\\xab)",
        "commit",
        "begin",
        "relation public.indexed index a* b",
        "insert (1,2)",
        "update (1,3)",
        "update key (1,NULL) to (2,3)",
        "delete key (2,NULL)",
        "commit",
        "begin",
        "truncate 2 cascade restart identity",
        "commit",
        // It does not wait for the transaction that it was written in.
        "message at once other: now",
        "begin",
        "message transactional cachetag: hard",
        "commit",
        "begin",
        "relation public.keyed default id* big mood",
        "insert (4,y,glad)",
        "commit",
    ];
    assert_eq!(messages(&mut connection, 9).await, expected);
    connection.finish().await.unwrap();
    server.replication("changes").await.drop_slot("changes").await.unwrap();
}

/// What is confirmed does not come again; what is not, does. A request for a reply is answered at once, with the position of the log's end.
#[tokio::test]
async fn confirmation_and_position() {
    let server = shared().await;
    let client = server.database("positions", "CREATE TABLE t (id int); CREATE PUBLICATION cachetag FOR TABLE t").await;
    server.replication("positions").await.create_slot("positions").await.unwrap();
    client.batch_execute("INSERT INTO t VALUES (1)").await.unwrap();
    client.batch_execute("INSERT INTO t VALUES (2)").await.unwrap();

    let mut ends = Vec::new();
    for confirm in [false, true] {
        let mut connection = server.replication("positions").await;
        connection.start_replication(&StartOptions::new("positions")).await.unwrap();
        let mut parser = Parser::new();
        ends.clear();
        while ends.len() < 2 {
            let Frame::XLogData(data) = connection.recv().await.unwrap() else { continue };
            if let Message::Commit(commit) = parser.parse(&data.data).unwrap() {
                ends.push(commit.end_lsn);
            }
        }
        if confirm {
            let end = ends[0];
            connection.send_status(end, end, end, false).await.unwrap();
        }
        connection.finish().await.unwrap();
    }

    let mut connection = server.replication("positions").await;
    connection.start_replication(&StartOptions::new("positions")).await.unwrap();
    assert_eq!(messages(&mut connection, 1).await[2], "insert (2)");

    // Nothing more to send: the end of the log is reached, whatever it holds there.
    client.batch_execute("CHECKPOINT; CREATE TABLE unpublished (id int)").await.unwrap();
    let flushed = client.query_one("SELECT pg_current_wal_flush_lsn()::text", &[]).await.unwrap();
    let flushed: Lsn = flushed.get::<_, &str>(0).parse().unwrap();
    let answered = timeout(Duration::from_secs(20), async {
        loop {
            connection.send_status(ends[0], ends[0], ends[0], true).await.unwrap();
            if let Frame::Keepalive(keepalive) = connection.recv().await.unwrap()
                && keepalive.wal_end >= flushed
            {
                return keepalive;
            }
        }
    });
    assert!(!answered.await.unwrap().reply_requested);

    // From a position of our choice, ahead of what was confirmed.
    connection.finish().await.unwrap();
    client.batch_execute("INSERT INTO t VALUES (3)").await.unwrap();
    let mut connection = server.replication("positions").await;
    connection.start_replication(&StartOptions::new("positions").from(ends[1])).await.unwrap();
    assert_eq!(messages(&mut connection, 1).await[2], "insert (3)");
    connection.finish().await.unwrap();
    server.replication("positions").await.drop_slot("positions").await.unwrap();
}

/// A reader that keeps being interrupted loses nothing, and neither does the server.
#[tokio::test]
async fn interrupted_at_any_moment() {
    let server = shared().await;
    let client = server
        .database("interrupted", "CREATE TABLE t (id int, pad text); CREATE PUBLICATION cachetag FOR TABLE t")
        .await;
    let mut connection = server.replication("interrupted").await;
    connection.create_slot("interrupted").await.unwrap();
    client
        .batch_execute("INSERT INTO t SELECT i, repeat(i::text, i % 3000) FROM generate_series(1, 5000) i")
        .await
        .unwrap();
    connection.start_replication(&StartOptions::new("interrupted")).await.unwrap();
    let (mut parser, mut next, mut interruptions) = (Parser::new(), 1, 0);
    'stream: loop {
        // One poll and out.
        tokio::select! {
            biased;
            ready = connection.ready() => ready.unwrap(),
            () = tokio::task::yield_now() => {
                interruptions += 1;
                tokio::select! {
                    biased;
                    () = std::future::ready(()) => {}
                    sent = connection.send_status(Lsn(1), Lsn(1), Lsn(1), false) => sent.unwrap(),
                }
                if interruptions % 100 == 0 {
                    connection.send_status(Lsn(1), Lsn(1), Lsn(1), true).await.unwrap();
                }
                continue;
            }
        }
        while let Some(frame) = connection.try_next_frame().unwrap() {
            let Frame::XLogData(data) = frame else { continue };
            match parser.parse(&data.data).unwrap() {
                Message::Insert(insert) => {
                    let (id, pad) = (insert.new.get(0), insert.new.get(1));
                    assert_eq!(id, Some(Value::Text(next.to_string().as_bytes())));
                    assert_eq!(pad, Some(Value::Text(next.to_string().repeat(next % 3000).as_bytes())));
                    next += 1;
                }
                Message::Commit(_) => break 'stream,
                _ => {}
            }
        }
    }
    assert_eq!(next, 5001);
    assert!(interruptions > 0);
    connection.finish().await.unwrap();
    server.replication("interrupted").await.drop_slot("interrupted").await.unwrap();
}

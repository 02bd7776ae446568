//! ALTER TABLE and its kin under tracked tables.

use std::time::Duration;

use cachetag_tests::{Daemon, DaemonOptions, Stack, StackOptions, eventually, lsn_of_version};

use crate::bumps::{bumped_since, bumps, log_end, stack, tags};

#[tokio::test]
async fn rules_follow_renames_of_tables_and_columns() {
    let stack = stack(
        "CREATE TABLE t (id int PRIMARY KEY, grp int, note text); INSERT INTO t VALUES (1, 1, 'a');
         SELECT cachetag.track('t', ARRAY['t:{id}', 'g:{grp}'], columns => '{note}', predicate => 'note <> ''x''', identity => 'full');",
    )
    .await;
    let changes = "UPDATE t SET note = 'b'; ALTER TABLE t RENAME TO u; ALTER TABLE u RENAME grp TO \"Gruppe {1}\";
                   ALTER TABLE u RENAME note TO remark; UPDATE u SET \"Gruppe {1}\" = 2";
    let found = bumps(&stack, &format!("BEGIN; {changes}; COMMIT")).await;
    assert!(found.contains("t:1") || found.contains("t:*"), "{found:?}");
    assert!(found.is_superset(&tags(["g:1", "g:2"])) || found.contains("g:*"), "{found:?}");
    assert_eq!(bumps(&stack, "UPDATE u SET \"Gruppe {1}\" = 3").await, tags(["g:2", "g:3"]));
    assert_eq!(bumps(&stack, "UPDATE u SET remark = 'x'").await, tags(["t:1", "g:3"]));
    assert_eq!(bumps(&stack, "UPDATE u SET id = 2").await, tags([]), "the predicate followed too");
    let computed = "SELECT array_to_string(cachetag.tags_of('u', ROW(7, 8, 'y')::u), '|')";
    assert_eq!(stack.value(computed).await, "g:8|t:7");
    stack.sql("CREATE SCHEMA elsewhere; ALTER TABLE u SET SCHEMA elsewhere").await;
    assert_eq!(bumps(&stack, "UPDATE elsewhere.u SET remark = 'z'").await, tags(["t:2", "g:3"]));
}

#[tokio::test]
async fn changes_before_and_after_a_rename_are_mapped_by_their_own_names_after_a_restart() {
    let mut stack = stack(
        "CREATE TABLE t (a int PRIMARY KEY, b int); INSERT INTO t VALUES (1, 10);
         SELECT cachetag.track('t', ARRAY['a:{a}', 'b:{b}'], identity => 'full');",
    )
    .await;
    stack.fill("a1", "v", &["a:1"]).await;
    stack.fill("b10", "v", &["b:10"]).await;
    stack.daemon().stop().await;
    // The daemon will read the rules as they are now, and then meet changes from before.
    stack.sql("UPDATE t SET b = 11").await;
    stack.sql("ALTER TABLE t RENAME a TO c; ALTER TABLE t RENAME b TO a; ALTER TABLE t RENAME c TO b").await;
    let commit = stack.commit("UPDATE t SET a = 12").await;
    stack.daemon().start_again();
    stack.wait_caught_up(commit).await;
    assert!(stack.get("a1").await.is_miss());
    assert!(stack.get("b10").await.is_miss());
    assert_eq!(bumps(&stack, "UPDATE t SET a = 13").await, tags(["a:1", "b:12", "b:13"]));
}

#[tokio::test]
async fn a_dropped_column_leaves_the_family() {
    let stack = stack(
        "CREATE TABLE t (id int PRIMARY KEY, grp int); INSERT INTO t VALUES (1, 1);
         SELECT cachetag.track('t', ARRAY['t:{id}', 'g:{grp}'], identity => 'full');",
    )
    .await;
    assert!(bumps(&stack, "ALTER TABLE t DROP grp").await.is_superset(&tags(["t:*", "g:*"])));
    assert_eq!(bumps(&stack, "UPDATE t SET id = 2").await, tags(["t:1", "t:2", "g:*"]));
    assert_eq!(stack.value("SELECT array_to_string(cachetag.tags_of('t', t), '|') FROM t").await, "g:*|t:2");
    assert_eq!(
        stack.value("SELECT count(*) FROM cachetag.doctor() WHERE \"check\" = 'rule' AND level = 'warning'").await,
        "1"
    );
}

#[tokio::test]
async fn rewrites_and_what_changes_contents_without_rows_bump_the_families() {
    let stack = stack(
        "CREATE TYPE mood AS ENUM ('happy', 'sad');
         CREATE DOMAIN percent AS int;
         CREATE TABLE t (id int PRIMARY KEY, n int, feels mood, p percent); INSERT INTO t VALUES (1, 5, 'happy', 1);
         CREATE TABLE other (id int PRIMARY KEY);
         SELECT cachetag.track('t', ARRAY['t:{id}', 'm:{feels}'], identity => 'full');
         SELECT cachetag.track('other', 'other:{id}');",
    )
    .await;
    let families = tags(["t:*", "m:*"]);
    let cases = [
        "ALTER TABLE t ALTER n TYPE text USING 'n' || n",
        "ALTER TABLE t ADD c timestamptz DEFAULT '2026-01-01'",
        "ALTER TABLE t ADD d timestamptz DEFAULT clock_timestamp()",
        "ALTER TABLE t ADD e int GENERATED ALWAYS AS (id + 1) STORED",
        "ALTER TYPE mood RENAME VALUE 'happy' TO 'glad'",
        "ALTER TABLE t DROP c",
    ];
    for sql in cases {
        let found = bumps(&stack, sql).await;
        assert!(found.is_superset(&families), "{sql}: {found:?}");
    }
    assert_eq!(bumps(&stack, "UPDATE t SET n = 'x'").await, tags(["t:1", "m:glad"]));
    assert_eq!(stack.value("SELECT array_to_string(cachetag.tags_of('t', t), '|') FROM t").await, "m:glad|t:1");
    assert!(bumps(&stack, "DROP TABLE t").await.is_superset(&families));
}

#[tokio::test]
async fn a_database_dumped_and_restored_works_with_a_new_daemon() {
    let mut stack = stack(
        "CREATE TABLE t (id int PRIMARY KEY, grp int); INSERT INTO t VALUES (1, 1);
         CREATE TABLE e (id int, region int, PRIMARY KEY (id, region)) PARTITION BY LIST (region);
         CREATE TABLE e1 PARTITION OF e FOR VALUES IN (1); INSERT INTO e VALUES (7, 1);
         SELECT cachetag.track('t', ARRAY['t:{id}', 'g:{grp}'], predicate => 'grp <> 9', identity => 'full');
         SELECT cachetag.track('e', 'e:{id}');
         SELECT cachetag.depend('home', 'g:3');",
    )
    .await;
    stack.daemon().stop().await;
    stack.sql("SELECT pg_drop_replication_slot('cachetag')").await;
    stack.sql("CREATE DATABASE restored TEMPLATE template0").await;
    let url = stack.postgres_url();
    let restored = stack.postgres.url("restored");
    let pipe = format!("pg_dump '{url}' | psql --quiet -v ON_ERROR_STOP=1 '{restored}'");
    let output = std::process::Command::new("sh").args(["-c", &pipe]).output().expect("sh");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

    let client = stack.postgres.connect("restored").await.expect("connects");
    let rules = client.query("SELECT template FROM cachetag.rules ORDER BY 1", &[]).await.expect("rules");
    assert_eq!(rules.iter().map(|row| row.get(0)).collect::<Vec<String>>(), ["e:{id}", "g:{grp}", "t:{id}"]);
    let log = stack.folder().join("daemon-of-restored.log");
    let daemon = Daemon::start(&restored, &stack.redis_url(), &log, DaemonOptions::new());
    let identity = "SELECT relreplident::text FROM pg_class WHERE oid = 'e1'::regclass";
    assert_eq!(client.query_one(identity, &[]).await.expect(identity).get::<_, String>(0), "d", "as it was");
    // It opens an epoch, in the same Redis.
    wait_for_watermark(&stack).await;
    let place = log_end(&stack).await;
    client.batch_execute("UPDATE t SET grp = 3; DELETE FROM e").await.expect("changes");
    wait_for_watermark(&stack).await;
    assert_eq!(bumped_since(&stack, &place).await, tags(["t:1", "g:1", "g:3", "home", "e:7"]));
    drop(daemon);
}

/// What is flushed now is covered by whichever daemon there is.
async fn wait_for_watermark(stack: &Stack) {
    let flushed = stack.flushed().await;
    let mut cache = stack.cache().await;
    eventually("the watermark", Duration::from_secs(30), async || {
        let watermark = cache.state().await.ok()?.remove("watermark")?;
        (lsn_of_version(&watermark) >= flushed).then_some(())
    })
    .await;
}

#[tokio::test]
async fn the_extension_dropped_leaves_writers_alone() {
    let stack = Stack::start(
        StackOptions::new()
            .without_waiting()
            .schema("CREATE TABLE t (id int PRIMARY KEY); SELECT cachetag.track('t', 't:{id}');"),
    )
    .await;
    stack.wait_ready().await;
    stack.sql("DROP EXTENSION cachetag CASCADE").await;
    stack
        .sql("INSERT INTO t VALUES (1); UPDATE t SET id = 2; ALTER TABLE t ADD x int; DELETE FROM t; DROP TABLE t")
        .await;
}

//! Types under the columns of a template: their text is what tags are made of.

use cachetag_tests::eventually;
use std::time::Duration;

use crate::situations::{Case, in_every_situation, shop};

const MOODS: &str = "CREATE TYPE mood AS ENUM ('happy', 'sad');
    CREATE TABLE t (id int PRIMARY KEY, feels mood, n int); INSERT INTO t VALUES (1, 'happy', 0), (2, 'sad', 0);
    CREATE TABLE other (id int PRIMARY KEY); INSERT INTO other VALUES (1);
    SELECT cachetag.track('t', ARRAY['t:{id}', 'm:{feels}'], identity => 'full');
    SELECT cachetag.track('other', 'other:{id}');";

#[tokio::test]
async fn an_enum_value_renamed_and_renamed_back_around_a_change() {
    in_every_situation(Case {
        schema: MOODS,
        change: &[
            "UPDATE t SET n = 1 WHERE id = 1",
            "ALTER TYPE mood RENAME VALUE 'happy' TO 'glad'",
            "UPDATE t SET n = 2 WHERE id = 1",
            "ALTER TYPE mood RENAME VALUE 'glad' TO 'happy'",
        ],
        lost: &["m:happy", "m:glad", "m:sad", "t:1"],
        kept: &["other:1"],
        then: Some(("t", "UPDATE t SET n = n + 1")),
    })
    .await;
}

/// What a transaction wrote before the rename is in the log under the old text, and a query may have cached under the new one before it commits.
#[tokio::test]
async fn an_enum_value_renamed_while_a_writer_is_in_flight() {
    let stack = shop().await;
    stack.sql("CREATE SCHEMA shop").await;
    stack.sql(MOODS).await;
    let writer = stack.connect().await;
    writer.batch_execute("BEGIN; UPDATE t SET feels = 'happy' WHERE id = 2").await.expect("the writer in flight");
    let renamer = stack.connect().await;
    let rename =
        tokio::spawn(async move { renamer.batch_execute("ALTER TYPE mood RENAME VALUE 'happy' TO 'glad'").await });
    // Either the rename waits for the writer, or it is through and readers see the new name.
    let settled = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE 'ALTER TYPE%'";
    eventually("the rename", Duration::from_secs(30), async || {
        (rename.is_finished() || stack.value(settled).await == "1").then_some(())
    })
    .await;
    if rename.is_finished() {
        stack.wait_caught_up_now().await;
        stack.fill("list", "1", &["m:glad"]).await;
    }
    writer.batch_execute("COMMIT").await.expect("the writer's commit");
    rename.await.expect("the session").expect("the rename");
    stack.wait_caught_up_now().await;
    assert!(!stack.get("list").await.is_hit(), "row 2 is glad now");
}

#[tokio::test]
async fn a_type_widened_without_a_rewrite_and_with_one() {
    in_every_situation(Case {
        schema: "CREATE TABLE t (id int PRIMARY KEY, code varchar(10), grp int, at timestamp);
                 INSERT INTO t VALUES (1, 'a', 5, '2026-01-01 12:00');
                 SELECT cachetag.track('t', ARRAY['t:{id}', 'c:{code}', 'g:{grp}', 'at:{at}'], predicate => 'code <> ''z''', identity => 'full');",
        change: &[
            "UPDATE t SET grp = 6",
            "ALTER TABLE t ALTER code TYPE text",
            "UPDATE t SET grp = 7",
            "ALTER TABLE t ALTER id TYPE bigint, ALTER grp TYPE numeric(6, 2)",
            "UPDATE t SET grp = 8.5",
            "ALTER TABLE t ALTER at TYPE timestamptz USING at AT TIME ZONE 'UTC'",
            "UPDATE t SET grp = 9",
        ],
        lost: &["t:1", "c:a", "g:5", "g:6", "g:7", "g:8.50", "g:9.00", "at:2026-01-01%2012%3A00%3A00"],
        kept: &[],
        then: Some(("t", "UPDATE t SET grp = grp + 1")),
    })
    .await;
}

#[tokio::test]
async fn a_domain_and_a_composite_type_change() {
    in_every_situation(Case {
        schema: "CREATE DOMAIN percent AS numeric(5, 2); CREATE TYPE pair AS (a int, b int);
                 CREATE TABLE t (id int PRIMARY KEY, p percent, c pair); INSERT INTO t VALUES (1, 5, (1, 2));
                 SELECT cachetag.track('t', ARRAY['p:{p}', 'c:{c}'], identity => 'full');",
        change: &[
            "UPDATE t SET p = 6",
            "ALTER DOMAIN percent ADD CONSTRAINT positive CHECK (VALUE >= 0)",
            "UPDATE t SET p = 7",
            "ALTER TYPE pair ADD ATTRIBUTE c text",
            "UPDATE t SET p = 8",
            "ALTER DOMAIN percent DROP CONSTRAINT positive",
        ],
        lost: &["p:5.00", "p:6.00", "p:7.00", "p:8.00", "c:(1,2)", "c:(1,2,)"],
        kept: &[],
        then: Some(("t", "UPDATE t SET p = p + 1")),
    })
    .await;
}

#[tokio::test]
async fn a_typed_table_follows_its_type() {
    in_every_situation(Case {
        schema: "CREATE TYPE row_of_t AS (id int, grp int, gone int);
                 CREATE TABLE t OF row_of_t (PRIMARY KEY (id)); INSERT INTO t VALUES (1, 5, 0);
                 SELECT cachetag.track('t', ARRAY['t:{id}', 'g:{grp}'], identity => 'full');",
        change: &[
            "UPDATE t SET grp = 6",
            "ALTER TYPE row_of_t RENAME ATTRIBUTE grp TO other CASCADE",
            "UPDATE t SET other = 7",
            "ALTER TYPE row_of_t ADD ATTRIBUTE grp int CASCADE",
            "UPDATE t SET grp = 8",
            "ALTER TYPE row_of_t DROP ATTRIBUTE gone CASCADE",
        ],
        lost: &["t:1", "g:5", "g:6", "g:7", "g:8"],
        kept: &[],
        then: Some(("t", "UPDATE t SET other = coalesce(other, 0) + 1, grp = coalesce(grp, 0) + 1")),
    })
    .await;
}

/// The text of these values is the name of something else, which may be renamed.
#[tokio::test]
async fn names_of_other_things_are_renamed() {
    in_every_situation(Case {
        schema:
            "CREATE TABLE thing (id int PRIMARY KEY); DROP ROLE IF EXISTS cat; DROP ROLE IF EXISTS dog; CREATE ROLE cat;
                 CREATE DOMAIN things AS regclass[];
                 CREATE TABLE t (id int PRIMARY KEY, what regclass, who regrole, all_of things, n int);
                 INSERT INTO t VALUES (1, 'thing', 'cat', '{thing}', 0);
                 SELECT cachetag.track('t', ARRAY['what:{what}', 'who:{who}', 'all:{all_of}'], identity => 'family');",
        change: &["ALTER TABLE thing RENAME TO matter", "ALTER ROLE cat RENAME TO dog", "UPDATE t SET n = n + 1"],
        lost: &["what:shop.thing", "what:shop.matter", "who:cat", "who:dog", "all:%7Bshop.thing%7D"],
        kept: &[],
        then: Some(("t", "UPDATE t SET n = n + 1")),
    })
    .await;
}

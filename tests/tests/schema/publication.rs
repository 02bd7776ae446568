//! Our publication and our event triggers in the hands of others.

use std::time::Duration;

use cachetag_tests::{Stack, eventually};

use crate::situations::{Case, in_every_situation, rows_fall_by_their_tags, shop};

const TABLE: &str = "CREATE TABLE t (id int PRIMARY KEY, grp int); INSERT INTO t VALUES (1, 5);
    CREATE TABLE other (id int PRIMARY KEY); INSERT INTO other VALUES (1);
    SELECT cachetag.track('t', ARRAY['t:{id}', 'g:{grp}'], identity => 'full');
    SELECT cachetag.track('other', 'other:{id}');";

#[tokio::test]
async fn a_publication_that_is_narrowed_is_made_whole_at_once() {
    in_every_situation(Case {
        schema: TABLE,
        change: &[
            "ALTER PUBLICATION cachetag DROP TABLE t",
            "UPDATE t SET grp = 6",
            "ALTER PUBLICATION cachetag SET TABLE t WHERE (id > 100)",
            "UPDATE t SET grp = 7",
            "ALTER PUBLICATION cachetag SET TABLE t (id)",
            "UPDATE t SET grp = 8",
            "ALTER PUBLICATION cachetag SET (publish = 'insert')",
            "UPDATE t SET grp = 9",
            "ALTER PUBLICATION cachetag SET (publish_via_partition_root = true)",
            "UPDATE t SET grp = 10",
        ],
        lost: &["t:1", "g:5", "g:6", "g:7", "g:8", "g:9", "g:10"],
        kept: &["other:1"],
        then: Some(("t", "UPDATE t SET grp = grp + 1")),
    })
    .await;
}

#[tokio::test]
async fn a_publication_dropped_or_renamed_is_there_again_at_once() {
    in_every_situation(Case {
        schema: TABLE,
        change: &[
            "DROP PUBLICATION cachetag",
            "UPDATE t SET grp = 6",
            "DROP PUBLICATION IF EXISTS mine",
            "ALTER PUBLICATION cachetag RENAME TO mine",
            "UPDATE t SET grp = 7",
            "SELECT cachetag.depend('home', 't:1')",
            "UPDATE t SET grp = 8",
        ],
        lost: &["t:1", "g:5", "g:6", "g:7", "g:8", "home"],
        kept: &[],
        then: Some(("t", "UPDATE t SET grp = grp + 1")),
    })
    .await;
}

async fn without_triggers(stack: &Stack, sql: &str) {
    let toggle = |how: &str| {
        let names = ["ddl", "drop", "rewrite"].map(|name| format!("ALTER EVENT TRIGGER cachetag_{name} {how};"));
        names.concat()
    };
    stack.sql(&format!("{} {sql}; {}", toggle("DISABLE"), toggle("ENABLE ALWAYS"))).await;
}

/// The stream breaks off where the publication is missing, and no restart gets past that place.
#[tokio::test]
async fn a_publication_dropped_behind_the_event_triggers_costs_an_epoch() {
    let stack = shop().await;
    stack.sql("CREATE SCHEMA shop").await;
    stack.sql(TABLE).await;
    stack.wait_caught_up_now().await;
    stack.fill("t", "5", &["t:1"]).await;
    let before = stack.cache().await.state().await.expect("Redis answers").remove("epoch");
    without_triggers(&stack, "DROP PUBLICATION cachetag; UPDATE t SET grp = 6").await;
    eventually("a new epoch", Duration::from_secs(60), async || {
        let now = stack.cache().await.state().await.ok()?.remove("epoch");
        (now > before).then_some(())
    })
    .await;
    stack.wait_caught_up_now().await;
    assert!(stack.get("t").await.is_miss());
    rows_fall_by_their_tags(&stack, "t", "UPDATE t SET grp = grp + 1").await;
}

/// Nobody knows what was done meanwhile. A daemon that starts finds them off, puts them on and takes everything for changed.
#[tokio::test]
async fn event_triggers_that_are_off_are_told_and_put_on_by_the_next_daemon() {
    let mut stack = shop().await;
    stack.sql("CREATE SCHEMA shop").await;
    stack.sql(TABLE).await;
    stack.wait_caught_up_now().await;
    stack.fill("t", "5", &["t:1"]).await;
    stack.sql("ALTER EVENT TRIGGER cachetag_ddl DISABLE; ALTER TABLE t ADD x int DEFAULT 5").await;
    let told = "SELECT count(*) FROM cachetag.doctor() WHERE \"check\" = 'event triggers' AND level = 'error'";
    assert_eq!(stack.value(told).await, "1");
    stack.daemon().stop().await;
    stack.daemon().start_again();
    eventually("the end of the silence", Duration::from_secs(30), async || {
        (stack.value(told).await == "0").then_some(())
    })
    .await;
    stack.wait_caught_up_now().await;
    assert!(stack.get("t").await.is_miss());
}

/// Both ways of putting another table in the place of one leave its rules behind, and queries do not know.
#[tokio::test]
async fn a_successor_by_name_that_nobody_tracks_is_told() {
    let stack = shop().await;
    stack.sql("CREATE SCHEMA shop").await;
    stack.sql(TABLE).await;
    let told = "SELECT subject FROM cachetag.doctor() WHERE \"check\" = 'successor' ORDER BY 1";
    stack.sql("CREATE TABLE fresh (id int PRIMARY KEY, grp int)").await;
    stack.sql("ALTER TABLE t RENAME TO was; ALTER TABLE fresh RENAME TO t").await;
    assert_eq!(stack.values(told).await, ["shop.t"]);
    let remedy = "SELECT remedy FROM cachetag.doctor() WHERE \"check\" = 'successor'";
    let remedy = stack.value(remedy).await;
    stack.sql("ALTER TABLE t REPLICA IDENTITY FULL").await;
    stack.sql(remedy.split(';').next().expect("a statement")).await;
    assert_eq!(stack.values(told).await, Vec::<String>::new());
    stack.sql("INSERT INTO t VALUES (3, 4)").await;
    rows_fall_by_their_tags(&stack, "t", "UPDATE t SET grp = grp + 1").await;

    stack.sql("DROP TABLE t; CREATE TABLE t AS SELECT 1 AS id").await;
    assert_eq!(stack.values(told).await, ["shop.t"]);
    stack.sql("SELECT cachetag.track('t', ARRAY['t:{id}'], identity => 'full')").await;
    stack.sql("SELECT cachetag.untrack('t')").await;
    assert_eq!(stack.values(told).await, Vec::<String>::new(), "whoever untracks a table knows");
    stack.sql("CREATE SCHEMA attic; ALTER TABLE other SET SCHEMA attic").await;
    assert_eq!(stack.values(told).await, Vec::<String>::new(), "nothing has taken its place");
    stack.sql("CREATE VIEW other AS SELECT 1 AS id").await;
    assert_eq!(stack.values(told).await, ["shop.other"]);
}

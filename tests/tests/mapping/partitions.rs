//! Partitions and inheritance: changes through any of them, and what changes contents without a row in the log.

use crate::bumps::{bumps, stack, tags};

const EVENTS: &str = "
    CREATE TABLE events (id int, region int, kind text, PRIMARY KEY (id, region)) PARTITION BY LIST (region);
    CREATE TABLE events_1 PARTITION OF events FOR VALUES IN (1);
    CREATE TABLE events_2 PARTITION OF events FOR VALUES IN (2) PARTITION BY RANGE (id);
    CREATE TABLE events_2a PARTITION OF events_2 FOR VALUES FROM (0) TO (100);
    CREATE TABLE events_2b PARTITION OF events_2 FOR VALUES FROM (100) TO (200);
    INSERT INTO events VALUES (1, 1, 'a'), (2, 2, 'a'), (102, 2, 'a');
    SELECT cachetag.track('events', ARRAY['event:{id}', 'region:{region}'], identity => 'full');";

#[tokio::test]
async fn changes_through_any_partition_and_through_the_root_are_seen() {
    let stack = stack(EVENTS).await;
    let cases = [
        ("UPDATE events SET kind = 'b' WHERE id = 1", tags(["event:1", "region:1"])),
        ("UPDATE events_2 SET kind = 'b' WHERE id = 2", tags(["event:2", "region:2"])),
        ("INSERT INTO events_2b VALUES (103, 2, 'a')", tags(["event:103", "region:2"])),
        ("UPDATE events SET region = 2 WHERE id = 1", tags(["event:1", "region:1", "region:2"])),
        ("DELETE FROM events_2b WHERE id = 103", tags(["event:103", "region:2"])),
        ("TRUNCATE events_2a", tags(["event:*", "region:*"])),
        ("TRUNCATE events", tags(["event:*", "region:*"])),
    ];
    for (sql, expected) in cases {
        assert_eq!(bumps(&stack, sql).await, expected, "{sql}");
    }
}

#[tokio::test]
async fn truncate_of_one_partition_invalidates_entries_of_the_family() {
    let stack = stack(EVENTS).await;
    stack.fill("e2", "a", &["event:2"]).await;
    stack.fill("all", "…", &["event:*"]).await;
    let commit = stack.commit("TRUNCATE events_2a").await;
    stack.wait_caught_up(commit).await;
    assert!(stack.get("e2").await.is_miss());
    assert!(stack.get("all").await.is_miss());
}

#[tokio::test]
async fn attach_detach_and_drop_of_a_partition_bump_the_families() {
    let stack = stack(EVENTS).await;
    let families = tags(["event:*", "region:*"]);
    stack.sql("CREATE TABLE events_3 (LIKE events INCLUDING ALL); INSERT INTO events_3 VALUES (3, 3, 'a')").await;
    assert_eq!(bumps(&stack, "UPDATE events_3 SET kind = 'b'").await, tags([]), "not yet a partition");
    let attach = "ALTER TABLE events ATTACH PARTITION events_3 FOR VALUES IN (3)";
    assert!(bumps(&stack, attach).await.is_superset(&families));
    let through_it = bumps(&stack, "UPDATE events_3 SET kind = 'c'").await;
    assert!(
        through_it.is_superset(&tags(["event:3", "region:3"])) || through_it.is_superset(&families),
        "{through_it:?}"
    );
    let through_root = bumps(&stack, "DELETE FROM events WHERE id = 3; INSERT INTO events VALUES (3, 3, 'd')").await;
    assert!(through_root.is_superset(&tags(["event:3", "region:3"])) || through_root.is_superset(&families));
    assert!(bumps(&stack, "ALTER TABLE events DETACH PARTITION events_3").await.is_superset(&families));
    stack.sql("UPDATE events_3 SET kind = 'free'; DELETE FROM events_3").await;
    assert!(bumps(&stack, "DROP TABLE events_1").await.is_superset(&families));
    assert!(bumps(&stack, "DROP TABLE events_2").await.is_superset(&families), "a partitioned partition");
    let created = "CREATE TABLE events_9 PARTITION OF events FOR VALUES IN (9); INSERT INTO events VALUES (9, 9, 'a')";
    assert!(bumps(&stack, created).await.is_superset(&families));
    assert_eq!(bumps(&stack, "UPDATE events SET kind = 'z'").await, tags(["event:9", "region:9"]));
}

#[tokio::test]
async fn detach_concurrently_bumps_the_families() {
    let stack = stack(EVENTS).await;
    let families = tags(["event:*", "region:*"]);
    stack.fill("e1", "a", &["event:1"]).await;
    assert!(bumps(&stack, "ALTER TABLE events DETACH PARTITION events_1 CONCURRENTLY").await.is_superset(&families));
    assert!(stack.get("e1").await.is_miss());
    stack.sql("UPDATE events_1 SET kind = 'free'; DELETE FROM events_1").await;
}

#[tokio::test]
async fn a_move_between_partitions_is_an_update_for_rules_that_listen_to_updates_only() {
    let stack = stack(
        "CREATE TABLE e (id int, region int, PRIMARY KEY (id, region)) PARTITION BY LIST (region);
         CREATE TABLE e1 PARTITION OF e FOR VALUES IN (1); CREATE TABLE e2 PARTITION OF e FOR VALUES IN (2);
         SELECT cachetag.track('e', ARRAY['e:{id}'], operations => '{update}');
         INSERT INTO e VALUES (1, 1);",
    )
    .await;
    assert_eq!(bumps(&stack, "UPDATE e SET region = 2").await, tags(["e:1"]));
}

#[tokio::test]
async fn children_of_plain_inheritance_belong_to_their_parents() {
    let stack = stack(
        "CREATE TABLE base (id int PRIMARY KEY, n int);
         CREATE TABLE child (extra text, PRIMARY KEY (id)) INHERITS (base);
         INSERT INTO base VALUES (1, 0); INSERT INTO child VALUES (2, 0, 'x');
         SELECT cachetag.track('base', 'base:{id}');",
    )
    .await;
    assert_eq!(bumps(&stack, "UPDATE base SET n = n + 1").await, tags(["base:1", "base:2"]));
    assert_eq!(bumps(&stack, "UPDATE child SET n = n + 1").await, tags(["base:2"]));
    let inherit =
        "CREATE TABLE late (id int PRIMARY KEY, n int); INSERT INTO late VALUES (3, 0); ALTER TABLE late INHERIT base";
    assert!(bumps(&stack, inherit).await.contains("base:*"));
    assert_eq!(bumps(&stack, "UPDATE base SET n = n + 1").await, tags(["base:1", "base:2", "base:3"]));
    assert!(bumps(&stack, "ALTER TABLE late NO INHERIT base").await.contains("base:*"));
    stack.sql("UPDATE late SET n = 9").await;
    assert!(bumps(&stack, "DROP TABLE child").await.contains("base:*"));
}

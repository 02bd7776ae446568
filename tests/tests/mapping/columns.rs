//! Rules that look closer: predicates, columns that matter, operations, soft ones.

use cachetag_tests::State;

use crate::bumps::{bumps, stack, tags};

#[tokio::test]
async fn a_predicate_decides_for_the_old_and_the_new_row() {
    let stack = stack(
        "CREATE TYPE mood AS ENUM ('happy', 'sad');
         CREATE TABLE t (id int PRIMARY KEY, live bool, kind text, feels mood, day date);
         SELECT cachetag.track('t', ARRAY['live:{id}'], predicate => 'live = true', identity => 'full');
         SELECT cachetag.track('t', ARRAY['kind:{id}'], predicate => 'kind IN (''a'', ''b'') AND day <> ''2026-1-1''', identity => 'full');
         SELECT cachetag.track('t', ARRAY['mood:{id}'], predicate => 'feels = ''sad''', identity => 'full');
         SELECT cachetag.track('t', ARRAY['null:{id}'], predicate => 'kind IS NULL', identity => 'full');",
    )
    .await;
    let cases = [
        ("INSERT INTO t VALUES (1, true, 'a', 'sad', '2026-01-02')", tags(["live:1", "kind:1", "mood:1"])),
        ("INSERT INTO t VALUES (2, false, 'a', 'happy', '2026-01-01')", tags([])),
        ("INSERT INTO t VALUES (3)", tags(["null:3"])),
        ("UPDATE t SET live = false WHERE id = 1", tags(["live:1", "kind:1", "mood:1"])),
        ("UPDATE t SET live = true WHERE id = 2", tags(["live:2"])),
        ("UPDATE t SET kind = 'c', live = NULL WHERE id = 2", tags(["live:2"])),
        ("UPDATE t SET day = '2026-02-02', kind = 'b' WHERE id = 2", tags(["kind:2"])),
        ("DELETE FROM t WHERE id = 1", tags(["kind:1", "mood:1"])),
        ("DELETE FROM t WHERE id = 3", tags(["null:3"])),
        ("TRUNCATE t", tags(["live:*", "kind:*", "mood:*", "null:*"])),
    ];
    for (sql, expected) in cases {
        assert_eq!(bumps(&stack, sql).await, expected, "{sql}");
    }
}

#[tokio::test]
async fn only_columns_that_matter_count_for_updates() {
    let stack = stack(
        "CREATE TABLE t (id int PRIMARY KEY, name text, seen int);
         INSERT INTO t VALUES (1, 'a', 0);
         SELECT cachetag.track('t', ARRAY['t:{id}'], columns => '{name}', identity => 'full');
         CREATE TABLE p (id int PRIMARY KEY, name text, seen int);
         INSERT INTO p VALUES (1, 'a', 0);
         SELECT cachetag.track('p', ARRAY['p:{id}'], columns => '{name}', identity => 'family');",
    )
    .await;
    assert_eq!(bumps(&stack, "UPDATE t SET seen = 1").await, tags([]));
    assert_eq!(bumps(&stack, "UPDATE t SET name = 'a'").await, tags([]), "the same as before");
    assert_eq!(bumps(&stack, "UPDATE t SET name = 'b'").await, tags(["t:1"]));
    assert_eq!(bumps(&stack, "UPDATE t SET id = 2").await, tags(["t:1", "t:2"]));
    assert_eq!(bumps(&stack, "DELETE FROM t").await, tags(["t:2"]));
    // The old name is not in the log: it may have changed.
    assert_eq!(bumps(&stack, "UPDATE p SET seen = 1").await, tags(["p:1"]));
}

#[tokio::test]
async fn a_rule_listens_to_its_operations_only() {
    let stack = stack(
        "CREATE TABLE t (id int PRIMARY KEY, n int);
         SELECT cachetag.track('t', ARRAY['made:{id}'], operations => '{insert}');
         SELECT cachetag.track('t', ARRAY['changed:{id}'], operations => '{update,delete}');
         SELECT cachetag.track('t', ARRAY['emptied'], operations => '{truncate}');",
    )
    .await;
    assert_eq!(bumps(&stack, "INSERT INTO t VALUES (1, 1)").await, tags(["made:1"]));
    assert_eq!(bumps(&stack, "UPDATE t SET n = 2").await, tags(["changed:1"]));
    assert_eq!(bumps(&stack, "DELETE FROM t").await, tags(["changed:1"]));
    assert_eq!(bumps(&stack, "TRUNCATE t").await, tags(["emptied"]));
}

#[tokio::test]
async fn a_soft_rule_makes_entries_stale_and_a_hard_one_removes_them() {
    let stack = stack(
        "CREATE TABLE t (id int PRIMARY KEY, n int); INSERT INTO t VALUES (1, 1);
         SELECT cachetag.track('t', ARRAY['soft:{id}'], soft => true);
         SELECT cachetag.track('t', ARRAY['hard:{id}']);",
    )
    .await;
    stack.fill("s", "1", &["soft:1"]).await;
    stack.fill("h", "1", &["hard:1"]).await;
    stack.fill("b", "1", &["soft:1", "hard:1"]).await;
    assert_eq!(bumps(&stack, "UPDATE t SET n = 2").await, tags(["~soft:1", "hard:1"]));
    let stale = stack.get("s").await;
    assert_eq!((stale.state, stale.text(), stale.lease.is_empty()), (State::Stale, Some("1"), false));
    assert!(stack.get("h").await.is_miss());
    assert!(stack.get("b").await.is_miss());
}

//! Rules and dependencies are data: their changes take effect, and bump, in commit order.

use cachetag_tests::State;

use crate::bumps::{bumps, stack, tags};

const TABLE: &str = "
    CREATE TABLE t (id int PRIMARY KEY, n int); INSERT INTO t SELECT g, 0 FROM generate_series(1, 9) g;
    SELECT cachetag.track('t', 't:{id}');";

#[tokio::test]
async fn an_edge_added_or_removed_bumps_the_child_and_what_depends_on_it() {
    let stack = stack(TABLE).await;
    let below = bumps(&stack, "SELECT cachetag.depend('page', 'home')").await;
    assert!(below.contains("page"), "{below:?}");
    stack.fill("home", "h", &["home"]).await;
    stack.fill("page", "p", &["page"]).await;
    let added = bumps(&stack, "SELECT cachetag.depend('home', 't:1', 't:2')").await;
    assert_eq!(added, tags(["home", "page"]));
    assert!(stack.get("home").await.is_miss() && stack.get("page").await.is_miss());

    assert_eq!(bumps(&stack, "UPDATE t SET n = 1 WHERE id = 1").await, tags(["t:1", "home", "page"]));
    assert_eq!(bumps(&stack, "UPDATE t SET n = 1 WHERE id = 3").await, tags(["t:3"]));
    assert_eq!(bumps(&stack, "SELECT cachetag.undepend('home', 't:1')").await, tags(["home", "page"]));
    assert_eq!(bumps(&stack, "UPDATE t SET n = 2 WHERE id = 1").await, tags(["t:1"]));
    assert_eq!(bumps(&stack, "UPDATE t SET n = 2 WHERE id = 2").await, tags(["t:2", "home", "page"]));
    let rolled_back = "SELECT cachetag.undepend('home', 't:2'); ROLLBACK";
    assert_eq!(bumps(&stack, &format!("BEGIN; {rolled_back}")).await, tags([]));
    assert_eq!(bumps(&stack, "UPDATE t SET n = 3 WHERE id = 2").await, tags(["t:2", "home", "page"]));
}

#[tokio::test]
async fn an_edge_added_and_removed_within_the_transaction_of_a_change_loses_nothing() {
    let stack = stack(TABLE).await;
    let found = bumps(&stack, "UPDATE t SET n = 1 WHERE id = 1; SELECT cachetag.depend('home', 't:1')").await;
    assert_eq!(found, tags(["t:1", "home"]));
    let found = bumps(&stack, "SELECT cachetag.undepend('home', 't:1'); UPDATE t SET n = 2 WHERE id = 1").await;
    assert_eq!(found, tags(["t:1", "home"]));
}

#[tokio::test]
async fn depth_limits_end_a_cascade() {
    let stack = stack(TABLE).await;
    stack
        .sql(
            "SELECT cachetag.depend('a', 't:1'), cachetag.depend('b', 'a'), cachetag.depend('c', 'b');
              SELECT cachetag.depend('near', ARRAY['a'], max_depth => 1);
              SELECT cachetag.depend('far', ARRAY['b'], max_depth => 3);",
        )
        .await;
    assert_eq!(bumps(&stack, "UPDATE t SET n = 1 WHERE id = 1").await, tags(["t:1", "a", "b", "c", "far"]));
    assert_eq!(bumps(&stack, "SELECT cachetag.invalidate('a')").await, tags(["a", "b", "c", "near", "far"]));
    assert_eq!(stack.values("SELECT tag FROM cachetag.descendants('t:1') ORDER BY 1").await, ["a", "b", "c", "far"]);
}

#[tokio::test]
async fn soft_edges_make_stale_and_a_hard_way_wins() {
    let stack = stack(TABLE).await;
    stack
        .sql(
            "SELECT cachetag.depend('soft', ARRAY['t:1'], soft => true); SELECT cachetag.depend('below', 'soft');
              SELECT cachetag.depend('both', ARRAY['t:1'], soft => true); SELECT cachetag.depend('both', 't:2');",
        )
        .await;
    stack.wait_caught_up_now().await;
    stack.fill("soft", "1", &["soft"]).await;
    stack.fill("below", "1", &["below"]).await;
    let found = bumps(&stack, "UPDATE t SET n = 1 WHERE id = 1").await;
    assert_eq!(found, tags(["t:1", "~soft", "~below", "~both"]));
    assert_eq!(stack.get("soft").await.state, State::Stale);
    assert_eq!(stack.get("below").await.state, State::Stale);
    assert_eq!(stack.get("below").await.text(), Some("1"));
    let found = bumps(&stack, "UPDATE t SET n = 2 WHERE id IN (1, 2)").await;
    assert!(found.is_superset(&tags(["t:1", "t:2", "~soft", "~below", "both"])), "{found:?}");
}

#[tokio::test]
async fn cycles_are_harmless() {
    let stack = stack(TABLE).await;
    stack.sql("SELECT cachetag.depend('a', 't:1', 'c'), cachetag.depend('b', 'a'), cachetag.depend('c', 'b'), cachetag.depend('a', 'a')").await;
    assert_eq!(bumps(&stack, "UPDATE t SET n = 1 WHERE id = 1").await, tags(["t:1", "a", "b", "c"]));
    assert_eq!(bumps(&stack, "SELECT cachetag.invalidate('b')").await, tags(["a", "b", "c"]));
}

#[tokio::test]
async fn families_are_parents_and_children() {
    let stack = stack(TABLE).await;
    stack
        .sql("SELECT cachetag.depend('any', 't:*'), cachetag.depend('one', 't:1'), cachetag.depend('list:*', 't:2')")
        .await;
    assert_eq!(bumps(&stack, "UPDATE t SET n = 1 WHERE id = 1").await, tags(["t:1", "any", "one"]));
    assert_eq!(bumps(&stack, "UPDATE t SET n = 1 WHERE id = 2").await, tags(["t:2", "any", "list:*"]));
    assert_eq!(bumps(&stack, "TRUNCATE t").await, tags(["t:*", "any", "one", "list:*"]));
}

#[tokio::test]
async fn an_edge_listens_to_its_operations_only() {
    let stack = stack(TABLE).await;
    stack.sql("SELECT cachetag.depend('count', ARRAY['t:*'], operations => '{insert,delete}')").await;
    assert_eq!(bumps(&stack, "UPDATE t SET n = 1 WHERE id = 1").await, tags(["t:1"]));
    assert_eq!(bumps(&stack, "DELETE FROM t WHERE id = 1").await, tags(["t:1", "count"]));
    assert_eq!(bumps(&stack, "INSERT INTO t VALUES (10)").await, tags(["t:10", "count"]));
    assert_eq!(
        bumps(&stack, "UPDATE t SET n = 1 WHERE id = 2; DELETE FROM t WHERE id = 2").await,
        tags(["t:2", "count"])
    );
}

#[tokio::test]
async fn a_table_untracked_and_tracked_again_bumps_its_families_and_misses_nothing() {
    let stack = stack(TABLE).await;
    stack.fill("t1", "0", &["t:1"]).await;
    assert!(bumps(&stack, "SELECT cachetag.untrack('t')").await.contains("t:*"));
    assert!(stack.get("t1").await.is_miss());
    stack.fill("t1", "0", &["t:1"]).await;
    assert_eq!(bumps(&stack, "UPDATE t SET n = 1 WHERE id = 1").await, tags([]));
    assert!(bumps(&stack, "SELECT cachetag.track('t', 't:{id}')").await.contains("t:*"));
    assert!(stack.get("t1").await.is_miss(), "it changed while nobody looked");
    assert_eq!(bumps(&stack, "UPDATE t SET n = 2 WHERE id = 1").await, tags(["t:1"]));
}

#[tokio::test]
async fn a_rule_is_in_force_from_its_own_transaction_on() {
    let stack = stack("CREATE TABLE t (id int PRIMARY KEY, n int)").await;
    let found = bumps(&stack, "SELECT cachetag.track('t', 't:{id}'); INSERT INTO t VALUES (1, 1)").await;
    assert!(found.contains("t:*"), "{found:?}");
    let found = bumps(&stack, "SELECT cachetag.track('t', ARRAY['n:{n}', 'all'], identity => 'full')").await;
    assert!(found.is_superset(&tags(["n:*"])), "{found:?}");
    assert_eq!(bumps(&stack, "INSERT INTO t VALUES (2, 5)").await, tags(["t:2", "n:5", "all"]));
    let rolled_back = "BEGIN; SELECT cachetag.untrack('t'); ROLLBACK";
    assert_eq!(bumps(&stack, rolled_back).await, tags([]));
    assert_eq!(bumps(&stack, "INSERT INTO t VALUES (3, 6)").await, tags(["t:3", "n:6", "all"]));
}

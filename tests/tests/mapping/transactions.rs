//! What a transaction as a whole does.

use cachetag_tests::{DaemonOptions, Stack, StackOptions, State};

use crate::bumps::{bumped_since, bumps, log_end, stack, tags};

const TABLE: &str = "
    CREATE TABLE t (id int PRIMARY KEY, n int); INSERT INTO t SELECT g, 0 FROM generate_series(1, 9) g;
    SELECT cachetag.track('t', 't:{id}');";

#[tokio::test]
async fn what_is_rolled_back_bumps_nothing() {
    let stack = stack(TABLE).await;
    let cases = [
        ("BEGIN; UPDATE t SET n = 1; SELECT cachetag.invalidate('x'); ROLLBACK", tags([])),
        (
            "BEGIN; UPDATE t SET n = 1 WHERE id = 1; SAVEPOINT s; UPDATE t SET n = 1 WHERE id = 2; SELECT cachetag.invalidate('x');
             ROLLBACK TO s; UPDATE t SET n = 1 WHERE id = 3; COMMIT",
            tags(["t:1", "t:3"]),
        ),
        (
            "DO $$ BEGIN UPDATE t SET n = 2 WHERE id = 4; BEGIN UPDATE t SET n = 2 WHERE id = 5; RAISE 'no'; EXCEPTION WHEN OTHERS THEN NULL; END; END $$",
            tags(["t:4"]),
        ),
        ("BEGIN; TRUNCATE t; ROLLBACK", tags([])),
    ];
    for (sql, expected) in cases {
        assert_eq!(bumps(&stack, sql).await, expected, "{sql}");
    }
}

#[tokio::test]
async fn messages_invalidate_hard_and_soft_at_commit() {
    let stack = stack(TABLE).await;
    stack.fill("h", "1", &["hard"]).await;
    stack.fill("s", "1", &["soft:1"]).await;
    stack.fill("f", "1", &["fam:1"]).await;
    stack.fill("o", "1", &["other"]).await;
    let found = bumps(&stack, "SELECT cachetag.invalidate('hard', 'fam:*'), cachetag.invalidate_soft('soft:1')").await;
    assert_eq!(found, tags(["hard", "fam:*", "~soft:1"]));
    assert!(stack.get("h").await.is_miss());
    assert!(stack.get("f").await.is_miss());
    assert_eq!(stack.get("s").await.state, State::Stale);
    assert_eq!(stack.get("o").await.state, State::Hit);

    assert_eq!(bumps(&stack, "SELECT cachetag.invalidate_soft('*')").await, tags(["~*"]));
    assert_eq!(stack.get("o").await.state, State::Stale);
    assert_eq!(bumps(&stack, "SELECT cachetag.invalidate('*')").await, tags(["*"]));
    assert!(stack.get("o").await.is_miss());
    stack.fill("o", "2", &["other"]).await;
    assert_eq!(stack.get("o").await.state, State::Hit);
}

#[tokio::test]
async fn a_malformed_message_makes_everything_fall_and_the_daemon_lives() {
    let mut stack = stack(TABLE).await;
    for (number, content) in ["'rubbish'", "''", "E'hard\\na:b*'", "'\\x00ff'::bytea", "E'hard'"].iter().enumerate() {
        let key = format!("k{number}");
        stack.fill(&key, "1", &["other"]).await;
        let found = bumps(&stack, &format!("SELECT pg_logical_emit_message(true, 'cachetag', {content})")).await;
        assert!(found.contains("*") || *content == "E'hard'", "{content}: {found:?}");
        assert!(stack.get(&key).await.is_miss() || *content == "E'hard'", "{content}");
    }
    stack.fill("mine", "1", &["other"]).await;
    stack
        .sql(
            "SELECT pg_logical_emit_message(true, 'cachetagger', 'rubbish'), pg_logical_emit_message(true, 'app', 'x')",
        )
        .await;
    assert_eq!(bumps(&stack, "UPDATE t SET n = 5 WHERE id = 1").await, tags(["t:1"]));
    assert!(stack.get("mine").await.is_hit(), "messages of others are theirs");
    assert!(stack.daemon().is_running());
}

#[tokio::test]
async fn a_prepared_transaction_bumps_when_it_commits() {
    let stack = stack(TABLE).await;
    stack.fill("t1", "0", &["t:1"]).await;
    let prepared = "BEGIN; UPDATE t SET n = 1 WHERE id = 1; SELECT cachetag.invalidate('x'); PREPARE TRANSACTION 'p'";
    assert_eq!(bumps(&stack, prepared).await, tags([]));
    assert!(stack.get("t1").await.is_hit(), "nothing has changed yet");
    assert_eq!(bumps(&stack, "COMMIT PREPARED 'p'").await, tags(["t:1", "x"]));
    assert!(stack.get("t1").await.is_miss());
    stack.sql("BEGIN; UPDATE t SET n = 1 WHERE id = 2; PREPARE TRANSACTION 'q'").await;
    assert_eq!(bumps(&stack, "ROLLBACK PREPARED 'q'").await, tags([]));
}

#[tokio::test]
async fn session_replication_role_changes_nothing() {
    let stack = stack(
        "CREATE TABLE e (id int, region int, PRIMARY KEY (id, region)) PARTITION BY LIST (region);
         CREATE TABLE e1 PARTITION OF e FOR VALUES IN (1); INSERT INTO e VALUES (1, 1);
         SELECT cachetag.track('e', 'e:{id}');",
    )
    .await;
    let replica = "SET session_replication_role = replica;";
    assert_eq!(bumps(&stack, &format!("{replica} UPDATE e SET id = 2")).await, tags(["e:1", "e:2"]));
    let attach = "CREATE TABLE e2 (LIKE e INCLUDING ALL); INSERT INTO e2 VALUES (5, 2); ALTER TABLE e ATTACH PARTITION e2 FOR VALUES IN (2)";
    assert!(bumps(&stack, &format!("{replica} {attach}")).await.contains("e:*"));
    assert!(bumps(&stack, &format!("{replica} UPDATE e2 SET id = 6")).await.is_superset(&tags(["e:5", "e:6"])));
    assert!(bumps(&stack, &format!("{replica} ALTER TABLE e DETACH PARTITION e2")).await.contains("e:*"));
    let tracked = bumps(
        &stack,
        &format!("{replica} CREATE TABLE f (id int PRIMARY KEY); SELECT cachetag.track('f', 'f:{{id}}')"),
    )
    .await;
    assert!(tracked.contains("f:*"), "{tracked:?}");
    assert_eq!(bumps(&stack, "INSERT INTO f VALUES (1)").await, tags(["f:1"]));
}

#[tokio::test]
async fn too_many_tags_in_a_transaction_become_their_family() {
    let stack = stack(
        "CREATE TABLE t (id int PRIMARY KEY, n int); CREATE TABLE u (id int PRIMARY KEY);
         SELECT cachetag.track('t', 't:{id}'); SELECT cachetag.track('u', 'u:{id}');",
    )
    .await;
    stack.fill("u1", "1", &["u:1"]).await;
    stack.fill("t1", "1", &["t:1"]).await;
    let found =
        bumps(&stack, "INSERT INTO t SELECT g FROM generate_series(1, 30000) g; INSERT INTO u VALUES (2)").await;
    assert_eq!(found, tags(["t:*", "u:2"]));
    assert!(stack.get("u1").await.is_hit());
    assert!(stack.get("t1").await.is_miss());
}

#[tokio::test]
async fn a_transaction_of_ten_thousand_rows_is_applied_as_one() {
    let stack = stack(
        "CREATE TABLE t (id int PRIMARY KEY, grp int); SELECT cachetag.track('t', ARRAY['t:{id}', 'g:{grp}'], identity => 'full');
         INSERT INTO t SELECT g, g % 10 FROM generate_series(1, 10000) g;",
    )
    .await;
    stack.fill("g3", "3", &["g:3"]).await;
    stack.fill("g99", "none", &["g:99"]).await;
    let expected = (0..10).map(|g| format!("g:{g}")).collect();
    let groups = bumps(&stack, "UPDATE t SET grp = 9 - grp").await;
    let found: crate::bumps::Tags = groups.iter().filter(|tag| tag.starts_with('g')).cloned().collect();
    assert_eq!(found, expected);
    assert!(groups.contains("t:*") || groups.len() == 10_010);
    assert!(stack.get("g3").await.is_miss());
    assert!(stack.get("g99").await.is_hit());
}

#[tokio::test]
async fn nothing_is_missed_while_the_daemon_is_away() {
    let mut stack = Stack::start(StackOptions::new().schema(TABLE).daemon(DaemonOptions::new())).await;
    stack.fill("other", "0", &["other"]).await;
    stack.fill("home", "0", &["home"]).await;
    stack.daemon().stop().await;
    let place = log_end(&stack).await;
    stack.sql("SELECT cachetag.depend('home', 't:2'); SELECT cachetag.track('t', ARRAY['n:{n}', 'all'], identity => 'full')").await;
    stack.sql("UPDATE t SET n = 1 WHERE id = 2").await;
    let commit = stack.commit("SELECT cachetag.undepend('home'); UPDATE t SET n = 2 WHERE id = 3").await;
    stack.daemon().start_again();
    stack.wait_caught_up(commit).await;
    let found = bumped_since(&stack, &place).await;
    assert!(found.is_superset(&tags(["t:2", "t:3", "home"])), "{found:?}");
    assert!(stack.get("home").await.is_miss());
    assert!(stack.get("other").await.is_hit());
}

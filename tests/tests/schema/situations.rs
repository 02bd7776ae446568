//! A change of the schema in every situation that may matter: step by step while the daemon streams, in one transaction, and behind a daemon
//! that is down.

use cachetag_tests::{Stack, StackOptions};

/// What is done to a schema, and what must come of it.
pub struct Case<'a> {
    /// Tables and rules.
    pub schema: &'a str,
    /// What happens, statement by statement.
    pub change: &'a [&'a str],
    /// Tags whose entries from before are no longer valid.
    pub lost: &'a [&'a str],
    /// Tags whose entries have nothing to do with it.
    pub kept: &'a [&'a str],
    /// A table of the changed schema and a statement that changes each of its rows: what is cached by the tags of a row must fall by it.
    pub then: Option<(&'a str, &'a str)>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Situation {
    Streaming,
    OneTransaction,
    DaemonDown,
}

/// A database whose sessions work in schema `shop`.
pub async fn shop() -> Stack {
    Stack::start(StackOptions::new().schema("ALTER DATABASE app SET search_path = shop, public")).await
}

/// Plays the case in all situations; statements that cannot run in a transaction leave the one with a single transaction out.
pub async fn in_every_situation(case: Case<'_>) {
    play(&case, &[Situation::Streaming, Situation::OneTransaction, Situation::DaemonDown]).await;
}

/// The same for statements that a transaction block refuses.
pub async fn outside_of_transactions(case: Case<'_>) {
    play(&case, &[Situation::Streaming, Situation::DaemonDown]).await;
}

async fn play(case: &Case<'_>, situations: &[Situation]) {
    let mut stack = shop().await;
    for situation in situations {
        stack.sql("DROP SCHEMA IF EXISTS shop CASCADE").await;
        stack.sql("CREATE SCHEMA shop").await;
        stack.sql(case.schema).await;
        stack.wait_caught_up_now().await;
        for tag in case.lost.iter().chain(case.kept) {
            stack.cache().await.drop(tag).await.expect("Redis answers");
            stack.fill(tag, "before", &[tag]).await;
        }
        change(&mut stack, *situation, case.change).await;
        stack.wait_caught_up_now().await;
        for tag in case.lost {
            let got = stack.get(tag).await;
            assert!(got.is_miss(), "{situation:?}: {tag} was to fall: {got:?}");
        }
        for tag in case.kept {
            let got = stack.get(tag).await;
            assert!(got.is_hit(), "{situation:?}: {tag} was to stay: {got:?}");
        }
        if let Some((table, update)) = case.then {
            rows_fall_by_their_tags(&stack, table, update).await;
        }
    }
}

async fn change(stack: &mut Stack, situation: Situation, statements: &[&str]) {
    match situation {
        Situation::Streaming => {
            for statement in statements {
                stack.sql(statement).await;
                stack.wait_caught_up_now().await;
            }
        }
        Situation::OneTransaction => stack.sql(&format!("BEGIN; {}; COMMIT", statements.join("; "))).await,
        Situation::DaemonDown => {
            stack.daemon().stop().await;
            for statement in statements {
                stack.sql(statement).await;
            }
            stack.daemon().start_again();
        }
    }
}

/// What a query caches by the tags that it computes of the rows falls when the rows change.
pub async fn rows_fall_by_their_tags(stack: &Stack, table: &str, update: &str) {
    stack.wait_caught_up_now().await;
    let computed = format!("SELECT DISTINCT unnest(cachetag.tags_of('{table}', t)) FROM {table} t");
    let found = stack.values(&computed).await;
    assert!(!found.is_empty(), "{table} has no row with a tag");
    for tag in &found {
        stack.cache().await.drop(tag).await.expect("Redis answers");
        stack.fill(tag, "after", &[tag]).await;
    }
    let commit = stack.commit(update).await;
    stack.wait_caught_up(commit).await;
    for tag in &found {
        let got = stack.get(tag).await;
        assert!(got.is_miss(), "after {update}: {tag} was to fall: {got:?}");
    }
}

//! One connection that changes rows.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use tokio_postgres::Client;

use super::history::RowState;
use super::random::Random;
use super::schema::{GROUPS, KEYS};
use super::{Shared, WRITERS};

/// What a transaction has made of rows so far: table and key → state.
type Changes = BTreeMap<(usize, usize), Option<RowState>>;

/// Changes rows until the run is over. The keys of the connection are those that are `number` modulo the number of writers.
pub(super) async fn run(shared: Rc<Shared>, client: Client, number: usize, mut random: Random) {
    let own: Vec<usize> = (0..KEYS).filter(|key| key % WRITERS == number).collect();
    while !shared.is_over() {
        if random.percent(1) {
            truncate(&shared, &client, &mut random).await;
        } else {
            change(&shared, &client, &own, &mut random).await;
        }
        tokio::time::sleep(Duration::from_micros(500 + random.below(8_000) as u64)).await;
    }
}

async fn execute(client: &Client, sql: &str) {
    if let Err(error) = client.batch_execute(sql).await {
        panic!("{error:?}, in: {sql}");
    }
}

/// A transaction over one to three tables.
async fn change(shared: &Shared, client: &Client, own: &[usize], random: &mut Random) {
    let mut tables: Vec<usize> = (0..1 + random.below(3)).map(|_| random.below(shared.schema.tables.len())).collect();
    tables.sort_unstable();
    tables.dedup();
    let mut guards = Vec::new();
    for table in &tables {
        guards.push(shared.truncation[*table].read().await);
    }
    let mut changes = Changes::new();
    execute(client, "BEGIN").await;
    for _ in 0..1 + random.below(5) {
        let table = *random.pick(&tables);
        if random.percent(15) {
            execute(client, "SAVEPOINT s").await;
            let mut undone = changes.clone();
            statement(shared, client, own, random, table, &mut undone).await;
            statement(shared, client, own, random, table, &mut undone).await;
            if random.percent(70) {
                execute(client, "ROLLBACK TO s").await;
            } else {
                execute(client, "RELEASE s").await;
                changes = undone;
            }
        } else {
            statement(shared, client, own, random, table, &mut changes).await;
        }
    }
    if random.percent(10) {
        tokio::time::sleep(Duration::from_millis(random.below(20) as u64)).await;
    }
    if random.percent(10) {
        execute(client, "ROLLBACK").await;
    } else {
        commit(shared, client, &changes).await;
    }
}

async fn statement(
    shared: &Shared,
    client: &Client,
    own: &[usize],
    random: &mut Random,
    table: usize,
    changes: &mut Changes,
) {
    let key = *random.pick(own);
    let now = |changes: &Changes, key| {
        changes.get(&(table, key)).copied().unwrap_or_else(|| shared.rows.borrow()[table][key])
    };
    let definition = &shared.schema.tables[table];
    let fresh = |group| RowState { group, version: shared.next_version() };
    let sql = match now(changes, key) {
        None => {
            let state = fresh(random.below(GROUPS));
            changes.insert((table, key), Some(state));
            definition.insert(key, state)
        }
        Some(old) => match random.below(100) {
            0..15 => {
                changes.insert((table, key), None);
                definition.delete(key)
            }
            15..25 => definition.touch(key),
            25..40 => {
                // Another key, if that is free.
                let new = *random.pick(own);
                let new = if now(changes, new).is_none() { new } else { key };
                let state = fresh(random.below(GROUPS));
                changes.insert((table, key), None);
                changes.insert((table, new), Some(state));
                definition.update(key, new, state)
            }
            chance => {
                let state = fresh(if chance < 65 { random.below(GROUPS) } else { old.group });
                changes.insert((table, key), Some(state));
                definition.update(key, key, state)
            }
        },
    };
    execute(client, &sql).await;
}

async fn truncate(shared: &Shared, client: &Client, random: &mut Random) {
    let table = random.below(shared.schema.tables.len());
    let _alone = shared.truncation[table].write().await;
    let part = random.percent(70).then(|| random.below(3));
    let (sql, groups) = shared.schema.tables[table].truncate(part);
    execute(client, "BEGIN").await;
    execute(client, &sql).await;
    if random.percent(30) {
        return execute(client, "ROLLBACK").await;
    }
    let gone = |state: &Option<RowState>| state.is_some_and(|state| groups.contains(&state.group));
    let rows = shared.rows.borrow()[table].clone();
    let changes = (0..KEYS).filter(|key| gone(&rows[*key])).map(|key| ((table, key), None)).collect();
    commit(shared, client, &changes).await;
}

async fn commit(shared: &Shared, client: &Client, changes: &Changes) {
    let changes: Vec<_> =
        changes.iter().filter(|((table, key), state)| shared.rows.borrow()[*table][*key] != **state).collect();
    let before = shared.clock.now();
    for ((table, key), state) in &changes {
        shared.history.borrow_mut()[*table].may_be(*key, **state, before);
    }
    execute(client, "COMMIT").await;
    let after = shared.clock.now();
    for ((table, key), state) in &changes {
        shared.history.borrow_mut()[*table].is_over(*key, after);
        shared.rows.borrow_mut()[*table][*key] = **state;
    }
    shared.report.borrow_mut().commits += 1;
}

//! One connection that changes rows.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::SinkExt;
use tokio_postgres::{Client, SimpleQueryMessage};

use super::WRITERS;
use super::commit::{Changes, begin, commit, forget_prepared};
use super::history::RowState;
use super::schema::{GROUPS, KEYS};
use super::table::Statement;
use super::world::World;
use crate::random::Random;

type Result<T> = std::result::Result<T, tokio_postgres::Error>;

/// Changes rows until the run is over. The keys of the connection are those that are `number` modulo the number of writers.
pub async fn run(world: Rc<World>, number: usize, random: Random) {
    let own = (0..KEYS).filter(|key| key % WRITERS == number).collect();
    let mut writer = Writer { client: world.postgres().await, world, own, number, random, prepared: 0 };
    while !writer.world.is_over() {
        if writer.client.is_closed() {
            writer.client = writer.world.postgres().await;
        }
        let done = if writer.random.percent(1) { writer.truncate().await } else { writer.change().await };
        if done.is_err() {
            writer.world.report.borrow_mut().error("writers");
        }
        let pause = writer.random.up_to(writer.world.mix.pause);
        writer.world.pause(Duration::from_micros(300) + pause).await;
    }
}

struct Writer {
    world: Rc<World>,
    client: Client,
    /// The keys that no other writer changes.
    own: Vec<usize>,
    number: usize,
    random: Random,
    /// Transactions prepared so far.
    prepared: u64,
}

impl Writer {
    /// A transaction over one to three tables.
    async fn change(&mut self) -> Result<()> {
        let world = self.world.clone();
        let count = world.schema.tables.len();
        let mut tables: Vec<usize> = (0..1 + self.random.below(3)).map(|_| self.random.below(count)).collect();
        tables.sort_unstable();
        tables.dedup();
        let mut guards = Vec::new();
        for table in &tables {
            guards.push(world.emptying[*table].read().await);
        }
        if world.is_losing_commits() {
            return Ok(());
        }
        let local = self.random.percent(50);
        let xid = begin(&self.client, local).await?;
        let mut changes = Changes::new();
        let bulk = self.random.percent(3);
        let mut made = self.statements(&tables, &mut changes).await;
        if bulk && made.is_ok() {
            made = execute(&self.client, &world.schema.tables[tables[0]].bulk(&self.own), None).await;
        }
        if self.random.percent(world.mix.slow) {
            tokio::time::sleep(self.random.up_to(world.mix.slowness)).await;
        }
        let kind = if made.is_err() {
            self.client.batch_execute("ROLLBACK").await?;
            "failed"
        } else if self.random.percent(10) {
            self.client.batch_execute("ROLLBACK").await?;
            "rolled back"
        } else if self.random.percent(5) {
            self.two_phases(xid, &changes).await;
            "prepared"
        } else {
            commit(&world, &self.client, xid, None, &changes).await;
            if bulk { "large" } else { "simple" }
        };
        *world.report.borrow_mut().transactions.entry(kind).or_default() += 1;
        made
    }

    async fn statements(&mut self, tables: &[usize], changes: &mut Changes) -> Result<()> {
        for _ in 0..1 + self.random.below(5) {
            let table = *self.random.pick(tables);
            if self.random.percent(15) {
                self.client.batch_execute("SAVEPOINT s").await?;
                let mut undone = changes.clone();
                self.statement(table, &mut undone).await?;
                self.statement(table, &mut undone).await?;
                if self.random.percent(70) {
                    self.client.batch_execute("ROLLBACK TO s").await?;
                } else {
                    self.client.batch_execute("RELEASE s").await?;
                    *changes = undone;
                }
            } else {
                self.statement(table, changes).await?;
            }
        }
        Ok(())
    }

    async fn statement(&mut self, table: usize, changes: &mut Changes) -> Result<()> {
        let world = self.world.clone();
        let random = &mut self.random;
        let key = *random.pick(&self.own);
        let now = |changes: &Changes, key| {
            changes.get(&(table, key)).copied().unwrap_or_else(|| world.rows.borrow()[table][key])
        };
        let definition = &world.schema.tables[table];
        let fresh = |group| RowState { group, version: world.next_version() };
        let sql = match now(changes, key) {
            None => {
                let state = fresh(random.below(GROUPS));
                changes.insert((table, key), Some(state));
                match definition.insert(key, state, random) {
                    Statement::Sql(sql) => sql,
                    Statement::Copy { sql, line } => return self.copy(&sql, &line).await,
                }
            }
            Some(old) => match random.below(100) {
                0..12 => {
                    changes.insert((table, key), None);
                    definition.delete(key)
                }
                12..20 => definition.touch(key),
                _ if random.percent(world.mix.moves / 3) => {
                    // Another key, if that is free.
                    let new = *random.pick(&self.own);
                    let new = if now(changes, new).is_none() { new } else { key };
                    let state = fresh(random.below(GROUPS));
                    changes.insert((table, key), None);
                    changes.insert((table, new), Some(state));
                    definition.update(key, new, state)
                }
                chance => {
                    let state = fresh(if random.percent(world.mix.moves) { random.below(GROUPS) } else { old.group });
                    changes.insert((table, key), Some(state));
                    if chance < 30 { definition.merge(key, state, random) } else { definition.update(key, key, state) }
                }
            },
        };
        execute(&self.client, &sql, Some(1)).await
    }

    /// tokio-postgres ends a COPY that the server refuses twice: the connection's next answers are each the one before, so it is replaced.
    async fn copy(&mut self, sql: &str, line: &str) -> Result<()> {
        let copied = copy(&self.client, sql, line).await;
        if copied.is_err() {
            self.client = self.world.postgres().await;
        }
        copied
    }

    /// PREPARE TRANSACTION, a while, and one of its two ends.
    async fn two_phases(&mut self, xid: u64, changes: &Changes) {
        let world = self.world.clone();
        self.prepared += 1;
        let name = format!("w{}-{}", self.number, self.prepared);
        let prepared = self.client.batch_execute(&format!("PREPARE TRANSACTION '{name}'")).await.is_ok();
        tokio::time::sleep(self.random.up_to(world.mix.slowness)).await;
        if !prepared || self.random.percent(20) {
            forget_prepared(&world, xid, &name).await;
        } else {
            commit(&world, &self.client, xid, Some(&name), changes).await;
        }
    }

    async fn truncate(&mut self) -> Result<()> {
        let world = self.world.clone();
        let table = self.random.below(world.schema.tables.len());
        let _alone = world.emptying[table].write().await;
        if world.is_losing_commits() {
            return Ok(());
        }
        let part = self.random.percent(70).then(|| self.random.below(3));
        let (sql, groups) = world.schema.tables[table].truncate(part);
        let local = self.random.percent(50);
        let xid = begin(&self.client, local).await?;
        let made = self.client.batch_execute(&sql).await;
        if made.is_err() || self.random.percent(30) {
            return self.client.batch_execute("ROLLBACK").await;
        }
        let gone = |state: &Option<RowState>| state.is_some_and(|state| groups.contains(&state.group));
        let rows = world.rows.borrow()[table].clone();
        let changes = (0..KEYS).filter(|key| gone(&rows[*key])).map(|key| ((table, key), None)).collect();
        commit(&world, &self.client, xid, None, &changes).await;
        *world.report.borrow_mut().transactions.entry("truncate").or_default() += 1;
        Ok(())
    }
}

/// Runs a statement; one that is to change a row must change exactly one, or the checker's own idea of the table is wrong.
async fn execute(client: &Client, sql: &str, rows: Option<u64>) -> Result<()> {
    let answer = client.simple_query(sql).await?;
    if let (Some(expected), Some(SimpleQueryMessage::CommandComplete(changed))) = (rows, answer.last()) {
        assert_eq!(*changed, expected, "rows changed by: {sql}");
    }
    Ok(())
}

async fn copy(client: &Client, sql: &str, line: &str) -> Result<()> {
    let mut sink = std::pin::pin!(client.copy_in(sql).await?);
    sink.send(Bytes::copy_from_slice(line.as_bytes())).await?;
    sink.finish().await.map(drop)
}

//! Changes of the schema, of rules and of dependencies under load.

use std::rc::Rc;
use std::time::Duration;

use tokio_postgres::Client;

use super::commit::{Changes, begin, commit};
use super::history::RowState;
use super::options::Profile;
use super::schema::KEYS;
use super::table::Shape;
use super::world::World;
use crate::random::Random;

type Result<T> = std::result::Result<T, tokio_postgres::Error>;

/// A change that failed, for a deadlock or a server that is down, is tried again after this.
const RETRY: Duration = Duration::from_millis(20);
/// The longest time that something stays changed.
const CHANGED: Duration = Duration::from_millis(120);
/// The longest time that a writer is in flight while a table joins.
const IN_FLIGHT: Duration = Duration::from_millis(400);

/// Changes the schema now and then until the run is over.
pub async fn run(world: Rc<World>, random: Random) {
    let mut ddl = Ddl { client: world.postgres().await, world, random };
    while !ddl.world.is_over() {
        let pause = ddl.random.up_to(ddl.world.mix.ddl * 2);
        ddl.world.pause(pause).await;
        let world = ddl.world.clone();
        let _alone = world.changing.lock().await;
        let kind = ddl.change().await;
        *ddl.world.report.borrow_mut().ddl.entry(kind).or_default() += 1;
    }
}

struct Ddl {
    world: Rc<World>,
    client: Client,
    random: Random,
}

impl Ddl {
    /// One change, and back. Whatever fails is tried until it succeeds: the next change finds everything as it was.
    async fn change(&mut self) -> &'static str {
        let world = self.world.clone();
        let number = self.random.below(world.schema.tables.len());
        let table = &world.schema.tables[number];
        if self.random.percent(world.mix.rules) {
            if self.random.percent(60) {
                self.untrack(number).await;
                return "untrack, track";
            }
            self.undepend().await;
            return "undepend, depend";
        }
        let name = &table.name;
        let both =
            |forth: &str, back: &str| (format!("ALTER TABLE {name} {forth}"), format!("ALTER TABLE {name} {back}"));
        let (kind, (forth, back)) = match self.random.below(5) {
            0 => ("column added, dropped", both("ADD COLUMN x int DEFAULT 1", "DROP COLUMN x")),
            1 => ("column renamed", both("RENAME g TO h", "RENAME h TO g")),
            2 => ("column's type", both("ALTER w TYPE bigint", "ALTER w TYPE int")),
            3 if table.shape == Shape::ByGroup => {
                self.detach(number).await;
                return "partition detached, attached";
            }
            _ if table.shape == Shape::Keyless => ("table renamed", {
                let other = format!("{name}_other");
                (format!("ALTER TABLE {name} RENAME TO {other}"), format!("ALTER TABLE {other} RENAME TO {name}"))
            }),
            _ => ("replica identity", table.other_identity(self.random.below(3))),
        };
        self.until_done(&forth).await;
        let changed = self.random.up_to(CHANGED);
        world.pause(changed).await;
        self.until_done(&back).await;
        kind
    }

    /// A table without rules: nothing is promised of what is made of it.
    async fn untrack(&mut self, table: usize) {
        let world = self.world.clone();
        let concerned = || (0..world.schema.objects.len()).filter(|object| world.schema.objects[*object].is_of(table));
        world.judge.borrow_mut().release(concerned());
        self.until_done(&format!("SELECT cachetag.untrack('{}')", world.schema.tables[table].name)).await;
        let without = self.random.up_to(CHANGED);
        world.pause(without).await;
        // Nobody else changes the table meanwhile, which would invalidate what the writer in flight must.
        let joins = world.options.profile == Profile::Joins;
        let _alone = if joins { Some(world.emptying[table].write().await) } else { None };
        let in_flight = if joins { self.begin_change(table).await } else { None };
        let time = self.random.up_to(IN_FLIGHT);
        let end = async {
            if let Some((writer, xid, changes)) = in_flight {
                tokio::time::sleep(time).await;
                commit(&world, &writer, xid, None, &changes).await;
            }
        };
        let track = async {
            self.until_done(&world.schema.tables[table].track()).await;
            world.judge.borrow_mut().promise(concerned(), world.clock.now());
        };
        tokio::join!(end, track);
    }

    /// Changes a row in a transaction of its own, so that the table is to join while a writer is in flight.
    async fn begin_change(&mut self, table: usize) -> Option<(Client, u64, Changes)> {
        let world = self.world.clone();
        let rows = world.rows.borrow()[table].clone();
        let (key, state) = (0..KEYS).find_map(|key| Some((key, rows[key]?)))?;
        let state = RowState { group: state.group, version: world.next_version() };
        let writer = world.postgres().await;
        let xid = begin(&writer, true).await.ok()?;
        writer.batch_execute(&world.schema.tables[table].update(key, key, state)).await.ok()?;
        Some((writer, xid, Changes::from([((table, key), Some(state))])))
    }

    /// An object whose tag depends on nothing for a while.
    async fn undepend(&mut self) {
        let world = self.world.clone();
        let dependency = self.random.pick(&world.schema.dependencies);
        let object = || std::iter::once(dependency.object);
        let (child, _) = self.random.pick(&dependency.edges);
        world.judge.borrow_mut().release(object());
        self.until_done(&format!("SELECT cachetag.undepend('{child}')")).await;
        let without = self.random.up_to(CHANGED);
        world.pause(without).await;
        let back: String = dependency.edges.iter().map(|(_, sql)| sql.as_str()).collect();
        self.until_done(&back).await;
        world.judge.borrow_mut().promise(object(), world.clock.now());
    }

    /// A partition and its rows are away for a while.
    async fn detach(&mut self, number: usize) {
        let world = self.world.clone();
        let table = &world.schema.tables[number];
        let _alone = world.emptying[number].write().await;
        let part = self.random.below(3);
        let (_, groups) = table.truncate(Some(part));
        let rows = world.rows.borrow()[number].clone();
        let there = |key: &usize| rows[*key].is_some_and(|state| groups.contains(&state.group));
        let away: Changes = (0..KEYS).filter(there).map(|key| ((number, key), None)).collect();
        let back: Changes = (0..KEYS).filter(there).map(|key| ((number, key), rows[key])).collect();
        let (detach, attach) = table.detach_attach(part);
        self.until_committed(&detach, &away).await;
        let time = self.random.up_to(CHANGED);
        world.pause(time).await;
        self.until_committed(&attach, &back).await;
    }

    async fn until_committed(&mut self, sql: &str, changes: &Changes) {
        while !self.committed(sql, changes).await.unwrap_or(false) {
            self.again().await;
        }
    }

    async fn committed(&mut self, sql: &str, changes: &Changes) -> Result<bool> {
        let xid = begin(&self.client, true).await?;
        if self.client.batch_execute(sql).await.is_err() {
            self.client.batch_execute("ROLLBACK").await?;
            return Ok(false);
        }
        Ok(commit(&self.world, &self.client, xid, None, changes).await)
    }

    /// Runs statements, each of which may have been done already by an attempt that got no answer.
    async fn until_done(&mut self, sql: &str) {
        let sql = format!("SET synchronous_commit = local; {sql}");
        while let Err(error) = self.client.batch_execute(&sql).await {
            use tokio_postgres::error::SqlState;
            let done = [&SqlState::DUPLICATE_COLUMN, &SqlState::UNDEFINED_COLUMN, &SqlState::UNDEFINED_TABLE];
            if error.code().is_some_and(|code| done.contains(&code)) {
                return;
            }
            self.again().await;
        }
    }

    async fn again(&mut self) {
        self.world.report.borrow_mut().error("schema changes");
        tokio::time::sleep(RETRY).await;
        if self.client.is_closed() {
            self.client = self.world.postgres().await;
        }
    }
}

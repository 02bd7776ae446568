//! What the client loads with: connections of its own to the database, on which an object's query runs.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use cachetag_client::{AtLeast, Load};
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

use super::history::Clock;
use super::options::Variant;
use super::schema::Object;
use super::trace::Fill;
use super::world::World;
use crate::random::Random;

/// Why nothing was loaded.
pub type Error = Box<dyn std::error::Error + Send + Sync>;

/// How the history calls what the client loads.
pub const HOW: &str = "client";
/// Within this a server that is up answers a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// A position that covers every commit that the query before it has seen.
const POSITION: &str = "SELECT cachetag.position()";
/// Some values are past their best while they are hot.
const FRESH: Duration = Duration::from_millis(100);

/// The connections of one process that nobody uses now, and what was loaded on them.
pub struct Database {
    url: String,
    clock: Clock,
    idle: Mutex<Vec<Client>>,
    loads: Mutex<Vec<(usize, Fill)>>,
}

/// One load, prepared where the world is at hand: a loader runs in a task that may be on any thread.
pub struct Plan {
    number: usize,
    object: usize,
    sql: String,
    /// Those known beforehand; none if the query gives them.
    tags: Option<Vec<String>>,
    omit_tags: bool,
    fresh_for: Option<Duration>,
    before: Duration,
    after: Duration,
}

impl Plan {
    /// Of an object, by a reader.
    pub fn new(world: &World, random: &mut Random, number: usize, object: usize) -> Plan {
        let Object { query, tagged_query, tags, .. } = &world.schema.objects[object];
        let tagged = tagged_query.as_ref().filter(|_| random.percent(50));
        let mut dawdle =
            || if random.percent(world.mix.dawdling) { random.up_to(world.mix.dawdle) } else { Duration::ZERO };
        let (before, after) = (dawdle(), dawdle());
        // An absence has no metadata that would tell its reader that it is stale.
        let fresh_for = (!world.schema.objects[object].is_row() && random.percent(10)).then_some(FRESH);
        Plan {
            number,
            object,
            sql: format!("{}; {POSITION}", tagged.unwrap_or(query)),
            // What the query gives is nothing where there is no row: then those known beforehand.
            tags: Some(tags.clone()),
            omit_tags: world.options.broken == Some(Variant::ClientOmitsTags),
            fresh_for,
            before,
            after,
        }
    }
}

impl Database {
    /// No connections yet.
    pub fn new(world: &World) -> Arc<Database> {
        let (url, clock) = (world.postgres_url.clone(), world.clock);
        Arc::new(Database { url, clock, idle: Mutex::default(), loads: Mutex::default() })
    }

    /// Loads the value of an object, and says what it depends on.
    pub async fn load(self: Arc<Database>, load: Load, plan: Plan) -> Result<String, Error> {
        let asked = self.clock.now();
        tokio::time::sleep(plan.before).await;
        let client = self.connection().await?;
        let from = self.clock.now();
        let answer = client.simple_query(&plan.sql).await?;
        let until = self.clock.now();
        self.idle.lock().map_err(|_| "a panic")?.push(client);
        let rows: Vec<_> = answer
            .iter()
            .filter_map(|message| match message {
                SimpleQueryMessage::Row(row) => Some(row),
                _ => None,
            })
            .collect();
        let [row, position] = rows[..] else { return Err("two rows were expected".into()) };
        let value = row.get(0).unwrap_or_default().to_owned();
        let found: Vec<String> = if row.len() > 1 {
            row.get(1).unwrap_or_default().lines().map(str::to_owned).collect()
        } else {
            Vec::new()
        };
        let tags = if found.is_empty() { plan.tags.unwrap_or_default() } else { found };
        if !plan.omit_tags {
            load.tags(&tags);
        }
        load.seen(position.get(0).unwrap_or_default().parse::<AtLeast>()?);
        if let Some(time) = plan.fresh_for {
            load.fresh_for(time);
        }
        tokio::time::sleep(plan.after).await;
        let token = load.token().map(|token| token.to_string()).unwrap_or_default();
        let mut fill = Fill::new(plan.number, HOW, token, asked, (from, until), value.clone());
        (fill.put, fill.tags, fill.stored) = (self.clock.now(), tags, true);
        self.loads.lock().map_err(|_| "a panic")?.push((plan.object, fill));
        Ok(value)
    }

    /// What was loaded since this was asked last, for the history.
    pub fn loaded(&self) -> Vec<(usize, Fill)> {
        self.loads.lock().map(|mut loads| std::mem::take(&mut *loads)).unwrap_or_default()
    }

    async fn connection(&self) -> Result<Client, Error> {
        while let Some(client) = self.idle.lock().map_err(|_| "a panic")?.pop() {
            if !client.is_closed() {
                return Ok(client);
            }
        }
        let (client, connection) =
            tokio::time::timeout(CONNECT_TIMEOUT, tokio_postgres::connect(&self.url, NoTls)).await??;
        tokio::spawn(connection);
        Ok(client)
    }
}

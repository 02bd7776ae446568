//! Fills: from the query to the put, in ordinary statements, in older snapshots and on a standby that lags.

use std::rc::Rc;
use std::time::Duration;

use redis::cmd;
use tokio_postgres::{Client, SimpleQueryMessage};

use super::commit::first;
use super::history::Moment;
use super::options::Variant;
use super::report::Invariant;
use super::standby;
use super::trace::Fill;
use super::world::World;
use crate::random::Random;
use crate::{Cache, GetOptions, Put, PutOptions};

/// Why a fill did not come to an answer.
pub type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Some entries expire while they are hot.
const SHORT_TTL: Duration = Duration::from_millis(50);
const TTL: Duration = Duration::from_secs(60);
/// How old a snapshot gets before the token is asked for.
const SNAPSHOT_AGE: Duration = Duration::from_millis(50);
/// A filler that finds nothing to do looks again after this.
const IDLE: Duration = Duration::from_millis(1);

/// A miss that somebody is to fill.
#[derive(Debug)]
pub struct Missed {
    /// Number of the object.
    pub object: usize,
    /// What the miss gave.
    pub token: String,
    /// When it was given, or a little later.
    pub asked: Moment,
}

/// Fills what readers miss until the run is over.
pub async fn run(world: Rc<World>, number: usize, random: Random) {
    let mut filler = Filler::new(world.clone(), number, random).await;
    while let Some(mut cache) = world.redis().await {
        while !world.is_over() {
            let missed = world.missed.borrow_mut().pop_front();
            let Some(missed) = missed else {
                tokio::time::sleep(IDLE).await;
                continue;
            };
            let filled = filler.fill(&mut cache, &missed).await;
            if filled.is_err() {
                world.report.borrow_mut().error("fillers");
                break;
            }
        }
    }
}

/// Who fills, and its connections.
struct Filler {
    world: Rc<World>,
    number: usize,
    random: Random,
    client: Rc<Client>,
    standby: Option<Rc<Client>>,
}

impl Filler {
    /// With a connection to the primary.
    async fn new(world: Rc<World>, number: usize, random: Random) -> Filler {
        Filler { client: Rc::new(world.postgres().await), standby: None, world, number, random }
    }

    /// Queries and stores what was missed, on the primary or on the standby.
    async fn fill(&mut self, cache: &mut Cache, missed: &Missed) -> Result<()> {
        let Missed { object, asked, .. } = *missed;
        let token = missed.token.clone();
        self.dawdle().await;
        if self.world.options.standby && self.random.percent(8) {
            if self.standby.as_ref().is_none_or(|client| client.is_closed()) {
                self.standby = self.world.standby().await.map(Rc::new);
            }
            if let Some(client) = self.standby.clone() {
                // By then it may have caught up with the token, or not.
                tokio::time::sleep(self.random.up_to(standby::LAG * 2)).await;
                return self.covered(&client, cache, object, token, asked, "standby").await;
            }
        }
        if self.client.is_closed() {
            if self.world.is_over() {
                return Ok(());
            }
            self.client = Rc::new(self.world.postgres().await);
        }
        let from = self.world.clock.now();
        let (value, tags) = read(&self.world, &self.client, &mut self.random, object).await?;
        let fill = Fill::new(self.number, "primary", token, asked, (from, self.world.clock.now()), value);
        self.put(cache, object, fill, tags).await
    }

    /// Reads in a snapshot that is older than the token, and stores only if the extension says that it may.
    async fn in_older_snapshot(&mut self, cache: &mut Cache) -> Result<()> {
        if self.client.is_closed() {
            self.client = Rc::new(self.world.postgres().await);
        }
        let object = self.random.below(self.world.schema.objects.len());
        let (table, _) = self.world.schema.objects[object].sources[0];
        let name = &self.world.schema.tables[table].name;
        self.client
            .batch_execute(&format!("BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT FROM {name} LIMIT 1"))
            .await?;
        tokio::time::sleep(self.random.up_to(SNAPSHOT_AGE)).await;
        let asked = self.world.clock.now();
        let no_lease = GetOptions { no_lease: true, ..GetOptions::default() };
        let got = cache.get_with(&self.world.schema.objects[object].key, &no_lease).await;
        let filled = match got {
            Ok(got) if got.is_miss() => {
                let client = self.client.clone();
                self.covered(&client, cache, object, got.token, asked, "older snapshot").await
            }
            Ok(_) => Ok(()),
            Err(error) => Err(error.into()),
        };
        self.client.batch_execute("ROLLBACK").await?;
        filled
    }

    /// Stores what `client` sees if its snapshot covers the token.
    async fn covered(
        &mut self,
        client: &Client,
        cache: &mut Cache,
        object: usize,
        token: String,
        asked: Moment,
        how: &'static str,
    ) -> Result<()> {
        let covers = client.simple_query(&format!("SELECT cachetag.covers('{token}')")).await?;
        self.world.report.borrow_mut().looked_at(Invariant::VisibleFills);
        let uncovered = self.world.options.broken == Some(Variant::Uncovered);
        if first(&covers) != Some("t") && !uncovered {
            *self.world.report.borrow_mut().refusals.entry(format!("not covered ({how})")).or_default() += 1;
            return Ok(());
        }
        let from = self.world.clock.now();
        let (value, tags) = read(&self.world, client, &mut self.random, object).await?;
        let fill = Fill::new(self.number, how, token, asked, (from, self.world.clock.now()), value);
        self.put(cache, object, fill, tags).await
    }

    async fn put(&mut self, cache: &mut Cache, number: usize, mut fill: Fill, mut tags: Vec<String>) -> Result<()> {
        let world = self.world.clone();
        let object = &world.schema.objects[number];
        self.dawdle().await;
        match world.options.broken {
            Some(Variant::LateToken) => {
                tokio::time::sleep(Duration::from_millis(20)).await;
                let no_lease = GetOptions { no_lease: true, ..GetOptions::default() };
                fill.token = cache.get_with(&object.key, &no_lease).await?.token;
            }
            Some(Variant::OmitTags) => tags.clear(),
            _ => {}
        }
        let ttl = if self.random.percent(5) { SHORT_TTL } else { TTL };
        let options = PutOptions { absent: object.is_row() && fill.value.is_empty(), ..PutOptions::default() };
        let answer = cache.put_with(&object.key, &fill.value, &fill.token, ttl, &tags, &options).await?;
        fill.put = world.clock.now();
        fill.tags = tags;
        fill.stored = answer.is_stored();
        let how = fill.how;
        if let Put::Refused { reason, .. } = answer {
            *world.report.borrow_mut().refusals.entry(reason).or_default() += 1;
        } else {
            *world.report.borrow_mut().fills.entry(how).or_default() += 1;
        }
        let stored = fill.stored;
        world.filled(number, fill);
        if stored && world.options.broken == Some(Variant::RaiseAsOf) {
            tokio::time::sleep(Duration::from_millis(20)).await;
            let applied = cache.state().await?.remove("applied").unwrap_or_default();
            let entry = cache.key("e", &object.key);
            cmd("HSET").arg(entry).arg("as_of").arg(applied).exec_async(cache.connection()).await?;
        }
        Ok(())
    }

    /// Now and then something takes its time.
    async fn dawdle(&mut self) {
        if self.random.percent(self.world.mix.dawdling) {
            tokio::time::sleep(self.random.up_to(self.world.mix.dawdle)).await;
        }
    }
}

/// Fills in older snapshots until the run is over.
pub async fn run_old_snapshots(world: Rc<World>, number: usize, random: Random) {
    let mut filler = Filler::new(world.clone(), number, random).await;
    while let Some(mut cache) = world.redis().await {
        while !world.is_over() {
            if filler.in_older_snapshot(&mut cache).await.is_err() {
                world.report.borrow_mut().error("fillers");
                break;
            }
            world.pause(Duration::from_millis(5)).await;
        }
        // The transaction may still be open.
        filler.client = Rc::new(world.postgres().await);
    }
}

/// The value of an object and its tags, computed with it or known beforehand.
async fn read(world: &World, client: &Client, random: &mut Random, object: usize) -> Result<(String, Vec<String>)> {
    let object = &world.schema.objects[object];
    let tagged = object.tagged_query.as_ref().filter(|_| random.percent(50));
    let messages = client.simple_query(tagged.unwrap_or(&object.query)).await?;
    let row = messages.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    let row = row.ok_or("no row")?;
    let found: Vec<String> = tagged.and_then(|_| row.get(1)).unwrap_or_default().lines().map(str::to_owned).collect();
    let tags = if found.is_empty() { object.tags.clone() } else { found };
    Ok((row.get(0).unwrap_or_default().to_owned(), tags))
}

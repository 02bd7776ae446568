use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use cachetag_client::{Builder, Cache, Cached, Error, Load, Reader};
use cachetag_tests::{Stack, StackOptions};
use tokio_postgres::{Client, NoTls};

pub const PATIENCE: Duration = Duration::from_secs(30);

const SCHEMA: &str = "CREATE TABLE items (id int PRIMARY KEY, shelf int NOT NULL, price int NOT NULL);
    INSERT INTO items SELECT i, i % 3, 10 FROM generate_series(1, 9) i;
    SELECT cachetag.track('items', ARRAY['item:{id}', 'shelf:{shelf}'], identity => 'full')";

/// Servers, a daemon, and a connection for loaders, which counts its queries.
pub struct Trial {
    pub stack: Stack,
    pub database: Database,
}

#[derive(Clone)]
pub struct Database {
    client: Arc<Client>,
    queries: Arc<AtomicUsize>,
}

impl Trial {
    pub async fn start() -> Trial {
        Trial::with(StackOptions::new()).await
    }

    pub async fn with(options: StackOptions) -> Trial {
        let stack = Stack::start(options.schema(SCHEMA)).await;
        let database = Database::connect(&stack.postgres_url()).await;
        Trial { stack, database }
    }

    pub fn builder(&self) -> Builder {
        Cache::builder().redis(self.stack.app_redis_url()).beta(0.0)
    }

    /// A cache whose feed is live.
    pub async fn cache(&self, builder: Builder) -> Cache {
        let cache = builder.build().expect("a cache");
        assert!(cache.ready(PATIENCE).await, "the feed is not live");
        cache
    }

    /// Changes rows, and waits until Redis knows.
    pub async fn change(&self, sql: &str) {
        let commit = self.stack.commit(sql).await;
        self.stack.wait_caught_up(commit).await;
    }
}

impl Database {
    pub async fn connect(url: &str) -> Database {
        let (client, connection) = tokio_postgres::connect(url, NoTls).await.expect("a connection");
        tokio::spawn(connection);
        Database { client: Arc::new(client), queries: Arc::default() }
    }

    pub fn queries(&self) -> usize {
        self.queries.load(Ordering::SeqCst)
    }

    /// The price of an item, as a loader asks for it.
    pub async fn price(self, load: Load, id: i32) -> Result<Option<i32>, tokio_postgres::Error> {
        self.queries.fetch_add(1, Ordering::SeqCst);
        load.tag(format!("item:{id}"));
        let row = self.client.query_opt("SELECT price FROM items WHERE id = $1", &[&id]).await?;
        Ok(row.map(|row| row.get(0)))
    }

    /// The sum of a shelf's prices.
    pub async fn shelf(self, load: Load, shelf: i32) -> Result<i64, tokio_postgres::Error> {
        self.queries.fetch_add(1, Ordering::SeqCst);
        load.tag(format!("shelf:{shelf}"));
        let row = self.client.query_one("SELECT sum(price) FROM items WHERE shelf = $1", &[&shelf]).await?;
        Ok(row.get(0))
    }

    pub async fn get(&self, reader: Reader<'_>, id: i32) -> Result<Option<Cached<i32>>, Error> {
        let database = self.clone();
        reader.get_or_load_optional(&format!("price:{id}"), move |load| database.price(load, id)).await
    }

    /// The price as a reader gets it.
    pub async fn read(&self, cache: &Cache, id: i32) -> Option<i32> {
        self.get(cache.with(Default::default()), id).await.expect("a value").map(|cached| *cached)
    }
}

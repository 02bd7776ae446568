//! The client's helpers for PostgreSQL: what a loader may store, and under which tags.

use std::time::Duration;

use cachetag_client::postgres::{Loading, NotStorable, PostgresError, capture, commit_position};
use cachetag_client::{Cache, Source};
use cachetag_core::{Lsn, Version};
use cachetag_tests::fault::standby_of;
use cachetag_tests::{DATABASE, GetOptions, Stack, StackOptions, eventually};
use deadpool_postgres::{Manager, Pool};
use tokio_postgres::{IsolationLevel, NoTls};

const PATIENCE: Duration = Duration::from_secs(30);
const SCHEMA: &str = "CREATE TABLE products (id int PRIMARY KEY, category_id int NOT NULL, price int NOT NULL);
    ALTER TABLE products REPLICA IDENTITY FULL; INSERT INTO products SELECT i, i % 3, 10 FROM generate_series(1, 9) i;
    SELECT cachetag.track('products', 'product:{id}', 'category:{category_id}')";
const PRICE: &str = "SELECT price, cachetag.tags_of('products', p) AS cachetag_tags FROM products p WHERE id = $1";

async fn stack() -> Stack {
    Stack::start(StackOptions::new().schema(SCHEMA)).await
}

fn pool(stack: &Stack) -> Pool {
    let config = stack.postgres_url().parse().expect("a URL");
    Pool::builder(Manager::new(config, NoTls)).max_size(4).build().expect("a pool")
}

async fn token(stack: &Stack, key: &str) -> Version {
    let missed = stack.get_with(key, &GetOptions { no_lease: true, ..GetOptions::default() }).await;
    missed.token.parse().expect("a miss gives a token")
}

fn texts(tags: &[cachetag_core::Tag]) -> Vec<&str> {
    tags.iter().map(|tag| tag.as_str()).collect()
}

#[tokio::test]
async fn a_loaded_value_is_stored_under_its_tags_and_falls_with_them() {
    let stack = stack().await;
    let client = pool(&stack).get().await.expect("a client");
    let loading = Loading::new(token(&stack, "p4").await);
    let found = loading.query(&client, PRICE, &[&4]).await.expect("rows");
    assert!(found.storable);
    assert_eq!(found.rows[0].get::<_, i32>("price"), 10);
    assert_eq!(texts(&found.tags), ["category:1", "product:4"]);

    // The aggregate, and no rows at all: the tags of all queries come together.
    let sql =
        "SELECT count(*), cachetag.tag_agg(cachetag.tag('product', id)) AS cachetag_tags FROM products WHERE id > $1";
    loading.query(&client, sql, &[&7]).await.expect("rows");
    assert!(loading.query(&client, PRICE, &[&99]).await.expect("no rows").tags.is_empty());
    assert_eq!(loading.storable(), Ok(()));
    assert_eq!(texts(&loading.tags()), ["category:1", "product:4", "product:8", "product:9"]);

    let (tags, version) = (loading.tags(), loading.token().expect("given").to_string());
    assert!(stack.put("p4", "10", &version, &texts(&tags)).await.is_stored());
    assert_eq!(stack.get("p4").await.text(), Some("10"));
    let commit = stack.commit("UPDATE products SET price = 11 WHERE id = 9").await;
    stack.wait_caught_up(commit).await;
    assert!(stack.get("p4").await.is_miss());
}

#[tokio::test]
async fn snapshots_that_do_not_cover_the_token_are_refused() {
    let stack = stack().await;
    let pool = pool(&stack);
    let mut client = pool.get().await.expect("a client");

    // The snapshot is older than the token: the rows are, too.
    let old = client.build_transaction().isolation_level(IsolationLevel::RepeatableRead).start().await.expect("begin");
    old.query("SELECT FROM products", &[]).await.expect("takes the snapshot");
    let commit = stack.commit("UPDATE products SET price = 11 WHERE id = 1").await;
    stack.wait_caught_up(commit).await;
    let loading = Loading::new(token(&stack, "p1").await);
    let found = loading.query(&old, PRICE, &[&1]).await.expect("rows");
    assert_eq!((found.rows[0].get::<_, i32>("price"), found.storable), (10, false));
    assert_eq!(loading.storable(), Err(NotStorable::Snapshot { isolation: "REPEATABLE READ".into() }));
    // One good query does not make up for it.
    loading.query(&pool.get().await.expect("a client"), PRICE, &[&1]).await.expect("rows");
    assert!(loading.storable().is_err());
    old.rollback().await.expect("rollback");

    // A transaction that has written before, or by the query itself.
    let transaction = client.transaction().await.expect("begin");
    let loading = Loading::new(token(&stack, "p1").await);
    assert!(loading.query(&transaction, PRICE, &[&1]).await.expect("rows").storable);
    let sql = "UPDATE products SET price = 12 WHERE id = 1 RETURNING price";
    assert!(!loading.query(&transaction, sql, &[]).await.expect("rows").storable);
    assert_eq!(loading.storable(), Err(NotStorable::Wrote));
    let later = Loading::new(loading.token());
    assert!(!later.query(&transaction, PRICE, &[&1]).await.expect("rows").storable);
    drop(transaction);

    // A token of another history, and none at all.
    let ahead = Version { lsn: Lsn(u64::MAX), ..loading.token().expect("given") };
    let loading = Loading::new(ahead);
    assert!(!loading.query(&client, PRICE, &[&1]).await.expect("rows").storable);
    assert_eq!(loading.storable(), Err(NotStorable::History { token: ahead }));
    let loading = Loading::new(None);
    assert_eq!(loading.query(&client, PRICE, &[&1]).await.expect("rows").rows[0].get::<_, i32>(0), 11);
    assert_eq!(loading.storable(), Err(NotStorable::NoToken));

    // A session whose every transaction is of a higher level.
    client.batch_execute("SET default_transaction_isolation = 'serializable'").await.expect("set");
    let loading = Loading::new(token(&stack, "p1").await);
    assert!(!loading.query(&client, PRICE, &[&1]).await.expect("rows").storable);
    assert_eq!(loading.storable(), Err(NotStorable::Snapshot { isolation: "SERIALIZABLE".into() }));
}

#[tokio::test]
async fn errors_name_the_thing_and_the_remedy() {
    let stack = stack().await;
    let mut client = pool(&stack).get().await.expect("a client");
    let loading = Loading::new(token(&stack, "p1").await);
    let error = loading.query(&client, "SELECT 1 AS cachetag_tags", &[]).await.expect_err("int4").to_string();
    assert_eq!(
        error,
        "column cachetag_tags is of type int4: tags are text or text[], as cachetag.tag() and cachetag.tag_agg() give them"
    );
    let error = loading.query(&client, "SELECT 'a b' AS cachetag_tags", &[]).await.expect_err("a blank").to_string();
    assert!(
        error.starts_with("column cachetag_tags: ") && error.ends_with("build tags with cachetag.tag()"),
        "{error}"
    );

    // The query's own error comes first, not that of the verdict in a transaction that it has failed.
    let transaction = client.transaction().await.expect("begin");
    let error = loading.query(&transaction, "SELECT 1 / $1::int", &[&0]).await.expect_err("division").to_string();
    assert_eq!(error, "PostgreSQL: division by zero (22012)");
    drop(transaction);

    stack.sql("DROP EXTENSION cachetag CASCADE").await;
    let loading = Loading::new(loading.token());
    let client = pool(&stack).get().await.expect("a client");
    let missing = capture(&client, None, async || Ok::<_, PostgresError>(())).await.expect_err("no extension");
    assert!(matches!(missing, PostgresError::CaptureMissing { function: "cachetag.capture_begin" }), "{missing}");
    let error = loading.query(&client, "SELECT 1", &[]).await.expect_err("no extension");
    assert!(matches!(error, PostgresError::ExtensionMissing(_)), "{error}");
    assert!(error.to_string().contains("CREATE EXTENSION cachetag"), "{error}");
}

/// Unchanged SQL in, the tags it depends on out; what a query may not be cached for keeps its value from being stored.
#[tokio::test]
async fn a_loader_is_told_its_tags_by_the_extension() {
    let stack = stack().await;
    let cache = Cache::builder().redis(stack.redis_url()).build().expect("a cache");
    assert!(cache.ready(PATIENCE).await);
    let pool = pool(&stack);
    let load = async |key: &str, sql: &'static str| {
        let pool = pool.clone();
        let value = cache.get_or_load(key, move |load| async move {
            let client = pool.get().await?;
            let read = async || client.query_one(sql, &[]).await.map_err(PostgresError::Query);
            let row = load.capture(&client, read).await?;
            Ok::<String, Box<dyn std::error::Error + Send + Sync>>(row.get(0))
        });
        value.await.expect("a value")
    };
    let price = "SELECT price::text FROM products WHERE id = 1";
    let known = load("price", price).await.metadata();
    assert!(texts(known.tags()).contains(&"product:1"), "{known:?}");
    eventually("a hit", PATIENCE, async || {
        (load("price", price).await.metadata().source() != Source::Loader).then_some(())
    })
    .await;
    let commit = stack.commit("UPDATE products SET price = 4711 WHERE id = 1").await;
    stack.wait_caught_up(commit).await;
    eventually("the new price", PATIENCE, async || (*load("price", price).await == "4711").then_some(())).await;
    for _ in 0..2 {
        let now = load("now", "SELECT now()::text").await;
        assert_eq!(now.metadata().source(), Source::Loader, "what depends on the time is not stored");
    }
}

#[tokio::test]
async fn a_reader_who_presents_the_commit_does_not_hit_what_was_before() {
    let mut stack = stack().await;
    let client = pool(&stack).get().await.expect("a client");
    stack.fill("p1", "10", &["product:1"]).await;
    stack.daemon().pause();
    client.execute("UPDATE products SET price = 11 WHERE id = 1", &[]).await.expect("update");
    let commit = commit_position(&client).await.expect("a position");
    assert_eq!(stack.get("p1").await.text(), Some("10"), "nobody has told Redis yet");
    let presenting = GetOptions { at_least: Some(commit.to_string()), ..GetOptions::default() };
    assert!(stack.get_with("p1", &presenting).await.is_miss());
    stack.daemon().resume();
    stack.fill("p2", "10", &["product:2"]).await;
    stack.wait_caught_up(commit.lsn().0).await;
    assert_eq!(stack.get_with("p2", &presenting).await.text(), Some("10"));
}

/// Fills race with commits: nothing that hits once all is quiet is old.
#[tokio::test]
async fn fills_that_race_with_commits_leave_no_old_value() {
    let stack = stack().await;
    let pool = pool(&stack);
    let deadline = tokio::time::Instant::now() + Duration::from_secs(2);
    let writer = async {
        let client = pool.get().await.expect("a client");
        while tokio::time::Instant::now() < deadline {
            client.execute("UPDATE products SET price = price + 1 WHERE id = 1", &[]).await.expect("update");
            tokio::time::sleep(Duration::from_millis(3)).await;
        }
    };
    let filler = async {
        let client = pool.get().await.expect("a client");
        let mut stored = 0;
        while tokio::time::Instant::now() < deadline {
            let loading = Loading::new(token(&stack, "p1").await);
            let found = loading.query(&client, PRICE, &[&1]).await.expect("rows");
            let price: i32 = found.rows[0].get(0);
            let version = loading.token().expect("given").to_string();
            if found.storable && stack.put("p1", &price.to_string(), &version, &texts(&found.tags)).await.is_stored() {
                stored += 1;
            }
        }
        stored
    };
    let ((), stored) = tokio::join!(writer, filler);
    assert!(stored > 0, "no fill was stored");
    stack.wait_caught_up_now().await;
    let now = stack.value("SELECT price FROM products WHERE id = 1").await;
    if let Some(hit) = stack.get("p1").await.text() {
        assert_eq!(hit, now);
    }
}

#[tokio::test]
async fn a_standby_that_is_behind_the_token_must_not_store() {
    let mut stack = Stack::start(StackOptions::new().schema(SCHEMA).proxied()).await;
    let data = stack.new_home().join("data");
    let standby = standby_of(&stack.postgres, &data, stack.postgres.port()).await;
    let config = standby.url(DATABASE).parse().expect("a URL");
    let standby_pool = Pool::builder(Manager::new(config, NoTls)).build().expect("a pool");
    let client = standby_pool.get().await.expect("a client");
    client.batch_execute("SELECT pg_wal_replay_pause()").await.expect("paused");
    eventually("a replay that pauses", PATIENCE, async || {
        let state = client.query_one("SELECT pg_get_wal_replay_pause_state()", &[]).await.ok()?;
        (state.get::<_, &str>(0) == "paused").then_some(())
    })
    .await;
    let commit = stack.commit("UPDATE products SET price = 11 WHERE id = 1").await;
    stack.wait_caught_up(commit).await;
    let loading = Loading::new(token(&stack, "p1").await);
    let found = loading.query(&client, PRICE, &[&1]).await.expect("rows");
    assert_eq!((found.rows[0].get::<_, i32>(0), found.storable), (10, false));
    assert_eq!(loading.storable(), Err(NotStorable::Behind { token: loading.token().expect("given") }));
    client.batch_execute("SELECT pg_wal_replay_resume()").await.expect("resumed");
    eventually("a standby that has caught up", PATIENCE, async || {
        let loading = Loading::new(loading.token());
        let found = loading.query(&client, PRICE, &[&1]).await.ok()?;
        found.storable.then(|| assert_eq!(found.rows[0].get::<_, i32>(0), 11))
    })
    .await;
}

//! Rules 2, 3 and 4: what makes an entry valid, which fills are refused, and what an apply leaves behind.

use std::time::Duration;

use cachetag_tests::{Cache, Put, Stack, StackOptions, lsn_of_version};

const SCHEMA: &str = "CREATE TABLE products (id int PRIMARY KEY, price int NOT NULL);
    INSERT INTO products SELECT i, 10 FROM generate_series(1, 9) i; SELECT cachetag.track('products', 'product:{id}')";
const CHANGE: &str = "UPDATE products SET price = price + 1 WHERE id = 1";

async fn stack() -> Stack {
    Stack::start(StackOptions::new().schema(SCHEMA)).await
}

async fn price(stack: &Stack) -> String {
    stack.value("SELECT price FROM products WHERE id = 1").await
}

async fn delete(stack: &Stack, tag: &str) {
    let mut cache = stack.cache().await;
    let key = cache.key("t", tag);
    let deleted: i64 = redis::cmd("DEL").arg(key).query_async(cache.connection()).await.expect("Redis answers");
    assert_eq!(deleted, 1, "{tag} was not there");
}

async fn version(cache: &mut Cache, tag: &str) -> Option<String> {
    let key = cache.key("t", tag);
    redis::cmd("GET").arg(key).query_async(cache.connection()).await.expect("Redis answers")
}

/// Token, snapshot, then the commit; the put comes last. Returns its answer.
async fn late_put(stack: &Stack, meanwhile: &str) -> Put {
    let token = stack.get("p1").await.token;
    let read = price(stack).await;
    let commit = stack.commit(meanwhile).await;
    stack.wait_caught_up(commit).await;
    assert_ne!(price(stack).await, read);
    let put = stack.put("p1", &read, &token, &["product:1"]).await;
    assert!(stack.get("p1").await.is_miss(), "the old row hits");
    put
}

#[tokio::test]
async fn rule_03_a_fill_that_started_before_a_commit_is_refused() {
    let stack = stack().await;
    stack.fill("registers", "", &["product:1"]).await;
    assert_eq!(late_put(&stack, CHANGE).await, Put::Refused { reason: "bumped".into(), tag: "product:1".into() });
    stack.fill("p1", &price(&stack).await, &["product:1"]).await;
    assert_eq!(stack.get("p1").await.text(), Some("11"));
}

#[tokio::test]
async fn rule_03_an_unregistered_tag_is_found_in_the_log() {
    let stack = stack().await;
    assert_eq!(version(&mut stack.cache().await, "product:1").await, None, "the tag must be unknown to Redis");
    assert_eq!(late_put(&stack, CHANGE).await, Put::Refused { reason: "bumped".into(), tag: "product:1".into() });
    // The refusal has registered it: the next try succeeds.
    stack.fill("p1", &price(&stack).await, &["product:1"]).await;
    assert_eq!(stack.get("p1").await.text(), Some("11"));
}

#[tokio::test]
async fn rule_03_a_log_that_was_cut_refuses_and_registers_at_applied() {
    let stack = stack().await;
    let token = stack.get("p1").await.token;
    let read = price(&stack).await;
    let commit = stack.commit(CHANGE).await;
    stack.wait_caught_up(commit).await;
    let mut cache = stack.cache().await;
    // Somebody cuts the log behind our back, down to nothing.
    let log = cache.key("log", "");
    let cut: i64 =
        redis::cmd("XTRIM").arg(log).arg("MAXLEN").arg(0).query_async(cache.connection()).await.expect("Redis answers");
    assert!(cut > 0);
    let put = stack.put("p1", &read, &token, &["product:1"]).await;
    assert_eq!(put.reason(), Some("unregistered"));
    assert!(stack.get("p1").await.is_miss());
    let registered = version(&mut cache, "product:1").await.expect("registered by the refusal");
    assert!(registered > token, "registered at {registered}, which the refused token {token} would cover");
    assert!(lsn_of_version(&registered) >= commit, "the bumps up to here may be forgotten");
    stack.fill("p1", &price(&stack).await, &["product:1"]).await;
    assert_eq!(stack.get("p1").await.text(), Some("11"));
}

#[tokio::test]
async fn rule_03_a_fill_older_than_the_whole_log_is_refused() {
    let stack = stack().await;
    let token = stack.get("p1").await.token;
    let read = price(&stack).await;
    let first = stack.commit(CHANGE).await;
    stack.wait_caught_up(first).await;
    // More records than a fill scans, each of another tag: one transaction a call of Redis.
    let client = stack.connect().await;
    for _ in 0..600 {
        client.batch_execute("SELECT cachetag.invalidate('other:' || txid_current())").await.expect("invalidate");
    }
    stack.wait_caught_up_now().await;
    let put = stack.put("p1", &read, &token, &["product:1"]).await;
    assert!(!put.is_stored(), "{put:?}");
    assert!(stack.get("p1").await.is_miss());
}

#[tokio::test]
async fn rule_03_a_token_of_another_epoch_is_refused() {
    let mut stack = stack().await;
    let token = stack.get("p1").await.token;
    stack.redis.restart().await.expect("an empty Redis");
    stack.wait_ready().await;
    for epoch in [token.clone(), token.replacen(&token[..10], "9999999999", 1)] {
        let put = stack.put("p1", "10", &epoch, &["product:1"]).await;
        assert_eq!(put.reason(), Some("epoch"), "{epoch}: {put:?}");
    }
    assert!(stack.get("p1").await.is_miss());
}

/// A token is good only for a snapshot taken after it was given, and never for what nobody else can see.
#[tokio::test]
async fn rule_03_a_snapshot_older_than_its_token_is_not_covered() {
    let stack = stack().await;
    let token = stack.get("p1").await.token;
    let covers = format!("SELECT cachetag.covers('{token}')");
    assert_eq!(stack.value(&covers).await, "t");
    for begin in ["BEGIN ISOLATION LEVEL REPEATABLE READ", "BEGIN ISOLATION LEVEL SERIALIZABLE"] {
        let in_transaction = format!("{begin}; SELECT price FROM products WHERE id = 1; {covers}; ROLLBACK");
        assert_eq!(stack.values(&in_transaction).await, ["10", "f"], "{begin}");
    }
    let own_write = format!("BEGIN; {CHANGE}; {covers}; ROLLBACK");
    assert_eq!(stack.value(&own_write).await, "f");
}

#[tokio::test]
async fn rule_02_a_lost_tag_key_makes_its_entries_miss() {
    let stack = stack().await;
    stack.fill("p1", "10", &["product:1", "product:2"]).await;
    stack.fill("p3", "10", &["product:3"]).await;
    delete(&stack, "product:2").await;
    assert!(stack.get("p1").await.is_miss());
    assert!(stack.get("p3").await.is_hit(), "it does not depend on what was lost");
}

#[tokio::test]
async fn rule_02_registering_again_never_revives_an_older_entry() {
    let stack = stack().await;
    stack.fill("p1", "10", &["product:1"]).await;
    delete(&stack, "product:1").await;
    // The bump of this commit finds no key and is kept by nobody but the log.
    let commit = stack.commit(CHANGE).await;
    stack.wait_caught_up(commit).await;
    assert!(stack.get("p1").await.is_miss());
    stack.fill("other", &price(&stack).await, &["product:1"]).await;
    assert!(stack.get("other").await.is_hit());
    assert!(stack.get("p1").await.is_miss(), "the old row is back");
}

#[tokio::test]
async fn rule_02_an_evicted_tag_costs_a_miss_and_no_wrong_hit() {
    let options = StackOptions::new().redis_args(["--maxmemory", "4mb", "--maxmemory-policy", "volatile-lru"]);
    let stack = Stack::start(options.schema(SCHEMA)).await;
    stack.fill("p1", "10", &["product:1"]).await;
    let mut cache = stack.cache().await;
    // Entries that nobody misses push it out.
    for batch in 0..200 {
        let token = cache.get("none").await.expect("Redis answers").token;
        for i in 0..20 {
            let (key, tag) = (format!("bulk:{batch}:{i}"), format!("bulk:{i}"));
            // Out of memory is an answer too: `put` alone is refused then.
            let _ = cache.put(&key, &"x".repeat(2000), &token, Duration::from_secs(600), &[tag]).await;
        }
    }
    let evicted: String = redis::cmd("INFO").arg("stats").query_async(cache.connection()).await.expect("Redis answers");
    assert!(!evicted.contains("evicted_keys:0\r\n"), "nothing was evicted, so this test proves nothing");
    let commit = stack.commit(CHANGE).await;
    stack.wait_caught_up(commit).await;
    let got = stack.get("p1").await;
    assert!(!got.is_hit(), "{got:?}");
    assert!(cache.state().await.expect("Redis answers").contains_key("watermark"), "the state itself has no expiry");
}

#[tokio::test]
async fn rule_02_the_floor_invalidates_whatever_the_tags_say() {
    let stack = stack().await;
    stack.fill("p1", "10", &["product:1"]).await;
    stack.fill("untagged", "x", &[]).await;
    let commit = stack.commit("SELECT cachetag.invalidate('*')").await;
    stack.wait_caught_up(commit).await;
    assert!(stack.get("p1").await.is_miss());
    assert!(stack.get("untagged").await.is_miss());
}

#[tokio::test]
async fn rule_04_an_apply_costs_memory_only_for_what_is_cached() {
    let stack = stack().await;
    stack.fill("p1", "10", &["product:1"]).await;
    let commit = stack.commit("UPDATE products SET price = price + 1").await;
    stack.wait_caught_up(commit).await;
    let mut cache = stack.cache().await;
    let pattern = cache.key("t", "product:?");
    let mut keys: Vec<String> =
        redis::cmd("KEYS").arg(pattern).query_async(cache.connection()).await.expect("Redis answers");
    keys.retain(|key| !key.ends_with('*'));
    assert_eq!(keys, [cache.key("t", "product:1")]);
}

#[tokio::test]
async fn rule_04_a_tag_outlives_its_entries_and_a_bump_keeps_its_expiry() {
    let stack = stack().await;
    stack.fill("p1", "10", &["product:1"]).await;
    let mut cache = stack.cache().await;
    let (entry, tag) = (cache.key("e", "p1"), cache.key("t", "product:1"));
    let expiries = async |cache: &mut Cache| -> (i64, i64) {
        let mut pipe = redis::pipe();
        pipe.cmd("PEXPIRETIME").arg(&entry).cmd("PEXPIRETIME").arg(&tag);
        pipe.query_async(cache.connection()).await.expect("Redis answers")
    };
    let (of_entry, before) = expiries(&mut cache).await;
    assert!(of_entry > 0 && before > of_entry, "entry {of_entry}, tag {before}");
    let commit = stack.commit(CHANGE).await;
    stack.wait_caught_up(commit).await;
    assert_eq!(expiries(&mut cache).await.1, before);
}

#[tokio::test]
async fn rule_04_a_transaction_that_rolls_back_bumps_nothing() {
    let stack = stack().await;
    stack.fill("p1", "10", &["product:1"]).await;
    stack.fill("p2", "10", &["product:2"]).await;
    let mut cache = stack.cache().await;
    let before = version(&mut cache, "product:1").await;
    stack
        .sql("BEGIN; UPDATE products SET price = 0 WHERE id = 1; SELECT cachetag.invalidate('product:1'); ROLLBACK")
        .await;
    // A commit behind it, so that the stream has passed the place.
    let commit = stack.commit("UPDATE products SET price = 11 WHERE id = 2").await;
    stack.wait_caught_up(commit).await;
    assert_eq!(version(&mut cache, "product:1").await, before);
    assert!(stack.get("p1").await.is_hit());
    assert!(stack.get("p2").await.is_miss());
}

#[tokio::test]
async fn rule_04_a_savepoint_that_is_rolled_back_bumps_nothing() {
    let stack = stack().await;
    for id in 1..=4 {
        stack.fill(&format!("p{id}"), "10", &[&format!("product:{id}")]).await;
    }
    let commit = stack
        .commit(
            "BEGIN; SAVEPOINT a; UPDATE products SET price = 0 WHERE id = 1; SELECT cachetag.invalidate('product:3');
             ROLLBACK TO a; UPDATE products SET price = 11 WHERE id = 2;
             SAVEPOINT b; UPDATE products SET price = 12 WHERE id = 4; RELEASE b; COMMIT",
        )
        .await;
    stack.wait_caught_up(commit).await;
    for (id, changed) in [(1, false), (2, true), (3, false), (4, true)] {
        assert_eq!(stack.get(&format!("p{id}")).await.is_miss(), changed, "product {id}");
    }
}

//! `cachetag audit` against a live cache: silent while the cache is honest, and loud about every kind of liar.

use std::process::Stdio;
use std::time::Duration;

use cachetag_tests::{GetOptions, Load, PutOptions, Stack, StackOptions, eventually, program};
use serde_json::Value;

const SCHEMA: &str = "
    CREATE TABLE products (id int PRIMARY KEY, name text NOT NULL, price int NOT NULL);
    CREATE TABLE prices (product_id int PRIMARY KEY, price int NOT NULL);
    INSERT INTO products SELECT i, 'product ' || i, 10 FROM generate_series(1, 9) i;
    INSERT INTO prices SELECT i, 10 FROM generate_series(1, 9) i;
    SELECT cachetag.track('products', 'product:{id}');
    SELECT cachetag.recipe('price:{id}', 'SELECT price FROM products WHERE id = $1');
    SELECT cachetag.recipe('page:{id}', 'SELECT json_build_object(''name'', name, ''price'', price) FROM products WHERE id = $1', 'jsonb')";

async fn stack() -> Stack {
    Stack::start(StackOptions::new().setting("track_commit_timestamp", "on").schema(SCHEMA)).await
}

/// Runs the program; returns its exit code, its report (none if it printed none) and what it said besides.
async fn run(stack: &Stack, arguments: &[&str]) -> (i32, Value, String) {
    let mut command = tokio::process::Command::new(program());
    command.env("CACHETAG_POSTGRES", stack.postgres_url()).env("CACHETAG_REDIS", stack.redis_url());
    command.args(["audit", "--json", "--rate", "0"]).args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    let output = command.output().await.expect("the program runs");
    let report = serde_json::from_slice(&output.stdout).unwrap_or(Value::Null);
    (output.status.code().expect("it ends by itself"), report, String::from_utf8_lossy(&output.stderr).into_owned())
}

/// Audits all entries; it must end with this code.
async fn audit(stack: &Stack, code: i32) -> Value {
    let (ended, report, error) = run(stack, &["--all"]).await;
    assert_eq!(ended, code, "{report:#} {error}");
    report
}

/// The only mismatch, which is of this key.
async fn the_liar(stack: &Stack, key: &str) -> Value {
    let report = audit(stack, 1).await;
    assert_eq!(report["wrong"], 1, "{report:#}");
    let mismatch = report["mismatches"][0].clone();
    assert_eq!(mismatch["key"], key, "{report:#}");
    mismatch
}

/// Runs a change that must be named: its transaction id and, within a second, its time.
async fn commit(stack: &Stack, sql: &str) -> u64 {
    let xid = stack.value(&format!("BEGIN; {sql}; SELECT pg_current_xact_id(); COMMIT")).await;
    stack.wait_caught_up_now().await;
    xid.parse().expect("a transaction id")
}

async fn hset(stack: &Stack, key: &str, field: &str, value: &str) {
    let mut cache = stack.cache().await;
    let key = cache.key("e", key);
    let _: i64 = redis::cmd("HSET").arg(key).arg(field).arg(value).query_async(cache.connection()).await.expect("HSET");
}

async fn fill_absent(stack: &Stack, key: &str, tags: &[&str]) {
    let mut cache = stack.cache().await;
    let token = cache.get_with(key, &GetOptions { no_lease: true, ..GetOptions::default() }).await.expect("get").token;
    let absent = PutOptions { absent: true, ..PutOptions::default() };
    let put = cache.put_with(key, "", &token, Duration::from_secs(600), tags, &absent).await.expect("put");
    assert!(put.is_stored(), "{put:?}");
}

/// Beside the load, a table of more rows, of which every tenth changes while an audit is under way.
#[tokio::test]
async fn an_honest_cache_under_load_is_clean() {
    const THINGS: usize = 300;
    let schema = format!(
        "{}; CREATE TABLE things (id int PRIMARY KEY, price int NOT NULL DEFAULT 0);
         INSERT INTO things SELECT generate_series(1, {THINGS}); SELECT cachetag.track('things', 'thing:{{id}}');
         SELECT cachetag.recipe('load:{{id}}', 'SELECT price FROM products WHERE id = $1');
         SELECT cachetag.recipe('thing:{{id}}', 'SELECT price FROM things WHERE id = $1')",
        Load::SCHEMA
    );
    let stack = Stack::start(StackOptions::new().schema(schema)).await;
    let load = Load::start(&stack, Duration::from_secs(2));
    load.progress(100, 100).await;
    let (client, mut cache) = (stack.connect().await, stack.cache().await);
    let (mut checked, mut late, mut audits) = (0, 0, 0);
    while checked < 3000 || late == 0 {
        for id in 1..=THINGS {
            let key = format!("thing:{id}");
            let missed =
                cache.get_with(&key, &GetOptions { no_lease: true, ..GetOptions::default() }).await.expect("get");
            if missed.is_miss() {
                let row = client
                    .query_one(&format!("SELECT price::text FROM things WHERE id = {id}"), &[])
                    .await
                    .expect("a row");
                cache.put(&key, row.get(0), &missed.token, Duration::from_secs(600), &[&key]).await.expect("put");
            }
        }
        let change = format!("UPDATE things SET price = price + 1 WHERE id % 10 = {}", audits % 10);
        let ((code, report, error), changed) = tokio::join!(run(&stack, &["--all"]), client.batch_execute(&change));
        changed.expect("the change");
        assert_eq!((code, &report["failures"]), (0, &serde_json::json!([])), "{report:#} {error}");
        checked += report["checked"].as_u64().expect("a number");
        late += report["late"].as_u64().expect("a number");
        let (staleness, lag) = (&report["staleness_ms"]["max"], &report["lag_ms"]["max"]);
        assert!(staleness.as_u64() <= lag.as_u64() && lag.as_u64() <= Some(2000), "{report:#}");
        audits += 1;
        assert!(audits < 1000, "{checked} checked, {late} late");
    }
    println!("{audits} audits, {checked} entries checked, {late} of them late");
    load.finish(&stack).await;
}

#[tokio::test]
async fn values_absences_and_json_are_compared_as_they_are_meant() {
    let stack = stack().await;
    stack.fill("price:1", "10", &["product:1"]).await;
    stack.fill("page:1", r#"{"price": 1e1, "name":"product 1"}"#, &["product:1"]).await;
    fill_absent(&stack, "price:77", &["product:77"]).await;
    stack.fill("unknown:1", "whatever", &["product:1"]).await;
    let report = audit(&stack, 0).await;
    for (field, number) in [("seen", 4), ("matched", 3), ("selected", 3), ("checked", 3), ("true_now", 3), ("late", 0)]
    {
        assert_eq!(report[field], number, "{field}: {report:#}");
    }
    assert_eq!(report["bound"], 1.0, "three entries prove little");
    // An audit takes no lease and writes nothing.
    commit(&stack, "UPDATE products SET price = 11; DO $$ BEGIN PERFORM cachetag.invalidate('product:77'); END $$")
        .await;
    let report = run(&stack, &["--all"]).await;
    assert_eq!((report.0, &report.1["skipped"]), (2, &serde_json::json!({ "invalid": 3 })), "{report:?}");
    assert!(!stack.get("price:1").await.lease.is_empty(), "the audit has taken the lease");
}

#[tokio::test]
async fn an_entry_without_the_tag_of_what_it_shows_is_found_with_the_commit() {
    let stack = stack().await;
    for id in 1..=9 {
        stack.fill(&format!("price:{id}"), "10", &[&format!("product:{}", if id == 5 { 6 } else { id })]).await;
    }
    audit(&stack, 0).await;
    commit(&stack, "UPDATE products SET price = 11 WHERE id = 2").await;
    let xid = commit(&stack, "UPDATE products SET price = 12 WHERE id = 5").await;
    commit(&stack, "UPDATE products SET price = 11 WHERE id = 3").await;
    let liar = the_liar(&stack, "price:5").await;
    assert_eq!((&liar["cached"], &liar["database"]), (&"10".into(), &"12".into()));
    let suspect = &liar["suspects"][0];
    assert_eq!(suspect["table"], r#""public"."products""#);
    assert_eq!(suspect["xid"].as_u64(), Some(xid), "{liar:#}");
    assert!(suspect["committed_at"].is_string(), "{liar:#}");
    assert_eq!(suspect["tags"], serde_json::json!(["product:5"]));
    assert_eq!(suspect["cause"], "tag_missing");
}

#[tokio::test]
async fn an_entry_of_a_table_that_no_rule_tracks_is_found_with_the_table() {
    let stack = stack().await;
    stack
        .sql(
            "SELECT cachetag.recipe('both:{id}',
                 'SELECT p.name || x.price FROM products p JOIN prices x ON x.product_id = p.id WHERE p.id = $1')",
        )
        .await;
    stack.fill("both:4", "product 410", &["product:4"]).await;
    audit(&stack, 0).await;
    let xid = commit(&stack, "UPDATE prices SET price = 11 WHERE product_id = 4").await;
    let liar = the_liar(&stack, "both:4").await;
    let suspect = &liar["suspects"][0];
    assert_eq!((&suspect["table"], &suspect["cause"]), (&r#""public"."prices""#.into(), &"untracked".into()));
    assert_eq!(suspect["xid"].as_u64(), Some(xid), "{liar:#}");
    // A deleted row leaves its table.
    commit(&stack, "DELETE FROM prices WHERE product_id = 4").await;
    let liar = the_liar(&stack, "both:4").await;
    assert_eq!(liar["database"], Value::Null);
    let tables: Vec<&Value> = liar["suspects"].as_array().expect("suspects").iter().map(|s| &s["table"]).collect();
    assert!(tables.contains(&&r#""public"."prices""#.into()), "{liar:#}");
}

#[tokio::test]
async fn an_entry_stored_under_a_later_position_than_it_was_read_at_is_found() {
    let stack = stack().await;
    stack.fill("price:1", "10", &["product:1"]).await;
    stack.fill("price:2", "10", &["product:2"]).await;
    let xid = commit(&stack, "UPDATE products SET price = 11 WHERE id = 1").await;
    let as_of = stack.explain("price:2").await["applied"].clone();
    hset(&stack, "price:1", "as_of", &as_of).await;
    assert!(stack.get("price:1").await.is_hit(), "the liar lies");
    let liar = the_liar(&stack, "price:1").await;
    let suspect = &liar["suspects"][0];
    assert_eq!(suspect["xid"].as_u64(), Some(xid), "{liar:#}");
    assert_eq!(suspect["cause"]["not_bumped"]["tag"], "product:1", "{liar:#}");
    // Ahead of all that there is: wrong before anything has changed.
    hset(&stack, "price:1", "as_of", &format!("{}.18446744073709551615", &as_of[..10])).await;
    hset(&stack, "price:1", "payload", "11").await;
    assert_eq!(the_liar(&stack, "price:1").await["kind"], "ahead_of_log");
}

#[tokio::test]
async fn a_wrong_absence_and_a_wrong_document_are_found() {
    let stack = stack().await;
    fill_absent(&stack, "price:10", &["product:1"]).await;
    stack.fill("page:2", r#"{"name": "product 2", "price": 10}"#, &[]).await;
    stack.fill("page:3", "no json", &["product:3"]).await;
    commit(&stack, "INSERT INTO products VALUES (10, 'ten', 10)").await;
    let xid = commit(&stack, "UPDATE products SET name = 'two' WHERE id = 2").await;
    let report = audit(&stack, 1).await;
    let mut mismatches = report["mismatches"].as_array().expect("mismatches").clone();
    mismatches.sort_by_key(|mismatch| mismatch["key"].to_string());
    let keys: Vec<&Value> = mismatches.iter().map(|mismatch| &mismatch["key"]).collect();
    assert_eq!(keys, ["page:2", "page:3", "price:10"], "{report:#}");
    assert_eq!(mismatches[0]["suspects"][0]["xid"].as_u64(), Some(xid), "{report:#}");
    assert_eq!((&mismatches[2]["cached"], &mismatches[2]["database"]), (&Value::Null, &"10".into()));
    // For people, with what to look at.
    let output = std::process::Command::new(program())
        .args(["audit", "--postgres", &stack.postgres_url(), "--redis", &stack.redis_url()])
        .output()
        .expect("the program runs");
    let text = String::from_utf8_lossy(&output.stdout);
    for part in ["WRONG page:2", "it has no tags", r#"table "public"."products", transaction"#, "cached   nothing"] {
        assert!(text.contains(part), "{part:?} is not in:\n{text}");
    }
}

#[tokio::test]
async fn a_soft_bump_is_told_to_readers_and_no_mismatch() {
    let stack = stack().await;
    stack.sql("SELECT cachetag.untrack('products'); SELECT cachetag.track('products', ARRAY['product:{id}'], soft => true)").await;
    stack.wait_caught_up_now().await;
    stack.fill("price:1", "10", &["product:1"]).await;
    commit(&stack, "UPDATE products SET price = 11 WHERE id = 1").await;
    let report = audit(&stack, 0).await;
    assert_eq!((&report["softly_stale"], &report["checked"]), (&1.into(), &1.into()), "{report:#}");
}

#[tokio::test]
async fn a_recipe_that_fails_is_reported_and_the_others_go_on() {
    let stack = stack().await;
    stack
        .sql(
            "CREATE TABLE gone (id int);
             SELECT cachetag.recipe('gone:{id}', 'SELECT count(*) FROM gone');
             SELECT cachetag.recipe('slow:{id}', 'SELECT ''x'' FROM pg_sleep(60)');
             SELECT cachetag.recipe('number:{id}', 'SELECT price FROM products WHERE id = $1');
             SELECT cachetag.recipe('random:{id}', 'SELECT random()');
             SELECT cachetag.recipe('many:{id}', 'SELECT price FROM products');
             SELECT cachetag.recipe('write:{id}', 'SELECT nextval(''counter'')') FROM (SELECT 1) x, LATERAL (SELECT 1) y
              WHERE false; DROP TABLE gone",
        )
        .await;
    for key in ["gone:1", "slow:1", "number:seven", "random:1", "many:1", "price:1"] {
        stack.fill(key, "10", &["product:1"]).await;
    }
    let (code, report, error) = run(&stack, &["--all", "--timeout", "300ms"]).await;
    assert_eq!((code, &report["checked"], &report["true_now"]), (0, &1.into(), &1.into()), "{report:#} {error}");
    assert_eq!(report["skipped"], serde_json::json!({ "failed": 5 }), "{report:#}");
    let failures = report["failures"].as_array().expect("failures");
    for (recipe, problem) in [
        ("gone:{id}", "\"gone\" does not exist"),
        ("slow:{id}", "statement timeout"),
        ("number:{id}", "\"seven\""),
        ("random:{id}", "another value every time"),
        ("many:{id}", "more than one row"),
    ] {
        let failure = failures.iter().find(|failure| failure["recipe"] == recipe).expect(recipe);
        assert!(failure["problem"].as_str().is_some_and(|text| text.contains(problem)), "{failure:#}");
    }
    // With nothing else to check there is no all-clear.
    stack.cache().await.drop("price:1").await.expect("drop");
    assert_eq!(run(&stack, &["--all", "--timeout", "300ms"]).await.0, 2);
}

/// A recipe's names mean what they meant when it was registered; the role that audits needs to read, and cannot write.
#[tokio::test]
async fn a_role_that_may_only_read_is_enough_and_queries_cannot_write() {
    let stack = stack().await;
    stack
        .sql(
            "CREATE ROLE auditor LOGIN; GRANT SELECT ON products TO auditor; CREATE SCHEMA auditor AUTHORIZATION auditor;
             CREATE TABLE auditor.products (id int, price int); GRANT ALL ON auditor.products TO auditor;
             CREATE TABLE public.touched (id int); GRANT ALL ON public.touched TO auditor;
             CREATE FUNCTION touch() RETURNS int LANGUAGE sql AS 'INSERT INTO public.touched VALUES (1) RETURNING id';
             SELECT cachetag.recipe('touch:{id}', 'SELECT touch()')",
        )
        .await;
    stack.fill("price:1", "10", &["product:1"]).await;
    stack.fill("touch:1", "1", &[]).await;
    let url = stack.postgres_url().replacen("postgres@", "auditor@", 1);
    let (code, report, error) = run(&stack, &["--all", "--postgres", &url]).await;
    assert_eq!((code, &report["true_now"]), (0, &1.into()), "{report:#} {error}");
    let problem = report["failures"][0]["problem"].as_str().unwrap_or_default();
    assert!(problem.contains("read-only transaction"), "{report:#}");
    assert_eq!(stack.value("SELECT count(*) FROM touched").await, "0");
}

#[tokio::test]
async fn a_stopped_daemon_is_a_bypass_and_no_mismatch() {
    let mut stack = stack().await;
    stack.fill("price:1", "10", &["product:1"]).await;
    stack.daemon().stop().await;
    stack.sql("UPDATE products SET price = 11 WHERE id = 1").await;
    // Still within max_lag: the entry is served, differs, and cannot be judged, because no watermark comes.
    let (code, report, error) = run(&stack, &["--all", "--max-lag", "1h", "--settle", "200ms"]).await;
    assert_eq!((code, &report["wrong"]), (2, &0.into()), "{report:#} {error}");
    assert_eq!(report["skipped"], serde_json::json!({ "unsettled": 1 }), "{report:#}");
    eventually("the bypass", Duration::from_secs(20), async || {
        stack.get("price:1").await.token.is_empty().then_some(())
    })
    .await;
    let (code, report, error) = run(&stack, &["--all"]).await;
    assert_eq!((code, &report["skipped"]), (2, &serde_json::json!({ "bypass": 1 })), "{report:#}");
    assert!(error.contains("nothing could be checked"), "{error}");
    stack.daemon().start_again();
    stack.wait_caught_up_now().await;
    stack.fill("price:2", "10", &["product:2"]).await;
    let report = audit(&stack, 0).await;
    assert_eq!((&report["checked"], &report["skipped"]["invalid"]), (&1.into(), &1.into()), "{report:#}");
}

#[tokio::test]
async fn a_sample_is_a_sample_and_its_seed_repeats_it() {
    let stack = stack().await;
    let mut cache = stack.cache().await;
    let token = cache.get("none").await.expect("get").token;
    for id in 1..=200 {
        // Every tenth entry is a liar.
        let payload = if id % 10 == 0 { "wrong" } else { "10" };
        cache.put(&format!("price:{}", id), payload, &token, Duration::from_secs(600), &["x"]).await.expect("put");
    }
    stack.sql("INSERT INTO products SELECT i, 'product ' || i, 10 FROM generate_series(10, 200) i").await;
    stack.wait_caught_up_now().await;
    let sample = async |seed: &str| {
        let (code, report, error) = run(&stack, &["--sample", "100", "--seed", seed]).await;
        assert_eq!((code, &report["matched"], &report["checked"]), (1, &200.into(), &100.into()), "{report:#} {error}");
        let mismatches = report["mismatches"].as_array().expect("mismatches");
        let mut keys: Vec<String> = mismatches.iter().map(|mismatch| mismatch["key"].to_string()).collect();
        keys.sort();
        keys
    };
    let first = sample("1").await;
    assert_eq!(sample("1").await, first);
    assert_ne!(sample("2").await, first);
    let all = audit(&stack, 1).await;
    assert_eq!((&all["wrong"], &all["checked"]), (&20.into(), &200.into()));
}

#[tokio::test]
async fn what_cannot_be_audited_says_why() {
    let stack = stack().await;
    let refused = async |arguments: &[&str], words: &str| {
        let (code, report, error) = run(&stack, arguments).await;
        assert_eq!((code, report), (2, Value::Null), "{error}");
        assert!(error.contains(words), "{words:?} is not in {error:?}");
    };
    refused(&["--namespace", "other"], "no daemon has ever fed namespace other").await;
    refused(&["--redis", "redis://127.0.0.1:1"], "redis").await;
    refused(&["--postgres", "postgres://postgres@127.0.0.1:1/app"], "127.0.0.1:1").await;
    refused(&["--sample", "none"], "--sample").await;
    stack.sql("CREATE DATABASE elsewhere").await;
    let url = stack.postgres_url().replace("/app", "/elsewhere");
    refused(&["--postgres", &url], "is fed by").await;
    stack.sql("DELETE FROM cachetag.recipe").await;
    refused(&[], "cachetag.recipe(").await;
}

//! What the daemon is given and cannot use: each is an error, a line of the log or a row of `doctor()` that names it and the remedy.

use std::path::PathBuf;
use std::process::{Output, Stdio};
use std::time::Duration;

use cachetag_invalidator::source::{ConnectOptions, ReplicationConnection};
use cachetag_tests::{Daemon, DaemonOptions, Stack, StackOptions, eventually, program};

const PATIENCE: Duration = Duration::from_secs(30);
const LIBRARY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../redis/cachetag.lua");

async fn servers() -> Stack {
    Stack::start(StackOptions::new().without_daemon()).await
}

/// Runs the program to its end.
async fn run(args: &[&str]) -> Output {
    let mut command = tokio::process::Command::new(program());
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("CACHETAG_")) {
        command.env_remove(name);
    }
    command.args(args).stdin(Stdio::null()).kill_on_drop(true);
    let ended = tokio::time::timeout(PATIENCE, command.output()).await;
    ended.unwrap_or_else(|_| panic!("{args:?} goes on instead of giving up")).expect("the program starts")
}

fn everything(output: &Output) -> String {
    [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes).into_owned()).join("\n")
}

/// The program gives up, and says all of this.
async fn refuses(args: &[&str], says: &[&str]) -> String {
    let output = run(args).await;
    let text = everything(&output);
    assert!(!output.status.success(), "{args:?} succeeded: {text}");
    assert!(!text.contains("panicked"), "{text}");
    for expected in says {
        assert!(text.contains(expected), "`{expected}` is not in what it says: {text}");
    }
    text
}

async fn daemon_refuses(postgres: &str, redis: &str, more: &[&str], says: &[&str]) -> String {
    let mut args = vec!["run", "--postgres", postgres, "--redis", redis];
    args.extend(more);
    refuses(&args, says).await
}

/// The row of a check of `doctor()` is no good one, and says all of this.
async fn doctor_says(stack: &Stack, check: &str, says: &[&str]) {
    let row = stack
        .value(&format!(
            "SELECT concat_ws(' ', level, detail, remedy) FROM cachetag.doctor() WHERE \"check\" = '{check}'"
        ))
        .await;
    assert!(row.starts_with("error") || row.starts_with("warning"), "{row}");
    for expected in says {
        assert!(row.contains(expected), "`{expected}` is not in the row: {row}");
    }
}

/// A daemon of its own, which is expected to keep trying and to say all of this.
async fn goes_on_saying(stack: &Stack, postgres: &str, redis: &str, options: DaemonOptions, says: &[&str]) {
    let log = stack.folder().join("other.log");
    let daemon = Daemon::start(postgres, redis, &log, options);
    eventually(says[0], PATIENCE, async || says.iter().all(|text| daemon.log_contains(text)).then_some(())).await;
    assert!(daemon.is_running(), "{}", daemon.log());
}

#[tokio::test]
async fn a_wrong_password_of_postgresql() {
    let mut stack = servers().await;
    let hba = "local all all trust\nhost all guarded 127.0.0.1/32 scram-sha-256\nhost all all 127.0.0.1/32 trust\n";
    std::fs::write(stack.postgres.data().join("pg_hba.conf"), hba).expect("pg_hba.conf");
    stack.sql("CREATE ROLE guarded LOGIN REPLICATION PASSWORD 'right'").await;
    stack.postgres.reload().await.expect("reload");
    let url = |password: &str| stack.postgres_url().replace("postgres@", &format!("guarded{password}@"));
    assert!(url("").contains("guarded"), "{}", url(""));
    let said = daemon_refuses(&url(":hunter22"), &stack.redis_url(), &[], &["password", "guarded", "check"]).await;
    assert!(!said.contains("hunter22"), "{said}");
    daemon_refuses(&url(""), &stack.redis_url(), &[], &["password"]).await;
}

#[tokio::test]
async fn a_wrong_password_of_redis() {
    let stack = servers().await;
    let mut connection = stack.redis.connect().await.expect("connects");
    let set = redis::cmd("CONFIG").arg(&["SET", "requirepass", "right"]).exec_async(&mut connection).await;
    set.expect("CONFIG SET");
    let with = |login: &str| stack.redis_url().replace("redis://", &format!("redis://{login}"));
    let says = ["authentication", "check user and password"];
    let said = daemon_refuses(&stack.postgres_url(), &with(":hunter22@"), &[], &says).await;
    assert!(!said.contains("hunter22"), "{said}");
    daemon_refuses(&stack.postgres_url(), &with(""), &[], &says).await;
    daemon_refuses(&stack.postgres_url(), &with("nobody:x@"), &[], &says).await;
}

#[tokio::test]
async fn a_wal_level_below_logical() {
    let stack = Stack::start(StackOptions::new().without_daemon().setting("wal_level", "replica")).await;
    let says = ["wal_level", "replica", "logical"];
    daemon_refuses(&stack.postgres_url(), &stack.redis_url(), &[], &says).await;
    doctor_says(&stack, "wal_level", &says).await;
}

#[tokio::test]
async fn no_free_slot() {
    let stack = Stack::start(StackOptions::new().without_daemon().setting("max_replication_slots", "1")).await;
    stack.sql("SELECT pg_create_logical_replication_slot('somebody', 'pgoutput')").await;
    let says = ["max_replication_slots", "drop"];
    daemon_refuses(&stack.postgres_url(), &stack.redis_url(), &[], &says).await;
    doctor_says(&stack, "free slots", &says).await;
}

#[tokio::test]
async fn no_free_wal_sender() {
    let stack = Stack::start(StackOptions::new().without_daemon().setting("max_wal_senders", "1")).await;
    let options = ConnectOptions::parse(&stack.postgres_url()).expect("a URL");
    let taken = ReplicationConnection::connect(&options).await.expect("the only WAL sender");
    let says = ["max_wal_senders", "raise"];
    daemon_refuses(&stack.postgres_url(), &stack.redis_url(), &[], &says).await;
    doctor_says(&stack, "free wal senders", &says).await;
    drop(taken);
}

#[tokio::test]
async fn a_server_that_is_a_standby() {
    let mut stack = servers().await;
    stack.postgres.stop().await;
    std::fs::write(stack.postgres.data().join("standby.signal"), "").expect("standby.signal");
    stack.postgres.start_again().await.expect("a hot standby");
    let says = ["standby", "primary"];
    daemon_refuses(&stack.postgres_url(), &stack.redis_url(), &[], &says).await;
    doctor_says(&stack, "primary", &says).await;
}

#[tokio::test]
async fn a_database_that_is_not_fit() {
    let stack = servers().await;
    let redis = stack.redis_url();
    let says = ["postgres", "extension", "CREATE EXTENSION cachetag"];
    daemon_refuses(&stack.postgres.url("postgres"), &redis, &[], &says).await;
    daemon_refuses(&stack.postgres.url("nowhere"), &redis, &[], &["nowhere", "create the database"]).await;
    stack.sql("CREATE DATABASE latin ENCODING 'LATIN1' TEMPLATE template0 LOCALE 'C'").await;
    daemon_refuses(&stack.postgres.url("latin"), &redis, &[], &["LATIN1", "UTF8"]).await;
}

#[tokio::test]
async fn a_role_that_may_not_replicate() {
    let stack = servers().await;
    stack.sql("CREATE ROLE plain LOGIN").await;
    let url = stack.postgres_url().replace("postgres@", "plain@");
    daemon_refuses(&url, &stack.redis_url(), &[], &["plain", "ALTER ROLE", "REPLICATION"]).await;
}

#[tokio::test]
async fn a_redis_without_functions() {
    for command in ["FUNCTION", "FCALL"] {
        let renamed = ["--rename-command", command, "RENAMED"];
        let stack = Stack::start(StackOptions::new().without_daemon().redis_args(renamed)).await;
        let says = ["Functions", "Redis 7"];
        daemon_refuses(&stack.postgres_url(), &stack.redis_url(), &[], &says).await;
    }
}

#[tokio::test]
async fn a_redis_user_that_may_not_use_functions() {
    let stack = servers().await;
    let mut connection = stack.redis.connect().await.expect("connects");
    let user = ["SETUSER", "reader", "on", ">secret", "~*", "+@all", "-function"];
    redis::cmd("ACL").arg(&user).exec_async(&mut connection).await.expect("ACL SETUSER");
    let url = stack.redis_url().replace("redis://", "redis://reader:secret@");
    daemon_refuses(&stack.postgres_url(), &url, &[], &["function", "ACL"]).await;
}

#[tokio::test]
async fn a_newer_library_is_left_alone() {
    let stack = servers().await;
    let source = std::fs::read_to_string(LIBRARY).expect("the library");
    let own = env!("CARGO_PKG_VERSION");
    let newer = source.replace(&format!("VERSION = '{own}'"), "VERSION = '99.0.0'");
    assert_ne!(source, newer, "the library does not state its version");
    let mut connection = stack.redis.connect().await.expect("connects");
    redis::cmd("FUNCTION").arg("LOAD").arg(&newer).exec_async(&mut connection).await.expect("FUNCTION LOAD");
    let says = ["99.0.0", own, "run a daemon at least as new"];
    daemon_refuses(&stack.postgres_url(), &stack.redis_url(), &[], &says).await;
    let list = redis::cmd("FUNCTION").arg("LIST").arg("WITHCODE").query_async::<redis::Value>(&mut connection).await;
    assert!(format!("{list:?}").contains("99.0.0"), "the newer library is gone");
}

#[tokio::test]
async fn an_eviction_policy_that_would_hurt() {
    for (policy, remedy) in [("allkeys-lru", "volatile"), ("allkeys-random", "volatile")] {
        let args = ["--maxmemory", "100mb", "--maxmemory-policy", policy];
        let mut stack = Stack::start(StackOptions::new().redis_args(args)).await;
        assert!(stack.daemon().log_contains(policy) && stack.daemon().log_contains(remedy));
        doctor_says(&stack, "eviction policy", &[policy, remedy]).await;
    }
}

#[tokio::test]
async fn a_slot_of_that_name_that_is_another() {
    let stack = servers().await;
    let (postgres, redis) = (stack.postgres_url(), stack.redis_url());
    stack.sql("SELECT pg_create_physical_replication_slot('a'); SELECT pg_create_logical_replication_slot('b', 'test_decoding')").await;
    for slot in ["a", "b"] {
        daemon_refuses(&postgres, &redis, &["--slot", slot], &["slot", slot, "pgoutput", "--slot"]).await;
    }
    stack.sql("CREATE DATABASE second").await;
    stack.postgres.create_extension("second").await.expect("the extension");
    stack.sql("SELECT pg_create_logical_replication_slot('c', 'pgoutput')").await;
    let says = ["slot", "c", "second", "--slot"];
    daemon_refuses(&stack.postgres.url("second"), &redis, &["--slot", "c"], &says).await;
}

#[tokio::test]
async fn a_namespace_that_another_source_fills() {
    let mut stack = Stack::start(StackOptions::new()).await;
    let claimant = stack.cache().await.state().await.expect("state").remove("claimant");
    let says = ["namespace", "another", "--namespace"];
    let mut args = vec!["run", "--slot", "second", "--postgres"];
    let (postgres, redis) = (stack.postgres_url(), stack.redis_url());
    args.extend([postgres.as_str(), "--redis", redis.as_str()]);
    let log = stack.folder().join("foreign.log");
    let mut command = tokio::process::Command::new(program());
    let file = std::fs::File::create(&log).expect("a log");
    command.args(&args).stderr(file).stdin(Stdio::null()).kill_on_drop(true);
    let mut child = command.spawn().expect("the program starts");
    eventually("the refusal", PATIENCE, async || {
        let text = std::fs::read_to_string(&log).unwrap_or_default();
        says.iter().all(|expected| text.contains(expected)).then_some(())
    })
    .await;
    child.kill().await.expect("it is still there");
    assert_eq!(stack.cache().await.state().await.expect("state").remove("claimant"), claimant);
    assert!(!stack.daemon().log_contains("fenced"));
}

#[tokio::test]
async fn servers_that_are_not_there_are_waited_for() {
    let stack = servers().await;
    let port = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.local_addr().expect("an address").port()
    };
    let nowhere = format!("postgres://postgres@127.0.0.1:{port}/app");
    let says = ["refused", "again_in_ms"];
    goes_on_saying(&stack, &nowhere, &stack.redis_url(), DaemonOptions::new(), &says).await;
    let nowhere = format!("redis://127.0.0.1:{port}");
    goes_on_saying(&stack, &stack.postgres_url(), &nowhere, DaemonOptions::new(), &says).await;
}

#[tokio::test]
async fn print_config_prints_what_results_and_no_password() {
    let urls = ["--postgres", "postgres://u:hunter22@h/d", "--redis", "redis://:hunter22@h"];
    let output = run(&[&["run", "--print-config", "--max-lag", "7s", "--slot", "mine"][..], &urls].concat()).await;
    let text = everything(&output);
    assert!(output.status.success(), "{text}");
    for expected in ["max_lag = \"7s\"", "slot = \"mine\"", "namespace = \"ct\"", "postgres://u:***@h/d"] {
        assert!(text.contains(expected), "`{expected}` is not in it: {text}");
    }
    assert!(!text.contains("hunter22"), "{text}");
}

#[tokio::test]
async fn a_malformed_file() {
    let stack = Stack::start(StackOptions::servers_only()).await;
    let file = |text: &str| -> PathBuf {
        let path = stack.folder().join("cachetag.toml");
        std::fs::write(&path, text).expect("the file");
        path
    };
    let urls = ["--postgres", "postgres://h/d", "--redis", "redis://h"];
    for (text, says) in [
        ("slot = \n", "line 1"),
        ("slott = \"x\"\n", "slott"),
        ("max_lag = \"soon\"\n", "soon"),
        ("max_lag = 2\n", "max_lag"),
        ("slot = \"Upper\"\n", "lower-case"),
        ("namespace = \"a{b\"\n", "namespace"),
        ("log_format = \"xml\"\n", "xml"),
    ] {
        let path = file(text);
        let path = path.to_str().expect("a path");
        refuses(&[&["run", "--config", path][..], &urls].concat(), &[says]).await;
    }
    refuses(&[&["run", "--config", "/does/not/exist.toml"][..], &urls].concat(), &["/does/not/exist.toml"]).await;
}

#[tokio::test]
async fn malformed_flags() {
    let urls = ["--postgres", "postgres://h/d", "--redis", "redis://h"];
    for (flags, says) in [
        (&["--max-lag", "soon"][..], &["--max-lag", "soon"][..]),
        (&["--max-lag", "1ms"], &["max_lag", "10ms"]),
        (&["--heartbeat", "1h"], &["heartbeat", "max_lag"]),
        (&["--slot", "No Slot"], &["slot", "lower-case"]),
        (&["--namespace", "{x}"], &["namespace", "braces"]),
        (&["--max-tags-per-transaction", "0"], &["max_tags_per_transaction"]),
        (&["--max-tags-per-batch", "many"], &["--max-tags-per-batch", "many"]),
        (&["--log-format", "xml"], &["xml", "json"]),
        (&["--log", "=,="], &["log filter"]),
        (&["--no-such-flag"], &["--no-such-flag"]),
    ] {
        refuses(&[&["run"][..], flags, &urls].concat(), says).await;
    }
    refuses(&["run", "--redis", "redis://h"], &["--postgres", "CACHETAG_POSTGRES"]).await;
    refuses(&["run", "--postgres", "postgres://h/d"], &["--redis", "CACHETAG_REDIS"]).await;
    refuses(&["run", "--postgres", "mysql://h/d", "--redis", "redis://h"], &["postgres"]).await;
    let stack = servers().await;
    daemon_refuses(&stack.postgres_url(), "http://h", &[], &["redis://"]).await;
    refuses(&["walk"], &["walk"]).await;
}

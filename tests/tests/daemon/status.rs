//! `cachetag status` and `cachetag check` on real faults: a cache that is not served never looks healthy, and the text names the cause.

use std::process::Command;
use std::time::Duration;

use cachetag_tests::{Daemon, DaemonOptions, Stack, StackOptions, eventually, program};

const PATIENCE: Duration = Duration::from_secs(60);
const SCHEMA: &str = "CREATE TABLE items (id int PRIMARY KEY, price int); INSERT INTO items VALUES (1, 10);
    SELECT cachetag.track('items', 'item:{id}')";

/// What a command says, and how it ends.
#[derive(Debug)]
struct Said {
    code: i32,
    text: String,
}

impl Said {
    fn names(&self, words: &[&str]) -> bool {
        words.iter().all(|word| self.text.contains(word))
    }
}

fn run(args: &[&str]) -> Said {
    let mut command = Command::new(program());
    for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("CACHETAG_")) {
        command.env_remove(name);
    }
    let output = command.args(args).output().expect("runs");
    let text = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    Said { code: output.status.code().expect("ends by itself"), text }
}

fn ask(stack: &Stack, what: &[&str]) -> Said {
    let (postgres, redis) = (stack.postgres_url(), stack.redis_url());
    run(&[what, &["--postgres", &postgres, "--redis", &redis]].concat())
}

fn check(stack: &Stack) -> Said {
    ask(stack, &["check"])
}

/// Waits until `check` ends with `code` and names the words; then `status` names them too.
async fn told(stack: &Stack, code: i32, words: &[&str]) {
    let mut last = None;
    let deadline = std::time::Instant::now() + PATIENCE;
    loop {
        let said = check(stack);
        if said.code == code && said.names(words) {
            break;
        }
        last.replace(said);
        assert!(std::time::Instant::now() < deadline, "not {code} with {words:?}, but {last:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let status = ask(stack, &["status"]);
    assert_eq!(status.code, 0, "{status:?}");
    assert!(status.names(words), "{words:?}: {status:?}");
}

async fn healthy_again(stack: &Stack) {
    told(stack, 0, &["healthy"]).await;
}

async fn stack() -> Stack {
    Stack::start(StackOptions::new().schema(SCHEMA)).await
}

#[tokio::test]
async fn a_healthy_cache() {
    let stack = stack().await;
    healthy_again(&stack).await;
    let status = ask(&stack, &["status"]);
    assert!(
        status.names(&["extension", "cachetag, used by", "library", "watermark", "holds back", "ms ago"]),
        "{status:?}"
    );
    let json = ask(&stack, &["status", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&json.text).expect("JSON");
    assert_eq!(json["verdict"], "healthy");
    assert!(json["facts"]["redis"]["state"]["fresh_age_ms"].is_i64(), "{json}");
}

/// A role that is no superuser may ask as well.
#[tokio::test]
async fn the_daemons_role_may_ask() {
    let stack = stack().await;
    stack.sql("CREATE ROLE asks LOGIN REPLICATION").await;
    let url = stack.postgres_url().replace("postgres@", "asks@");
    let said = run(&["check", "--postgres", &url, "--redis", &stack.redis_url()]);
    assert_eq!((said.code, said.text.as_str()), (0, "healthy\n"));
}

#[tokio::test]
async fn a_stopped_daemon_process() {
    let mut stack = stack().await;
    stack.daemon().pause();
    told(&stack, 1, &["freshness: ", "is connected", "stalled", "kill -CONT"]).await;
    stack.daemon().resume();
    healthy_again(&stack).await;
}

#[tokio::test]
async fn a_stopped_server_process() {
    let stack = stack().await;
    let pid = stack.value("SELECT active_pid FROM pg_replication_slots").await;
    let number: i32 = pid.parse().expect("a process id");
    // SAFETY: kill has no preconditions; the process is this test's own server's.
    assert_eq!(unsafe { libc::kill(number, libc::SIGSTOP) }, 0);
    told(&stack, 1, &["freshness: ", &format!("server process {pid}"), "stalled"]).await;
    // SAFETY: as above.
    assert_eq!(unsafe { libc::kill(number, libc::SIGCONT) }, 0);
    healthy_again(&stack).await;
}

#[tokio::test]
async fn a_redis_that_hangs() {
    let mut stack = stack().await;
    stack.redis.signal(libc::SIGSTOP);
    let said = ask(&stack, &["check", "--timeout", "500ms"]);
    assert!(said.code != 0 && said.names(&["redis: no answer within 500 ms"]), "{said:?}");
    // When the daemon has given up on it too, its connection to PostgreSQL tells.
    eventually("the daemon's own words", PATIENCE, async || {
        let said = ask(&stack, &["check", "--timeout", "500ms"]);
        (said.code == 1 && said.names(&["redis: no answer", "daemon: "])).then_some(())
    })
    .await;
    stack.redis.signal(libc::SIGCONT);
    healthy_again(&stack).await;
}

#[tokio::test]
async fn a_redis_that_was_flushed() {
    let mut stack = stack().await;
    stack.daemon().pause();
    redis::cmd("FLUSHALL").exec_async(stack.cache().await.connection()).await.expect("flushes");
    told(&stack, 1, &["state: Redis holds no state"]).await;
    redis::cmd("FUNCTION").arg("FLUSH").exec_async(stack.cache().await.connection()).await.expect("flushes");
    told(&stack, 1, &["library: the functions of cachetag are not loaded"]).await;
    stack.daemon().resume();
    healthy_again(&stack).await;
}

#[tokio::test]
async fn a_second_daemon_that_waits() {
    let stack = stack().await;
    let log = stack.folder().join("second.log");
    let mut second = Daemon::start(&stack.postgres_url(), &stack.redis_url(), &log, DaemonOptions::new());
    told(&stack, 1, &["second daemon: 1 more daemon(s) wait"]).await;
    assert!(second.log_contains("another daemon uses the slot"));
    // Where it is meant to be there, it is no fault.
    let said = ask(&stack, &["check", "--standby"]);
    assert_eq!((said.code, said.text.as_str()), (0, "healthy\n"));
    assert!(second.stop().await.is_some_and(|status| status.success()));
    healthy_again(&stack).await;
}

#[tokio::test]
async fn an_epoch_that_an_old_transaction_keeps_closed() {
    let stack = stack().await;
    let client = stack.connect().await;
    client.batch_execute("BEGIN; SELECT pg_current_xact_id()").await.expect("begins");
    let pid: i32 = client.query_one("SELECT pg_backend_pid()", &[]).await.expect("a row").get(0);
    redis::cmd("FLUSHALL").exec_async(stack.cache().await.connection()).await.expect("flushes");
    told(&stack, 1, &["epoch: ", "no watermark yet", &format!("pid {pid} (xid ")]).await;
    client.batch_execute("COMMIT").await.expect("commits");
    healthy_again(&stack).await;
}

#[tokio::test]
async fn no_daemon_and_too_much_wal() {
    let mut stack = stack().await;
    stack.daemon().stop().await;
    told(&stack, 1, &["daemon: no daemon is connected"]).await;
    let stuff = "CREATE TABLE ballast AS SELECT repeat(md5(i::text), 30) FROM generate_series(1, 12000) i";
    stack.sql(stuff).await;
    let said = ask(&stack, &["check", "--wal-budget", "16MiB"]);
    assert!(said.code == 1 && said.names(&["wal budget: ", "more than half of the budget of 16.0 MiB"]), "{said:?}");
    let said = ask(&stack, &["check", "--wal-budget", "4MiB"]);
    assert!(said.code == 1 && said.names(&["wal budget: ", "more than the budget of 4.0 MiB"]), "{said:?}");
    stack.daemon().start_again();
    healthy_again(&stack).await;
}

#[tokio::test]
async fn a_slot_that_is_missing_or_cannot_begin() {
    let mut stack = stack().await;
    stack.daemon().stop().await;
    stack.sql("SELECT pg_drop_replication_slot('cachetag')").await;
    told(&stack, 1, &["slot: the replication slot cachetag does not exist"]).await;
    let client = stack.connect().await;
    client.batch_execute("BEGIN; SELECT pg_current_xact_id()").await.expect("begins");
    let pid: i32 = client.query_one("SELECT pg_backend_pid()", &[]).await.expect("a row").get(0);
    stack.daemon().start_again();
    told(&stack, 1, &["slot: the slot is being created", &format!("pid {pid} (xid ")]).await;
    client.batch_execute("COMMIT").await.expect("commits");
    healthy_again(&stack).await;
}

#[tokio::test]
async fn what_cannot_be_asked_is_not_known() {
    let stack = stack().await;
    let (postgres, redis) = (stack.postgres_url(), stack.redis_url());
    let said = run(&["check", "--postgres", "postgres://u@127.0.0.1:1/d", "--redis", &redis]);
    assert!(said.code == 2 && said.names(&["postgres: "]), "{said:?}");
    let said = run(&["check", "--postgres", &postgres, "--redis", "redis://127.0.0.1:1"]);
    assert!(said.code == 2 && said.names(&["redis: "]), "{said:?}");
    for what in ["check", "status"] {
        let said = run(&[what, "--postgres", &postgres]);
        assert!(said.code == 2 && said.names(&["--redis", "CACHETAG_REDIS"]), "{said:?}");
        let said = run(&[what, "--postgres", &postgres, "--redis", "redis+sentinel://127.0.0.1:1"]);
        assert!(said.names(&["name of the primary is missing"]), "{said:?}");
    }
    assert_eq!(run(&["check", "--postgres", &postgres, "--redis", "redis+sentinel://127.0.0.1:1"]).code, 2);
}

/// The first of two hosts is down; daemon and check go on to the other.
#[tokio::test]
async fn of_several_hosts_the_primary_is_taken() {
    let stack = Stack::start(StackOptions::new().schema(SCHEMA).without_daemon()).await;
    let url = stack.postgres_url().replace("@127.0.0.1:", "@127.0.0.1:1,127.0.0.1:");
    let log = stack.folder().join("hosts.log");
    let _daemon = Daemon::start(&url, &stack.redis_url(), &log, DaemonOptions::new());
    stack.wait_ready().await;
    let said = run(&["check", "--postgres", &url, "--redis", &stack.redis_url()]);
    assert_eq!((said.code, said.text.as_str()), (0, "healthy\n"));
}

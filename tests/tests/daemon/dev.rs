//! `cachetag dev` as a person runs it: three lines, then servers that work, then nothing.

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use cachetag_tests::{Cache, Folder, eventually, program};
use tokio_postgres::NoTls;

const PATIENCE: Duration = Duration::from_secs(60);

/// A running `cachetag dev`, killed when a test fails.
struct Dev {
    child: Child,
    lines: BufReader<std::process::ChildStdout>,
    postgres: String,
    redis: String,
}

impl Dev {
    fn spawn(args: &[&str]) -> Child {
        let mut command = Command::new(program());
        command.arg("dev").args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().expect("cachetag starts")
    }

    /// Starts it and reads the three lines.
    fn start(args: &[&str]) -> Dev {
        let mut child = Dev::spawn(args);
        let mut lines = BufReader::new(child.stdout.take().expect("piped"));
        let mut line = |prefix: &str| {
            let mut text = String::new();
            lines.read_line(&mut text).expect("a line");
            let value = text.strip_prefix(prefix).and_then(|rest| rest.strip_suffix('\n')).map(str::to_owned);
            value.unwrap_or_else(|| {
                let mut log = String::new();
                let _ = child.kill();
                let _ = child.stderr.take().expect("piped").read_to_string(&mut log);
                panic!("`{text}` instead of `{prefix}…`; {log}")
            })
        };
        let (postgres, redis) = (line("postgres="), line("redis="));
        assert_eq!(line("ready"), "");
        Dev { child, lines, postgres, redis }
    }

    async fn value(&self, sql: &str) -> String {
        let (client, connection) = tokio_postgres::connect(&self.postgres, NoTls).await.expect("postgres=");
        tokio::spawn(connection);
        client.query_one(sql, &[]).await.unwrap_or_else(|error| panic!("{error:?}")).get(0)
    }

    async fn cache(&self) -> Cache {
        let client = redis::Client::open(self.redis.as_str()).expect("redis=");
        Cache::new(client.get_multiplexed_async_connection().await.expect("redis="))
    }

    async fn end(mut self, signal: i32) -> ExitStatus {
        // SAFETY: plain system call; the child has not been waited for, so the id is its own.
        unsafe { libc::kill(self.child.id() as libc::pid_t, signal) };
        let status =
            eventually("the end of `cachetag dev`", PATIENCE, async || self.child.try_wait().expect("status")).await;
        let mut more = String::new();
        self.lines.read_to_string(&mut more).expect("the rest of standard output");
        assert_eq!(more, "", "nothing follows `ready`");
        status
    }
}

impl Drop for Dev {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Processes whose working folder is within `folder`.
fn processes_in(folder: &Path) -> Vec<PathBuf> {
    let all = std::fs::read_dir("/proc").expect("/proc").flatten().map(|entry| entry.path());
    all.filter(|process| std::fs::read_link(process.join("cwd")).is_ok_and(|cwd| cwd.starts_with(folder))).collect()
}

fn write(folder: &Folder, name: &str, sql: &str) -> String {
    let file = folder.path().join(name);
    std::fs::write(&file, sql).expect("a file");
    file.to_str().expect("a plain path").to_owned()
}

/// A folder that the servers' user can enter.
fn folder() -> Folder {
    Folder::temporary("cachetag-test").expect("a temporary folder")
}

#[tokio::test]
async fn it_serves_until_it_is_told_to_stop() {
    let folder = folder();
    let load = write(
        &folder,
        "shop.sql",
        "CREATE TABLE products (id int PRIMARY KEY, price int);
         INSERT INTO products VALUES (1, 10);
         SELECT cachetag.track('products', 'product:{id}');",
    );
    for signal in [libc::SIGTERM, libc::SIGINT] {
        let dev = Dev::start(&["--load", &load]);
        let data = dev.value("SELECT current_setting('data_directory')").await;
        // Preloaded: the commit floor is known, and captures raise their tokens.
        let floor = dev.value("SELECT current_setting('cachetag.floor')").await;
        assert!(floor.split_once('/').is_some_and(|(high, _)| u32::from_str_radix(high, 16).is_ok()), "{floor}");
        let mut cache = dev.cache().await;
        let missed = cache.get("p1").await.expect("get");
        let ttl = Duration::from_secs(60);
        assert!(cache.put("p1", "10", &missed.token, ttl, &["product:1"]).await.expect("put").is_stored());
        dev.value("UPDATE products SET price = 11 RETURNING price::text").await;
        eventually("the fall of p1", PATIENCE, async || {
            cache.peek("p1", &Default::default()).await.expect("peek").is_miss().then_some(())
        })
        .await;
        assert!(dev.end(signal).await.success());
        // data, in `postgres`, in the temporary folder
        let home = Path::new(&data).ancestors().nth(2).expect("three levels").to_path_buf();
        assert!(!home.exists(), "{} is still there", home.display());
        assert!(processes_in(&home).is_empty());
    }
}

#[tokio::test]
async fn a_data_folder_stays_and_survives_a_kill() {
    let folder = folder();
    let load = write(&folder, "load.sql", "CREATE TABLE notes (text text); INSERT INTO notes VALUES ('kept');");
    let home = folder.path().join("data");
    let args = ["--data-dir", home.to_str().expect("a plain path"), "--load", &load];

    let dev = Dev::start(&args);
    dev.value("INSERT INTO notes VALUES ('added') RETURNING text").await;
    assert!(!dev.end(libc::SIGKILL).await.success());
    eventually("the end of the servers", PATIENCE, async || processes_in(&home).is_empty().then_some(())).await;

    // The same command line again: the file has been loaded.
    let dev = Dev::start(&args);
    assert_eq!(dev.value("SELECT string_agg(text, ' ' ORDER BY text) FROM notes").await, "added kept");
    let mut second = Dev::spawn(&args[..2]);
    let mut words = String::new();
    second.stderr.take().expect("piped").read_to_string(&mut words).expect("its words");
    assert!(!second.wait().expect("status").success() && words.contains("in use"), "{words}");
    assert!(dev.end(libc::SIGTERM).await.success());
    assert!(processes_in(&home).is_empty());
}

#[test]
fn a_file_that_fails_is_an_error_and_leaves_nothing() {
    let folder = folder();
    let load = write(&folder, "wrong.sql", "CREATE TABLE made (i int);\nINSERT INTO missing VALUES (1);\n");
    let home = folder.path().join("data");
    let output = Dev::spawn(&["--data-dir", home.to_str().expect("a plain path"), "--load", &load])
        .wait_with_output()
        .expect("it ends");
    let words = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success());
    assert!(words.contains("wrong.sql:2") && words.contains("\"missing\" does not exist"), "{words}");
    assert!(output.stdout.is_empty());
    assert!(processes_in(&home).is_empty());
}

//! The private servers, for real: they start, they end, and nothing stays behind.

use super::*;

async fn start_servers(folder: &Folder) -> (Postgres, Redis) {
    let user = User::for_servers().expect("user");
    let home = folder.private("postgres", user.as_ref()).expect("folder");
    let postgres = Postgres::builder(home.join("data")).start().await.expect("postgres");
    let home = folder.private("redis", user.as_ref()).expect("folder");
    let redis = Redis::builder(home).start().await.expect("redis");
    (postgres, redis)
}

async fn setting(postgres: &Postgres, name: &str) -> String {
    let client = postgres.connect("postgres").await.expect("connection");
    client.query_one("SELECT current_setting($1)", &[&name]).await.expect("setting").get(0)
}

/// Set for the process that `nothing_is_left_when_we_are_killed` kills.
const VICTIM: &str = "CACHETAG_TEST_VICTIM";

/// Not a test by itself: started again by the next one as a process of its own, which never ends by itself.
#[tokio::test]
async fn victim() {
    let Some(report) = std::env::var_os(VICTIM) else { return };
    let folder = Folder::temporary("cachetag-victim").expect("folder");
    let (postgres, redis) = start_servers(&folder).await;
    let _busy = postgres.connect("postgres").await.expect("connection");
    let (half, whole) = (PathBuf::from(&report).with_extension("half"), PathBuf::from(&report));
    let lines = format!("{}\n{}\n{}\n", postgres.port(), redis.port(), folder.path().display());
    std::fs::write(&half, lines).expect("report");
    std::fs::rename(&half, &whole).expect("report");
    std::future::pending::<()>().await;
}

#[tokio::test]
async fn nothing_is_left_when_we_are_killed() {
    let folder = Folder::temporary("cachetag-devtest").expect("folder");
    let report = folder.path().join("report");
    let mut victim = std::process::Command::new(std::env::current_exe().expect("this program"))
        .args(["--exact", "dev::tests::victim"])
        .env(VICTIM, &report)
        .stdout(std::process::Stdio::null())
        .spawn()
        .expect("started");
    let text = loop {
        match std::fs::read_to_string(&report) {
            Ok(text) => break text,
            Err(_) => tokio::time::sleep(process::POLL).await,
        }
        assert_eq!(victim.try_wait().expect("status"), None, "it must run until it is killed");
    };
    victim.kill().expect("kill -9");
    victim.wait().expect("ended");
    let lines: Vec<&str> = text.lines().collect();
    let ports: Vec<u16> = lines[..2].iter().map(|port| port.parse().expect("port")).collect();
    let left = lines[2];
    for _ in 0..500 {
        if ports.iter().all(|port| port::is_free(*port)) && servers_in(left).is_empty() {
            drop(Folder::temporary("cachetag-victim").expect("sweeps"));
            assert!(!std::path::Path::new(left).exists(), "the next run removes the folder");
            return;
        }
        tokio::time::sleep(process::POLL).await;
    }
    panic!("still running: {:?}", servers_in(left));
}

/// Processes that work in a folder.
fn servers_in(folder: &str) -> Vec<String> {
    let processes = std::fs::read_dir("/proc").expect("/proc").flatten();
    let inside = |entry: &std::fs::DirEntry| {
        std::fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd.starts_with(folder))
    };
    processes.filter(inside).map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

#[tokio::test]
async fn servers_start_stop_crash_and_come_back() {
    let folder = Folder::temporary("cachetag-devtest").expect("folder");
    let (mut postgres, mut redis) = start_servers(&folder).await;
    assert_eq!(setting(&postgres, "wal_level").await, "logical");
    assert!(postgres.create_database("app").await.expect("created"));
    assert!(!postgres.create_database("app").await.expect("known"));

    postgres.configure(&[("work_mem", "7MB")]).expect("configured");
    postgres.reload().await.expect("reloaded");
    assert_eq!(setting(&postgres, "work_mem").await, "7MB");

    let client = postgres.connect("app").await.expect("connection");
    client.batch_execute("CREATE TABLE t (i int); INSERT INTO t VALUES (1)").await.expect("table");
    postgres.kill().await.expect("killed");
    // What a machine's crash leaves: a process id that belongs to somebody else by now.
    let pid_file = postgres.data().join("postmaster.pid");
    std::fs::write(&pid_file, format!("{}\n", std::process::id())).expect("stale file");
    postgres.start_again().await.expect("recovered");
    let client = postgres.connect("app").await.expect("connection");
    assert_eq!(client.query("SELECT FROM t", &[]).await.expect("rows").len(), 1);
    assert!(postgres.restart().await.is_ok());

    let mut connection = redis.connect().await.expect("connection");
    let _: () = ::redis::cmd("SET").arg("k").arg("v").query_async(&mut connection).await.expect("set");
    redis.kill().await.expect("killed");
    redis.restart().await.expect("started");
    let mut connection = redis.connect().await.expect("connection");
    let keys: i64 = ::redis::cmd("DBSIZE").query_async(&mut connection).await.expect("size");
    assert_eq!(keys, 0);
    assert!(redis.exited().is_none() && postgres.exited().is_none());
}

#[tokio::test]
async fn a_taken_port_and_a_taken_folder_are_named() {
    let folder = Folder::temporary("cachetag-devtest").expect("folder");
    let (postgres, redis) = start_servers(&folder).await;
    let error = Redis::builder(folder.path()).port(redis.port()).start().await.expect_err("taken").to_string();
    assert!(error.contains(&redis.port().to_string()), "{error}");
    let error = Postgres::builder(postgres.data()).start().await.expect_err("in use").to_string();
    assert!(error.contains("in use by the PostgreSQL server"), "{error}");
}

#[tokio::test]
async fn a_password_is_asked_for_over_tcp() {
    let folder = Folder::temporary("cachetag-devtest").expect("folder");
    let home = folder.private("postgres", User::for_servers().expect("user").as_ref()).expect("folder");
    let postgres = Postgres::builder(home.join("data")).password("s3cr:t/").start().await.expect("postgres");
    postgres.connect("postgres").await.expect("the URL holds the password");
    let bare = format!("postgres://postgres@127.0.0.1:{}/postgres", postgres.port());
    assert!(tokio_postgres::connect(&bare, tokio_postgres::NoTls).await.is_err());
    assert!(!home.join("data.password").exists());
}

#[tokio::test]
async fn a_file_that_fails_shows_psqls_words() {
    let folder = Folder::temporary("cachetag-devtest").expect("folder");
    let (postgres, _redis) = start_servers(&folder).await;
    let file = folder.path().join("load.sql");
    std::fs::write(&file, "CREATE TABLE made (i int);\nSELECT no_such_function();\n").expect("file");
    let error = postgres.psql_file("postgres", &file).await.expect_err("fails").to_string();
    assert!(error.contains("no_such_function") && error.contains("load.sql:2"), "{error}");
}

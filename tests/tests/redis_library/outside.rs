//! The library in its surroundings: redis-cli, a full memory, a replica, a cluster, several namespaces, the README's examples.

use std::net::TcpListener;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::cache::{Cache, Put, got, refused};
use crate::server::{LIBRARY, Reply, Server};

fn free_port() -> String {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string()
}

fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < deadline, "{what} takes too long");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// redis-cli on the server's socket, with its output.
fn cli(server: &Server, args: &[&str]) -> String {
    let binary = std::env::var("CACHETAG_REDIS_CLI").unwrap_or_else(|_| "redis-cli".into());
    let output = Command::new(&binary).arg("-s").arg(server.socket()).args(args).output();
    let output = output.unwrap_or_else(|e| panic!("cannot run {binary}: {e}"));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn by_hand_with_redis_cli() {
    let mut c = Cache::open();
    let token = c.v(100);
    let miss = cli(&c.server, &["FCALL", "cachetag_get", "1", "{ct}:e:greeting"]);
    let miss: Vec<&str> = miss.lines().collect();
    assert_eq!((miss[0], miss[1], miss[2], miss[3].len(), miss[4]), ("miss", "", token.as_str(), 20, "-1"));
    let put = [
        "FCALL",
        "cachetag_put",
        "1",
        "{ct}:e:greeting",
        "hello",
        &token,
        "60000",
        "TAGS",
        "1",
        "product:42",
        "LEASE",
        miss[3],
    ];
    assert_eq!(cli(&c.server, &put), format!("stored\n{token}\n"));
    let hit = cli(&c.server, &["FCALL", "cachetag_get", "1", "{ct}:e:greeting"]);
    assert!(hit.starts_with(&format!("hit\nhello\n{token}\n\n")), "{hit}");
    c.apply(110, &["product:42"], &[]);
    assert!(cli(&c.server, &["FCALL", "cachetag_get", "1", "{ct}:e:greeting"]).starts_with("miss\n"));
    assert!(
        cli(&c.server, &["FCALL_RO", "cachetag_explain", "1", "{ct}:e:greeting"]).contains("product:42 was bumped by")
    );
    let error = cli(&c.server, &["FCALL", "cachetag_get", "1", "greeting"]);
    assert_eq!(error.trim(), r#"CACHETAG KEYS: expected one key of the form {namespace}:e:<key>, got "greeting""#);
    assert_eq!(cli(&c.server, &["FCALL", "cachetag_drop", "1", "{ct}:e:greeting"]), "1\n");
}

#[test]
fn the_examples_of_the_readme_work() {
    let readme = include_str!("../../../redis/README.md");
    let server = Server::bare(&[]);
    let socket = server.socket();
    let library = concat!(env!("CARGO_MANIFEST_DIR"), "/../redis/cachetag.lua");
    let mut script = format!(
        "set -euo pipefail\nredis-cli() {{ command redis-cli -s {} \"$@\"; }}\ncd {}/..\n",
        socket.display(),
        env!("CARGO_MANIFEST_DIR")
    );
    let blocks: Vec<&str> = readme.split("```sh\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert!(blocks.len() >= 3 && std::path::Path::new(library).exists());
    script.push_str(&blocks.concat());
    let output = Command::new("bash").arg("-c").arg(&script).output().unwrap();
    let (out, err) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(output.status.success(), "{out}\n{err}");
    for expected in ["stored", "hit", "hello", "miss", "applied", "was bumped by", "refused"] {
        assert!(out.contains(expected), "{expected} in:\n{out}");
    }
    assert!(!out.contains("CACHETAG") && !out.contains("ERR"), "{out}");
}

#[test]
fn with_a_full_memory_invalidation_works_and_filling_fails_clearly() {
    let mut c = Cache::open();
    c.fill("k", 100, &["product:1"]);
    c.con.ok(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]);
    c.con.ok(&["CONFIG", "SET", "maxmemory", "1mb"]);
    let token = c.v(100);
    let error = c.try_put("new", "v", &token, "60000", &["product:2"], &[]).unwrap_err();
    assert!(error.starts_with("OOM "), "{error}");
    assert_eq!(c.get("k", &[]).state, "hit");
    let lease = c.get("new", &[]).lease;
    assert_eq!(lease.len(), 20, "even the lease is given");
    assert_eq!(c.con.ok(&["FCALL", "cachetag_release", "1", "{ct}:e:new", &lease]), Reply::Int(1), "and taken back");
    assert_eq!(c.apply(110, &["product:1"], &[]), 1);
    c.advance(110);
    assert_eq!(c.state("k"), "miss");
    c.claim();
    c.reset(120);
    c.explain("k", &[]);
    assert_eq!(c.con.ok(&["FCALL", "cachetag_drop", "1", "{ct}:e:k"]), Reply::Int(1));
    c.con.ok(&["CONFIG", "SET", "maxmemory", "0"]);
    c.advance(120);
    c.fill("new", 120, &["product:2"]);
}

#[test]
fn eviction_costs_misses_only() {
    let mut c = Cache::open();
    for i in 0..200 {
        c.fill(&format!("k{i}"), 100, &[&format!("product:{i}")]);
    }
    for i in 0..200 {
        c.con.ok(&["DEL", &format!("{{ct}}:t:product:{i}")]);
        assert_eq!(c.state(&format!("k{i}")), "miss");
    }
    c.apply(110, &["product:7"], &[]);
    let token = c.v(100);
    assert_eq!(c.put("k7", "v", &token, &["product:7"], &[]), refused("bumped", "product:7"));
    c.fill("k8", 100, &["product:8"]);
}

#[test]
fn a_replica_peeks() {
    let port = free_port();
    let primary = Server::bare(&["--port", &port, "--repl-diskless-sync-delay", "0"]);
    primary.connect().load(LIBRARY);
    let replica = Server::bare(&["--replicaof", &format!("127.0.0.1 {port}")]);
    let mut c = Cache::on(primary);
    c.fill("k", 100, &["product:1"]);
    let mut con = replica.connect();
    let mut peek = move || con.call(&["FCALL_RO", "cachetag_peek", "1", "{ct}:e:k"]).map(|reply| got(&reply));
    until("replication", || peek().is_ok_and(|g| g.state == "hit" && g.payload.as_deref() == Some(b"k")));
    c.apply(110, &["product:1"], &[]);
    until("the bump", || peek().is_ok_and(|g| g.state == "miss" && g.lease.is_empty()));
    let mut con = replica.connect();
    assert!(
        con.ok(&["FCALL_RO", "cachetag_explain", "1", "{ct}:e:k"])
            .field("reason")
            .unwrap()
            .starts_with("product:1 was bumped")
    );
    let error = con.call(&["FCALL", "cachetag_get", "1", "{ct}:e:k"]).unwrap_err();
    assert!(error.starts_with("READONLY "), "{error}");
    assert_eq!(con.digest(), c.con.digest(), "the same data on both");
}

#[test]
fn an_instance_is_one_slot_of_a_cluster() {
    let port = free_port();
    let server = Server::bare(&["--port", &port, "--cluster-enabled", "yes", "--cluster-port", &free_port()]);
    let mut con = server.connect();
    con.ok(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]);
    until("the cluster", || con.ok(&["CLUSTER", "INFO"]).text().contains("cluster_state:ok"));
    con.load(LIBRARY);
    let mut c = Cache::on(server);
    c.fill("k", 100, &["product:1", "category:*", "*"]);
    assert_eq!(c.state("k"), "hit");
    assert_eq!(c.apply(110, &["product:1", "category:9"], &["order:1"]), 1);
    c.advance(110);
    let first = c.get("k", &[]);
    assert_eq!(first.state, "miss");
    let token = c.v(110);
    assert_eq!(c.put("k", "v", &token, &["product:1"], &["LEASE", &first.lease]), Put::Stored(token.clone()));
    let old = c.v(100);
    assert_eq!(c.put("other", "v", &old, &["order:1"], &[]), refused("bumped", "order:1"));
    c.explain("k", &[]);
    c.reset(120);
    assert_eq!(c.con.ok(&["FCALL", "cachetag_drop", "1", "{ct}:e:k"]), Reply::Int(1));
}

#[test]
fn namespaces_do_not_touch_each_other() {
    let mut c = Cache::open();
    c.fill("k", 100, &["product:1"]);
    let other = "{shop 2}:e:k";
    assert_eq!(got(&c.con.ok(&["FCALL", "cachetag_get", "1", other])).state, "bypass");
    c.con.ok(&["FCALL", "cachetag_claim", "1", "{shop 2}:w", "d", "s", "3600000"]);
    let reset = c.con.ok(&["FCALL", "cachetag_reset", "1", "{shop 2}:w", "d", "s", "0/5", "0"]).texts();
    let (v, now) = (reset[1].as_str(), reset[2].as_str());
    c.con.ok(&["FCALL", "cachetag_advance", "1", "{shop 2}:w", "d", v, v, v, now]);
    c.con.ok(&["FCALL", "cachetag_put", "1", other, "x", v, "60000", "TAGS", "1", "product:1"]);
    c.apply(110, &["product:1"], &[]);
    assert_eq!(c.state("k"), "miss");
    assert_eq!(got(&c.con.ok(&["FCALL", "cachetag_get", "1", other])).state, "hit");
}

#[test]
fn replacing_the_library_keeps_the_data() {
    let mut c = Cache::open();
    c.fill("k", 100, &["product:1"]);
    c.con.load(LIBRARY);
    assert_eq!(c.state("k"), "hit");
    let functions = format!("{:?}", c.con.ok(&["FUNCTION", "LIST", "LIBRARYNAME", "cachetag"]));
    for (name, flags) in [("cachetag_explain", "no-writes"), ("cachetag_apply", "allow-oom")] {
        assert!(functions.contains(name) && functions.contains(flags), "{functions}");
    }
    let error = c.con.call(&["FCALL_RO", "cachetag_get", "1", "{ct}:e:k"]).unwrap_err();
    assert!(error.starts_with("ERR Can not execute a script with write flag"), "{error}");
}

//! Each call, and what it answers.

use std::time::Duration;

use cachetag_client::l2::{
    Error, GetOptions, Got, MissCause, Put, Reason, Shard, State, Stored, Terms, Timeouts, Verdict,
};
use cachetag_core::{Lsn, Tag};
use redis::cmd;

use super::server::{Server, TTL, entry, fill};

const DEFAULT: GetOptions = GetOptions { max_lag: None, at_least: None, beta: None, no_lease: false, seen: false };
const NO_LEASE: GetOptions = GetOptions { no_lease: true, ..DEFAULT };

#[tokio::test]
async fn a_miss_is_filled_and_hit_until_it_is_bumped() {
    let mut server = Server::start().await;
    let shard = server.shard().await;
    let missed = shard.get("k", &DEFAULT).await.unwrap();
    assert_eq!((missed.state, missed.token, missed.payload.clone()), (State::Miss, Some(server.version(100)), None));
    assert_eq!(shard.get("k", &DEFAULT).await.unwrap().state, State::Wait);
    let mut put = entry("v", missed.token.unwrap(), &["product:1"]);
    put.lease = missed.lease;
    assert_eq!(shard.put("k", &put).await.unwrap(), Stored::Stored(server.version(100)));
    let hit = shard.get("k", &DEFAULT).await.unwrap();
    assert_eq!((hit.state, hit.payload.as_deref()), (State::Hit, Some(&b"v"[..])));
    assert!(hit.age.unwrap() < Duration::from_secs(60));

    server.bump(110, &[], &["product:1"]).await;
    let stale = shard.get("k", &DEFAULT).await.unwrap();
    assert!(stale.state == State::Stale && stale.lease.is_some() && stale.payload.is_some());
    server.bump(120, &["product:1"], &[]).await;
    assert_eq!(shard.get("k", &NO_LEASE).await.unwrap().state, State::Miss);
    let explain = shard.explain("k", &NO_LEASE).await.unwrap();
    assert!(explain.verdict == State::Miss && explain.reason.contains("product:1 was bumped by"), "{explain:?}");
    assert_eq!(explain.tags[0].value.map(|value| value.hard), Some(server.version(120)));
    assert!(shard.drop_entry("k").await.unwrap() && !shard.drop_entry("k").await.unwrap());
}

#[tokio::test]
async fn options_are_obeyed() {
    let mut server = Server::start().await;
    let shard = server.shard().await;
    fill(&shard, "k", "v", &["product:1"]).await;
    let strict = GetOptions { max_lag: Some(Duration::ZERO), ..NO_LEASE };
    tokio::time::sleep(Duration::from_millis(5)).await;
    assert_eq!(shard.get("k", &strict).await.unwrap(), Got::BYPASS);
    let own = GetOptions { at_least: Some(Lsn(150).into()), ..NO_LEASE };
    assert_eq!(shard.get("k", &own).await.unwrap().state, State::Miss);
    server.advance(150).await;
    assert_eq!(shard.get("k", &own).await.unwrap().state, State::Hit);
    let mut put = Put::absence(server.version(150), TTL);
    put.cost = Some(Duration::from_secs(36_000));
    put.fresh = Some(TTL);
    shard.put("none", &put).await.unwrap();
    let absent = shard.get("none", &NO_LEASE).await.unwrap();
    assert!(absent.is_absent() && absent.state == State::Hit);
    let early = shard.get("none", &DEFAULT.early()).await.unwrap();
    assert!(early.state == State::Early && early.lease.is_some(), "{early:?}");
}

#[tokio::test]
async fn refusals_say_why() {
    let mut server = Server::start().await;
    let shard = server.shard().await;
    let token = server.version(100);
    let refused = |reason, tag: Option<&str>| Stored::Refused { reason, tag: tag.and_then(|tag| Tag::parse(tag).ok()) };
    fill(&shard, "k", "v", &["product:1"]).await;
    server.bump(110, &["product:1"], &[]).await;
    let put = entry("v", token, &["product:1"]);
    assert_eq!(shard.put("k", &put).await.unwrap(), refused(Reason::Bumped, Some("product:1")));
    server.bump(120, &["*"], &[]).await;
    assert_eq!(shard.put("k", &put).await.unwrap(), refused(Reason::Floor, None));
    let put = entry("v", server.version(120), &["order:1"]);
    server.bump(130, &["nobody:1"], &[]).await;
    cmd("DEL").arg("{ct}:log").exec_async(&mut server.connection).await.unwrap();
    assert_eq!(shard.put("k", &put).await.unwrap(), refused(Reason::Unregistered, Some("order:1")));
    server.reset().await;
    assert_eq!(shard.put("k", &put).await.unwrap(), refused(Reason::Bypass, None));
    server.advance(100).await;
    assert_eq!(shard.put("k", &put).await.unwrap(), refused(Reason::Epoch, None));
}

#[tokio::test]
async fn a_lease_is_given_back_by_its_guard() {
    let server = Server::start().await;
    let shard = server.shard().await;
    let lease = shard.get("k", &DEFAULT).await.unwrap().lease.unwrap();
    assert_eq!(shard.get("k", &DEFAULT).await.unwrap().state, State::Wait);
    drop(shard.guard("k", lease));
    let next = loop {
        let got = shard.get("k", &DEFAULT).await.unwrap();
        if got.state == State::Miss {
            break got.lease.unwrap();
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    assert!(shard.guard("k", next.clone()).release().await.unwrap());
    assert!(!shard.release("k", &next).await.unwrap(), "it is not held any more");
    let third = shard.get("k", &DEFAULT).await.unwrap().lease.unwrap();
    let spent = shard.guard("k", third.clone()).spend();
    assert_eq!(spent, third);
    assert_eq!(shard.get("k", &DEFAULT).await.unwrap().state, State::Wait, "a spent guard gives nothing back");
}

#[tokio::test]
async fn many_keys_are_answered_in_their_order_in_one_round_trip() {
    let mut server = Server::start().await;
    let shard = server.shard().await;
    let keys: Vec<String> = (0..300).map(|i| format!("k{i}")).collect();
    let token = server.version(100);
    let puts: Vec<(&String, Put)> = keys
        .iter()
        .enumerate()
        .filter(|(i, _)| i % 3 != 0)
        .map(|(i, key)| {
            let mut put = Put::new(format!("v{i}"), token, TTL);
            put.tags = [Tag::new("product", &[&(i % 7).to_string()]).unwrap()].into();
            (key, put)
        })
        .collect();
    for stored in shard.put_many(&puts).await.unwrap() {
        assert_eq!(stored.unwrap(), Stored::Stored(token));
    }
    cmd("DEL").arg("{ct}:e:k5").exec_async(&mut server.connection).await.unwrap();
    cmd("RPUSH").arg("{ct}:e:k5").arg("x").exec_async(&mut server.connection).await.unwrap();
    server.bump(110, &["product:3"], &[]).await;
    let expected = |i: usize| match i {
        5 => State::Bypass,
        _ if i.is_multiple_of(3) || i % 7 == 3 => State::Miss,
        _ => State::Hit,
    };
    let before = commands(&mut server).await;
    let got = shard.get_many(&keys, &NO_LEASE).await.unwrap();
    assert_eq!(commands(&mut server).await - before, 301, "one FCALL a key");
    let entries = shard.entries(&keys).await.unwrap();
    let fast = shard.fast_many(&keys, &Terms::default(), |_, _| None).await.unwrap();
    for (i, got) in got.iter().enumerate() {
        assert_eq!(got.state, expected(i), "k{i}");
        let value = Some(format!("v{i}").into_bytes()).filter(|_| got.state == State::Hit);
        assert_eq!(got.payload.as_deref(), value.as_deref());
        assert_eq!(entries[i].is_some(), !i.is_multiple_of(3) && i != 5);
        let read = fast[i].entry.as_ref().filter(|_| fast[i].verdict == Verdict::Hit);
        assert_eq!(read.and_then(|entry| entry.value()).map(|value| &value[..]), value.as_deref(), "k{i}");
    }
    let none: [&str; 0] = [];
    assert!(shard.get_many(&none, &DEFAULT).await.unwrap().is_empty());
    assert!(shard.entries(&none).await.unwrap().is_empty());
    assert!(shard.fast_many(&none, &Terms::default(), |_, _| None).await.unwrap().is_empty());
    assert_eq!(shard.entries(&["k5"]).await.unwrap(), [None]);
}

/// As in a failover to a replica that lost the last writes: what vouches and what is vouched for are of one moment, or a state from before would vouch for
/// tags that have lost a bump.
#[tokio::test]
async fn a_redis_that_goes_back_in_the_middle_of_a_read_vouches_for_nothing() {
    let mut server = Server::start().await;
    let shard = server.shard().await;
    fill(&shard, "k", "old", &["product:1"]).await;
    let mut connection = redis::Client::open(server.redis.url()).unwrap().get_connection().unwrap();
    let keys: Vec<String> = cmd("KEYS").arg("*").query(&mut connection).unwrap();
    let before: Vec<(String, Vec<u8>)> =
        keys.into_iter().map(|key| (key.clone(), cmd("DUMP").arg(&key).query(&mut connection).unwrap())).collect();
    server.bump(110, &["product:1"], &[]).await;
    server.advance(110).await;

    let terms = Terms { at_least: Some(server.version(110).into()), ..Terms::default() };
    let fast = shard.fast_many(&["k"], &terms, |_, entry| {
        assert_eq!(entry.payload, "old");
        for (key, value) in &before {
            cmd("RESTORE").arg(key).arg(0).arg(value).arg("REPLACE").exec(&mut connection).unwrap();
        }
        None
    });
    assert_eq!(fast.await.unwrap()[0].verdict, Verdict::Miss(MissCause::AtLeast));
}

/// How many commands the server has executed, those of Lua not counted.
async fn commands(server: &mut Server) -> u64 {
    let info: String = cmd("INFO").arg("commandstats").query_async(&mut server.connection).await.unwrap();
    let calls = |line: &str| line.split_once("calls=")?.1.split(',').next()?.parse::<u64>().ok();
    let of = |name: &str| info.lines().filter(|line| line.starts_with(name)).filter_map(calls).sum::<u64>();
    of("cmdstat_fcall:") + of("cmdstat_info:")
}

#[tokio::test]
async fn clones_share_a_connection_and_do_not_mix_answers() {
    let server = Server::start().await;
    let shard = server.shard().await;
    for i in 0..20 {
        let put = Put::new(format!("v{i}"), server.version(100), TTL);
        shard.put(&format!("k{i}"), &put).await.unwrap();
    }
    let tasks: Vec<_> = (0..200)
        .map(|i| {
            let shard = shard.clone();
            tokio::spawn(async move {
                let got = shard.get(&format!("k{}", i % 20), &NO_LEASE).await.unwrap();
                assert_eq!(got.payload.unwrap(), format!("v{}", i % 20));
            })
        })
        .collect();
    for (i, task) in tasks.into_iter().enumerate() {
        if i % 5 == 0 {
            task.abort();
        } else {
            task.await.unwrap();
        }
    }
    let mut connection = server.connection.clone();
    let clients: String = cmd("CLIENT").arg("LIST").query_async(&mut connection).await.unwrap();
    assert_eq!(clients.lines().count(), 2, "the test's and the shard's:\n{clients}");
}

#[tokio::test]
async fn the_state_is_typed() {
    let mut server = Server::start().await;
    let shard = server.shard().await;
    server.bump(110, &["product:1"], &["*"]).await;
    let state = shard.state().await.unwrap();
    assert_eq!((state.epoch, state.floor), (Some(server.epoch), Some(server.version(100))));
    assert_eq!((state.watermark, state.applied), (Some(server.version(100)), Some(server.version(110))));
    assert_eq!(state.soft_floor, Some(server.version(110)));
    assert_eq!((state.max_lag, state.lease), (Some(Duration::from_secs(3600)), Some(Duration::from_secs(60))));
    assert_eq!((state.source.as_deref(), state.version.as_deref()), (Some("source"), Some("0.1.0")));
    let reading = shard.reading(&["k"]).await.unwrap();
    assert_eq!((reading.state.applied, reading.entries), (state.applied, vec![None]));
    assert!(state.lag(reading.now_ms).unwrap() < Duration::from_secs(60));
    let other = Shard::connect(&server.redis.url(), "other", Timeouts::default()).await.unwrap();
    assert_eq!(other.state().await.unwrap(), Default::default());
    assert_eq!(other.get("k", &DEFAULT).await.unwrap().state, State::Bypass);
}

#[tokio::test]
async fn errors_name_the_remedy() {
    let mut server = Server::bare().await;
    let shard = server.shard().await;
    for error in [
        shard.get("k", &DEFAULT).await.unwrap_err(),
        shard.get_many(&["k"], &DEFAULT).await.unwrap_err(),
        shard.explain("k", &DEFAULT).await.unwrap_err(),
    ] {
        assert!(error.is_library_missing() && error.to_string().contains("start the daemon"), "{error}");
    }
    server.open().await;
    cmd("RPUSH").arg("{ct}:e:k").arg("x").exec_async(&mut server.connection).await.unwrap();
    let error = shard.get("k", &DEFAULT).await.unwrap_err();
    assert!(
        error.is_call() && !error.is_failure() && error.to_string().contains("cachetag_drop removes it"),
        "{error}"
    );
    let error = shard.get("k2", &GetOptions { beta: Some(f64::NAN), ..DEFAULT }).await;
    assert!(error.is_ok(), "what is no number is no option");
    cmd("REPLICAOF").arg("127.0.0.1").arg(1).exec_async(&mut server.connection).await.unwrap();
    let error = shard.put("k3", &entry("v", server.version(100), &[])).await.unwrap_err();
    assert!(error.is_readonly() && error.is_failure() && matches!(error, Error::Server { .. }), "{error}");
}

#[tokio::test]
async fn a_full_redis_reads_and_stores_nothing() {
    let mut server = Server::start().await;
    let shard = server.shard().await;
    fill(&shard, "k", "v", &["product:1"]).await;
    for (name, value) in [("maxmemory-policy", "noeviction"), ("maxmemory", "1mb")] {
        cmd("CONFIG").arg("SET").arg(name).arg(value).exec_async(&mut server.connection).await.unwrap();
    }
    let put = entry("v", server.version(100), &[]);
    let error = shard.put("k2", &put).await.unwrap_err();
    assert!(error.is_oom() && !error.is_failure(), "{error}");
    let answers = shard.put_many(&[("k2", put.clone()), ("k3", put)]).await.unwrap();
    assert!(answers.iter().all(|answer| answer.as_ref().is_err_and(Error::is_oom)), "{answers:?}");
    let got = shard.get("k", &DEFAULT).await.unwrap();
    assert_eq!(got.state, State::Hit);
    let missed = shard.get("k2", &DEFAULT).await.unwrap();
    assert!(shard.release("k2", &missed.lease.unwrap()).await.unwrap());
}

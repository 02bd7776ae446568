//! A Redis that cuts connections, restarts, or does not answer.

use std::time::{Duration, Instant};

use cachetag_client::l2::{Error, GetOptions, Got, Shard, State, Timeouts};
use redis::cmd;

use super::server::{PATIENT, Server, fill};

const NO_LEASE: GetOptions = GetOptions { max_lag: None, at_least: None, beta: None, no_lease: true, seen: false };
const SHORT: Timeouts = Timeouts { connect: Duration::from_millis(300), response: Duration::from_millis(200) };

/// Asks until it is answered; an error meanwhile must be one that passes.
async fn until_answered(shard: &Shard, key: &str) -> Got {
    let deadline = Instant::now() + PATIENT.response;
    loop {
        match shard.get(key, &NO_LEASE).await {
            Ok(got) => return got,
            Err(error) => {
                assert!(error.is_connection() || error.is_timeout() || error.is_library_missing(), "{error}");
                assert!(Instant::now() < deadline, "{error}");
            }
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_cut_connection_is_not_noticed_by_callers() {
    let mut server = Server::start().await;
    let shard = server.shard().await;
    fill(&shard, "k", "v", &["product:1"]).await;
    for _ in 0..5 {
        let killed: u32 =
            cmd("CLIENT").arg("KILL").arg("SKIPME").arg("yes").query_async(&mut server.connection).await.unwrap();
        assert_eq!(killed, 1);
        assert_eq!(shard.get("k", &NO_LEASE).await.unwrap().state, State::Hit);
    }
}

#[tokio::test]
async fn a_restarted_server_is_found_again() {
    let mut server = Server::start().await;
    let shard = server.shard_with(SHORT).await;
    fill(&server.shard().await, "k", "v", &["product:1"]).await;
    assert_eq!(until_answered(&shard, "k").await.state, State::Hit);
    server.redis.kill().await;
    let error = shard.get("k", &NO_LEASE).await.unwrap_err();
    assert!(error.is_connection() && error.is_failure(), "{error}");
    // While it is away, most calls cost nothing.
    let mut down = 0;
    for _ in 0..50 {
        let error = shard.get("k", &NO_LEASE).await.unwrap_err();
        assert!(error.is_connection(), "{error}");
        down += u32::from(matches!(error, Error::Down { .. }));
    }
    assert!(down >= 40, "{down} of 50 calls failed at once");
    server.redis.start_again().await.unwrap();
    let error = loop {
        match shard.get("k", &NO_LEASE).await {
            Err(error) if error.is_connection() => tokio::time::sleep(Duration::from_millis(10)).await,
            result => break result.unwrap_err(),
        }
    };
    assert!(error.is_library_missing(), "it came back empty: {error}");
    server.open().await;
    assert_eq!(until_answered(&shard, "k").await.state, State::Miss);
    assert!(shard.is_up());
}

#[tokio::test]
async fn an_application_starts_without_redis() {
    let mut server = Server::start().await;
    server.redis.kill().await;
    let shard = Shard::open(&server.redis.url(), "ct", SHORT).unwrap();
    assert!(Shard::connect(&server.redis.url(), "ct", SHORT).await.unwrap_err().is_connection());
    assert!(shard.get("k", &NO_LEASE).await.unwrap_err().is_connection());
    server.redis.start_again().await.unwrap();
    server.open().await;
    assert_eq!(until_answered(&shard, "k").await.state, State::Miss);
}

#[tokio::test]
async fn a_server_that_hangs_is_waited_for_no_longer_than_asked() {
    let mut server = Server::start().await;
    let shard = server.shard_with(SHORT).await;
    fill(&server.shard().await, "k", "v", &["product:1"]).await;
    assert_eq!(until_answered(&shard, "k").await.state, State::Hit);
    server.redis.signal(libc::SIGSTOP);
    let started = Instant::now();
    let error = shard.get("k", &NO_LEASE).await.unwrap_err();
    assert!(error.is_timeout() && error.is_failure() && !error.is_connection(), "{error}");
    let waited = started.elapsed();
    assert!(waited >= SHORT.response && waited < SHORT.response * 20, "{waited:?}");
    // Many at once wait together, and after some silence the connection is given up, and a new one is not made either.
    let together = (0..20).map(|_| {
        let shard = shard.clone();
        tokio::spawn(async move { shard.get("k", &NO_LEASE).await.unwrap_err() })
    });
    let together: Vec<_> = together.collect();
    for task in together {
        assert!(task.await.unwrap().is_timeout());
    }
    assert!(!shard.is_up());
    let error = shard.get("k", &NO_LEASE).await.unwrap_err();
    assert!(matches!(error, Error::Connect { .. }) && error.is_timeout(), "{error}");
    let error = shard.get("k", &NO_LEASE).await.unwrap_err();
    assert!(matches!(error, Error::Down { .. }), "{error}");
    server.redis.signal(libc::SIGCONT);
    assert_eq!(until_answered(&shard, "k").await.state, State::Hit);
}

#[tokio::test]
async fn a_short_pause_costs_answers_and_not_the_connection() {
    let mut server = Server::start().await;
    let shard = server.shard_with(SHORT).await;
    fill(&server.shard().await, "k", "v", &["product:1"]).await;
    server.redis.signal(libc::SIGSTOP);
    assert!(shard.get("k", &NO_LEASE).await.unwrap_err().is_timeout());
    server.redis.signal(libc::SIGCONT);
    let got = until_answered(&shard, "k").await;
    assert_eq!((got.state, got.payload.as_deref()), (State::Hit, Some(&b"v"[..])), "late answers are not mixed up");
}

#[tokio::test]
async fn a_call_that_is_dropped_harms_nobody() {
    let mut server = Server::start().await;
    let shard = server.shard().await;
    fill(&shard, "k", "v", &["product:1"]).await;
    server.redis.signal(libc::SIGSTOP);
    for _ in 0..10 {
        let call = shard.get("other", &NO_LEASE);
        assert!(tokio::time::timeout(Duration::from_millis(5), call).await.is_err());
    }
    server.redis.signal(libc::SIGCONT);
    assert_eq!(shard.get("k", &NO_LEASE).await.unwrap().payload.as_deref(), Some(&b"v"[..]));
    // A lease that it was given is given back.
    server.redis.signal(libc::SIGSTOP);
    let with_lease = GetOptions { no_lease: false, ..NO_LEASE };
    assert!(tokio::time::timeout(Duration::from_millis(5), shard.get("leased", &with_lease)).await.is_err());
    let keys = ["leased too"];
    assert!(tokio::time::timeout(Duration::from_millis(5), shard.get_many(&keys, &with_lease)).await.is_err());
    server.redis.signal(libc::SIGCONT);
    for key in ["leased", "leased too"] {
        let deadline = Instant::now() + PATIENT.response;
        while shard.get(key, &with_lease).await.unwrap().state != State::Miss {
            assert!(Instant::now() < deadline, "the lease of {key} is never given back");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    // Nor does the one that was to make the connection.
    let fresh = Shard::open(&server.redis.url(), "ct", PATIENT).unwrap();
    server.redis.signal(libc::SIGSTOP);
    assert!(tokio::time::timeout(Duration::from_millis(20), fresh.get("k", &NO_LEASE)).await.is_err());
    server.redis.signal(libc::SIGCONT);
    assert_eq!(fresh.get("k", &NO_LEASE).await.unwrap().state, State::Hit);
}

//! Memory full, under each eviction policy.

use std::time::Duration;

use cachetag_tests::fault::{Eviction, Fault, RedisFault};
use cachetag_tests::{GetOptions, Stack};
use redis::cmd;

use crate::trial::{Trial, WHILE};

async fn every_policy(of: &str) {
    let mut trial = Trial::start().await;
    let policies = Eviction::ALL.iter().filter(|policy| policy.to_string().starts_with(of));
    for &policy in policies {
        for _ in 0..2 {
            trial.suffers(Fault::Redis(RedisFault::Full(policy)), WHILE).await;
        }
    }
    trial.finish().await;
}

#[tokio::test]
async fn evicting_from_all_keys() {
    every_policy("allkeys").await;
}

#[tokio::test]
async fn evicting_from_keys_that_expire() {
    every_policy("volatile").await;
}

#[tokio::test]
async fn evicting_nothing() {
    every_policy("noeviction").await;
}

async fn limit(stack: &Stack, bytes: u64) {
    let mut cache = stack.cache().await;
    let settings = ["SET", "maxmemory", &bytes.to_string(), "maxmemory-policy", "noeviction"];
    cmd("CONFIG").arg(&settings).exec_async(cache.connection()).await.expect("CONFIG SET");
}

/// No room for another byte: a fill is refused with Redis's own error, and invalidation goes on.
#[tokio::test]
async fn without_room_fills_are_refused_and_invalidation_goes_on() {
    let trial = Trial::start().await;
    let stack = &trial.stack;
    stack.fill("i1", "10", &["item:1"]).await;
    let token = stack.get("i2").await.token;
    let epoch = trial.epoch().await;
    limit(stack, 1).await;
    let mut cache = stack.cache().await;
    let refused = cache.put("i2", "10", &token, Duration::from_secs(60), &["item:2"]).await.expect_err("no room");
    assert_eq!(refused.code(), Some("OOM"), "{refused}");
    for price in 11..20 {
        let commit = stack.commit(&format!("UPDATE items SET price = {price} WHERE id = 1")).await;
        stack.wait_caught_up(commit).await;
    }
    let got = cache.get_with("i1", &GetOptions { no_lease: true, ..GetOptions::default() }).await.expect("an answer");
    assert!(got.is_miss(), "{got:?}");
    assert_eq!(trial.epoch().await, epoch);
    limit(stack, 0).await;
    trial.recovers("no room").await;
    trial.finish().await;
}

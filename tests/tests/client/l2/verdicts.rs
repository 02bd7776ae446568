//! The verdict as a pure function beside the library's: random entries, tags and states, the same verdict and the same cause.

use std::time::Duration;

use cachetag_client::AtLeast;
use cachetag_client::l2::{BypassCause, GetOptions, MissCause, StaleCause, State, Terms, Verdict};
use cachetag_core::{Epoch, Lsn, Version};
use cachetag_tests::Random;
use redis::{Pipeline, cmd};

use super::server::Server;

/// `CACHETAG_VERDICTS` sets it.
const CASES: usize = 1500;
/// The present epoch of every state.
const EPOCH: u64 = 1_700_000_000;
const KEYS: [&str; 5] = ["t:product:1", "t:product:*", "a:product", "t:home", "a:*"];
/// Far enough from now that a slow test stays on the same side.
const FAR: i64 = 1_000_000;

fn version(random: &mut Random, epochs: &[u64]) -> Version {
    let epoch = Epoch::new(*random.pick(epochs)).unwrap();
    Version::new(epoch, Lsn(100 + random.below(6) as u64))
}

/// Mostly the present epoch.
fn any_version(random: &mut Random) -> Version {
    let present = [EPOCH];
    let epochs = [EPOCH - 1, EPOCH, EPOCH + 1];
    let among: &[u64] = if random.percent(85) { &present } else { &epochs };
    version(random, among)
}

/// Writes a random state, entry and tags, and gives random terms.
fn scene(random: &mut Random, now: i64) -> (Pipeline, Terms) {
    let mut scene = Pipeline::new();
    scene.cmd("FLUSHALL");
    let mut state: Vec<(&str, String)> = Vec::new();
    if random.percent(97) {
        state.push(("watermark", version(random, &[EPOCH]).to_string()));
    }
    if random.percent(97) {
        state.push(("floor", Version::new(Epoch::new(EPOCH).unwrap(), Lsn(98 + random.below(5) as u64)).to_string()));
    }
    if random.percent(97) {
        let fresh_at = if random.percent(94) { now - FAR } else { *random.pick(&[now + FAR, now - 4 * FAR]) };
        state.push(("fresh_at", fresh_at.to_string()));
    }
    if random.percent(97) {
        state.push(("max_lag", (2 * FAR).to_string()));
    }
    if random.percent(90) {
        state.push(("source", format!("7312/{}/shop/cachetag", 1 + random.below(3))));
    }
    if random.percent(20) {
        state.push(("soft_floor", version(random, &[EPOCH]).to_string()));
    }
    for (field, value) in state {
        scene.cmd("HSET").arg("{ct}:w").arg(field).arg(value);
    }
    if random.percent(96) {
        let keys: Vec<&str> = KEYS.into_iter().filter(|_| random.percent(45)).collect();
        let as_of = any_version(random).to_string();
        let put_at = (now - FAR).to_string();
        let expires_at = if random.percent(94) { now + FAR } else { now - FAR }.to_string();
        let fresh_until = match random.below(10) {
            0..6 => String::new(),
            6..9 => (now + FAR).to_string(),
            _ => (now - FAR).to_string(),
        };
        let kind = *random.pick(&["value", "value", "absent"]);
        let fresh = if fresh_until.is_empty() { "-" } else { &fresh_until };
        let head = format!("{as_of} {put_at} {expires_at} {fresh} 7 {kind} -");
        let meta = if keys.is_empty() { head } else { format!("{head}\n{}", keys.join("\n")) };
        let payload = if kind == "value" { "v" } else { "" };
        let mut entry = cmd("HSET");
        entry.arg("{ct}:e:k").arg(&[("payload", payload), ("as_of", &as_of), ("keys", &keys.join("\n"))]);
        entry.arg(&[("put_at", &*put_at), ("expires_at", &*expires_at), ("fresh_until", &*fresh_until)]);
        entry.arg(&[("cost", "7"), ("kind", kind), ("meta", &*meta)]);
        scene.add_command(entry);
    }
    for key in KEYS {
        let (hard, soft) = (any_version(random).to_string(), any_version(random).to_string());
        let value = match random.below(40) {
            0 => continue,
            1 => "nonsense".to_owned(),
            2 => format!("{hard} {soft} {hard}"),
            3 => format!("{hard} "),
            4..14 => format!("{hard} {soft}"),
            // Old enough for most entries.
            14..30 => format!("{EPOCH:010}.{:020}", 100),
            _ => hard,
        };
        scene.cmd("SET").arg(format!("{{ct}}:{key}")).arg(value);
    }
    let at_least = match random.below(10) {
        0 => Some(AtLeast::from(any_version(random))),
        1 => Some(AtLeast::from(any_version(random).lsn)),
        2 => Some(AtLeast::on(1 + random.below(3) as u32, any_version(random).lsn)),
        _ => None,
    };
    let max_lag = match random.below(10) {
        0 => Some(Duration::from_millis(FAR as u64 / 2)),
        1 => Some(Duration::from_millis(FAR as u64 * 2)),
        _ => None,
    };
    (scene, Terms { max_lag, at_least })
}

/// A part of the library's words for a cause.
fn words(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Hit => "every tag is registered and none was bumped",
        Verdict::Stale(StaleCause::Soft(_)) => "was softly bumped by",
        Verdict::Stale(StaleCause::SoftFloor) => "everything was softly bumped",
        Verdict::Stale(StaleCause::Fresh) => "past its FRESH time",
        Verdict::Miss(MissCause::None) => "there is no entry",
        Verdict::Miss(MissCause::Expired) => "has expired",
        Verdict::Miss(MissCause::Epoch) => "the entry is of epoch",
        Verdict::Miss(MissCause::Floor) => "is below the floor",
        Verdict::Miss(MissCause::AtLeast) => "ATLEAST",
        Verdict::Miss(MissCause::Unregistered(_)) => "",
        Verdict::Miss(MissCause::Bumped(_)) => "was bumped by",
        Verdict::Bypass(BypassCause::NoWatermark) => "there is no watermark",
        Verdict::Bypass(BypassCause::State) => "the state is malformed",
        Verdict::Bypass(BypassCause::Clock) => "fresh_at is in the future",
        Verdict::Bypass(BypassCause::Lag) => "was last known to be caught up",
    }
}

#[tokio::test]
async fn the_same_verdict_as_the_library() {
    let mut server = Server::start().await;
    let shard = server.shard().await;
    let cases = std::env::var("CACHETAG_VERDICTS").ok().and_then(|n| n.parse().ok()).unwrap_or(CASES);
    let now = shard.reading::<&str>(&[]).await.unwrap().now_ms as i64;
    let mut counts = std::collections::BTreeMap::<String, usize>::new();
    for seed in 0..cases as u64 {
        let mut random = Random::new(seed);
        let (scene, terms) = scene(&mut random, now);
        scene.exec_async(&mut server.connection).await.unwrap();
        let options =
            GetOptions { max_lag: terms.max_lag, at_least: terms.at_least, no_lease: true, ..GetOptions::default() };
        let got = shard.get("k", &options).await.unwrap();
        let fast = shard.fast_many(&["k"], &terms, |_, _| None).await.unwrap().remove(0);
        let explain = shard.explain("k", &options).await.unwrap();
        let told = || format!("seed {seed}: {fast:?}, the library: {got:?}, {explain:?}");
        assert_eq!(fast.verdict.state(), got.state, "{}", told());
        assert!(explain.reason.contains(words(fast.verdict)), "{}", told());
        if let Verdict::Miss(MissCause::Unregistered(_)) = fast.verdict {
            assert!(explain.reason.contains("registered") || explain.reason.contains("malformed"), "{}", told());
        }
        if got.state.is_served() {
            let entry = fast.entry.as_ref().unwrap();
            assert_eq!(entry.value(), got.payload.as_ref(), "{}", told());
        }
        let name = format!("{:?}", fast.verdict);
        *counts.entry(name.split(['(', ')']).take(2).collect::<Vec<_>>().join(" ")).or_default() += 1;
    }
    assert!(counts.len() >= 14, "every cause is met: {counts:?}");
    assert!(counts["Hit"] > cases / 20, "{counts:?}");
    let _ = State::Hit;
}

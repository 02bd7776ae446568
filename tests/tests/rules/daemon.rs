//! Rule 5: the older of two daemons is fenced, a killed one continues where Redis stands, and nothing that it did is undone.

use std::collections::BTreeMap;
use std::time::Duration;

use cachetag_tests::{Cache, Daemon, DaemonOptions, Load, Lsn, Stack, StackOptions, eventually, lsn, lsn_of_version};

const PATIENCE: Duration = Duration::from_secs(30);
const MAX_LAG: Duration = Duration::from_secs(2);
const KILLS: usize = 8;
const SLOT: &str = "SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = 'cachetag'";

async fn loaded() -> Stack {
    Stack::start(StackOptions::new().schema(Load::SCHEMA).daemon(DaemonOptions::new().max_lag(MAX_LAG))).await
}

async fn versions(cache: &mut Cache) -> BTreeMap<usize, String> {
    let keys: Vec<String> = (0..16).map(|row| cache.key("t", &format!("product:{row}"))).collect();
    let values: Vec<Option<String>> =
        redis::cmd("MGET").arg(keys).query_async(cache.connection()).await.expect("Redis answers");
    values.into_iter().enumerate().filter_map(|(row, version)| Some((row, version?))).collect()
}

/// No version, nor the watermark, nor `applied` has fallen since the last look.
#[derive(Default)]
struct Rising {
    versions: BTreeMap<usize, String>,
    state: BTreeMap<String, String>,
}

impl Rising {
    async fn look(&mut self, cache: &mut Cache) {
        let now = versions(cache).await;
        for (row, version) in &now {
            let before = self.versions.get(row);
            assert!(before.is_none_or(|before| version >= before), "product:{row} fell from {before:?} to {version}");
        }
        self.versions.extend(now);
        let state = cache.state().await.expect("Redis answers");
        for name in ["epoch", "applied", "watermark", "floor"] {
            let (before, now) = (self.state.get(name), state.get(name));
            assert!(before <= now, "{name} fell from {before:?} to {now:?}");
        }
        self.state = state;
    }
}

async fn epoch(cache: &mut Cache) -> String {
    cache.state().await.expect("Redis answers").remove("epoch").expect("an epoch")
}

/// The daemon of a claim: each of its sessions claims under a number of its own.
fn process(claimant: Option<String>) -> Option<String> {
    claimant.and_then(|id| id.rsplit_once(':').map(|(process, _)| process.to_owned()))
}

#[tokio::test]
async fn rule_05_of_two_daemons_the_older_is_fenced_and_waits() {
    let mut stack = loaded().await;
    let mut cache = stack.cache().await;
    let load = Load::start(&stack, MAX_LAG);
    load.progress(100, 100).await;
    let (old, first) = (epoch(&mut cache).await, cache.state().await.expect("state").remove("claimant"));

    stack.daemon().pause();
    let log = stack.folder().join("second.log");
    let mut second =
        Daemon::start(&stack.postgres_url(), &stack.redis_url(), &log, DaemonOptions::new().max_lag(MAX_LAG));
    // The slot belongs to the frozen one until its server process is gone.
    let second_claimed = eventually("the second daemon's claim", PATIENCE, async || {
        let end = "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE active_pid IS NOT NULL";
        if !second.log_contains("streaming") {
            stack.sql(end).await;
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        let claimant = cache.state().await.ok()?.remove("claimant");
        (claimant != first && second.log_contains("streaming")).then_some(claimant)
    })
    .await;

    stack.daemon().resume();
    let mut rising = Rising::default();
    eventually("the first daemon's end of work", PATIENCE, async || {
        rising.look(&mut cache).await;
        stack.daemon().log_contains("not streaming").then_some(())
    })
    .await;
    let commits = load.commits() + 200;
    eventually("two hundred commits", PATIENCE, async || {
        rising.look(&mut cache).await;
        load.check();
        (load.commits() >= commits).then_some(())
    })
    .await;
    // The walsender that was ended may have been the second one's already: then that has claimed again.
    let claimant = cache.state().await.expect("state").remove("claimant");
    assert_eq!(process(claimant), process(second_claimed), "the older one is back");
    assert!(stack.daemon().is_running() && second.is_running(), "it waits for its turn");
    assert_eq!(epoch(&mut cache).await, old, "a change of daemons is no discontinuity");

    // Its turn: the second ends in order, the first takes over by itself.
    assert!(second.stop().await.is_some_and(|status| status.success()));
    eventually("the first daemon's return", PATIENCE, async || {
        rising.look(&mut cache).await;
        (process(cache.state().await.ok()?.remove("claimant")) == process(first.clone())).then_some(())
    })
    .await;
    load.finish(&stack).await;
    assert_eq!(epoch(&mut cache).await, old);
}

/// The calls of a claimant that is not the present one, as a frozen daemon would send them.
#[tokio::test]
async fn rule_05_a_call_of_an_earlier_claimant_changes_nothing() {
    let mut stack = loaded().await;
    stack.fill("p1", "0", &["product:1"]).await;
    stack.daemon().stop().await;
    let mut cache = stack.cache().await;
    let before = (cache.state().await.expect("state"), versions(&mut cache).await);
    let (applied, epoch) = (&before.0["applied"], &before.0["epoch"]);
    let later = format!("{epoch}.00000000999999999999");
    let key = cache.key("w", "");
    let calls: [&[&str]; 3] = [
        &["cachetag_apply", "1", &key, "impostor", applied, &later, &later, "1", "0", "product:1"],
        &["cachetag_advance", "1", &key, "impostor", applied, &later, &later, ""],
        &["cachetag_reset", "1", &key, "impostor", "elsewhere", "00000000000000000001", "9999999999"],
    ];
    for call in calls {
        let answer: Vec<String> =
            redis::cmd("FCALL").arg(call).query_async(cache.connection()).await.expect("an answer");
        assert_eq!(answer[0], "fenced", "{call:?}: {answer:?}");
    }
    assert_eq!((cache.state().await.expect("state"), versions(&mut cache).await), before);
}

#[tokio::test]
async fn rule_05_a_killed_daemon_undoes_and_forgets_nothing() {
    let mut stack = loaded().await;
    let mut cache = stack.cache().await;
    let old = epoch(&mut cache).await;
    // Every tag is registered once, so that every commit has to leave its version.
    for row in 0..16 {
        stack.fill(&format!("registers:{row}"), "", &[&format!("product:{row}")]).await;
    }
    let load = Load::start(&stack, MAX_LAG);
    let mut rising = Rising::default();
    for kill in 0..KILLS {
        let commits = load.commits() + 20;
        eventually("commits", PATIENCE, async || {
            rising.look(&mut cache).await;
            (load.commits() >= commits).then_some(())
        })
        .await;
        // The moments spread over the daemon's start and its work.
        tokio::time::sleep(Duration::from_millis((kill as u64 * 37) % 150)).await;
        stack.daemon().kill9().await;
        rising.look(&mut cache).await;
        stack.daemon().start_again();
        if kill % 2 == 0 {
            let position = stack.flushed().await;
            eventually("the catch-up", PATIENCE, async || {
                rising.look(&mut cache).await;
                let watermark = cache.state().await.ok()?.remove("watermark")?;
                (lsn_of_version(&watermark) >= position).then_some(())
            })
            .await;
        }
    }
    let last_commits = load.finish(&stack).await;
    rising.look(&mut cache).await;
    for (row, before_end) in last_commits.into_iter().enumerate() {
        let version = rising.versions.get(&row).expect("registered");
        assert!(lsn_of_version(version) > before_end, "the last commit of product:{row} was never bumped");
    }
    assert_eq!(epoch(&mut cache).await, old, "a killed daemon is no discontinuity");
}

/// The slot's position, asked first, against what Redis holds, asked later, would prove nothing: so Redis first.
async fn acknowledged_is_applied(stack: &Stack, cache: &mut Cache) -> Lsn {
    let confirmed = lsn(&stack.value(SLOT).await);
    let applied = cache.state().await.expect("Redis answers").remove("applied").expect("applied");
    assert!(confirmed <= lsn_of_version(&applied), "acknowledged {confirmed}, Redis holds {applied}");
    confirmed
}

#[tokio::test]
async fn rule_05_the_acknowledgement_never_passes_what_redis_holds() {
    let mut stack = loaded().await;
    let mut cache = stack.cache().await;
    let load = Load::start(&stack, MAX_LAG);
    let mut moved = 0;
    let mut last = 0;
    while moved < 30 {
        let confirmed = acknowledged_is_applied(&stack, &mut cache).await;
        moved += u32::from(confirmed > last);
        last = confirmed;
    }
    // Redis frozen: PostgreSQL goes on, the acknowledgement does not. The daemon is frozen first, so that Redis stands still;
    // of two answers the second is certainly behind every call that was under way.
    stack.daemon().pause();
    cache.state().await.expect("Redis answers");
    let applied = cache.state().await.expect("Redis answers").remove("applied").expect("applied");
    stack.redis.signal(libc::SIGSTOP);
    stack.daemon().resume();
    let commits = load.commits() + 200;
    eventually("commits while Redis is frozen", PATIENCE, async || (load.commits() >= commits).then_some(())).await;
    let frozen = lsn(&stack.value(SLOT).await);
    assert!(frozen <= lsn_of_version(&applied), "acknowledged {frozen}, Redis holds {applied}");
    stack.redis.signal(libc::SIGCONT);
    load.progress(50, 50).await;
    acknowledged_is_applied(&stack, &mut cache).await;
    load.finish(&stack).await;
}

#[tokio::test]
async fn rule_05_a_clean_shutdown_ends_well_and_continues() {
    let mut stack = loaded().await;
    let mut cache = stack.cache().await;
    let old = epoch(&mut cache).await;
    stack.fill("p1", "0", &["product:1"]).await;
    for round in 0..3 {
        let status = stack.daemon().stop().await;
        assert!(status.is_some_and(|status| status.success()), "{status:?}");
        eventually("the slot's release", PATIENCE, async || {
            let active = "SELECT active FROM pg_replication_slots WHERE slot_name = 'cachetag'";
            (stack.value(active).await == "f").then_some(())
        })
        .await;
        let commit = stack.commit("UPDATE products SET price = price + 1 WHERE id = 2").await;
        stack.daemon().start_again();
        stack.wait_caught_up(commit).await;
        assert_eq!(epoch(&mut cache).await, old, "round {round}");
        assert!(stack.get("p1").await.is_hit(), "nothing that it depends on has changed");
    }
    assert_eq!(stack.daemon().log().matches("continuing").count(), 3);
}

#[tokio::test]
async fn rule_05_a_shutdown_under_load_loses_nothing() {
    let mut stack = loaded().await;
    let load = Load::start(&stack, MAX_LAG);
    for _ in 0..4 {
        load.progress(50, 20).await;
        let status = stack.daemon().stop().await;
        assert!(status.is_some_and(|status| status.success()), "{status:?}");
        stack.daemon().start_again();
    }
    load.finish(&stack).await;
}

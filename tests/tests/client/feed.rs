//! The client's feed and in-process layer on a real log: bumps arrive, and what breaks continuity ends trust.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cachetag_client::feed::{Feed, FeedOptions, Refusal};
use cachetag_client::l1::{Ask, Candidate, L1, L1Options, Miss, Refused, Verdict};
use cachetag_core::{Tag, Version};
use cachetag_tests::{Stack, StackOptions, eventually};

const PATIENCE: Duration = Duration::from_secs(30);
/// Far above what a loaded machine needs, where lag is not what is tested.
const LAG: Duration = Duration::from_secs(30);

struct Trial {
    stack: Stack,
    feed: Feed,
    l1: L1,
}

impl Trial {
    async fn start() -> Trial {
        let stack = Stack::start(StackOptions::new()).await;
        let feed = follow(&stack).await;
        Trial { stack, feed, l1: L1::new(L1Options::new(1 << 20)) }
    }

    /// Admits a value of the present, under its own name.
    fn admit(&self, tag: &str) {
        let watermark = self.feed.view().watermark.expect("a live feed has one");
        self.l1.admit(&self.feed, tag, candidate(watermark, tag)).expect("a value of the present comes in");
    }

    /// The verdict's word, and for a miss its reason.
    fn verdict(&self, key: &str) -> String {
        match self.l1.get(&self.feed, key, &Ask::now(LAG)) {
            Verdict::Hit { .. } => "hit".to_owned(),
            Verdict::Stale { why, .. } => format!("stale {why:?}"),
            Verdict::Miss { why, .. } => format!("miss {why:?}"),
        }
    }

    async fn expect(&self, key: &str, verdict: &str) {
        let what = format!("`{verdict}` of {key}");
        eventually(&what, PATIENCE, async || (self.verdict(key) == verdict).then_some(())).await;
    }

    /// Commits a bump; everything is covered afterwards, here as in Redis.
    async fn bump(&self, sql: &str) {
        let commit = self.stack.commit(&format!("SELECT cachetag.{sql}")).await;
        self.stack.wait_caught_up(commit).await;
        eventually("the feed's watermark", PATIENCE, async || {
            (self.feed.view().watermark?.lsn.0 >= commit && self.feed.view().live).then_some(())
        })
        .await;
    }

    /// Runs a command of Redis.
    async fn redis(&self, command: &[&str]) {
        let mut cache = self.stack.cache().await;
        let mut call = redis::cmd(command[0]);
        call.arg(&command[1..])
            .exec_async(cache.connection())
            .await
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    }
}

async fn follow(stack: &Stack) -> Feed {
    let options = FeedOptions::new().heartbeat(Duration::from_millis(20));
    let feed = Feed::follow(&stack.redis_url(), options).expect("a URL");
    assert!(feed.wait_live(PATIENCE).await, "the feed is not live");
    eventually("the feed's watermark", PATIENCE, async || feed.view().watermark).await;
    feed
}

fn candidate(as_of: Version, tag: &str) -> Candidate {
    let mut candidate = Candidate::new(Arc::new(()), 1, as_of, Instant::now() + Duration::from_secs(600));
    candidate.tags = Arc::from([Tag::parse(tag).expect("a tag")]);
    candidate
}

/// Ids of the connections that wait for records of a log.
async fn waiting(stack: &Stack) -> Vec<String> {
    let mut cache = stack.cache().await;
    let list: String = redis::cmd("CLIENT").arg("LIST").query_async(cache.connection()).await.expect("CLIENT LIST");
    let feeds = list.lines().filter(|line| line.contains(" cmd=xread "));
    feeds.filter_map(|line| Some(line.strip_prefix("id=")?.split_once(' ')?.0.to_owned())).collect()
}

#[tokio::test]
async fn bumps_arrive() {
    let trial = Trial::start().await;
    for tag in ["p:1", "p:2", "p:*", "q:1", "*"] {
        trial.admit(tag);
    }
    let mut changes = trial.feed.changes();
    trial.bump("invalidate('p:1', 'nobody:7')").await;
    for (key, verdict) in
        [("p:1", "miss Bumped"), ("p:2", "hit"), ("p:*", "miss Bumped"), ("q:1", "hit"), ("*", "miss Bumped")]
    {
        assert_eq!(trial.verdict(key), verdict, "{key}");
    }
    // The entry tagged `*` makes all of the record concern somebody.
    let change = changes.try_recv().expect("a change");
    let mut told: Vec<&str> = change.tags.iter().map(|tag| &**tag).collect();
    told.sort_unstable();
    assert_eq!(told, ["nobody:7", "p:1"]);

    trial.bump("invalidate_soft('p:2')").await;
    assert_eq!(trial.verdict("p:2"), "stale Bumped");
    trial.bump("invalidate('p:*')").await;
    assert_eq!([trial.verdict("p:2"), trial.verdict("q:1")], ["miss Bumped", "hit"]);
    trial.bump("invalidate_soft('*')").await;
    assert_eq!(trial.verdict("q:1"), "stale Bumped");
    trial.bump("invalidate('*')").await;
    assert_eq!(trial.verdict("q:1"), "miss Floor");
    trial.admit("q:1");
    assert_eq!(trial.verdict("q:1"), "hit");
}

#[tokio::test]
async fn a_feed_knows_what_the_log_held_before_it() {
    let trial = Trial::start().await;
    let before = trial.feed.view().watermark.expect("live");
    trial.bump("invalidate('p:1')").await;
    trial.bump("invalidate('p:2')").await;
    let late = follow(&trial.stack).await;
    let admit = |tag: &str| trial.l1.admit(&late, tag, candidate(before, tag)).map(|_| ());
    assert_eq!(admit("p:3"), Ok(()));
    assert_eq!(admit("p:1"), Err(Refused::Feed(Refusal::Bumped)));
    assert_eq!(admit("p:*"), Err(Refused::Feed(Refusal::Bumped)));
    // It was admitted under another feed's generation.
    assert_eq!(trial.verdict("p:3"), format!("miss {:?}", Miss::Revalidate));
}

#[tokio::test]
async fn a_broken_connection_misses_nothing() {
    let mut trial = Trial::start().await;
    let generation = trial.feed.view().generation;
    trial.admit("p:1");
    trial.admit("p:2");
    let ids = eventually("a waiting feed", PATIENCE, async || {
        Some(waiting(&trial.stack).await).filter(|ids| !ids.is_empty())
    });
    for id in ids.await {
        trial.redis(&["CLIENT", "KILL", "ID", &id]).await;
    }
    trial.bump("invalidate('p:1')").await;
    trial.expect("p:1", "miss Bumped").await;
    trial.expect("p:2", "hit").await;
    assert_eq!(trial.feed.view().generation, generation);
    eventually("the disconnect", PATIENCE, async || (trial.feed.stats().disconnects > 0).then_some(())).await;

    // A daemon that is not heard of: a hit is as stale as it says, and no staler.
    trial.stack.daemon().pause();
    tokio::time::sleep(Duration::from_millis(400)).await;
    let verdict = trial.l1.get(&trial.feed, "p:2", &Ask::now(Duration::from_millis(200)));
    assert!(matches!(verdict, Verdict::Miss { why: Miss::Lag, .. }), "{verdict:?}");
    assert_eq!(trial.verdict("p:2"), "hit");
    trial.stack.daemon().resume();

    // With the last handle the connection ends.
    let Trial { stack, feed, .. } = trial;
    let view = feed.view().clone();
    drop(feed);
    eventually("the feed's end", PATIENCE, async || waiting(&stack).await.is_empty().then_some(())).await;
    assert!(view.live);
}

#[tokio::test]
async fn a_log_that_lost_records_is_not_trusted() {
    let trial = Trial::start().await;
    let losses: [&[&str]; 2] = [&["DEL", "{ct}:log"], &["XTRIM", "{ct}:log", "MAXLEN", "0"]];
    for loss in losses {
        trial.bump("invalidate('q:1')").await;
        let generation = trial.feed.view().generation;
        trial.admit("p:1");
        assert_eq!(trial.verdict("p:1"), "hit");
        trial.redis(loss).await;
        trial.expect("p:1", "miss NotLive").await;
        // With the daemon's next record the log is whole again, but not what was known of it.
        trial.bump("invalidate('q:1')").await;
        assert_eq!(trial.verdict("p:1"), "miss Revalidate");
        assert_ne!(trial.feed.view().generation, generation);
        trial.admit("p:1");
        assert_eq!(trial.verdict("p:1"), "hit");
        trial.bump("invalidate('p:1')").await;
        assert_eq!(trial.verdict("p:1"), "miss Bumped");
    }
}

#[tokio::test]
async fn a_new_epoch_ends_everything() {
    let trial = Trial::start().await;
    let old = trial.feed.view().clone();
    trial.admit("p:1");
    trial.redis(&["FLUSHALL"]).await;
    eventually("another epoch", PATIENCE, async || {
        let view = trial.feed.view();
        (view.live && view.watermark.is_some() && view.epoch > old.epoch).then_some(())
    })
    .await;
    assert_eq!(trial.verdict("p:1"), "miss Revalidate");
    let refused = trial.l1.admit(&trial.feed, "p:1", candidate(old.position, "p:1")).map(|_| ());
    assert_eq!(refused, Err(Refused::Feed(Refusal::Epoch)));
    trial.admit("p:1");
    assert_eq!(trial.verdict("p:1"), "hit");
    trial.bump("invalidate('p:1')").await;
    assert_eq!(trial.verdict("p:1"), "miss Bumped");
}

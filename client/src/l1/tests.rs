use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use cachetag_core::{Lsn, Tag, Version};

use crate::options::AtLeast;

use super::*;
use crate::feed::Refusal;
use crate::feed::rig::Rig;
use crate::interleave;

const LAG: Duration = Duration::from_secs(2);
const TTL: Duration = Duration::from_secs(60);

fn tags(tags: &[&str]) -> Arc<[Tag]> {
    tags.iter().map(|tag| Tag::parse(tag).unwrap()).collect()
}

fn candidate(as_of: Version, of: &[&str]) -> Candidate {
    let mut candidate = Candidate::new(Arc::new(7u32), 4, as_of, Instant::now() + TTL);
    candidate.tags = tags(of);
    candidate
}

fn layer() -> L1 {
    L1::new(L1Options::new(1 << 20))
}

fn ask() -> Ask {
    Ask::now(LAG)
}

/// What a verdict is, without the copy.
fn name(verdict: &Verdict) -> String {
    match verdict {
        Verdict::Hit { valid_to, .. } => format!("hit {}", valid_to.lsn.0),
        Verdict::Stale { why, valid_to, .. } => format!("stale {why:?} {}", valid_to.lsn.0),
        Verdict::Miss { why, held } => format!("miss {why:?}{}", if held.is_some() { " held" } else { "" }),
    }
}

#[track_caller]
fn expect(l1: &L1, rig: &Rig, key: &str, expected: &str) {
    assert_eq!(name(&l1.get(&rig.feed, key, &ask())), expected);
}

#[test]
fn a_copy_is_a_hit_until_its_tag_is_bumped() {
    let (mut rig, l1) = (Rig::new(100), layer());
    expect(&l1, &rig, "k", "miss None");
    l1.admit(&rig.feed, "k", candidate(rig.v(100), &["p:1"])).unwrap();
    expect(&l1, &rig, "k", "hit 100");
    rig.apply(110, &["p:2", "q:1"], &[]).look();
    expect(&l1, &rig, "k", "hit 110");
    rig.apply(120, &[], &["p:1"]).look();
    expect(&l1, &rig, "k", "stale Bumped 100");
    rig.apply(130, &["p:1"], &[]);
    expect(&l1, &rig, "k", "stale Bumped 100");
    rig.look();
    expect(&l1, &rig, "k", "miss Bumped held");
    let refused = l1.admit(&rig.feed, "k", candidate(rig.v(120), &["p:1"])).unwrap_err();
    assert_eq!(refused, Refused::Feed(Refusal::Bumped));
    l1.admit(&rig.feed, "k", candidate(rig.v(130), &["p:1"])).unwrap();
    expect(&l1, &rig, "k", "hit 130");
}

#[test]
fn families_and_everything() {
    let (mut rig, l1) = (Rig::new(100), layer());
    for (key, of) in [("member", "p:1"), ("family", "p:*"), ("all", "*"), ("other", "q:1"), ("none", "")] {
        let of: &[&str] = if of.is_empty() { &[] } else { &[of] };
        l1.admit(&rig.feed, key, candidate(rig.v(100), of)).unwrap();
    }
    rig.apply(110, &["p:2"], &[]).look();
    for (key, verdict) in
        [("member", "hit 110"), ("family", "miss Bumped held"), ("all", "miss Bumped held"), ("other", "hit 110")]
    {
        expect(&l1, &rig, key, verdict);
    }
    rig.apply(120, &[], &["*"]).look();
    for key in ["member", "other", "none"] {
        expect(&l1, &rig, key, "stale Bumped 100");
    }
    rig.apply(130, &["*"], &[]).look();
    for key in ["member", "other", "none"] {
        expect(&l1, &rig, key, "miss Floor held");
        let refused = l1.admit(&rig.feed, key, candidate(rig.v(120), &["z"])).unwrap_err();
        assert_eq!(refused, Refused::Feed(Refusal::Floor));
    }
}

#[test]
fn an_overtaken_answer_is_refused() {
    let (mut rig, l1) = (Rig::new(100), layer());
    // Redis answered a hit of as_of 100 when it stood at 105; then the feed went on, over a bump.
    rig.advance(105).look();
    let mut answer = candidate(rig.v(100), &["p:1"]);
    answer.verified = Some(rig.v(105));
    rig.apply(110, &["p:1"], &[]).look();
    assert_eq!(l1.admit(&rig.feed, "k", answer.clone()).unwrap_err(), Refused::Feed(Refusal::Bumped));
    // Overtaken by what does not concern it, it comes in.
    answer.tags = tags(&["p:2"]);
    l1.admit(&rig.feed, "k", answer).unwrap();
    expect(&l1, &rig, "k", "hit 110");
}

#[test]
fn an_answer_that_is_ahead_of_the_feed_comes_in() {
    let (mut rig, l1) = (Rig::new(100), layer());
    rig.apply(110, &["p:1"], &[]);
    // Filled after that bump, which the feed has not seen yet.
    l1.admit(&rig.feed, "k", candidate(rig.v(110), &["p:1"])).unwrap();
    expect(&l1, &rig, "k", "hit 110");
    rig.look();
    expect(&l1, &rig, "k", "hit 110");
    rig.apply(120, &["p:1"], &[]).look();
    expect(&l1, &rig, "k", "miss Bumped held");
}

#[test]
fn what_redis_vouched_for_counts_from_there() {
    let (mut rig, l1) = (Rig::with_ring(100, 1, 10), layer());
    rig.apply(110, &["p:1"], &[]).apply(120, &["q:1"], &[]).look();
    // The ring reaches back to 110.
    let mut old = candidate(rig.v(105), &["p:2"]);
    assert_eq!(l1.admit(&rig.feed, "k", old.clone()).unwrap_err(), Refused::Feed(Refusal::Unknown));
    old.verified = Some(rig.v(110));
    l1.admit(&rig.feed, "k", old.clone()).unwrap();
    expect(&l1, &rig, "k", "hit 120");
    // What was vouched for in another epoch is not vouched for.
    old.verified = Some(Version::new(cachetag_core::Epoch::MAX, Lsn(110)));
    assert_eq!(l1.admit(&rig.feed, "k", old.clone()).unwrap_err(), Refused::Feed(Refusal::Unknown));
    // Without tags only the floor and time end a value.
    old.tags = tags(&[]);
    l1.admit(&rig.feed, "untagged", old).unwrap();
    // A record is bumped at its end; Redis knows better where in it the tag was.
    rig.apply(140, &["p:3"], &[]).look();
    let mut vouched = candidate(rig.v(130), &["p:3"]);
    assert_eq!(l1.admit(&rig.feed, "k", vouched.clone()).unwrap_err(), Refused::Feed(Refusal::Bumped));
    vouched.verified = Some(rig.v(140));
    l1.admit(&rig.feed, "k", vouched).unwrap();
    expect(&l1, &rig, "k", "hit 140");
}

#[test]
fn without_a_live_feed_there_is_no_hit() {
    let (mut rig, l1) = (Rig::new(100), layer());
    l1.admit(&rig.feed, "k", candidate(rig.v(100), &["p:1"])).unwrap();
    rig.disconnect();
    expect(&l1, &rig, "k", "miss NotLive held");
    // Nothing was missed: the copy counts again.
    rig.advance(105).look();
    expect(&l1, &rig, "k", "hit 105");
    rig.disconnect();
    rig.apply(110, &["p:1"], &[]).look();
    expect(&l1, &rig, "k", "miss Bumped held");
}

#[test]
fn a_lost_trail_is_revalidated() {
    let (mut rig, l1) = (Rig::new(100), layer());
    let held = l1.admit(&rig.feed, "k", candidate(rig.v(100), &["p:1"])).unwrap();
    rig.apply(110, &["q:1"], &[]).trim_log(0).look();
    expect(&l1, &rig, "k", "miss NotLive held");
    assert_eq!(l1.admit(&rig.feed, "k", candidate(rig.v(110), &[])).unwrap_err(), Refused::Feed(Refusal::NotFollowing));
    rig.apply(120, &["q:1"], &[]).look();
    expect(&l1, &rig, "k", "miss Revalidate held");
    // Redis says that the entry of 100 is valid still, at 120.
    l1.admit(&rig.feed, "k", Candidate::again(&held, rig.v(100), rig.v(120), Instant::now() + TTL)).unwrap();
    expect(&l1, &rig, "k", "hit 120");
}

#[test]
fn another_epoch_ends_everything() {
    let (mut rig, l1) = (Rig::new(100), layer());
    let old = rig.v(100);
    l1.admit(&rig.feed, "k", candidate(old, &[])).unwrap();
    rig.reset(50).look();
    expect(&l1, &rig, "k", "miss NotLive held");
    rig.advance(60).look();
    expect(&l1, &rig, "k", "miss Revalidate held");
    assert_eq!(l1.admit(&rig.feed, "k", candidate(old, &[])).unwrap_err(), Refused::Feed(Refusal::Epoch));
    l1.admit(&rig.feed, "k", candidate(rig.v(60), &[])).unwrap();
    expect(&l1, &rig, "k", "hit 60");
}

#[test]
fn a_hit_is_no_staler_than_asked_for() {
    let (mut rig, l1) = (Rig::new(100), layer());
    rig.behind(Duration::from_millis(300)).look();
    l1.admit(&rig.feed, "k", candidate(rig.v(100), &[])).unwrap();
    let at = |ms: u64, lag: u64| {
        let ask =
            Ask { now: rig.looked() + Duration::from_millis(ms), max_lag: Duration::from_millis(lag), at_least: None };
        name(&l1.get(&rig.feed, "k", &ask))
    };
    assert_eq!(
        [at(0, 300), at(0, 299), at(700, 1000), at(701, 1000)],
        ["hit 100", "miss Lag held", "hit 100", "miss Lag held"]
    );
}

#[test]
fn a_hit_covers_the_commit_that_is_asked_for() {
    let (mut rig, l1) = (Rig::new(100), layer());
    l1.admit(&rig.feed, "k", candidate(rig.v(100), &[])).unwrap();
    l1.admit(&rig.feed, "raised", candidate(rig.v(115), &[])).unwrap();
    rig.apply(120, &["x"], &[]).look();
    let covers = |key: &str, at_least| name(&l1.get(&rig.feed, key, &ask().at_least(at_least)));
    assert_eq!(covers("k", AtLeast::from(Lsn(100))), "hit 120");
    assert_eq!(covers("k", AtLeast::from(rig.v(101))), "miss AtLeast held", "applied, not yet visible");
    assert_eq!(covers("raised", AtLeast::from(rig.v(115))), "hit 120");
    rig.advance(120).look();
    let covers = |key: &str, at_least| name(&l1.get(&rig.feed, key, &ask().at_least(at_least)));
    assert_eq!(covers("k", AtLeast::from(rig.v(120))), "hit 120");
    assert_eq!(covers("k", AtLeast::from(Lsn(121))), "miss AtLeast held");
}

#[test]
fn time_ends_a_copy() {
    let (rig, now) = (Rig::new(100), Instant::now());
    let l1 = L1::new(L1Options::new(1 << 20).ttl(Duration::from_secs(30)));
    let mut page = candidate(rig.v(100), &[]);
    page.fresh_until = Some(now + Duration::from_secs(1));
    l1.admit_at(&rig.feed, "k", page.clone(), now).unwrap();
    let at = |l1: &L1, seconds: u64| {
        let ask = Ask { now: now + Duration::from_secs(seconds), max_lag: TTL * 2, at_least: None };
        name(&l1.get(&rig.feed, "k", &ask))
    };
    assert_eq!([at(&l1, 0), at(&l1, 1), at(&l1, 30)], ["hit 100", "stale Past 100", "miss Expired held"]);
    page.expires_at = now;
    assert_eq!(l1.admit_at(&rig.feed, "k", page, now).unwrap_err(), Refused::Expired);

    // The store forgets it, unless it is to be kept for worse times.
    for (grace, verdict) in [(0, "miss None"), (60, "miss Expired held")] {
        let l1 = L1::new(L1Options::new(1 << 20).grace(Duration::from_secs(grace)));
        let mut short = candidate(rig.v(100), &[]);
        short.expires_at = Instant::now() + Duration::from_millis(20);
        l1.admit(&rig.feed, "k", short).unwrap();
        std::thread::sleep(Duration::from_millis(40));
        assert_eq!(name(&l1.get(&rig.feed, "k", &ask())), verdict);
    }
}

#[test]
fn a_later_copy_has_its_own_time() {
    let (rig, l1) = (Rig::new(100), layer());
    let mut short = candidate(rig.v(100), &[]);
    short.expires_at = Instant::now() + Duration::from_millis(20);
    l1.admit(&rig.feed, "k", short).unwrap();
    l1.admit(&rig.feed, "k", candidate(rig.v(100), &[])).unwrap();
    std::thread::sleep(Duration::from_millis(40));
    expect(&l1, &rig, "k", "hit 100");
}

#[test]
fn memory_is_bounded() {
    let rig = Rig::new(100);
    let left = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&left);
    let l1 = L1::new(L1Options::new(100_000).max_share(10).on_left(move |_, _, why| {
        assert_eq!(why, Left::Evicted);
        seen.fetch_add(1, Ordering::Relaxed);
    }));
    let sized = |size: usize| {
        let mut candidate = candidate(rig.v(100), &["p:1"]);
        candidate.size = size;
        candidate
    };
    assert_eq!(l1.admit(&rig.feed, "large", sized(10_000)).unwrap_err(), Refused::TooLarge);
    assert_eq!(l1.admit(&rig.feed, "larger", sized(usize::MAX)).unwrap_err(), Refused::TooLarge);
    for i in 0..1000 {
        l1.admit(&rig.feed, &format!("k{i}"), sized(1000)).unwrap();
    }
    l1.settle();
    assert!(l1.weight() <= 100_000 && l1.len() <= 100, "{} bytes, {} copies", l1.weight(), l1.len());
    assert!(l1.len() > 10);
    assert_eq!(left.load(Ordering::Relaxed) as u64, 1000 - l1.len());
}

#[test]
fn what_was_loaded_does_not_depend_on_who_asks() {
    let (rig, l1) = (Rig::new(100), layer());
    let held = l1.admit(&rig.feed, "k", candidate(rig.v(100), &[])).unwrap();
    assert_eq!(held.value::<u32>().as_deref(), Some(&7));
    assert!(held.value::<u64>().is_none());
    assert!(l1.remove("k").is_some() && l1.remove("k").is_none() && l1.peek("k").is_none());
}

/// The accesses of former copies happened in their time, not in that of the present one.
#[test]
fn a_rate_is_of_the_time_in_which_the_accesses_happened() {
    let (rig, l1) = (Rig::new(100), layer());
    let begin = Instant::now();
    let at = |seconds| begin + Duration::from_secs(seconds);
    let refill = |second| {
        let mut candidate = candidate(rig.v(100), &["p:1"]);
        (candidate.stored_at, candidate.expires_at) = (at(second), at(second) + TTL);
        l1.admit_at(&rig.feed, "k", candidate, at(second)).unwrap();
    };
    let accesses = |n| (0..n).for_each(|_| assert!(matches!(l1.get(&rig.feed, "k", &ask()), Verdict::Hit { .. })));
    let rate = |second| l1.peek("k").unwrap().rate(at(second));
    refill(0);
    for minute in 1..=10 {
        accesses(120);
        refill(minute * 60);
        assert!((rate(minute * 60 + 1) - 2.0).abs() < 0.1, "{} in minute {minute}", rate(minute * 60 + 1));
    }
    accesses(120);
    assert!((rate(660) - 2.0).abs() < 0.1, "{}", rate(660));
    refill(660);
    assert!(rate(660 + 600) < 0.01, "what nobody asks for any more fades: {}", rate(1260));
    assert_eq!(l1.peek("k").unwrap().accesses(), 11 * 120);
}

#[test]
fn the_hottest_are_known_over_a_refill() {
    let (rig, l1) = (Rig::new(100), layer());
    for (i, key) in ["a", "b", "c", "d"].into_iter().enumerate() {
        l1.admit(&rig.feed, key, candidate(rig.v(100), &[])).unwrap();
        (0..i).for_each(|_| drop(l1.get(&rig.feed, key, &ask())));
    }
    l1.admit(&rig.feed, "c", candidate(rig.v(100), &[])).unwrap();
    let hottest: Vec<_> = l1.hottest(2).into_iter().map(|(key, held)| (key.to_string(), held.accesses())).collect();
    assert_eq!(hottest, [("d".to_owned(), 3), ("c".to_owned(), 2)]);
    assert_eq!((l1.hottest(10).len(), l1.hottest(0).len()), (4, 0));
}

/// By the short way, whether a hit goes by it.
fn goes_short(l1: &L1, rig: &Rig, key: &str) -> bool {
    let held = l1.peek(key).unwrap();
    judge::unmoved(rig.feed.pulse(), &held, &ask()).is_some()
}

#[test]
fn a_copy_that_was_found_clean_is_not_walked_over_again() {
    let (mut rig, l1) = (Rig::new(100), layer());
    l1.admit(&rig.feed, "k", candidate(rig.v(100), &["p:1"])).unwrap();
    assert!(!goes_short(&l1, &rig, "k"), "nobody has looked yet");
    expect(&l1, &rig, "k", "hit 100");
    assert!(goes_short(&l1, &rig, "k"));
    // What nobody holds moves nothing; the position goes on.
    rig.apply(110, &["q:1", "p:2"], &["r"]).advance(110).look();
    assert!(goes_short(&l1, &rig, "k"));
    expect(&l1, &rig, "k", "hit 110");
    assert_eq!(l1.peek("k").unwrap().accesses(), 2, "both ways count");
    // What another copy holds moves something.
    l1.admit(&rig.feed, "other", candidate(rig.v(110), &["q:1"])).unwrap();
    rig.apply(120, &["q:1"], &[]).look();
    assert!(!goes_short(&l1, &rig, "k"));
    expect(&l1, &rig, "k", "hit 120");
    assert!(goes_short(&l1, &rig, "k"));
    // So does a family, a floor, a feed that is silent.
    rig.apply(130, &[], &["q:*"]).look();
    assert!(!goes_short(&l1, &rig, "k"));
    expect(&l1, &rig, "k", "hit 130");
    rig.disconnect();
    assert!(!goes_short(&l1, &rig, "k"));
    expect(&l1, &rig, "k", "miss NotLive held");
    rig.advance(135).look();
    assert!(!goes_short(&l1, &rig, "k"));
    expect(&l1, &rig, "k", "hit 135");
    rig.apply(140, &[], &["*"]).look();
    expect(&l1, &rig, "k", "stale Bumped 100");
    assert!(!goes_short(&l1, &rig, "k"));
}

#[test]
fn the_short_way_asks_for_time_lag_and_commit() {
    let (mut rig, l1) = (Rig::new(100), layer());
    rig.behind(Duration::from_millis(300)).look();
    let mut page = candidate(rig.v(100), &["p:1"]);
    page.fresh_until = Some(rig.looked() + Duration::from_secs(10));
    l1.admit(&rig.feed, "k", page).unwrap();
    let at = |ms: u64, lag: u64, at_least: Option<u64>| {
        let at_least = at_least.map(|lsn| AtLeast::from(Lsn(lsn)));
        let (now, max_lag) = (rig.looked() + Duration::from_millis(ms), Duration::from_millis(lag));
        name(&l1.get(&rig.feed, "k", &Ask { now, max_lag, at_least }))
    };
    assert_eq!(at(0, 300, None), "hit 100");
    assert!(judge::unmoved(rig.feed.pulse(), &l1.peek("k").unwrap(), &ask()).is_some());
    for (ms, lag, at_least, expected) in [
        (0, 300, None, "hit 100"),
        (0, 299, None, "miss Lag held"),
        (701, 1000, None, "miss Lag held"),
        (9_999, 60_000, None, "hit 100"),
        (10_000, 60_000, None, "stale Past 100"),
        (61_000, 600_000, None, "miss Expired held"),
        (0, 1000, Some(100), "hit 100"),
        (0, 1000, Some(101), "miss AtLeast held"),
    ] {
        assert_eq!(at(ms, lag, at_least), expected, "{ms} {lag} {at_least:?}");
    }
}

/// The walk was over when the bump came, and the mark was made after it.
#[test]
fn a_mark_is_of_what_was_walked_over() {
    let (mut rig, l1) = (Rig::new(100), layer());
    l1.admit(&rig.feed, "k", candidate(rig.v(100), &["p:1"])).unwrap();
    let (feed, reader) = (rig.feed.clone(), l1.clone());
    let bump = move |_| {
        rig.apply(110, &["p:1"], &[]).look();
    };
    let first = interleave::with(bump, || name(&reader.get(&feed, "k", &ask())));
    assert_eq!(first, "hit 100", "so it was");
    assert_eq!(name(&l1.get(&feed, "k", &ask())), "miss Bumped held");
}

/// The mark of one feed says nothing to another, whatever their positions are.
#[test]
fn a_mark_is_of_one_feed() {
    let (rig, other, l1) = (Rig::new(100), Rig::new(100), layer());
    l1.admit(&rig.feed, "k", candidate(rig.v(100), &["p:1"])).unwrap();
    expect(&l1, &rig, "k", "hit 100");
    expect(&l1, &other, "k", "miss Revalidate held");
}

#[test]
fn a_copy_is_found_with_the_moment_of_the_call() {
    let (rig, l1) = (Rig::new(100), layer());
    l1.admit(&rig.feed, "k", candidate(rig.v(100), &[])).unwrap();
    let first = l1.find("k").unwrap().1;
    std::thread::sleep(Duration::from_millis(2));
    let before = Instant::now();
    // What a look at a copy leaves is no moment of a later call.
    assert!(l1.peek("k").is_some() && l1.find("none").is_none());
    std::thread::sleep(Duration::from_millis(2));
    let after = Instant::now();
    let found = l1.find("k").unwrap().1;
    assert!(first < before && found >= after && found <= Instant::now(), "{found:?}");
}

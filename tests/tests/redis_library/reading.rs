//! What `cachetag_get` and `cachetag_peek` answer.

use crate::cache::{Cache, Got, Put, got, pause};
use crate::server::Reply;

#[test]
fn a_hit_carries_payload_token_and_age() {
    let mut c = Cache::open();
    let token = c.get("k", &[]).token;
    assert_eq!(token, c.v(100));
    c.put("k", "hello", &token, &["product:42", "category:7"], &[]);
    pause(20);
    let hit = c.get("k", &[]);
    assert_eq!((hit.state.as_str(), hit.payload.as_deref()), ("hit", Some(&b"hello"[..])));
    assert_eq!(hit.token, c.v(100));
    assert!((20..10_000).contains(&hit.age), "{}", hit.age);
}

#[test]
fn payloads_are_any_bytes_and_empty_is_not_absent() {
    let mut c = Cache::open();
    let (token, all) = (c.v(100), (0..=255u8).cycle().take(70_000).collect::<Vec<_>>());
    let args: [&[u8]; 9] =
        [b"FCALL", b"cachetag_put", b"1", b"{ct}:e:bin", &all, token.as_bytes(), b"60000", b"TAGS", b"0"];
    c.con.ok(&args);
    assert_eq!(c.get("bin", &[]).payload, Some(all));
    c.put("empty", "", &token, &[], &[]);
    assert_eq!(c.get("empty", &[]).payload, Some(vec![]));
}

#[test]
fn a_negative_entry_is_a_hit_without_payload() {
    let mut c = Cache::open();
    let token = c.v(100);
    assert_eq!(c.put("none", "", &token, &["product:1"], &["ABSENT"]), Put::Stored(token.clone()));
    let hit = c.get("none", &[]);
    assert_eq!((hit.state.as_str(), hit.payload.as_deref(), hit.lease.as_str()), ("hit", None, ""));
    assert!(hit.age >= 0);
    c.apply(110, &["product:1"], &[]);
    assert_eq!(c.state("none"), "miss");
    c.advance(110);
    c.fill("none", 110, &["product:1"]);
    assert_eq!(c.get("none", &[]).payload.as_deref(), Some(&b"none"[..]), "a value in place of the absence");
}

#[test]
fn a_miss_gives_one_lease_at_a_time() {
    let mut c = Cache::open();
    let first = c.get("k", &[]);
    assert_eq!(first.state, "miss");
    assert_eq!(first.lease.len(), 20);
    assert_eq!(c.get("k", &[]).state, "wait");
    let other = c.get("other", &[]);
    assert!(
        other.state == "miss" && !other.lease.is_empty() && other.lease != first.lease,
        "leases are per key: {other:?}"
    );
    let without = c.get("k", &["NOLEASE"]);
    assert_eq!((without.state.as_str(), without.lease.as_str()), ("miss", ""));
    let ttl = c.con.ok(&["PTTL", "{ct}:l:k"]);
    assert!(matches!(ttl, Reply::Int(ms) if (50_000..=60_000).contains(&ms)), "lease_ms of claim: {ttl:?}");

    c.put("k", "v", &first.token, &[], &["LEASE", &first.lease]);
    assert_eq!(c.value("l:k"), None, "put frees the lease");
}

#[test]
fn a_lease_is_freed_by_refusals_not_by_errors_or_strangers() {
    let mut c = Cache::open();
    let first = c.get("k", &[]);
    c.apply(110, &["product:1"], &[]);
    c.put("k", "v", &first.token, &[], &["LEASE", "someone-else"]);
    c.delete("e:k");
    assert_eq!(c.get("k", &[]).state, "wait", "another's id frees nothing");
    c.try_put("k", "v", &first.token, "soon", &[], &["LEASE", &first.lease]).unwrap_err();
    assert_eq!(c.get("k", &[]).state, "wait", "nor does a malformed call");
    let refusal = c.put("k", "v", &first.token, &["product:1"], &["LEASE", &first.lease]);
    assert!(matches!(refusal, Put::Refused(..)));
    let next = c.get("k", &[]);
    assert!(next.state == "miss" && next.lease != first.lease, "the next reader can try: {next:?}");
}

#[test]
fn a_lease_runs_out() {
    let mut c = Cache::open();
    c.daemon("cachetag_claim", &["daemon", "source", "3600000", "40"]).unwrap();
    assert_eq!(c.get("k", &[]).state, "miss");
    assert_eq!(c.get("k", &[]).state, "wait");
    pause(60);
    assert_eq!(c.get("k", &[]).state, "miss");
    c.con.ok(&["HDEL", "{ct}:w", "lease_ms"]);
    c.get("default", &[]);
    assert!(matches!(c.con.ok(&["PTTL", "{ct}:l:default"]), Reply::Int(ms) if (5_000..=10_000).contains(&ms)));
}

#[test]
fn exactly_one_of_fifty_gets_the_lease() {
    let c = Cache::open();
    for round in 0..5 {
        let key = format!("{{ct}}:e:hot{round}");
        let start = std::sync::Barrier::new(50);
        let replies: Vec<Got> = std::thread::scope(|scope| {
            let callers: Vec<_> = (0..50)
                .map(|_| {
                    scope.spawn(|| {
                        let mut con = c.server.connect();
                        start.wait();
                        got(&con.ok(&["FCALL", "cachetag_get", "1", &key]))
                    })
                })
                .collect();
            callers.into_iter().map(|t| t.join().unwrap()).collect()
        });
        assert_eq!(replies.iter().filter(|g| g.state == "miss" && !g.lease.is_empty()).count(), 1);
        assert_eq!(replies.iter().filter(|g| g.state == "wait").count(), 49);
    }
}

#[test]
fn past_its_fresh_time_an_entry_is_stale() {
    let mut c = Cache::open();
    let token = c.v(100);
    c.put("k", "v", &token, &["product:1"], &["FRESH", "30"]);
    assert_eq!(c.get("k", &[]).state, "hit");
    pause(50);
    let first = c.get("k", &[]);
    assert_eq!((first.state.as_str(), first.payload.as_deref(), first.lease.len()), ("stale", Some(&b"v"[..]), 20));
    let second = c.get("k", &[]);
    assert_eq!(
        (second.state.as_str(), second.lease.as_str()),
        ("stale", ""),
        "one caller refreshes, the others are served"
    );
    c.put("k", "w", &token, &["product:1"], &["FRESH", "60000", "LEASE", &first.lease]);
    assert_eq!(c.get("k", &[]).state, "hit");
}

#[test]
fn softly_bumped_entries_are_stale_until_refilled() {
    let mut c = Cache::open();
    for (key, tags) in
        [("one", &["product:1"][..]), ("family", &["product:*"]), ("all", &["*"]), ("other", &["category:1"])]
    {
        c.fill(key, 100, tags);
    }
    c.apply(110, &[], &["product:1"]);
    for (key, state) in [("one", "stale"), ("family", "stale"), ("all", "stale"), ("other", "hit")] {
        assert_eq!(c.state(key), state, "{key}");
    }
    c.advance(110);
    c.fill("one", 110, &["product:1"]);
    assert_eq!(c.state("one"), "hit");
    c.apply(120, &["product:1"], &[]);
    assert_eq!(c.state("family"), "miss", "a hard bump after a soft one");
    c.fill("other", 110, &["category:1"]);
    c.apply(130, &[], &["category:*"]);
    assert_eq!(c.state("other"), "stale", "a whole family, softly");
}

#[test]
fn a_soft_bump_of_everything_leaves_entries_stale() {
    let mut c = Cache::open();
    c.fill("k", 100, &["product:1"]);
    c.fill("untagged", 100, &[]);
    c.apply(110, &[], &["*"]);
    assert_eq!(c.w("soft_floor"), Some(c.v(110)));
    assert_eq!((c.state("k"), c.state("untagged")), ("stale".into(), "stale".into()));
    c.advance(110);
    c.fill("k", 110, &["product:1"]);
    assert_eq!(c.state("k"), "hit");
}

#[test]
fn a_bump_of_everything_raises_the_floor() {
    let mut c = Cache::open();
    c.fill("k", 100, &["product:1"]);
    c.fill("untagged", 100, &[]);
    c.apply(110, &["*"], &[]);
    assert_eq!(c.w("floor"), Some(c.v(110)));
    assert_eq!((c.state("k"), c.state("untagged")), ("miss".into(), "miss".into()));
}

#[test]
fn bypass_when_redis_cannot_vouch() {
    let mut c = Cache::open();
    c.fill("k", 100, &["product:1"]);
    let now = c.now();
    c.fresh_at(now - 5_000);
    assert_eq!(c.get("k", &["MAXLAG", "4000"]).state, "bypass");
    assert_eq!(c.get("k", &["MAXLAG", "60000"]).state, "hit");
    assert_eq!(c.get("k", &[]).state, "hit", "max_lag of claim is an hour");
    c.daemon("cachetag_claim", &["daemon", "source", "1000"]).unwrap();
    assert_eq!(c.get("k", &[]).state, "bypass", "now it is a second");
    assert_eq!(c.get("k", &["MAXLAG", "60000"]).state, "hit");
    c.fresh_at(now + 600_000);
    assert_eq!(c.get("k", &["MAXLAG", "1000000000"]).state, "bypass", "a clock that went back");
    c.reset(200);
    assert_eq!(c.get("k", &[]).state, "bypass", "no watermark yet");
    c.delete("w");
    assert_eq!(c.get("k", &[]).state, "bypass", "no state at all");
    assert_eq!(c.value("l:k"), None, "and never a lease");
}

#[test]
fn a_damaged_state_is_bypassed() {
    for (field, value) in [("floor", ""), ("floor", "zzz"), ("watermark", ""), ("fresh_at", "soon"), ("max_lag", "x")] {
        let mut c = Cache::open();
        c.fill("k", 100, &[]);
        assert_eq!(c.state("k"), "hit");
        c.con.ok(&["HSET", "{ct}:w", field, value]);
        assert_eq!(c.state("k"), "bypass", "{field} = {value:?}");
        c.con.ok(&["HDEL", "{ct}:w", field]);
        assert_eq!(c.state("k"), "bypass", "no {field}");
    }
}

#[test]
fn at_least_asks_for_a_commit() {
    let mut c = Cache::open();
    c.fill("k", 100, &["product:1"]);
    let raised = c.v(150);
    c.put("ahead", "v", &raised, &["product:1"], &[]);
    let state = |c: &mut Cache, key: &str, at_least: &str| c.get(key, &["ATLEAST", at_least, "NOLEASE"]).state;
    for (at_least, k, ahead) in
        [("0/64", "hit", "hit"), ("0/65", "miss", "hit"), ("0/96", "miss", "hit"), ("0/97", "miss", "miss")]
    {
        assert_eq!(state(&mut c, "k", at_least), k, "k {at_least}");
        assert_eq!(state(&mut c, "ahead", at_least), ahead, "ahead {at_least}");
    }
    for (lsn, k) in [(100, "hit"), (101, "miss")] {
        let at_least = c.v(lsn);
        assert_eq!(state(&mut c, "k", &at_least), k);
    }
    c.apply(101, &["category:1"], &[]);
    c.advance(101);
    let at_least = c.v(101);
    assert_eq!(state(&mut c, "k", &at_least), "hit", "the watermark covers it");
    assert_eq!(c.get("k", &["ATLEAST", "FFFFFFFF/FFFFFFFF"]).lease.len(), 20, "a miss like any other");
}

/// A promoted server's positions may lie before those of the old one: until the state is of its timeline, none of them is covered.
#[test]
fn at_least_of_a_timeline_that_is_not_met_is_a_miss() {
    let mut c = Cache::open();
    c.fill("k", 100, &["product:1"]);
    let state = |c: &mut Cache, at_least: &str| c.get("k", &["ATLEAST", at_least, "NOLEASE"]).state;
    for (source, at_least, expected) in [
        ("7312/3/shop/cachetag", "3@0/64", "hit"),
        ("7312/3/shop/cachetag", "2@0/64", "hit"),
        ("7312/3/shop/cachetag", "4@0/1", "miss"),
        ("7312/3/shop/cachetag", "3@0/65", "miss"),
        ("elsewhere", "1@0/1", "miss"),
        ("elsewhere", "0/1", "hit"),
        ("a/b/c/d", "1@0/1", "miss"),
    ] {
        c.con.ok(&["HSET", "{ct}:w", "source", source]);
        assert_eq!(state(&mut c, at_least), expected, "{at_least} of {source}");
        let version = c.v(100);
        let (timeline, place) = at_least.split_once('@').unwrap_or(("", at_least));
        if place == "0/64" {
            assert_eq!(state(&mut c, &format!("{timeline}@{version}")), expected);
        }
    }
    let explained = c.explain("k", &["ATLEAST", "9@0/1"]);
    assert_eq!(explained.field("verdict").as_deref(), Some("miss"));
    assert!(explained.field("reason").unwrap().contains("timeline 9"), "{explained:?}");
    c.con.ok(&["HDEL", "{ct}:w", "source"]);
    assert_eq!(state(&mut c, "1@0/1"), "miss");
}

#[test]
fn at_least_of_another_epoch_compares_epoch_and_lsn_apart() {
    let mut c = Cache::open();
    let (old_low, old_high) = (c.v(90), c.v(5_000));
    c.reset(100);
    c.advance(100);
    c.fill("k", 100, &[]);
    let later = format!("{:010}.{:020}", c.epoch.parse::<u64>().unwrap() + 7, 1);
    let state = |c: &mut Cache, at_least: &str| c.get("k", &["ATLEAST", at_least, "NOLEASE"]).state;
    assert_eq!(state(&mut c, &old_low), "hit");
    assert_eq!(state(&mut c, &old_high), "miss", "a commit of the old epoch that this one has not reached");
    assert_eq!(state(&mut c, &later), "miss", "an epoch that this Redis does not know");
}

#[test]
fn lsns_are_converted_exactly() {
    for lsn in [
        0x64u64,
        0xFFFF_FFFF,
        0x1_0000_0000,
        0x16_B374_D848,
        (1 << 53) + 1,
        0x7FFF_FFFF_FFFF_FFFF,
        u64::MAX - 1,
        0xFFFF_FFFF_0000_0001,
    ] {
        let mut c = Cache::open();
        c.reset(lsn);
        c.advance(lsn);
        c.fill("k", lsn, &[]);
        for (asked, state) in [(lsn - 1, "hit"), (lsn, "hit"), (lsn + 1, "miss")] {
            for text in
                [format!("{:X}/{:X}", asked >> 32, asked as u32), format!("{:x}/{:08x}", asked >> 32, asked as u32)]
            {
                assert_eq!(c.get("k", &["ATLEAST", &text, "NOLEASE"]).state, state, "{text} at {lsn:X}");
            }
        }
    }
}

/// Which entry falls by which bump: the tags of the entry, the tag bumped, and whether it falls.
#[test]
fn families_work_in_both_directions() {
    let cases = [
        ("product:42", "product:42", true),
        ("product:42", "product:43", false),
        ("product:42", "product:420", false),
        ("product:42", "product:42:a", false),
        ("product:42:a", "product:42", false),
        ("product:42", "product", false),
        ("product:42", "product:*", true),
        ("product", "product", true),
        ("product", "product:*", true),
        ("product", "product:42", false),
        ("product:", "product:*", true),
        ("product:*", "product:42", true),
        ("product:*", "product:42:a", true),
        ("product:*", "product", true),
        ("product:*", "product:*", true),
        ("product:*", "products", false),
        ("product:*", "products:1", false),
        ("product:*", "products:*", false),
        ("product:42", "products:*", false),
        ("product:%2A", "product:*", true),
        ("product:*", "product:%2A", true),
        ("product:%2A", "product:42", false),
        ("*", "product:42", true),
        ("*", "product:*", true),
        ("*", "*", true),
        ("product:42", "*", true),
        ("product:*", "*", true),
    ];
    for registered in [true, false] {
        for soft in [false, true] {
            let mut c = Cache::open();
            let mut lsn = 100;
            for (i, (tag, bumped, falls)) in cases.into_iter().enumerate() {
                let key = format!("k{i}");
                c.advance(lsn);
                c.fill(&key, lsn, &[tag]);
                lsn += 10;
                let (hard, softly): (&[&str], &[&str]) = if soft { (&[], &[bumped]) } else { (&[bumped], &[]) };
                if registered {
                    c.apply(lsn, hard, softly);
                    let fallen = if soft { "stale" } else { "miss" };
                    assert_eq!(c.state(&key), if falls { fallen } else { "hit" }, "{tag} after a bump of {bumped}");
                } else {
                    // The keys were lost before the bump: the log must tell the same.
                    let keys = c.con.ok(&["HGET", &format!("{{ct}}:e:{key}"), "keys"]).text();
                    keys.lines().for_each(|key| c.delete(key));
                    c.apply(lsn, hard, softly);
                    let token = c.v(lsn - 10);
                    let refill = c.put(&key, "again", &token, &[tag], &[]);
                    assert_eq!(
                        refill == Put::Stored(token),
                        !falls,
                        "{tag} after a logged bump of {bumped}: {refill:?}"
                    );
                }
            }
        }
    }
}

#[test]
fn an_absent_or_damaged_tag_is_a_miss() {
    let tags = ["product:42", "category:*", "*"];
    for suffix in ["t:product:42", "t:product:*", "t:category:*", "a:category", "a:*"] {
        let mut c = Cache::open();
        c.fill("k", 100, &tags);
        assert_eq!(c.state("k"), "hit");
        let key = format!("{{ct}}:{suffix}");
        let good = c.value(suffix).unwrap();
        let blank = " ".repeat(31);
        let short = &good[..30];
        let damaged = [
            String::new(),
            "0".into(),
            blank.clone(),
            short.into(),
            good.replace('.', "0"),
            good.replace('.', "-"),
            format!("{good}."),
            format!("{good} "),
            format!("{good} {blank}"),
            format!("{good}.{good}"),
            format!("{good} {short} "),
        ];
        for value in &damaged {
            c.con.ok(&["SET", &key, value]);
            assert_eq!(c.state("k"), "miss", "{suffix} = {value:?}");
        }
        c.con.ok(&["SET", &key, &good]);
        assert_eq!(c.state("k"), "hit");
        c.con.ok(&["DEL", &key]);
        assert_eq!(c.state("k"), "miss", "no {suffix}");
        c.con.ok(&["RPUSH", &key, "x"]);
        assert_eq!(c.state("k"), "miss", "a list at {suffix}");
        // A refill mends it, whatever is there.
        c.fill("k", 100, &tags);
        assert_eq!(c.state("k"), "hit");
    }
}

#[test]
fn a_damaged_entry_is_a_miss() {
    for field in ["payload", "as_of", "keys", "put_at", "expires_at", "kind"] {
        let mut c = Cache::open();
        c.fill("k", 100, &["product:42"]);
        c.con.ok(&["HDEL", "{ct}:e:k", field]);
        assert_eq!(c.state("k"), "miss", "no {field}");
        c.fill("k", 100, &["product:42"]);
        assert_eq!(c.state("k"), "hit");
        if field != "payload" {
            c.con.ok(&["HSET", "{ct}:e:k", field, "t:x"]);
            assert_eq!(c.state("k"), "miss", "nonsense in {field}");
        }
    }
    let mut c = Cache::open();
    c.con.ok(&["HSET", "{ct}:e:k", "some", "thing"]);
    assert_eq!(c.state("k"), "miss");
    c.fill("soft", 100, &[]);
    c.con.ok(&["HSET", "{ct}:e:soft", "fresh_until", "soon", "cost", "much"]);
    assert_eq!(c.state("soft"), "stale", "an unreadable FRESH time has passed");
}

#[test]
fn an_entry_ends_with_its_ttl_even_if_its_key_stays() {
    let mut c = Cache::open();
    let token = c.v(100);
    c.try_put("k", "v", &token, "40", &[], &[]).unwrap();
    c.con.ok(&["PERSIST", "{ct}:e:k"]);
    assert_eq!(c.state("k"), "hit");
    pause(60);
    assert_eq!(c.state("k"), "miss");
}

#[test]
fn entries_below_the_floor_or_of_another_epoch_are_misses() {
    let mut c = Cache::open();
    c.fill("k", 100, &["product:1"]);
    let dump = entry(&mut c, "k");
    c.reset(100);
    c.advance(100);
    assert_eq!(c.state("k"), "miss", "an earlier epoch");
    let later = format!("{:010}.{:020}", c.epoch.parse::<u64>().unwrap() + 7, 100);
    c.con.ok(&["HSET", "{ct}:e:k", "as_of", &later]);
    assert_eq!(c.state("k"), "miss", "a later epoch, which a restore brought back");
    let version = c.v(100);
    c.con.ok(&["HSET", "{ct}:e:k", "as_of", &version]);
    assert_eq!(c.state("k"), "hit");
    assert_eq!(dump.len(), 20);
}

fn entry(c: &mut Cache, key: &str) -> Vec<String> {
    c.con.ok(&["HGETALL", &format!("{{ct}}:e:{key}")]).texts()
}

#[test]
fn drop_removes_whatever_is_there() {
    let mut c = Cache::open();
    c.fill("k", 100, &["product:1"]);
    assert_eq!(c.con.ok(&["FCALL", "cachetag_drop", "1", "{ct}:e:k"]), Reply::Int(1));
    assert_eq!(c.con.ok(&["FCALL", "cachetag_drop", "1", "{ct}:e:k"]), Reply::Int(0));
    assert_eq!(c.state("k"), "miss");
    c.con.ok(&["SET", "{ct}:e:k", "a stranger's"]);
    let error = c.con.call(&["FCALL", "cachetag_get", "1", "{ct}:e:k"]).unwrap_err();
    assert!(
        error.starts_with("CACHETAG key \"{ct}:e:k\": WRONGTYPE") && error.ends_with("; cachetag_drop removes it"),
        "{error}"
    );
    assert_eq!(c.con.ok(&["FCALL", "cachetag_drop", "1", "{ct}:e:k"]), Reply::Int(1));
    assert_eq!(c.state("k"), "miss");
}

#[test]
fn peek_answers_as_get_does_and_writes_nothing() {
    let mut c = Cache::open();
    let token = c.v(100);
    c.fill("hit", 100, &["product:1"]);
    c.fill("soft", 100, &["category:1"]);
    c.put("absent", "", &token, &["product:1"], &["ABSENT"]);
    c.put("early", "v", &token, &[], &["COST", "1000000000000"]);
    c.apply(110, &[], &["category:1"]);
    let before = c.con.digest();
    for key in ["hit", "soft", "absent", "none", "early"] {
        let peeked = c.peek(key, &[]);
        assert!(peeked.lease.is_empty());
        let got = c.get(key, &["NOLEASE"]);
        assert_eq!((&peeked.state, &peeked.payload, &peeked.token), (&got.state, &got.payload, &got.token), "{key}");
    }
    assert_eq!(c.peek("hit", &["ATLEAST", "0/FFFF"]).state, "miss");
    assert_eq!(c.con.digest(), before, "not even get wrote anything");
}

//! What `cachetag_put` stores, registers and refuses.

use crate::cache::{Cache, Put, pause, refused};
use crate::server::{LIBRARY, Reply};

fn pttl(c: &mut Cache, suffix: &str) -> i64 {
    match c.con.ok(&["PTTL", &format!("{{ct}}:{suffix}")]) {
        Reply::Int(ms) => ms,
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_entry_registers_what_it_depends_on() {
    let mut c = Cache::open();
    let token = c.v(100);
    let tags = ["product:42", "category:*", "product:42", "*", "product:7"];
    assert_eq!(c.put("k", "v", &token, &tags, &["FRESH", "1000", "COST", "12"]), Put::Stored(token.clone()));
    let keys = ["t:product:42", "t:product:*", "t:category:*", "a:category", "a:*", "t:product:7"];
    for key in keys {
        assert_eq!(c.value(key), Some(token.clone()), "{key}");
        assert!(pttl(&mut c, key) > 600_000, "{key} outlives the entry");
    }
    let stored = c.con.ok(&["HGETALL", "{ct}:e:k"]);
    assert_eq!(stored.field("keys"), Some(keys.join("\n")));
    assert_eq!(stored.field("as_of"), Some(token.clone()));
    assert_eq!((stored.field("kind"), stored.field("cost")), (Some("value".into()), Some("12".into())));
    let at = |field| stored.field(field).unwrap().parse::<u64>().unwrap();
    assert_eq!((at("expires_at") - at("put_at"), at("fresh_until") - at("put_at")), (600_000, 1_000));
    let head = format!("{token} {} {} {} 12 value -", at("put_at"), at("expires_at"), at("fresh_until"));
    assert_eq!(stored.field("meta"), Some(format!("{head}\n{}", keys.join("\n"))), "all of it again, in one field");
    assert!((590_000..=600_000).contains(&pttl(&mut c, "e:k")));
    assert_eq!(c.con.ok(&["DBSIZE"]), Reply::Int(2 + keys.len() as i64), "the state, the entry and its tags");
}

#[test]
fn what_a_value_holds_comes_back_to_who_asks_for_it() {
    let mut c = Cache::open();
    let token = c.v(100);
    let stored = Put::Stored(token.clone());
    assert_eq!(c.put("k", "v", &token, &["product:42"], &["SEEN", "3@16/B374D848"]), stored);
    assert_eq!(c.put("bare", "v", &token, &["product:42"], &["SEEN", "16/B374D848"]), stored);
    assert_eq!(c.put("unknown", "v", &token, &["product:42"], &[]), stored);
    let mut get = |key: &str, options: &[&str]| {
        let key = format!("{{ct}}:e:{key}");
        c.con.ok(&[&["FCALL", "cachetag_get", "1", &key, "NOLEASE"], options].concat()).texts()
    };
    assert_eq!(get("k", &["SEEN"])[5..], ["3@16/B374D848"]);
    assert_eq!(get("bare", &["SEEN"])[5..], ["16/B374D848"]);
    assert_eq!(get("k", &["ATLEAST", "3@16/B374D848"])[0], "miss", "a session presents it as it is");
    assert_eq!(get("k", &[]).len(), 5, "who has not asked need not know of it");
    assert_eq!(get("unknown", &["SEEN"])[5..], [""]);
    assert_eq!(get("none", &["SEEN"])[5..], [""]);
    assert_eq!(get("k", &["SEEN", "ATLEAST", "9@0/1"])[5..], [""], "a miss");
    let meta = c.con.ok(&["HGETALL", "{ct}:e:k"]).field("meta").unwrap();
    assert!(meta.contains(" value 3@16/B374D848\n"), "{meta}");
}

#[test]
fn an_entry_without_tags_is_told_in_a_line() {
    let mut c = Cache::open();
    let token = c.v(100);
    assert_eq!(c.put("k", "", &token, &[], &["ABSENT"]), Put::Stored(token.clone()));
    let stored = c.con.ok(&["HGETALL", "{ct}:e:k"]);
    let (put_at, expires_at) = (stored.field("put_at").unwrap(), stored.field("expires_at").unwrap());
    assert_eq!(stored.field("meta"), Some(format!("{token} {put_at} {expires_at} - 0 absent -")));
}

#[test]
fn a_lease_is_given_back_by_who_holds_it() {
    let mut c = Cache::open();
    let release = |c: &mut Cache, id: &str| c.con.ok(&["FCALL", "cachetag_release", "1", "{ct}:e:k", id]);
    let first = c.get("k", &[]);
    assert_eq!((first.state.as_str(), c.get("k", &[]).state.as_str()), ("miss", "wait"));
    assert_eq!(release(&mut c, "another"), Reply::Int(0));
    assert_eq!(c.get("k", &[]).state, "wait");
    assert_eq!(release(&mut c, &first.lease), Reply::Int(1));
    assert_eq!(release(&mut c, &first.lease), Reply::Int(0));
    let second = c.get("k", &[]);
    assert!(second.state == "miss" && second.lease.len() == 20 && second.lease != first.lease);
    assert_eq!(release(&mut c, &first.lease), Reply::Int(0), "the next one's is not touched");
    c.con.ok(&["DEL", "{ct}:l:k"]);
    c.con.ok(&["RPUSH", "{ct}:l:k", "x"]);
    assert_eq!(release(&mut c, &second.lease), Reply::Int(0), "a stranger's key neither");
}

#[test]
fn a_later_entry_lengthens_the_life_of_its_tags() {
    let mut c = Cache::open();
    let token = c.v(100);
    c.try_put("short", "v", &token, "1000", &["product:1"], &[]).unwrap();
    assert!((60_000..=61_000).contains(&pttl(&mut c, "t:product:1")));
    c.try_put("long", "v", &token, "86400000", &["product:1"], &[]).unwrap();
    for key in ["t:product:1", "t:product:*"] {
        assert!(pttl(&mut c, key) > 86_400_000, "{key}");
    }
    c.try_put("short", "v", &token, "1000", &["product:1"], &[]).unwrap();
    assert!(pttl(&mut c, "t:product:1") > 86_400_000, "and never shortens it");
    c.con.ok(&["PERSIST", "{ct}:t:product:1"]);
    c.try_put("short", "v", &token, "1000", &["product:1"], &[]).unwrap();
    assert_eq!(pttl(&mut c, "t:product:1"), -1, "nor takes an eternal one back");
    c.apply(110, &["product:1"], &[]);
    assert!(pttl(&mut c, "t:product:*") > 86_400_000, "bumps keep it");
}

#[test]
fn refusals_come_in_order() {
    let mut c = Cache::open();
    c.fill("k", 100, &["product:1"]);
    c.apply(110, &["product:1"], &[]);
    let (old, new) = (c.v(100), c.v(110));
    assert_eq!(c.put("k", "v", "", &[], &[]), refused("bypass", ""), "the token of a bypass");
    assert_eq!(c.put("k", "v", &old, &["x:1", "product:1"], &[]), refused("bumped", "product:1"));
    c.apply(120, &["*"], &[]);
    assert_eq!(c.put("k", "v", &new, &["product:1"], &[]), refused("floor", ""));
    let older = c.v(120);
    c.reset(130);
    assert_eq!(c.put("k", "v", &older, &["product:1"], &[]), refused("bypass", ""), "no watermark yet");
    c.advance(130);
    assert_eq!(c.put("k", "v", &older, &["product:1"], &[]), refused("epoch", ""));
    c.delete("w");
    assert_eq!(c.put("k", "v", &older, &[], &[]), refused("bypass", ""), "no state");
}

#[test]
fn tokens_of_other_epochs_are_refused_in_both_directions() {
    let mut c = Cache::open();
    let earlier = c.v(1_000_000);
    c.reset(100);
    c.advance(100);
    let later = format!("{:010}.{:020}", c.epoch.parse::<u64>().unwrap() + 1, 100);
    for token in [earlier, later] {
        assert_eq!(c.put("k", "v", &token, &[], &[]), refused("epoch", ""));
    }
}

#[test]
fn soft_bumps_after_the_token_refuse_too() {
    let mut c = Cache::open();
    c.fill("k", 100, &["product:1"]);
    c.apply(110, &[], &["product:1"]);
    let token = c.v(100);
    assert_eq!(c.put("k", "v", &token, &["product:1"], &[]), refused("bumped", "product:1"));
    assert_eq!(c.put("k", "v", &token, &["product:*"], &[]), refused("bumped", "product:*"), "and in the log");
    c.advance(110);
    c.fill("k", 110, &["product:1"]);
    c.apply(120, &[], &["*"]);
    let token = c.v(110);
    assert_eq!(c.put("k", "v", &token, &["product:2"], &[]), refused("bumped", "*"));
}

#[test]
fn an_unregistered_tag_is_looked_for_in_the_log() {
    let mut c = Cache::open();
    c.apply(110, &["category:1"], &[]);
    c.apply(120, &["product:1"], &["order:1"]);
    c.apply(130, &["category:2"], &[]);
    let token = c.v(100);
    for (tag, bumped) in [
        ("product:1", true),
        ("order:1", true),
        ("product:*", true),
        ("order:*", true),
        ("product:2", false),
        ("shop:*", false),
    ] {
        let reply = c.put(tag, "v", &token, &[tag], &[]);
        if bumped {
            assert_eq!(reply, refused("bumped", tag));
            assert_eq!(c.con.ok(&["EXISTS", &format!("{{ct}}:e:{tag}")]), Reply::Int(0));
        } else {
            assert_eq!(reply, Put::Stored(token.clone()), "{tag}");
            assert_eq!(c.value(&format!("t:{tag}")), Some(token.clone()), "registered at as_of");
        }
    }
    assert_eq!(c.put("all", "v", &token, &["*"], &[]), refused("bumped", "*"));
    assert_eq!(c.value("t:product:1"), Some(c.v(130)), "registered at applied");
    assert!(pttl(&mut c, "t:product:1") > 600_000);
    c.advance(130);
    c.fill("product:1", 130, &["product:1"]);
    assert_eq!(c.state("product:1"), "hit", "the next try succeeds");
    let after = c.v(120);
    c.con.ok(&["DEL", "{ct}:t:order:1", "{ct}:t:order:*"]);
    assert_eq!(
        c.put("order", "v", &after, &["order:1"], &[]),
        Put::Stored(after),
        "what the log tells from the token on is enough"
    );
}

/// The fourth hole of the model: W is 100, applied 120; the bump at 110 is forgotten by the log. Registered at W, the next fill under a token
/// of W would be taken.
#[test]
fn what_the_log_forgot_is_registered_at_applied() {
    let mut c = Cache::with_library(&LIBRARY.replace("local LOG_RECORDS = 10000", "local LOG_RECORDS = 2"));
    let token = c.v(100);
    for lsn in [110, 111, 112, 120] {
        c.apply(lsn, if lsn == 110 { &["product:1"] } else { &["category:1"] }, &[]);
    }
    assert!(c.w("log_from").unwrap() >= c.v(110));
    assert_eq!(c.put("k", "v", &token, &["product:1", "shop:1"], &[]), refused("unregistered", "product:1"));
    for key in ["t:product:1", "t:product:*", "t:shop:1"] {
        assert_eq!(c.value(key), Some(c.v(120)), "{key}");
    }
    assert_eq!(c.put("k", "v", &token, &["product:1"], &[]), refused("bumped", "product:1"), "still");
    c.advance(120);
    c.fill("k", 120, &["product:1", "shop:1"]);
}

#[test]
fn a_log_that_was_tampered_with_proves_nothing() {
    for command in
        [&["DEL", "{ct}:log"][..], &["XTRIM", "{ct}:log", "MAXLEN", "1"], &["RENAME", "{ct}:log", "{ct}:gone"]]
    {
        let mut c = Cache::open();
        c.apply(110, &["product:1"], &[]);
        c.apply(120, &["category:1"], &[]);
        c.con.ok(command);
        let token = c.v(100);
        assert_eq!(c.put("k", "v", &token, &["shop:1"], &[]), refused("unregistered", "shop:1"), "{command:?}");
        c.apply(130, &["category:1"], &[]);
        assert_eq!(c.w("log_from"), Some(c.v(120)), "the next batch begins it anew, complete after 120");
        assert_eq!(c.w("log_len"), Some("1".into()));
        assert_eq!(c.put("k", "v", &token, &["depot:2"], &[]), refused("unregistered", "depot:2"));
        c.fill("k", 120, &["order:3"]);
        assert_eq!(c.put("k", "v", &token, &["category:1"], &[]), refused("unregistered", "category:1"));
    }
    let mut c = Cache::open();
    c.con.ok(&["SET", "{ct}:log", "a stranger's"]);
    c.apply(110, &["product:1"], &[]);
    assert_eq!(c.con.ok(&["XLEN", "{ct}:log"]), Reply::Int(1));
    c.con.ok(&["DEL", "{ct}:log"]);
    c.con.ok(&["XADD", "{ct}:log", "999999999-0", "x", "y"]);
    c.apply(120, &["product:1"], &[]);
    assert_eq!(c.w("log_from"), Some(c.v(110)), "a stranger's record that is ahead of ours");
}

#[test]
fn a_long_way_through_the_log_is_not_gone() {
    let mut c = Cache::open();
    for i in 1..=511 {
        c.apply(100 + i, &["category:1"], &[]);
    }
    let token = c.v(100);
    assert_eq!(c.put("k", "v", &token, &["product:1"], &[]), Put::Stored(token.clone()), "511 records");
    c.apply(612, &["category:1"], &[]);
    assert_eq!(c.put("k", "v", &token, &["product:2"], &[]), refused("unregistered", "product:2"), "512");

    let mut c = Cache::open();
    let long: Vec<String> = (0..1000).map(|i| format!("category:{i:0>250}")).collect();
    let long: Vec<&str> = long.iter().map(String::as_str).collect();
    let token = c.v(100);
    c.apply(110, &long, &[]);
    assert_eq!(c.put("k", "v", &token, &["product:1"], &[]), Put::Stored(token.clone()), "254 KiB");
    let many: Vec<String> = (0..50).map(|i| format!("shop:{i}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert_eq!(
        c.put("k", "v", &token, &many, &[]),
        refused("unregistered", "shop:0"),
        "too much text for so many tags"
    );
    c.apply(120, &long[..100], &[]);
    assert_eq!(c.put("k", "v", &token, &["product:2"], &[]), refused("unregistered", "product:2"), "279 KiB");
}

#[test]
fn registering_again_never_revives_an_older_entry() {
    let mut c = Cache::open();
    c.fill("old", 100, &["product:1"]);
    c.apply(110, &["product:1"], &[]);
    c.advance(110);
    assert_eq!(c.state("old"), "miss");
    c.con.ok(&["DEL", "{ct}:t:product:1", "{ct}:t:product:*"]);
    let token = c.v(100);
    assert_eq!(c.put("new", "v", &token, &["product:1"], &[]), refused("bumped", "product:1"));
    assert_eq!(c.state("old"), "miss");
    c.con.ok(&["DEL", "{ct}:t:product:1"]);
    c.fill("new", 110, &["product:1"]);
    assert_eq!((c.state("new"), c.state("old")), ("hit".into(), "miss".into()));
}

#[test]
fn a_raised_token_may_be_ahead_of_all_that_is_applied() {
    let mut c = Cache::open();
    c.fill("older", 100, &["product:1"]);
    let raised = c.v(150);
    assert_eq!(c.put("k", "v", &raised, &["product:1", "shop:1"], &[]), Put::Stored(raised.clone()));
    assert_eq!(c.value("t:shop:1"), Some(raised.clone()));
    c.apply(140, &["product:1", "shop:1"], &[]);
    assert_eq!((c.state("k"), c.state("older")), ("hit".into(), "miss".into()), "it had seen the commit at 140");
    assert_eq!(c.value("t:shop:1"), Some(raised), "a version never falls");
    c.apply(160, &["product:1"], &[]);
    assert_eq!(c.state("k"), "miss");
}

#[test]
fn an_entry_may_have_no_tags_or_thousands() {
    let mut c = Cache::open();
    c.fill("none", 100, &[]);
    c.apply(110, &["product:1"], &[]);
    c.advance(110);
    assert_eq!(c.state("none"), "hit");
    let tags: Vec<String> = (0..4097).map(|i| format!("f{i}:*")).collect();
    let tags: Vec<&str> = tags.iter().map(String::as_str).collect();
    c.fill("many", 110, &tags[..4096]);
    assert_eq!(c.state("many"), "hit");
    c.apply(120, &["f4095:x"], &[]);
    assert_eq!(c.state("many"), "miss", "the last of 8192 keys");
    let token = c.v(110);
    let error = c.try_put("k", "v", &token, "1000", &tags, &[]).unwrap_err();
    assert_eq!(error, "CACHETAG TAGS: 4097 tags, at most 4096; a family tag such as product:* stands for them all");
}

#[test]
fn versions_of_unknown_epochs_are_as_good_as_absent() {
    let mut c = Cache::open();
    c.fill("k", 100, &["product:1"]);
    let later = format!("{:010}.{:020}", c.epoch.parse::<u64>().unwrap() + 9, 5);
    for value in [later.clone(), format!("{} {later}", c.v(100))] {
        c.con.ok(&["SET", "{ct}:t:product:1", &value]);
        assert_ne!(c.state("k"), "hit");
        c.fill("k", 100, &["product:1"]);
        assert_eq!(c.state("k"), "hit", "mended by a fill");
        c.con.ok(&["SET", "{ct}:t:product:1", &value]);
        c.apply(c.applied + 10, &["product:1"], &[]);
        assert_eq!(c.value("t:product:1"), Some(c.v(c.applied)), "mended by a bump");
        c.advance(c.applied);
        c.reset(100);
        c.advance(100);
    }
}

#[test]
fn strangers_are_not_overwritten_and_nothing_is_registered_for_an_error() {
    let mut c = Cache::open();
    c.con.ok(&["SET", "{ct}:e:k", "a stranger's"]);
    let before = c.con.digest();
    let token = c.v(100);
    let error = c.try_put("k", "v", &token, "1000", &["product:1"], &[]).unwrap_err();
    assert!(error.starts_with("CACHETAG key \"{ct}:e:k\": WRONGTYPE"), "{error}");
    assert_eq!(c.con.digest(), before);
    c.con.ok(&["DEL", "{ct}:w"]);
    c.con.ok(&["SET", "{ct}:w", "x"]);
    let error = c.try_put("other", "v", &token, "1000", &["product:1"], &[]).unwrap_err();
    let remedy = "this key belongs to cachetag: delete it and restart the daemon";
    assert!(error.starts_with("CACHETAG key \"{ct}:w\": WRONGTYPE") && error.ends_with(remedy), "{error}");
}

#[test]
fn a_flush_between_miss_and_put_refuses() {
    let mut c = Cache::open();
    let token = c.get("k", &[]).token;
    c.con.ok(&["FLUSHALL"]);
    assert_eq!(c.put("k", "v", &token, &["product:1"], &[]), refused("bypass", ""));
    let epoch = c.epoch.clone();
    c.claim();
    pause(1_100); // Redis forgot the epoch: only the clock, or min_epoch, keeps the next one apart
    c.reset(100);
    assert!(c.epoch > epoch);
    c.advance(100);
    assert_eq!(c.put("k", "v", &token, &["product:1"], &[]), refused("epoch", ""));
}

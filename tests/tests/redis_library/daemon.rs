//! Claiming, applying, advancing and resetting.

use crate::cache::{Cache, Put, refused};
use crate::server::{LIBRARY, Reply, Server};

#[test]
fn claiming_registers_the_claimant_and_nothing_else() {
    let server = Server::start();
    let mut con = server.connect();
    let reply = con.ok(&["FCALL", "cachetag_claim", "1", "{ct}:w", "me", "here", "5000"]);
    let texts = reply.texts();
    assert_eq!(texts[..8], ["claimant", "me", "max_lag", "5000", "lease_ms", "10000", "version", "0.1.0"]);
    assert_eq!((reply.field("library"), reply.field("now_ms").map(|ms| ms.len())), (Some("0.1.0".into()), Some(13)));
    assert_eq!(texts.len(), 12);
    assert_eq!(con.ok(&["DBSIZE"]), Reply::Int(1));
    let state = con.ok(&["FCALL_RO", "cachetag_state", "1", "{ct}:w"]);
    assert_eq!(state.texts()[..8], texts[..8]);
    assert_eq!(con.ok(&["FCALL_RO", "cachetag_version", "0"]).text(), "0.1.0");
}

#[test]
fn a_claim_keeps_what_it_can_continue() {
    let mut c = Cache::open();
    c.fill("k", 100, &["product:1"]);
    let reply = c.daemon("cachetag_claim", &["second", "source", "7000", "300"]).unwrap();
    assert_eq!(reply.field("applied"), Some(c.v(100)));
    assert_eq!((reply.field("max_lag"), reply.field("lease_ms")), (Some("7000".into()), Some("300".into())));
    assert_eq!(c.state("k"), "hit");
}

#[test]
fn a_claim_from_another_source_ends_the_state() {
    let mut c = Cache::open();
    c.fill("k", 100, &["product:1"]);
    let token = c.v(100);
    let reply = c.daemon("cachetag_claim", &["second", "elsewhere", "3600000"]).unwrap();
    for field in ["applied", "watermark", "fresh_at"] {
        assert_eq!(reply.field(field), None, "{field}");
    }
    assert_eq!(reply.field("source"), Some("source".into()), "the claimant can see why");
    assert_eq!(c.state("k"), "bypass");
    assert_eq!(c.put("k", "v", &token, &[], &[]), refused("bypass", ""));
    let refusal = c.daemon("cachetag_advance", &["second", &token, &token, &token, "1"]).unwrap();
    assert_eq!(refusal.texts(), ["discontinuity", ""]);
    let reset = c.daemon("cachetag_reset", &["second", "elsewhere", "100", "0"]).unwrap().texts();
    assert!(reset[1] > token);
    assert_eq!(c.w("source"), Some("elsewhere".into()));
}

#[test]
fn former_claimants_are_fenced() {
    let mut c = Cache::open();
    let (at, next) = (c.v(100), c.v(110));
    c.daemon("cachetag_claim", &["second", "source", "1000"]).unwrap();
    let before = c.con.digest();
    for (function, args) in [
        ("cachetag_apply", vec!["daemon", &at, &next, &next, "1", "0", "product:1"]),
        ("cachetag_advance", vec!["daemon", &at, &next, &at, "1"]),
        ("cachetag_mark", vec!["daemon"]),
        ("cachetag_reset", vec!["daemon", "source", "100", "0"]),
    ] {
        assert_eq!(c.daemon(function, &args).unwrap().texts(), ["fenced", "second"], "{function}");
    }
    assert_eq!(c.con.digest(), before);
    let reply = c.daemon("cachetag_apply", &["second", &at, &next]).unwrap();
    assert_eq!(reply.list()[0].text(), "applied");
}

/// WAIT needs a write to wait for; this one leaves everything that counts as it is.
#[test]
fn a_mark_writes_and_changes_nothing_that_counts() {
    let mut c = Cache::open();
    let state = |c: &mut Cache| {
        let fields = c.con.ok(&["HGETALL", "{ct}:w"]).texts();
        fields.chunks(2).filter(|f| f[0] != "marked").map(|f| f.to_vec()).collect::<Vec<_>>()
    };
    let before = state(&mut c);
    let reply = c.daemon("cachetag_mark", &["daemon"]).unwrap();
    assert_eq!(reply.list()[0].text(), "applied");
    assert_eq!(state(&mut c), before);
    assert!(c.w("marked").is_some());
}

#[test]
fn a_call_that_continues_from_elsewhere_is_refused() {
    let mut c = Cache::open();
    let before = c.con.digest();
    let other_epoch = format!("{:010}.{:020}", c.epoch.parse::<u64>().unwrap() - 1, 100);
    for from in [c.v(99), c.v(101), other_epoch] {
        let to = format!("{}.{:020}", &from[..10], 200);
        for (function, rest) in [("cachetag_apply", [&*to, "0", "0"]), ("cachetag_advance", [&to, "1", ""])] {
            let args = match function {
                "cachetag_apply" => vec!["daemon", &from, &to, rest[0], rest[1], rest[2]],
                _ => vec!["daemon", &from, &to, "", "1"],
            };
            assert_eq!(
                c.daemon(function, &args).unwrap().texts(),
                ["discontinuity", &c.v(100)],
                "{function} from {from}"
            );
        }
    }
    assert_eq!(c.con.digest(), before);
    c.con.ok(&["FLUSHALL"]);
    let at = c.v(100);
    assert_eq!(c.daemon("cachetag_apply", &["daemon", &at, &at]).unwrap().texts(), ["discontinuity", ""]);
    assert_eq!(c.daemon("cachetag_mark", &["daemon"]).unwrap().texts(), ["discontinuity", ""]);
    assert_eq!(c.daemon("cachetag_advance", &["daemon", &at, &at, "", ""]).unwrap().texts(), ["discontinuity", ""]);
    assert_eq!(
        c.daemon("cachetag_reset", &["daemon", "source", "1", "0"]).unwrap().texts(),
        ["fenced", ""],
        "claim first"
    );
    assert_eq!(c.con.ok(&["DBSIZE"]), Reply::Int(0));
}

#[test]
fn applying_moves_the_registered_and_creates_nothing_else() {
    let mut c = Cache::open();
    c.fill("k", 100, &["product:1", "category:*"]);
    let (v100, v110, v120, v130) = (c.v(100), c.v(110), c.v(120), c.v(130));
    let keys = c.con.ok(&["DBSIZE"]);
    assert_eq!(
        c.apply(110, &["product:1", "product:2", "category:9", "shop:1"], &[]),
        1,
        "product:1 alone is registered"
    );
    let Reply::Int(n) = keys else { panic!() };
    assert_eq!(c.con.ok(&["DBSIZE"]), Reply::Int(n + 1), "the log is new");
    assert_eq!(c.value("t:product:1"), Some(v110.clone()));
    assert_eq!(c.value("t:product:*"), Some(v100.clone()));
    assert_eq!(c.value("a:category"), Some(v110.clone()), "for entries that depend on the whole family");
    assert_eq!(c.value("t:category:*"), Some(v100.clone()));
    assert_eq!(c.apply(120, &["product:*"], &["product:1"]), 2);
    assert_eq!(c.value("t:product:*"), Some(v120.clone()));
    assert_eq!(c.value("t:product:1"), Some(format!("{v110} {v120}")), "hard, then soft");
    assert_eq!(c.apply(130, &["product:1"], &["product:1"]), 1);
    assert_eq!(c.value("t:product:1"), Some(v130.clone()), "a soft bump no later than the hard one is gone");
    assert_eq!(c.w("applied"), Some(v130));
}

#[test]
fn a_batch_holds_commits_in_order() {
    let mut c = Cache::open();
    c.fill("k", 100, &["a:1", "b:1", "c:1", "d:*"]);
    let v = |lsn| c.v(lsn);
    let (v100, v110, v120, v130) = (v(100), v(110), v(120), v(130));
    #[rustfmt::skip]
    let args = ["daemon", &v100, &v130,
        &v110, "2", "1", "a:1", "b:1", "c:1",
        &v110, "1", "0", "d:1",
        &v120, "1", "1", "a:1", "b:1"];
    let reply = c.daemon("cachetag_apply", &args).unwrap();
    assert_eq!(reply.list()[2], Reply::Int(3));
    c.applied = 130;
    assert_eq!(c.value("t:a:1"), Some(v120.clone()), "the last commit that touched it");
    assert_eq!(c.value("t:b:1"), Some(format!("{v110} {v120}")));
    assert_eq!(c.value("t:c:1"), Some(format!("{v100} {v110}")));
    assert_eq!(c.value("a:d"), Some(v110));
    let log = c.con.ok(&["XRANGE", "{ct}:log", "-", "+"]);
    let [record] = log.list() else { panic!("{log:?}") };
    assert_eq!(record.list()[0].text(), "130-0", "one record, named after the end of the batch");
    assert_eq!(record.list()[1].texts(), ["from", &v100, "hard", "\na:1\nb:1\nd:1\n", "soft", "\nc:1\nb:1\n"]);
    c.apply(140, &[], &[]);
    assert_eq!(c.con.ok(&["XLEN", "{ct}:log"]), Reply::Int(1), "none without a tag");
    assert_eq!(c.w("applied"), Some(c.v(140)));
}

#[test]
fn a_star_inside_a_batch_raises_the_floor_to_its_commit() {
    let mut c = Cache::open();
    let (v100, v110, v120, v130) = (c.v(100), c.v(110), c.v(120), c.v(130));
    let args = ["daemon", &v100, &v130, &v110, "1", "0", "*", &v120, "0", "1", "*", &v130, "1", "0", "a:1"];
    c.daemon("cachetag_apply", &args).unwrap();
    assert_eq!((c.w("floor"), c.w("soft_floor")), (Some(v110), Some(v120)));
    c.applied = 130;
    assert_eq!(c.con.ok(&["XRANGE", "{ct}:log", "-", "+"]).list()[0].list()[1].texts()[3], "\n*\na:1\n");
}

#[test]
fn ten_thousand_tags_are_one_call() {
    let mut c = Cache::open();
    c.fill("k", 100, &["product:9999"]);
    let tags: Vec<String> = (0..10_000).map(|i| format!("product:{i}")).collect();
    let tags: Vec<&str> = tags.iter().map(String::as_str).collect();
    assert_eq!(c.apply(110, &tags, &[]), 1);
    assert_eq!(c.state("k"), "miss");
}

#[test]
fn the_log_is_cut_and_says_from_where_it_is_complete() {
    let mut c = Cache::open();
    for i in 1..=11_000 {
        c.apply(100 + 2 * i, &["product:1"], &[]);
    }
    assert_eq!(c.con.ok(&["XLEN", "{ct}:log"]), Reply::Int(11_000), "a tenth more is tolerated");
    assert_eq!(c.w("log_from"), Some(c.v(100)));
    c.apply(30_000, &[], &[]);
    c.apply(30_001, &["product:1"], &[]);
    assert_eq!(c.con.ok(&["XLEN", "{ct}:log"]), Reply::Int(10_000));
    assert_eq!(c.w("log_len"), Some("10000".into()));
    let first = c.con.ok(&["XRANGE", "{ct}:log", "-", "+", "COUNT", "1"]).list()[0].list()[0].text();
    assert_eq!(first, format!("{}-0", 100 + 2 * 1002));
    assert_eq!(c.w("log_from"), Some(c.v(100 + 2 * 1001)), "the last record that was cut");
}

#[test]
fn the_log_is_bounded_in_bytes_too() {
    let mut c = Cache::with_library(&LIBRARY.replace("local LOG_BYTES = 64 * 1024 * 1024", "local LOG_BYTES = 100000"));
    let mut most = 0;
    for i in 1..=300 {
        let tags: Vec<String> = (0..50).map(|t| format!("product:{i}:{t:0>20}")).collect();
        let tags: Vec<&str> = tags.iter().map(String::as_str).collect();
        c.apply(100 + i, &tags, &[]);
        let Reply::Int(length) = c.con.ok(&["XLEN", "{ct}:log"]) else { panic!() };
        assert_eq!(c.w("log_len"), Some(length.to_string()));
        most = most.max(length);
        assert_eq!(
            c.w("log_from"),
            Some(c.v(100 + i - length as u64)),
            "complete for exactly the records that are left"
        );
    }
    assert!((50..70).contains(&most), "{most} records of 1.6 kB");
}

#[test]
fn advancing_moves_the_watermark_forward_only() {
    let mut c = Cache::open();
    c.apply(150, &[], &[]);
    c.advance(140);
    assert_eq!(c.w("watermark"), Some(c.v(140)));
    c.advance(130);
    assert_eq!(c.w("watermark"), Some(c.v(140)));
    let (v150, v170, v160) = (c.v(150), c.v(170), c.v(160));
    let reply = c.daemon("cachetag_advance", &["daemon", &v150, &v170, &v160, ""]).unwrap();
    assert_eq!((reply.list()[0].text(), reply.list()[2].clone()), ("applied".into(), Reply::Int(0)));
    assert!(matches!(reply.list()[1], Reply::Int(ms) if ms > 1_600_000_000_000));
    assert_eq!((c.w("applied"), c.w("watermark")), (Some(v170.clone()), Some(v160)));
    let fresh_at = c.w("fresh_at").unwrap();
    c.daemon("cachetag_advance", &["daemon", &v170, &v170, "", "12345"]).unwrap();
    assert!(c.w("fresh_at") == Some("12345".into()) && fresh_at.len() == 13, "fresh_at is taken as it is given");
}

#[test]
fn a_reset_opens_a_higher_epoch_from_nothing() {
    let mut c = Cache::open();
    c.fill("k", 100, &["product:1"]);
    c.apply(110, &["product:2"], &["*"]);
    let first = c.epoch.clone();
    c.reset(120);
    let start = c.v(120);
    assert!(c.epoch > first);
    for field in ["floor", "applied", "log_from"] {
        assert_eq!(c.w(field), Some(start.clone()), "{field}");
    }
    for field in ["watermark", "fresh_at", "soft_floor"] {
        assert_eq!(c.w(field), None, "{field}");
    }
    assert_eq!(c.con.ok(&["EXISTS", "{ct}:log"]), Reply::Int(0));
    assert_eq!(c.state("k"), "bypass");
    c.advance(120);
    assert_eq!(c.state("k"), "miss");
    let before = c.epoch.parse::<u64>().unwrap();
    c.reset(120);
    assert_eq!(c.epoch.parse::<u64>().unwrap(), before + 1, "two within one second");
    let v = |reply: Reply| reply.texts()[1].clone();
    let far = v(c.daemon("cachetag_reset", &["daemon", "source", "1/A", "9000000000"]).unwrap());
    assert_eq!(far, "9000000000.00000000004294967306", "min_epoch, and an LSN as PostgreSQL prints it");
    assert_eq!(
        v(c.daemon("cachetag_reset", &["daemon", "source", "00000000000000000007", "0"]).unwrap()),
        "9000000001.00000000000000000007"
    );
    assert_eq!(
        v(c.daemon("cachetag_reset", &["daemon", "source", "7", "9999999999"]).unwrap()),
        "9999999999.00000000000000000007"
    );
    let error = c.daemon("cachetag_reset", &["daemon", "source", "7", "0"]).unwrap_err();
    assert_eq!(error, "CACHETAG min_epoch: no epoch is left: 10000000000 has more than ten digits");
}

#[test]
fn an_epoch_may_begin_at_lsn_zero_and_below_the_last() {
    let mut c = Cache::open();
    c.reset(0);
    c.advance(0);
    c.apply(1, &["product:2"], &[]);
    c.fill("k", 0, &["product:1"]);
    let token = c.v(0);
    assert_eq!(c.put("k", "v", &token, &["product:2"], &[]), refused("bumped", "product:2"));
    c.reset(u64::MAX - 2);
    c.advance(u64::MAX - 2);
    c.apply(u64::MAX - 1, &["product:3"], &[]);
    c.apply(u64::MAX, &["product:4"], &[]);
    c.advance(u64::MAX);
    c.fill("k", u64::MAX, &["product:3"]);
    let token = c.v(u64::MAX - 1);
    c.con.ok(&["DEL", "{ct}:t:product:3", "{ct}:t:product:*"]);
    assert_eq!(
        c.put("k", "v", &token, &["product:3"], &[]),
        Put::Stored(token.clone()),
        "the log after the last LSN but one"
    );
    assert_eq!(c.put("k", "v", &token, &["product:4"], &[]), refused("bumped", "product:4"));
}

//! `cachetag_explain`: its fields, its reasons, and that it agrees with `cachetag_get`.

use crate::cache::{Cache, Dice, pause};

/// Verdict and reason.
fn why(c: &mut Cache, key: &str, options: &[&str]) -> (String, String) {
    let reply = c.explain(key, options);
    (reply.field("verdict").unwrap(), reply.field("reason").unwrap())
}

#[test]
fn it_lists_everything_that_decides() {
    let mut c = Cache::open();
    let token = c.v(100);
    c.put("k", "hello", &token, &["product:42", "category:*", "*"], &["FRESH", "300000", "COST", "300000"]);
    c.apply(110, &["order:1"], &["order:2"]);
    c.con.ok(&["SET", "{ct}:t:product:*", &format!("{token} {token}")]);
    let reply = c.explain("k", &["MAXLAG", "5000"]);
    let field = |name: &str| reply.field(name).unwrap_or_else(|| panic!("no {name}"));
    assert_eq!(
        (field("kind"), field("payload_bytes"), field("cost_ms"), field("lease")),
        ("value".into(), "5".into(), "300000".into(), "free".into())
    );
    assert_eq!(
        (field("as_of"), field("watermark"), field("floor"), field("log_from")),
        (token.clone(), token.clone(), token.clone(), token.clone())
    );
    assert_eq!(
        (field("applied"), field("epoch"), field("soft_floor"), field("max_lag_ms")),
        (c.v(110), c.epoch.clone(), String::new(), "5000".into())
    );
    let number = |name: &str| field(name).parse::<i64>().unwrap();
    assert!((0..60_000).contains(&number("age_ms")) && (0..60_000).contains(&number("lag_ms")));
    assert!(
        (500_000..=600_000).contains(&number("expires_in_ms")) && (200_000..=300_000).contains(&number("fresh_in_ms"))
    );
    let early = field("early_probability");
    assert_eq!(early, "0.000000", "{early}: everything is bumped since, so there is no hit to refresh");
    for (name, value) in [
        ("tag:product:42", token.clone()),
        ("tag:product:*", format!("{token} {token}")),
        ("tag:category:*", token.clone()),
        ("members:category", token.clone()),
        ("members:*", c.v(110)),
    ] {
        assert_eq!(field(name), value, "{name}");
    }
    c.delete("t:product:42");
    assert_eq!(c.explain("k", &[]).field("tag:product:42"), Some("absent".into()));

    c.put("fresh", "v", &c.v(110), &["shop:1"], &["FRESH", "300000", "COST", "300000"]);
    let early: f64 = c.explain("fresh", &[]).field("early_probability").unwrap().parse().unwrap();
    assert!((early - 0.3679).abs() < 0.01, "{early}");
}

#[test]
fn it_says_which_tag_fell_and_by_what() {
    let mut c = Cache::open();
    let ok = "every tag is registered and none was bumped after as_of";
    let (v100, v110) = (c.v(100), c.v(110));
    assert_eq!(why(&mut c, "k", &[]), ("miss".into(), "there is no entry".into()));
    c.fill("k", 100, &["product:42", "category:*"]);
    assert_eq!(why(&mut c, "k", &[]), ("hit".into(), ok.into()));
    assert_eq!(
        why(&mut c, "k", &["ATLEAST", "0/FF"]).1,
        "neither the watermark nor as_of covers ATLEAST 00000000000000000255"
    );

    c.apply(110, &[], &["product:42"]);
    assert_eq!(
        why(&mut c, "k", &[]),
        ("stale".into(), format!("product:42 was softly bumped by {v110}, after as_of {v100}"))
    );
    c.apply(120, &["category:7"], &[]);
    let v120 = c.v(120);
    assert_eq!(why(&mut c, "k", &[]), ("miss".into(), format!("category:* was bumped by {v120}, after as_of {v100}")));
    c.get("k", &[]);
    assert_eq!(why(&mut c, "k", &[]).0, "wait");
    assert_eq!(why(&mut c, "k", &["NOLEASE"]).0, "miss");

    c.advance(120);
    c.fill("k", 120, &["shop:1"]);
    c.delete("t:shop:*");
    assert_eq!(why(&mut c, "k", &[]).1, "shop:* is not registered: expired, evicted or lost");
    c.con.ok(&["SET", "{ct}:t:shop:*", "x"]);
    assert_eq!(why(&mut c, "k", &[]).1, "shop:* has a malformed version");

    c.con.ok(&["HDEL", "{ct}:e:k", "kind"]);
    assert_eq!(why(&mut c, "k", &[]).1, "the entry is malformed: something else wrote to its key");

    c.fill("soft", 120, &[]);
    c.apply(130, &[], &["*"]);
    assert_eq!(
        why(&mut c, "soft", &[]),
        ("stale".into(), format!("everything was softly bumped by {}, after as_of {v120}", c.v(130)))
    );
    c.apply(140, &["*"], &[]);
    assert_eq!(why(&mut c, "soft", &["NOLEASE"]), ("miss".into(), format!("as_of is below the floor {}", c.v(140))));

    c.advance(140);
    let token = c.v(140);
    c.put("short", "v", &token, &[], &["FRESH", "1"]);
    c.try_put("gone", "v", &token, "1", &[], &[]).unwrap();
    c.con.ok(&["PERSIST", "{ct}:e:gone"]);
    pause(20);
    assert_eq!(why(&mut c, "short", &[]), ("stale".into(), "past its FRESH time".into()));
    let gone = why(&mut c, "gone", &[]).1;
    assert!(["the entry has expired", "there is no entry"].contains(&gone.as_str()), "{gone}");

    let now = c.now();
    c.fresh_at(now - 9_000);
    let (verdict, reason) = why(&mut c, "short", &["MAXLAG", "5000"]);
    assert!(verdict == "bypass" && reason.starts_with("the daemon was last known to be caught up 9"), "{reason}");
    assert!(reason.ends_with(" ms ago, max_lag is 5000 ms"), "{reason}");
    c.fresh_at(now + 100_000);
    assert_eq!(why(&mut c, "short", &[]).1, "fresh_at is in the future: the clock of this Redis went back");
    let old = c.epoch.clone();
    c.reset(200);
    assert_eq!(
        why(&mut c, "short", &[]),
        ("bypass".into(), "there is no watermark: no daemon has advanced this epoch yet".into())
    );
    c.advance(200);
    assert_eq!(why(&mut c, "short", &[]).1, format!("the entry is of epoch {old}, the present one is {}", c.epoch));
    c.con.ok(&["HDEL", "{ct}:w", "floor"]);
    assert_eq!(why(&mut c, "short", &[]).1, "the state is malformed: a reset by the daemon mends it");
    c.con.ok(&["DEL", "{ct}:w"]);
    assert_eq!(why(&mut c, "short", &[]).0, "bypass");
}

/// In random states, for random options: the verdict of explain is the state of get and of peek.
#[test]
fn its_verdict_is_the_state_that_get_answers() {
    let tags = ["product:1", "product:2", "product:*", "category:1", "*"];
    let mut met = std::collections::BTreeMap::<String, usize>::new();
    for seed in 0..8 {
        let mut dice = Dice::new(seed);
        let mut c = Cache::open();
        for _ in 0..600 {
            let key = format!("k{}", dice.below(5));
            match dice.below(14) {
                0..5 => {
                    let token = c.v(c.applied.saturating_sub(dice.below(3) as u64));
                    let mut options = vec![];
                    let mut payload = "v";
                    if dice.chance(30) {
                        options.extend(["FRESH", dice.pick(&["1", "600000"])]);
                    }
                    if dice.chance(20) {
                        options.push("ABSENT");
                        payload = "";
                    }
                    let chosen: Vec<&str> = (0..dice.below(3)).map(|_| dice.pick(&tags)).collect();
                    c.put(&key, payload, &token, &chosen, &options);
                    if options.contains(&"1") {
                        pause(3); // or it could pass between explain and get
                    }
                }
                5 | 6 => {
                    let tag = dice.pick(&tags);
                    let (hard, soft): (&[&str], &[&str]) = if dice.chance(50) { (&[tag], &[]) } else { (&[], &[tag]) };
                    c.apply(c.applied + 1, hard, soft);
                }
                7 | 8 => c.advance(c.applied),
                9 => c.delete_if_there(&format!("t:{}", dice.pick(&tags))),
                10 => drop(c.con.ok(&[
                    "HSET",
                    format!("{{ct}}:e:{key}").as_str(),
                    dice.pick(&["kind", "put_at", "as_of", "x"]),
                    "junk",
                ])),
                11 => drop(c.con.ok(&["DEL", &format!("{{ct}}:l:{key}")])),
                12 if dice.chance(10) => c.reset(c.applied),
                13 if dice.chance(10) => {
                    let now = c.now();
                    c.fresh_at(dice.pick(&[now - 5_000_000, now + 60_000]));
                }
                _ => {}
            }
            let later = c.v(c.applied + 1);
            let options: &[&str] = match dice.below(5) {
                0 => &["MAXLAG", "1000000000"],
                1 => &["ATLEAST", "0/66"],
                2 => &["ATLEAST", &later],
                _ => &[],
            };
            let explained = c.explain(&key, options).field("verdict").unwrap();
            let mut quiet = options.to_vec();
            quiet.push("NOLEASE");
            let quietly = c.explain(&key, &quiet).field("verdict").unwrap();
            assert_eq!(c.peek(&key, options).state, quietly);
            assert_eq!(c.get(&key, &quiet).state, quietly);
            let got = c.get(&key, options).state;
            *met.entry(got.clone()).or_default() += 1;
            assert_eq!(got, explained, "seed {seed}: {:?}", c.explain(&key, options));
        }
    }
    for state in ["hit", "stale", "miss", "wait", "bypass"] {
        assert!(met.get(state).is_some_and(|n| *n > 50), "{met:?}");
    }
    assert_eq!(met.get("early"), None, "no cost was given");
}

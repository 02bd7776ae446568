//! XFetch: who recomputes before expiry.

use crate::cache::Cache;

/// How many of `trials` gets are told to recompute early; each finds the lease free.
fn early(c: &mut Cache, key: &str, options: &[&str], trials: usize) -> usize {
    let lease = format!("{{ct}}:l:{key}");
    (0..trials)
        .filter(|_| {
            c.con.ok(&["DEL", &lease]);
            c.get(key, options).state == "early"
        })
        .count()
}

fn entry(c: &mut Cache, key: &str, options: &[&str]) {
    let token = c.v(100);
    c.put(key, "v", &token, &["product:1"], options);
}

/// P(now - cost * beta * ln(u) >= expiry) is exp(-gap / (cost * beta)). The bounds are 7 standard deviations away and more.
#[test]
fn the_share_of_early_answers_is_that_of_the_formula() {
    let mut c = Cache::open();
    for (cost, beta, share) in
        [("300000", "1", 0.1353), ("600000", "1", 0.3679), ("600000", "2", 0.6065), ("300000", "0.5", 0.0183)]
    {
        c.delete_if_there("e:k");
        entry(&mut c, "k", &["COST", cost]);
        let trials = 4_000;
        let found = early(&mut c, "k", &["BETA", beta], trials) as f64 / trials as f64;
        assert!((found - share).abs() < 0.055, "cost {cost}, beta {beta}: {found} and not {share}");
    }
}

#[test]
fn fresh_is_the_expiry_that_counts_if_it_comes_first() {
    let mut c = Cache::open();
    entry(&mut c, "k", &["FRESH", "300000", "COST", "300000"]);
    let found = early(&mut c, "k", &[], 2_000) as f64 / 2_000.0;
    assert!((found - 0.3679).abs() < 0.08, "{found}");
}

#[test]
fn the_extremes_are_certain() {
    let mut c = Cache::open();
    entry(&mut c, "never", &["COST", "16000"]);
    entry(&mut c, "free", &["COST", "0"]);
    entry(&mut c, "unknown", &[]);
    entry(&mut c, "always", &["COST", "1000000000000"]);
    assert_eq!(early(&mut c, "never", &[], 500), 0, "600 s away: 16 s times 36 do not reach");
    assert_eq!(early(&mut c, "free", &[], 500), 0);
    assert_eq!(early(&mut c, "unknown", &["BETA", "1000"], 500), 0);
    assert_eq!(early(&mut c, "always", &["BETA", "0"], 500), 0);
    assert_eq!(early(&mut c, "always", &[], 500), 500);
    assert_eq!(early(&mut c, "always", &["NOLEASE"], 100), 0, "never early without a lease");
}

#[test]
fn one_caller_is_early_and_the_others_hit() {
    let mut c = Cache::open();
    entry(&mut c, "k", &["COST", "1000000000000"]);
    let first = c.get("k", &[]);
    assert_eq!((first.state.as_str(), first.payload.as_deref(), first.token), ("early", Some(&b"v"[..]), c.v(100)));
    for _ in 0..20 {
        assert_eq!(c.get("k", &[]).state, "hit");
    }
    let token = c.v(100);
    c.put("k", "w", &token, &["product:1"], &["LEASE", &first.lease]);
    assert_eq!(c.get("k", &[]).state, "hit", "recomputed, at no known cost");
}

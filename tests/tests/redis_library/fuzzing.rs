//! Random argument lists.

use crate::cache::{Cache, Dice, got, put};
use crate::server::Reply;

const FOR_APPLICATIONS: [&str; 6] =
    ["cachetag_get", "cachetag_peek", "cachetag_put", "cachetag_drop", "cachetag_release", "cachetag_explain"];

/// Random calls: a documented reply, or an error that begins with CACHETAG and changes nothing.
#[test]
fn random_arguments_never_get_an_undocumented_answer() {
    let functions = [
        "cachetag_get",
        "cachetag_peek",
        "cachetag_put",
        "cachetag_drop",
        "cachetag_release",
        "cachetag_explain",
        "cachetag_claim",
        "cachetag_apply",
        "cachetag_advance",
        "cachetag_reset",
        "cachetag_state",
        "cachetag_version",
    ];
    let (mut errors, mut replies) = (0, 0);
    for seed in 0..6 {
        let mut dice = Dice::new(seed);
        let mut c = Cache::open();
        c.fill("k", 100, &["product:1"]);
        for _ in 0..2_500 {
            let function = dice.pick(&functions);
            let mut command: Vec<Vec<u8>> = vec![b"FCALL".to_vec(), function.into(), b"1".to_vec()];
            let fitting = if FOR_APPLICATIONS.contains(&function) { "{ct}:e:k" } else { "{ct}:w" };
            let key = if dice.chance(95) {
                fitting
            } else {
                dice.pick(&["{ct}:e:k", "{ct}:w", "k", "", "{ct}:t:product:1", "{ct}:log"])
            };
            command.push(key.into());
            command.extend(arguments(&mut dice, &mut c, function));
            let before = c.con.digest();
            match c.con.call(&command) {
                Err(error) => {
                    errors += 1;
                    assert!(error.starts_with("CACHETAG "), "{error}: {}", text(&command));
                    assert_eq!(c.con.digest(), before, "an error changed something: {}", text(&command));
                }
                Ok(reply) => {
                    replies += 1;
                    check(function, &reply);
                }
            }
            // The position as it is now, so that later calls may fit.
            if let Some(applied) = c.w("applied") {
                c.epoch = applied[..10].into();
                c.applied = applied[11..].parse().unwrap();
            }
        }
    }
    assert!(errors > 1_000 && replies > 1_000, "{errors} errors, {replies} replies");
}

fn text(command: &[Vec<u8>]) -> String {
    command.iter().map(|a| String::from_utf8_lossy(a).into_owned()).collect::<Vec<_>>().join(" ")
}

/// Arguments that fit more often than not, then damaged in one of a few ways.
fn arguments(dice: &mut Dice, c: &mut Cache, function: &str) -> Vec<Vec<u8>> {
    let version =
        |c: &Cache, dice: &mut Dice| c.v((c.applied + dice.below(4) as u64).saturating_sub(dice.below(2) as u64));
    let tags = ["product:1", "product:*", "*", "category:7", "a:%2A", "homepage"];
    let mut args: Vec<String> = Vec::new();
    match function {
        "cachetag_get" | "cachetag_peek" | "cachetag_explain" => {
            for _ in 0..dice.below(3) {
                match dice.below(4) {
                    0 => args.extend(["MAXLAG".into(), dice.pick(&["0", "60000", "1000000000000"]).to_string()]),
                    1 => {
                        args.extend(["ATLEAST".into(), if dice.chance(50) { "0/70".into() } else { version(c, dice) }])
                    }
                    2 => args.extend(["BETA".into(), "0.7".into()]),
                    _ => args.push("NOLEASE".into()),
                }
            }
        }
        "cachetag_put" => {
            args.extend(["payload".into(), version(c, dice), "600000".into(), "TAGS".into()]);
            let n = dice.below(4);
            args.push(n.to_string());
            args.extend((0..n).map(|_| dice.pick(&tags).to_string()));
            if dice.chance(30) {
                args.extend(["FRESH".into(), "600000".into(), "COST".into(), "5".into()]);
            }
            if dice.chance(20) {
                args[0].clear();
                args.push("ABSENT".into());
            }
        }
        "cachetag_release" => args.push("lease".into()),
        "cachetag_claim" => args.extend(["daemon", "source", "600000", "600000"].map(String::from)),
        "cachetag_apply" => {
            let (from, to) = (c.v(c.applied), c.v(c.applied + 3));
            args.extend(["daemon".into(), from, to]);
            for step in 1..=dice.below(3) as u64 {
                let (nhard, nsoft) = (dice.below(3), dice.below(2));
                args.extend([c.v(c.applied + step), nhard.to_string(), nsoft.to_string()]);
                args.extend((0..nhard + nsoft).map(|_| dice.pick(&tags).to_string()));
            }
        }
        "cachetag_advance" => {
            let now = c.now().to_string();
            args.extend(["daemon".into(), c.v(c.applied), c.v(c.applied + 1), version(c, dice), now]);
        }
        "cachetag_reset" => args.extend(["daemon", "source", "100", "0"].map(String::from)),
        _ => {}
    }
    let mut args: Vec<Vec<u8>> = args.into_iter().map(String::into_bytes).collect();
    let junk: &[&[u8]] = &[
        b"",
        b"0",
        b"1",
        b"-1",
        b"1.5",
        b"99999999999999999999",
        b"nan",
        b"TAGS",
        b"ABSENT",
        b"LEASE",
        b"MAXLAG",
        b"\xff\0",
        b"a b",
        b"product:1",
        b"0000000000.00000000000000000000",
        b"9999999999.99999999999999999999",
        b"*",
        b"%",
        b"2",
    ];
    if dice.chance(60) {
        for _ in 0..1 + dice.below(2) {
            let at = dice.below(args.len() + 1);
            match dice.below(4) {
                0 => args.insert(at, dice.pick(junk).to_vec()),
                1 if at < args.len() => drop(args.remove(at)),
                2 if at < args.len() => args[at] = dice.pick(junk).to_vec(),
                3 if at < args.len() => args.truncate(at),
                _ => args.push(dice.pick(junk).to_vec()),
            }
        }
    }
    args
}

fn check(function: &str, reply: &Reply) {
    match function {
        "cachetag_get" | "cachetag_peek" => drop(got(reply)),
        "cachetag_put" => drop(put(reply)),
        "cachetag_drop" | "cachetag_release" => assert!(matches!(reply, Reply::Int(0 | 1))),
        "cachetag_version" => assert_eq!(reply.text(), "0.1.0"),
        "cachetag_explain" | "cachetag_claim" | "cachetag_state" => {
            assert!(reply.texts().len().is_multiple_of(2) && reply.texts().len() >= 8)
        }
        "cachetag_apply" | "cachetag_advance" => match reply.list() {
            [kind, Reply::Int(_), Reply::Int(_)] => assert_eq!(kind.text(), "applied"),
            [kind, Reply::Text(_)] => assert!(["fenced", "discontinuity"].contains(&kind.text().as_str())),
            other => panic!("{other:?}"),
        },
        "cachetag_reset" => match reply.list() {
            [kind, version, Reply::Int(_)] => assert!(kind.text() == "reset" && version.text().len() == 31),
            [kind, Reply::Text(_)] => assert_eq!(kind.text(), "fenced"),
            other => panic!("{other:?}"),
        },
        other => panic!("{other}"),
    }
}

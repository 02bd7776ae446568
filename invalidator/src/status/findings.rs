//! What is wrong, from what the servers said. Pure.

use serde::Serialize;

use super::facts::{Answer, Facts, PostgresFacts, RedisFacts, SlotFacts, StateFacts};
use crate::budget::{self, Bytes};
use crate::control::list;

/// Name of the finding that a second daemon waits.
pub const SECOND_DAEMON: &str = "second daemon";
/// A transaction this old is named as one that holds the log back.
const OLD_TRANSACTION: i64 = 30;

/// How bad it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Worth knowing.
    Note,
    /// Nobody can tell.
    Unknown,
    /// The cache is not served, or soon will not be.
    Problem,
}

/// One thing that is to be said, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// What was looked at.
    pub check: &'static str,
    /// How bad it is.
    pub level: Level,
    /// What is wrong.
    pub problem: String,
    /// What to do about it.
    pub remedy: String,
}

/// The whole, as an exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing is wrong.
    Healthy,
    /// Something is.
    Degraded,
    /// Nothing is known to be wrong, and not everything is known.
    Undetermined,
}

impl Verdict {
    /// The exit code.
    pub fn code(self) -> u8 {
        match self {
            Verdict::Healthy => 0,
            Verdict::Degraded => 1,
            Verdict::Undetermined => 2,
        }
    }
}

/// The verdict that findings add up to.
pub fn verdict(findings: &[Finding]) -> Verdict {
    match findings.iter().map(|finding| finding.level).max() {
        None | Some(Level::Note) => Verdict::Healthy,
        Some(Level::Unknown) => Verdict::Undetermined,
        Some(Level::Problem) => Verdict::Degraded,
    }
}

/// Judges; the worst first.
pub fn findings(facts: &Facts) -> Vec<Finding> {
    let mut list = List(Vec::new());
    match &facts.postgres {
        Answer::Known(postgres) => on_postgres(&mut list, facts, postgres),
        Answer::Unknown { error } => list.unknown("postgres", error, "see that it runs and that the address is right"),
    }
    match &facts.redis {
        Answer::Known(redis) => on_redis(&mut list, facts, redis),
        Answer::Unknown { error } => list.unknown("redis", error, "see that it runs, answers and has this address"),
    }
    list.0.sort_by_key(|finding| std::cmp::Reverse(finding.level));
    list.0
}

struct List(Vec<Finding>);

impl List {
    fn push(&mut self, check: &'static str, level: Level, problem: impl Into<String>, remedy: impl Into<String>) {
        self.0.push(Finding { check, level, problem: problem.into(), remedy: remedy.into() });
    }

    fn problem(&mut self, check: &'static str, problem: impl Into<String>, remedy: impl Into<String>) {
        self.push(check, Level::Problem, problem, remedy);
    }

    fn unknown(&mut self, check: &'static str, problem: impl Into<String>, remedy: impl Into<String>) {
        self.push(check, Level::Unknown, problem, remedy);
    }

    fn note(&mut self, check: &'static str, problem: impl Into<String>, remedy: impl Into<String>) {
        self.push(check, Level::Note, problem, remedy);
    }
}

fn on_postgres(out: &mut List, facts: &Facts, postgres: &PostgresFacts) {
    if postgres.in_recovery {
        out.problem("postgres", "the server is a standby", "give the primary's address");
        return;
    }
    if postgres.extension.is_none() {
        out.problem("extension", "the database has no extension cachetag", "CREATE EXTENSION cachetag");
    }
    let strict = budget::names(&postgres.synchronous_standby_names, &facts.asked.application_name);
    match &postgres.slot {
        None => out.problem(
            "slot",
            format!("the replication slot {} does not exist", facts.asked.slot),
            if strict {
                "commits wait for a daemon that cannot begin: set synchronous_standby_names = '' and reload, start the daemon, set it again"
            } else {
                "start the daemon (cachetag run): it creates the slot"
            },
        ),
        Some(slot) => on_slot(out, facts, postgres, slot, strict),
    }
    let streams = postgres.slot.as_ref().is_some_and(|slot| slot.active_pid.is_some());
    if streams && postgres.daemons_waiting > 0 {
        out.problem(
            SECOND_DAEMON,
            format!("{} more daemon(s) wait for the one that holds slot {}", postgres.daemons_waiting, facts.asked.slot),
            "stop it, or say that it is meant to be there with --standby; for another Redis, give it a --slot of its own",
        );
    }
    if let Some(moved) = postgres.report.as_ref().and_then(|report| report.get("slot_moved")).filter(|m| !m.is_null()) {
        let reason = moved.get("reason").and_then(|reason| reason.as_str()).unwrap_or("the WAL budget was exceeded");
        out.note(
            "wal budget",
            format!("the slot has been moved or dropped, which made everything a miss once: {reason}"),
            "see why Redis was away or too slow then; the daemon's log has the moment",
        );
    }
}

fn on_slot(out: &mut List, facts: &Facts, postgres: &PostgresFacts, slot: &SlotFacts, strict: bool) {
    if let Some(reason) = &slot.lost {
        out.problem(
            "slot",
            format!("the replication slot cannot be used any more: {reason}"),
            "start the daemon: it replaces the slot and opens a new epoch",
        );
        return;
    }
    if slot.confirmed.is_none() {
        let deadlock = strict && postgres.transactions.iter().any(|t| t.waits_for_standby);
        out.problem(
            "slot",
            format!("the slot is being created, which waits for: {}", list(&postgres.transactions)),
            if deadlock {
                "those commits wait for the daemon: set synchronous_standby_names = '' and reload, and set it again when the daemon streams"
            } else {
                "end these transactions, or wait for them; until then the cache answers bypass"
            },
        );
        return;
    }
    if slot.active_pid.is_none() {
        let (problem, remedy) = if postgres.daemons + postgres.daemons_waiting > 0 {
            (
                "a daemon runs and does not stream",
                "its log tells why; most often it cannot reach Redis, or it has made a new slot and waits for old transactions to end",
            )
        } else {
            ("no daemon is connected", "start the daemon (cachetag run), or see in its log why it cannot connect")
        };
        out.problem("daemon", problem, remedy);
    }
    let Some(limit) = facts.asked.wal_budget.filter(|limit| slot.retained_bytes > limit / 2) else { return };
    let over = if slot.retained_bytes > limit { "more than" } else { "more than half of" };
    let what =
        format!("the slot holds back {} of WAL, {over} the budget of {}", Bytes(slot.retained_bytes), Bytes(limit));
    let old: Vec<_> =
        postgres.transactions.iter().filter(|t| t.seconds.is_none_or(|s| s >= OLD_TRANSACTION)).cloned().collect();
    if slot.unconfirmed_bytes <= limit / 2 {
        out.problem(
            "wal budget",
            format!("{what}, because of transactions that are open for long: {}", list(&old)),
            "end them; Redis and the daemon are not the cause",
        );
    } else {
        out.problem(
            "wal budget",
            format!("{what}; {} of it are not acknowledged", Bytes(slot.unconfirmed_bytes)),
            "see that the daemon runs and reaches Redis; past the budget it gives the WAL up and opens a new epoch",
        );
    }
}

fn on_redis(out: &mut List, facts: &Facts, redis: &RedisFacts) {
    if !redis.is_primary {
        out.problem("redis", "the server is a replica", "give the primary's address, or redis+sentinel://…");
    }
    if matches!(redis.library, Answer::Known(None)) {
        out.problem(
            "library",
            "the functions of cachetag are not loaded: every call of an application fails",
            "start the daemon: it loads them; if it runs, it does so within a minute, or restart it",
        );
    }
    if redis.eviction_policy.starts_with("allkeys") {
        out.problem(
            "eviction",
            format!(
                "maxmemory-policy is {}: Redis may evict cachetag's own state, which costs a new epoch",
                redis.eviction_policy
            ),
            "CONFIG SET maxmemory-policy volatile-lru",
        );
    }
    if redis.eviction_policy == "noeviction" && redis.maxmemory > 0 && redis.used_memory / 19 > redis.maxmemory / 20 {
        out.note(
            "memory",
            "memory is nearly full and maxmemory-policy is noeviction: nothing more will be stored",
            "CONFIG SET maxmemory-policy volatile-lru, or raise maxmemory",
        );
    }
    let postgres = match &facts.postgres {
        Answer::Known(postgres) => Some(postgres),
        Answer::Unknown { .. } => None,
    };
    let reported = postgres.and_then(|p| p.report.as_ref()?.get("redis_replicas")?.as_u64()).unwrap_or(0);
    let wanted = u64::from(facts.asked.redis_replicas).max(reported);
    if u64::from(redis.replicas) < wanted {
        out.problem(
            "replicas",
            format!("{} of {wanted} replicas are connected: nothing is acknowledged to PostgreSQL", redis.replicas),
            "bring the replicas back (INFO replication), or lower redis_replicas",
        );
    }
    match &redis.state {
        None => out.problem(
            "state",
            format!(
                "Redis holds no state in namespace {}: it was flushed or restarted empty, or no daemon has run",
                facts.asked.namespace
            ),
            "start the daemon; one that runs opens a new epoch by itself",
        ),
        Some(state) => on_state(out, facts, postgres, state),
    }
}

fn on_state(out: &mut List, facts: &Facts, postgres: Option<&PostgresFacts>, state: &StateFacts) {
    let slot = postgres.and_then(|p| p.slot.as_ref());
    if let (Some(source), Some(postgres)) = (&state.source, postgres)
        && !source.ends_with(&format!("/{}/{}", postgres.database, facts.asked.slot))
    {
        out.problem(
            "source",
            format!("namespace {} is filled from another source, {source}", facts.asked.namespace),
            "give each source a --namespace of its own",
        );
    }
    if let (Some(applied), Some(confirmed)) = (state.applied, slot.and_then(|slot| slot.confirmed))
        && applied < confirmed
    {
        out.problem(
            "state",
            "Redis lacks what PostgreSQL was told to be safe: it was restored or failed over, or the slot was moved",
            "start the daemon; one that runs opens a new epoch by itself",
        );
    }
    let active = slot.and_then(|slot| slot.active_pid);
    let (Some(_), Some(age)) = (state.watermark, state.fresh_age_ms) else {
        match active {
            Some(_) => out.problem(
                "epoch",
                format!(
                    "the epoch has no watermark yet: it waits for transactions that were running when it was opened: {}",
                    postgres.map_or_else(String::new, |p| list(&p.transactions))
                ),
                "end these transactions, or wait for them; until then the cache answers bypass",
            ),
            None => out.problem("epoch", "the epoch has no watermark: the cache answers bypass", "start the daemon"),
        }
        return;
    };
    if age < 0 {
        out.problem(
            "freshness",
            format!("the last proof of freshness is {} ms in the future: Redis's clock went back", -age),
            "set the clock; the daemon mends it with its next call",
        );
    }
    let max_lag = state.max_lag_ms.unwrap_or(0);
    if age > max_lag {
        let who = match (active, postgres) {
            (Some(pid), Some(postgres)) => {
                let spoke = postgres.stream.as_ref().and_then(|stream| stream.reply_age_ms);
                let spoke = spoke.map_or_else(String::new, |ms| format!(", which last spoke {ms} ms ago,"));
                format!("the daemon is connected (server process {pid}{spoke}) and stalled")
            }
            _ => "nobody advances it".into(),
        };
        out.problem(
            "freshness",
            format!("the cache was last known to be caught up {age} ms ago, max_lag is {max_lag} ms, so it answers bypass: {who}"),
            "see the daemon's log; is its process, that server process or Redis stopped (kill -CONT), its host hanging, Redis too slow?",
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::Transaction;
    use crate::status::facts::{Asked, StreamFacts};

    fn healthy() -> Facts {
        Facts {
            asked: Asked {
                slot: "cachetag".into(),
                namespace: "ct".into(),
                application_name: "cachetag".into(),
                wal_budget: Some(1000),
                redis_replicas: 0,
            },
            postgres: Answer::Known(PostgresFacts {
                extension: Some("0.1.0".into()),
                database: "5:app".into(),
                flushed: 100,
                slot: Some(SlotFacts { active_pid: Some(7), confirmed: Some(90), ..SlotFacts::default() }),
                stream: Some(StreamFacts { reply_age_ms: Some(30), ..StreamFacts::default() }),
                daemons: 1,
                ..PostgresFacts::default()
            }),
            redis: Answer::Known(RedisFacts {
                is_primary: true,
                library: Answer::Known(Some("0.1.0".into())),
                eviction_policy: "volatile-lru".into(),
                state: Some(StateFacts {
                    watermark: Some(95),
                    applied: Some(95),
                    fresh_age_ms: Some(100),
                    max_lag_ms: Some(2000),
                    source: Some("1/1/5:app/cachetag".into()),
                    ..StateFacts::default()
                }),
                ..RedisFacts::default()
            }),
        }
    }

    fn postgres(change: impl FnOnce(&mut PostgresFacts)) -> Facts {
        let mut facts = healthy();
        match &mut facts.postgres {
            Answer::Known(postgres) => change(postgres),
            Answer::Unknown { .. } => unreachable!("it is known"),
        }
        facts
    }

    fn redis(change: impl FnOnce(&mut RedisFacts)) -> Facts {
        let mut facts = healthy();
        match &mut facts.redis {
            Answer::Known(redis) => change(redis),
            Answer::Unknown { .. } => unreachable!("it is known"),
        }
        facts
    }

    fn state(change: impl FnOnce(&mut StateFacts)) -> Facts {
        redis(|redis| change(redis.state.as_mut().expect("a state")))
    }

    fn slot(change: impl FnOnce(&mut SlotFacts)) -> Facts {
        postgres(|postgres| change(postgres.slot.as_mut().expect("a slot")))
    }

    fn transaction() -> Transaction {
        Transaction {
            who: "pid 4711".into(),
            xid: "99".into(),
            seconds: Some(3600),
            state: Some("idle in transaction".into()),
            waits_for_standby: false,
        }
    }

    #[test]
    fn nothing_is_found_where_nothing_is_wrong() {
        assert_eq!(findings(&healthy()), []);
        assert_eq!(verdict(&[]), Verdict::Healthy);
    }

    #[test]
    fn every_problem_is_told_with_a_remedy() {
        let cases = [
            ("standby", postgres(|p| p.in_recovery = true)),
            ("no extension", postgres(|p| p.extension = None)),
            ("does not exist", postgres(|p| p.slot = None)),
            ("invalid", slot(|s| s.lost = Some("invalid".into()))),
            ("being created", slot(|s| s.confirmed = None)),
            (
                "no daemon",
                postgres(|p| {
                    p.daemons = 0;
                    p.slot.as_mut().expect("a slot").active_pid = None;
                }),
            ),
            ("does not stream", slot(|s| s.active_pid = None)),
            ("more than half of", slot(|s| (s.retained_bytes, s.unconfirmed_bytes) = (501, 501))),
            ("more than the budget", slot(|s| (s.retained_bytes, s.unconfirmed_bytes) = (1001, 1001))),
            ("more daemon(s) wait", postgres(|p| p.daemons_waiting = 1)),
            ("replica", redis(|r| r.is_primary = false)),
            ("not loaded", redis(|r| r.library = Answer::Known(None))),
            ("allkeys-lru", redis(|r| r.eviction_policy = "allkeys-lru".into())),
            ("no state", redis(|r| r.state = None)),
            ("another source", state(|s| s.source = Some("1/1/5:other/cachetag".into()))),
            ("lacks", state(|s| s.applied = Some(89))),
            ("no watermark", state(|s| s.watermark = None)),
            ("stalled", state(|s| s.fresh_age_ms = Some(2001))),
            ("future", state(|s| s.fresh_age_ms = Some(-1))),
            ("of 2 replicas", postgres(|p| p.report = Some(serde_json::json!({ "redis_replicas": 2 })))),
        ];
        for (word, facts) in cases {
            let found = findings(&facts);
            assert_eq!(verdict(&found), Verdict::Degraded, "{word}");
            assert!(found.iter().any(|f| f.problem.contains(word)), "{word}: {found:?}");
            assert!(found.iter().all(|f| !f.remedy.is_empty()), "{word}: {found:?}");
        }
    }

    #[test]
    fn at_the_bound_all_is_well() {
        assert_eq!(findings(&state(|s| s.fresh_age_ms = Some(2000))), []);
        assert_eq!(findings(&slot(|s| s.retained_bytes = 500)), []);
        assert_eq!(findings(&state(|s| s.applied = Some(90))), []);
    }

    #[test]
    fn an_old_transaction_is_named_and_redis_is_not_blamed() {
        let held = postgres(|p| {
            p.transactions = vec![transaction()];
            p.slot.as_mut().expect("a slot").retained_bytes = 2000;
        });
        let found = findings(&held);
        assert!(
            found[0].problem.contains("pid 4711") && found[0].remedy.contains("Redis and the daemon are not"),
            "{found:?}"
        );
        let mut draining = state(|s| s.watermark = None);
        if let Answer::Known(postgres) = &mut draining.postgres {
            postgres.transactions = vec![transaction()];
        }
        assert!(findings(&draining)[0].problem.contains("pid 4711"));
    }

    #[test]
    fn what_cannot_be_asked_is_not_known_unless_something_else_is_wrong() {
        let mut facts = healthy();
        facts.redis = Answer::Unknown { error: "no answer".into() };
        assert_eq!(verdict(&findings(&facts)), Verdict::Undetermined);
        facts.postgres = postgres(|p| p.slot = None).postgres;
        let found = findings(&facts);
        assert_eq!((verdict(&found), found.len(), found[0].level), (Verdict::Degraded, 2, Level::Problem));
    }

    #[test]
    fn a_note_changes_no_verdict() {
        let moved = postgres(|p| p.report = Some(serde_json::json!({ "slot_moved": { "reason": "too much" } })));
        let found = findings(&moved);
        assert!(found[0].problem.contains("too much"));
        assert_eq!(verdict(&found), Verdict::Healthy);
    }
}

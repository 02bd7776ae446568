//! Facts and findings for people, and for programs.

use std::fmt::Write as _;
use std::io::Write as _;

use cachetag_core::Lsn;

use super::facts::{Answer, Facts, PostgresFacts, RedisFacts};
use super::findings::{Finding, Level, Verdict, verdict};
use crate::budget::Bytes;

/// Writes to the standard output; a reader that has gone away is no error.
pub fn out(text: &str) {
    let _ = std::io::stdout().write_all(text.as_bytes());
}

/// A line for each problem.
pub fn lines(findings: &[Finding]) -> String {
    let mut text = String::new();
    for finding in findings.iter().filter(|finding| finding.level != Level::Note) {
        let _ = writeln!(text, "{}: {}; {}", finding.check, finding.problem, finding.remedy);
    }
    if text.is_empty() {
        text.push_str("healthy\n");
    }
    text
}

/// One JSON object.
pub fn json(facts: &Facts, findings: &[Finding]) -> String {
    let verdict = match verdict(findings) {
        Verdict::Healthy => "healthy",
        Verdict::Degraded => "degraded",
        Verdict::Undetermined => "undetermined",
    };
    let all = serde_json::json!({ "verdict": verdict, "findings": findings, "facts": facts });
    format!("{all:#}\n")
}

/// A table, and what is wrong beneath it.
pub fn table(facts: &Facts, findings: &[Finding]) -> String {
    let mut text = String::new();
    let mut row = |name: &str, value: String| {
        let _ = writeln!(text, "{name:<10}{value}");
    };
    let mut flushed = None;
    match &facts.postgres {
        Answer::Known(postgres) => {
            flushed = Some(postgres.flushed).filter(|_| !postgres.in_recovery);
            on_postgres(&mut row, facts, postgres);
        }
        Answer::Unknown { error } => row("postgres", format!("not known: {error}")),
    }
    match &facts.redis {
        Answer::Known(redis) => on_redis(&mut row, redis, flushed),
        Answer::Unknown { error } => row("redis", format!("not known: {error}")),
    }
    text.push('\n');
    for finding in findings {
        let level = match finding.level {
            Level::Problem => "PROBLEM",
            Level::Unknown => "UNKNOWN",
            Level::Note => "note",
        };
        let _ = writeln!(text, "{level:<8} {}: {}\n         → {}", finding.check, finding.problem, finding.remedy);
    }
    if verdict(findings) == Verdict::Healthy {
        text.push_str("healthy\n");
    }
    text
}

fn on_postgres(row: &mut impl FnMut(&str, String), facts: &Facts, postgres: &PostgresFacts) {
    let extension = postgres.extension.as_deref().map_or("no extension".into(), |v| format!("extension {v}"));
    row("postgres", format!("{}, {extension}, flushed up to {}", postgres.version, Lsn(postgres.flushed)));
    let budget = facts.asked.wal_budget.map_or("no limit".into(), |limit| Bytes(limit).to_string());
    row(
        "slot",
        match &postgres.slot {
            None => format!("{} does not exist", facts.asked.slot),
            Some(slot) => format!(
                "{}, {}, acknowledged up to {}, holds back {} (budget {budget})",
                facts.asked.slot,
                slot.active_pid
                    .map_or("nobody is connected".into(), |pid| format!("used by {} (process {pid})", slot.client)),
                slot.confirmed.map_or("nothing".into(), |lsn| Lsn(lsn).to_string()),
                Bytes(slot.retained_bytes),
            ),
        },
    );
    if let Some(stream) = &postgres.stream {
        row(
            "stream",
            format!(
                "{}, {}{}",
                stream.state.as_deref().unwrap_or("state not visible to this role"),
                stream.sync_state.as_deref().unwrap_or("-"),
                stream.reply_age_ms.map_or(String::new(), |ms| format!(", the daemon last spoke {ms} ms ago")),
            ),
        );
    }
    row(
        "daemon",
        match postgres.report_age_s {
            None => "has never reported".into(),
            Some(age) => format!("reported {age} s ago"),
        },
    );
}

fn on_redis(row: &mut impl FnMut(&str, String), redis: &RedisFacts, flushed: Option<u64>) {
    let library = match &redis.library {
        Answer::Known(Some(version)) => format!("library {version}"),
        Answer::Known(None) => "no library".into(),
        Answer::Unknown { .. } => "library not visible".into(),
    };
    row(
        "redis",
        format!(
            "{}, {}, {} replica(s), {library}, {}, {} used",
            redis.server,
            if redis.is_primary { "primary" } else { "replica" },
            redis.replicas,
            if redis.eviction_policy.is_empty() { "eviction policy not visible" } else { &redis.eviction_policy },
            Bytes(redis.used_memory),
        ),
    );
    let Some(state) = &redis.state else {
        row("cache", "no state".into());
        return;
    };
    let position = |lsn: Option<u64>| lsn.map_or("none".into(), |lsn| Lsn(lsn).to_string());
    let behind = match (flushed, state.watermark) {
        (Some(flushed), Some(watermark)) => format!(", {} behind", Bytes(flushed.saturating_sub(watermark))),
        _ => String::new(),
    };
    row(
        "cache",
        format!(
            "epoch {}, watermark {}, applied {}{behind}, caught up {} (max_lag {})",
            state.epoch.as_deref().unwrap_or("none"),
            position(state.watermark),
            position(state.applied),
            state.fresh_age_ms.map_or("never".into(), |ms| format!("{ms} ms ago")),
            state.max_lag_ms.map_or("none".into(), |ms| format!("{ms} ms")),
        ),
    );
    row("claimant", state.claimant.clone().unwrap_or_else(|| "none".into()));
}

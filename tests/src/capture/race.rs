//! A capture with a token, and a writer beside it: whatever the writer commits that the rows do not show must be bumped by a version above `as_of`.

use tokio_postgres::Client;

use super::mutation::Mutation;
use super::query::Query;
use super::report::{Miss, Report};
use super::session::{ALWAYS, answers, lines};
use super::trial::Trial;
use crate::log::Bump;
use crate::{Lsn, Random, lsn_of_version};

/// What is captured beside a writer.
#[derive(Debug)]
pub struct Raced {
    query: Query,
    rows: Vec<String>,
    tags: Vec<cachetag_core::Tag>,
    as_of: Lsn,
    token: Lsn,
    /// How both went, in words.
    course: String,
}

/// The transaction of the captured query.
#[derive(Debug, Clone, Copy)]
enum Isolation {
    None,
    ReadCommitted,
    RepeatableRead,
}

/// Steps of the reader: `capture_begin`, the query, `capture_end`.
const STEPS: usize = 3;

impl Trial {
    /// Runs a transaction beside a capture of the query, and commits it; none if it changes nothing, or would wait for the reader.
    pub(super) async fn race(
        &mut self,
        random: &mut Random,
        query: Query,
        mutation: &Mutation,
    ) -> Option<Option<Raced>> {
        let isolation = *random.pick(&[Isolation::None, Isolation::ReadCommitted, Isolation::RepeatableRead]);
        let begins = random.below(STEPS);
        let commits = begins + random.below(STEPS + 1 - begins);
        let together = random.percent(40);
        let state = self.stack.cache().await.state().await.expect("the daemon's state");
        let mut token = state.get("watermark").cloned().expect("a watermark");
        if random.percent(20) {
            // The least of this epoch: what comes of it is the floor alone.
            token.replace_range(11.., &format!("{:020}", 1));
        }
        let mut course = Vec::new();
        let role = query.role.map_or_else(|| "RESET ROLE".to_owned(), |role| format!("SET ROLE {role}"));
        self.reader.batch_execute(&format!("{ALWAYS}; {role}{}", self.broken())).await.expect("settings");
        let steps = steps(&query, &token, isolation);
        let mut told: Vec<Option<Vec<Vec<Option<String>>>>> = Vec::new();
        let mut has_failed = false;
        for (at, step) in steps.iter().enumerate() {
            if at == begins {
                course.push("the writer begins".to_owned());
                if !open(&self.writer, mutation).await {
                    let _ = self.reader.batch_execute("ROLLBACK").await;
                    let _ = self.reader.batch_execute("SELECT FROM cachetag.capture_end()").await;
                    return None;
                }
            }
            let run = async { if has_failed { None } else { last(&self.reader, step).await } };
            let answer = if at != commits {
                run.await
            } else if together {
                course.push("the writer commits together with".to_owned());
                let (committed, answer) = tokio::join!(self.writer.batch_execute("COMMIT"), run);
                committed.expect("what has not failed is committed");
                answer
            } else {
                course.push("the writer commits".to_owned());
                self.writer.batch_execute("COMMIT").await.expect("what has not failed is committed");
                run.await
            };
            course.push(step.clone());
            has_failed |= answer.is_none();
            told.push(answer);
        }
        if commits == STEPS {
            course.push("the writer commits".to_owned());
            self.writer.batch_execute("COMMIT").await.expect("what has not failed is committed");
        }
        if has_failed {
            let _ = self.reader.batch_execute("ROLLBACK").await;
            let _ = self.reader.batch_execute("SELECT FROM cachetag.capture_end()").await;
            return Some(None);
        }
        let fields = told.pop().flatten().and_then(|rows| rows.into_iter().next()).expect("capture_end answers a row");
        let rows = lines(&told.pop().flatten().unwrap_or_default());
        let [tags, as_of, cacheable] = fields.as_slice() else { panic!("three fields: {fields:?}") };
        if cacheable.as_deref() != Some("t") {
            return Some(None);
        }
        let tags: Vec<String> = serde_json::from_str(tags.as_deref().unwrap_or("[]")).expect("a list");
        let tags = tags.iter().map(|tag| cachetag_core::Tag::parse(tag).unwrap_or_else(|error| panic!("{error}")));
        let as_of = lsn_of_version(as_of.as_deref().expect("what may be cached has a version"));
        let token = lsn_of_version(&token);
        Some(Some(Raced { query, rows, tags: tags.collect(), as_of, token, course: course.join("; ") }))
    }

    /// Holds what was captured beside the writer against what is there now.
    pub(super) async fn judge_raced(
        &self,
        raced: Raced,
        bumps: &[Bump],
        seed: u64,
        mutation: &Mutation,
        report: &mut Report,
    ) {
        report.raced += 1;
        report.raised += u64::from(raced.as_of > raced.token);
        let now = self.rows(&raced.query).await;
        let has_changed = now.as_ref() != Some(&raced.rows);
        report.overtaken += u64::from(has_changed);
        let reaches = |bump: &Bump| bump.at > raced.as_of && raced.tags.iter().any(|tag| bump.tag.reaches(tag));
        let what = if raced.as_of < raced.token {
            "as_of is below the token"
        } else if has_changed && !bumps.iter().any(reaches) {
            "a result that was read beside a writer has changed, and no tag of it was bumped above its as_of"
        } else {
            return;
        };
        let list = |tags: &mut dyn Iterator<Item = String>| tags.collect::<Vec<_>>().join(", ");
        let details = vec![
            ("query", raced.query.inlined()),
            ("course", raced.course),
            ("transaction", mutation.statements.join("; ")),
            ("token, as_of", format!("{}, {}", raced.token, raced.as_of)),
            ("tags", list(&mut raced.tags.iter().map(ToString::to_string))),
            ("bumped", list(&mut bumps.iter().map(|bump| format!("{} at {}", bump.tag, bump.at)))),
            ("before", raced.rows.join("; ")),
            ("after", now.map_or_else(|| "an error".to_owned(), |rows| rows.join("; "))),
        ];
        report.miss(Miss { what, seed, details });
    }
}

/// Can this transaction be open while others read?
pub fn may_stay_open(mutation: &Mutation) -> bool {
    !mutation.statements.iter().any(|text| text.starts_with("TRUNCATE") || text.starts_with("PREPARE TRANSACTION"))
}

fn steps(query: &Query, token: &str, isolation: Isolation) -> [String; STEPS] {
    let text = query.inlined();
    let begin = format!("SELECT cachetag.capture_begin('{token}')");
    let end = "SELECT to_jsonb(tags), as_of, cacheable FROM cachetag.capture_end()".to_owned();
    match isolation {
        Isolation::None => [begin, text, end],
        Isolation::ReadCommitted => [format!("BEGIN; {begin}"), text, format!("COMMIT; {end}")],
        // Its snapshot is taken by the query, after the capture has begun.
        Isolation::RepeatableRead => {
            [begin, format!("BEGIN ISOLATION LEVEL REPEATABLE READ; {text}"), format!("COMMIT; {end}")]
        }
    }
}

/// Does everything but the commit; false if a statement failed.
async fn open(writer: &Client, mutation: &Mutation) -> bool {
    let statements = mutation.statements.iter().filter(|text| !matches!(text.as_str(), "BEGIN" | "COMMIT"));
    let text = statements.map(String::as_str).collect::<Vec<_>>().join("; ");
    if writer.batch_execute(&format!("BEGIN; {text}")).await.is_err() {
        let _ = writer.batch_execute("ROLLBACK").await;
        return false;
    }
    true
}

/// What the last statement of a message answers.
async fn last(client: &Client, sql: &str) -> Option<Vec<Vec<Option<String>>>> {
    answers(client, sql).await.ok()?.pop()
}

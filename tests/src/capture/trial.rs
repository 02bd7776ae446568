//! One world after the other on servers of a worker's own.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use cachetag_core::Tag;
use tokio_postgres::Client;

use super::bumps::Bumps;
use super::mutation::Mutation;
use super::query::Query;
use super::race::may_stay_open;
use super::report::{Miss, Report};
use super::session::{ALWAYS, Mode, Way, answers, capture, lines};
use super::theme::Theme;
use super::world::{self, Focus};
use super::{Options, broken};
use crate::{DATABASE, Random, Stack, StackOptions, eventually};

/// How long a server may take to be back after a crash.
const PATIENCE: Duration = Duration::from_secs(60);
/// Results that are cached at a time.
const POOL: usize = 70;
/// Transactions of a world.
const TRANSACTIONS: usize = 150;
/// Cached results that are looked at for replacement, each transaction.
const TURNOVER: usize = 3;
/// Transactions after which a result should have changed now and then.
const TRIED: u32 = 6;
/// Of a hundred transactions, those that change definitions.
const DEFINITIONS: usize = 14;
/// The same where the world is about them.
const MORE_DEFINITIONS: usize = 50;
/// Of a hundred changes of rows, those beside which a query is captured with a token.
const RACES: usize = 25;
/// Of a hundred queries without rows, those that are not cached: little can change them.
const EMPTY: usize = 85;
/// The same where the world is about rows that are not there yet.
const FEWER_EMPTY: usize = 30;
/// Of a hundred captures that show their rows, those whose rows are compared with what the query says without a capture.
const CHECKED: usize = 20;

/// The servers of a worker, and its sessions.
pub struct Trial {
    options: Options,
    /// Changes the world.
    pub(super) writer: Client,
    /// Captures.
    pub(super) reader: Client,
    /// Looks at results without capturing them.
    checker: Client,
    bumps: Bumps,
    pub(super) stack: Stack,
    /// Another worker has found what it was to find.
    stopped: Arc<AtomicBool>,
    /// What the present world is about.
    theme: Option<Theme>,
    /// A capture has crashed the server.
    has_crashed: Cell<bool>,
}

/// A cached result.
struct Entry {
    query: Query,
    way: Way,
    tags: Vec<Tag>,
    rows: Vec<String>,
    /// Transactions that it was held against.
    age: u32,
    /// Those of them that changed it.
    changes: u32,
}

impl Entry {
    fn is_reached(&self, bumps: &[Tag]) -> bool {
        bumps.iter().any(|bump| self.tags.iter().any(|tag| bump.reaches(tag)))
    }
}

impl Trial {
    /// Starts the servers.
    pub async fn start(options: &Options, stopped: Arc<AtomicBool>) -> Trial {
        let mut servers = StackOptions::new().setting("max_parallel_workers", "4");
        if options.forgets.is_some() {
            servers = servers.installation(broken::installation());
        }
        let stack = Stack::start(servers).await;
        let (writer, reader, checker) = (stack.connect().await, stack.connect().await, stack.connect().await);
        let bumps = Bumps::follow(&stack).await;
        Trial {
            options: options.clone(),
            writer,
            reader,
            checker,
            bumps,
            stack,
            stopped,
            theme: None,
            has_crashed: Cell::new(false),
        }
    }

    /// A world from its making to its end.
    pub async fn world(&mut self, seed: u64) -> Report {
        let mut random = Random::new(seed);
        self.theme = Theme::random(&mut random, self.options.forgets);
        let focus = Focus::random(&mut random, self.theme);
        let mut report = Report { worlds: 1, ..Report::default() };
        self.writer.batch_execute(ALWAYS).await.expect("settings");
        for statement in world::statements(&mut random, &focus) {
            if let Err(error) = self.writer.batch_execute(&statement).await {
                // Chance may ask for what there is not: an index of a type without order, a partition for a value.
                let must = statement.contains("CREATE SCHEMA");
                assert!(!must, "{error:?}: {statement}");
            }
        }
        self.bumps.since(&self.writer).await;
        self.checker.batch_execute(ALWAYS).await.expect("settings");

        let mut pool: Vec<Entry> = Vec::new();
        for _ in 0..TRANSACTIONS {
            if self.stopped.load(Ordering::Relaxed) {
                break;
            }
            for _ in 0..TURNOVER {
                // Queries that little can change make room for others.
                if pool.len() > POOL / 2 {
                    let gone = random.below(pool.len());
                    if pool[gone].age >= TRIED && pool[gone].changes * TRIED < pool[gone].age || random.percent(3) {
                        pool.swap_remove(gone);
                    }
                }
            }
            for _ in 0..3 * POOL {
                if pool.len() >= POOL || self.has_crashed.get() {
                    break;
                }
                let query = Query::random(&mut random, &focus);
                pool.extend(self.cached(&mut random, query, seed, &mut report, true).await);
            }
            if self.has_crashed.take() {
                self.recover().await;
                break;
            }
            let definition =
                random.percent(if self.theme == Some(Theme::Definitions) { MORE_DEFINITIONS } else { DEFINITIONS });
            let mutation = if definition {
                Mutation::definition(&mut random, &focus)
            } else {
                Mutation::rows(&mut random, &focus)
            };
            let mut raced = None;
            if !definition && !pool.is_empty() && may_stay_open(&mutation) && random.percent(RACES) {
                // One that has rows, mostly.
                let query = random.pick(&pool).query.clone();
                match self.race(&mut random, query, &mutation).await {
                    Some(captured) => raced = captured,
                    None => continue,
                }
            } else if !self.commit(&mutation).await {
                continue;
            }
            report.mutations += 1;
            report.definitions += u64::from(definition);
            let bumps = self.bumps.since(&self.writer).await;
            if let Some(raced) = raced {
                self.judge_raced(raced, &bumps, seed, &mutation, &mut report).await;
            }
            let bumps: Vec<Tag> = bumps.into_iter().map(|bump| bump.tag).collect();
            pool = self.judge(&mut random, pool, &mutation, &bumps, seed, &mut report).await;
            if self.options.stop_at_miss && report.miss_count > 0 {
                break;
            }
        }
        report
    }

    /// From now on capture forgets this.
    pub fn forget(&mut self, guard: &'static str) {
        self.options.forgets = Some(guard);
    }

    /// What makes capture forget what it is to forget, behind other settings.
    pub(super) fn broken(&self) -> String {
        self.options.forgets.map_or_else(String::new, |guard| format!("; SET cachetag.broken = '{guard}'"))
    }

    /// Waits for a server that has crashed, and begins anew.
    async fn recover(&mut self) {
        eventually("the server's recovery", PATIENCE, async || self.stack.postgres.connect(DATABASE).await.ok()).await;
        let connect = async || self.stack.connect().await;
        (self.writer, self.reader, self.checker) = (connect().await, connect().await, connect().await);
        self.stack.wait_caught_up_now().await;
        self.bumps.since(&self.writer).await;
    }

    /// What the server says of its crash.
    async fn last_words(&self) -> String {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let log = std::fs::read_to_string(self.stack.postgres.log()).unwrap_or_default();
        let is_telling =
            |line: &&str| line.contains("terminated by") || line.contains("running:") || line.contains("TRAP");
        log.lines().rev().filter(is_telling).take(2).collect::<Vec<_>>().join("\n")
    }

    /// Commits; false if a statement failed, and so nothing has changed.
    async fn commit(&self, mutation: &Mutation) -> bool {
        for statement in &mutation.statements {
            if self.writer.batch_execute(statement).await.is_err() {
                let _ = self.writer.batch_execute("ROLLBACK").await;
                return false;
            }
        }
        true
    }

    /// Captures a query; what may be cached of it.
    async fn cached(
        &self,
        random: &mut Random,
        query: Query,
        seed: u64,
        report: &mut Report,
        is_new: bool,
    ) -> Option<Entry> {
        // A new query has to be one; a known one is looked at again only where the capture does not show its rows as text.
        let mut rows = if is_new { Some(self.rows(&query).await?) } else { None };
        if is_new
            && rows.as_ref().is_some_and(Vec::is_empty)
            && random.percent(if self.theme == Some(Theme::Lazy) { FEWER_EMPTY } else { EMPTY })
        {
            return None;
        }
        let mut way = Way::random(random, self.theme);
        way.settings.extend(self.broken().strip_prefix("; ").map(str::to_owned));
        report.queries += u64::from(is_new);
        report.captures += 1;
        let captured = match capture(&self.reader, &query, &way).await {
            Ok(captured) => captured,
            Err(error) if error.is_closed() || self.reader.is_closed() => {
                self.has_crashed.set(true);
                let details = vec![
                    ("query", query.inlined()),
                    (
                        "run",
                        format!("{:?} by {}; {}", way.mode, query.role.unwrap_or("the owner"), way.settings.join("; ")),
                    ),
                    ("error", error.to_string()),
                    ("log", self.last_words().await),
                ];
                report.miss(Miss { what: "the server has crashed", seed, details });
                return None;
            }
            Err(error) => {
                let error = error.as_db_error().map_or_else(|| error.to_string(), |error| error.message().to_owned());
                // Some ways are not open to some queries, and say so; a change of definitions may have taken the query its meaning.
                if !is_refusal(way.mode, &error) && self.rows(&query).await.is_some() {
                    report.miss(
                        self.miss(
                            "a query fails only while it is captured",
                            seed,
                            &query,
                            &way,
                            vec![("error", error)],
                        )
                        .await,
                    );
                }
                return None;
            }
        };
        if rows.is_none() && (captured.rows.is_none() || random.percent(CHECKED)) {
            rows = Some(self.rows(&query).await?);
        }
        let rows = match (rows, captured.rows) {
            (Some(rows), Some(shown)) if rows != shown => {
                let details = vec![("rows", rows.join("; ")), ("captured", shown.join("; "))];
                report.miss(self.miss("a captured query has other rows", seed, &query, &way, details).await);
                return None;
            }
            (Some(rows), _) | (None, Some(rows)) => rows,
            (None, None) => return None,
        };
        if !captured.cacheable {
            for reason in captured.reasons {
                *report.reasons.entry(kind_of(&reason)).or_default() += 1;
            }
            return None;
        }
        if matches!(way.mode, Mode::Opened | Mode::Held) {
            let what = "a cursor that was opened before the capture is cacheable";
            report.miss(self.miss(what, seed, &query, &way, Vec::new()).await);
            return None;
        }
        report.cacheable += u64::from(is_new);
        let parse = |text: &String| Tag::parse(text).unwrap_or_else(|error| panic!("captured: {error}"));
        let tags: Vec<Tag> = captured.tags.iter().map(parse).collect();
        report.finer += u64::from(tags.iter().any(|tag| !tag.is_whole_family()));
        Some(Entry { query, way, tags, rows, age: 0, changes: 0 })
    }

    /// The rows of a query without a capture; none if it fails.
    pub(super) async fn rows(&self, query: &Query) -> Option<Vec<String>> {
        let text = query.inlined();
        let sql = match query.role {
            Some(role) => format!("SET ROLE {role}; {text}; RESET ROLE"),
            None => text,
        };
        match answers(&self.checker, &sql).await {
            Ok(answers) => Some(lines(&answers[usize::from(query.role.is_some())])),
            Err(_) => {
                self.checker.batch_execute("RESET ROLE").await.expect("the session lives");
                None
            }
        }
    }

    /// Holds a transaction against every cached result; those that are cached afterwards.
    async fn judge(
        &self,
        random: &mut Random,
        pool: Vec<Entry>,
        mutation: &Mutation,
        bumps: &[Tag],
        seed: u64,
        report: &mut Report,
    ) -> Vec<Entry> {
        let (reached, left): (Vec<_>, Vec<_>) = pool.into_iter().partition(|entry| entry.is_reached(bumps));
        let mut kept = Vec::with_capacity(POOL);
        let now = self.all_rows(&left).await;
        for (mut entry, now) in left.into_iter().zip(now) {
            entry.age += 1;
            if now.as_ref() == Some(&entry.rows) {
                report.spared += 1;
                kept.push(entry);
                continue;
            }
            report.changes += 1;
            let list = |tags: &[Tag]| tags.iter().map(Tag::as_str).collect::<Vec<_>>().join(", ");
            let details = vec![
                ("transaction", mutation.statements.join("; ")),
                ("tags", list(&entry.tags)),
                ("bumped", list(bumps)),
                ("before", entry.rows.join("; ")),
                ("after", now.map_or_else(|| "an error".to_owned(), |rows| rows.join("; "))),
            ];
            report.miss(
                self.miss("a result has changed, and no tag of it was bumped", seed, &entry.query, &entry.way, details)
                    .await,
            );
        }
        for entry in reached {
            report.hits += 1;
            let mode = format!("{:?}", entry.way.mode);
            let again = self.cached(random, entry.query.clone(), seed, report, false).await;
            if self.has_crashed.get() {
                break;
            }
            let has_changed = match &again {
                Some(again) => again.rows != entry.rows,
                None => self.rows(&entry.query).await.as_ref() != Some(&entry.rows),
            };
            if has_changed {
                report.changes += 1;
                *report.modes.entry(mode).or_default() += 1;
            }
            let (age, changes) = (entry.age + 1, entry.changes + u32::from(has_changed));
            kept.extend(again.map(|again| Entry { age, changes, ..again }));
        }
        kept
    }

    /// The rows of many, in one message where none fails.
    async fn all_rows(&self, entries: &[Entry]) -> Vec<Option<Vec<String>>> {
        let mut sql = String::new();
        for entry in entries {
            match entry.query.role {
                Some(role) => sql += &format!("SET ROLE {role}; {}; RESET ROLE; ", entry.query.inlined()),
                None => sql += &format!("{}; ", entry.query.inlined()),
            }
        }
        if let Ok(answers) = answers(&self.checker, &sql).await {
            let mut answers = answers.into_iter();
            let rows = entries.iter().map(|entry| {
                let (before, after) = if entry.query.role.is_some() { (1, 1) } else { (0, 0) };
                let rows = answers.by_ref().nth(before).expect("an answer for each");
                answers.by_ref().take(after).for_each(drop);
                Some(lines(&rows))
            });
            return rows.collect();
        }
        self.checker.batch_execute("RESET ROLE").await.expect("the session lives");
        let mut rows = Vec::with_capacity(entries.len());
        for entry in entries {
            rows.push(self.rows(&entry.query).await);
        }
        rows
    }

    async fn miss(
        &self,
        what: &'static str,
        seed: u64,
        query: &Query,
        way: &Way,
        more: Vec<(&'static str, String)>,
    ) -> Miss {
        let mut details = vec![
            ("query", query.inlined()),
            ("run", format!("{:?} by {}; {}", way.mode, query.role.unwrap_or("the owner"), way.settings.join("; "))),
        ];
        details.extend(more);
        details.push(("plan", self.plan(query, way).await));
        let rules = "SELECT format('%s %s%s', \"table\", template, nullif(concat_ws(' ', '', columns, nullif(operations, '{insert,update,delete,truncate}'), nullif(soft, false), predicate, nullif(identity, 'full'), nullif(widen, false), nullif(state, 'ok')), '')) FROM cachetag.rules ORDER BY id";
        let rules = answers(&self.checker, rules).await.expect("the rules");
        details.push(("rules", lines(&rules[0]).join("\n")));
        Miss { what, seed, details }
    }

    /// The plan that the capture has met, or one that is made like it.
    async fn plan(&self, query: &Query, way: &Way) -> String {
        let role = query.role.map_or_else(String::new, |role| format!("SET ROLE {role}; "));
        let settings: String = way.settings.iter().map(|setting| format!("{setting}; ")).collect();
        let explain = if way.mode == Mode::Prepared {
            let (prepare, execute) = query.prepared("explained");
            format!("{prepare}; EXPLAIN (COSTS OFF) {execute}; DEALLOCATE explained")
        } else {
            format!("EXPLAIN (COSTS OFF) {}", query.inlined())
        };
        let found = answers(&self.checker, &format!("{role}{settings}{explain}")).await;
        self.checker.batch_execute(&format!("RESET ROLE; {ALWAYS}")).await.expect("the session lives");
        match found {
            Ok(answers) => {
                let lines = answers.into_iter().flatten().filter_map(|mut row| row.pop().flatten());
                lines.collect::<Vec<_>>().join("\n")
            }
            Err(error) => error.to_string(),
        }
    }
}

/// Is it said beforehand that this way is not open to the query?
fn is_refusal(mode: Mode, error: &str) -> bool {
    match mode {
        // Parameters of a prepared statement are typed before its text is read.
        Mode::Prepared => error.contains("parameter") || error.contains("syntax") || error.contains("ambiguous"),
        Mode::Cursor | Mode::Opened | Mode::Held => error.contains("FOR UPDATE"),
        _ => false,
    }
}

/// A reason without what is particular to the query.
fn kind_of(reason: &str) -> String {
    let words = reason
        .split_whitespace()
        .filter(|word| !word.contains(|c: char| c.is_ascii_digit() || c == '_' || c == '"' || c == '\''));
    words.take(8).collect::<Vec<_>>().join(" ")
}

//! Capturing over the wire, in every way that a query can be run.

use tokio_postgres::{Client, SimpleQueryMessage};

use super::query::Query;
use super::theme::Theme;
use crate::Random;

/// How a query is run between `capture_begin` and `capture_end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// All in one message, and so in one transaction.
    Simple,
    /// Each statement a transaction.
    Separate,
    /// In a transaction with a snapshot for each statement.
    Transaction,
    /// In a transaction whose snapshot comes after `capture_begin`.
    RepeatableRead,
    /// By PREPARE before the capture and EXECUTE in it.
    Prepared,
    /// By the extended protocol, with parameters in the text as literals.
    Extended,
    /// By DECLARE and FETCH.
    Cursor,
    /// By DECLARE before the capture and FETCH in it: its snapshot is older.
    Opened,
    /// The same WITH HOLD, after the end of its transaction.
    Held,
    /// In a savepoint that is released.
    Savepoint,
    /// In a savepoint that is rolled back: the application has seen the rows all the same.
    RolledBack,
    /// By `cachetag.capture(query)`.
    OneShot,
    /// Twice, under other settings the second time.
    Twice,
}

const MODES: &[Mode] = &[
    Mode::Simple,
    Mode::Separate,
    Mode::Transaction,
    Mode::RepeatableRead,
    Mode::Prepared,
    Mode::Prepared,
    Mode::Extended,
    Mode::Cursor,
    Mode::Savepoint,
    Mode::OneShot,
    Mode::Twice,
];

/// Settings of the planner that may be turned off.
const SWITCHES: &[&str] = &[
    "enable_seqscan",
    "enable_indexscan",
    "enable_indexonlyscan",
    "enable_bitmapscan",
    "enable_hashjoin",
    "enable_mergejoin",
    "enable_nestloop",
    "enable_memoize",
    "enable_material",
    "enable_sort",
    "enable_hashagg",
    "enable_partition_pruning",
    "enable_incremental_sort",
];

/// Other settings that make other plans.
const SETTINGS: &[&str] = &[
    "plan_cache_mode = force_generic_plan",
    "plan_cache_mode = force_custom_plan",
    "enable_partitionwise_join = on",
    "enable_partitionwise_aggregate = on",
    "join_collapse_limit = 1",
    "from_collapse_limit = 1",
    "work_mem = '64kB'",
    "constraint_exclusion = on",
    "random_page_cost = 0",
    "cursor_tuple_fraction = 1",
    "cachetag.capture_keys = 2",
];

/// Settings under which values have other texts than in tags.
const TEXTS: &[&str] =
    &["datestyle = 'SQL, DMY'", "intervalstyle = iso_8601", "extra_float_digits = -3", "bytea_output = escape"];

/// Workers for whatever can have them. They take milliseconds to start.
const PARALLEL: &[&str] = &[
    "parallel_setup_cost = 0",
    "parallel_tuple_cost = 0",
    "min_parallel_table_scan_size = 0",
    "min_parallel_index_scan_size = 0",
    "max_parallel_workers_per_gather = 2",
];

/// A way to capture: how, and under which settings.
#[derive(Debug, Clone)]
pub struct Way {
    /// How.
    pub mode: Mode,
    /// `SET` statements.
    pub settings: Vec<String>,
    /// The rows may be written in other texts than elsewhere.
    pub is_odd: bool,
}

impl Way {
    /// Any.
    pub fn random(random: &mut Random, theme: Option<Theme>) -> Way {
        let mut settings = Vec::new();
        if random.percent(70) {
            settings.extend(SWITCHES.iter().filter(|_| random.percent(25)).map(|name| format!("SET {name} = off")));
            settings.extend(SETTINGS.iter().filter(|_| random.percent(12)).map(|setting| format!("SET {setting}")));
        }
        if random.percent(4) {
            settings.extend(PARALLEL.iter().map(|setting| format!("SET {setting}")));
        }
        let is_odd = random.percent(if theme == Some(Theme::Settings) { 70 } else { 10 });
        if is_odd {
            settings.extend(TEXTS.iter().map(|setting| format!("SET {setting}")));
        }
        let mode = match random.below(100) {
            0..3 => Mode::RolledBack,
            3..5 => Mode::Opened,
            5 => Mode::Held,
            _ => *random.pick(MODES),
        };
        Way { mode, settings, is_odd }
    }
}

/// What `capture_end` has answered.
#[derive(Debug, Clone)]
pub struct Captured {
    /// What the result depends on.
    pub tags: Vec<String>,
    /// May it be cached?
    pub cacheable: bool,
    /// Why not, or what it depends on beside the tags.
    pub reasons: Vec<String>,
    /// The rows, sorted, where the way of capturing returns them as text.
    pub rows: Option<Vec<String>>,
}

/// What all sessions of a world have set.
pub const ALWAYS: &str = "RESET ALL; RESET ROLE; SET search_path = app, public; SET jit = off; SET timezone = 'Asia/Kathmandu'; SET client_min_messages = error";

const BEGIN: &str = "SELECT cachetag.capture_begin()";
const FIELDS: &str = "to_jsonb(tags) AS tags, cacheable, to_jsonb(reasons) AS reasons";

/// The answers of several statements, each with its rows.
pub type Answers = Vec<Vec<Vec<Option<String>>>>;

/// Runs statements in one message; what each answers.
pub async fn answers(client: &Client, sql: &str) -> Result<Answers, tokio_postgres::Error> {
    let mut answers = vec![Vec::new()];
    for message in client.simple_query(sql).await? {
        match message {
            SimpleQueryMessage::Row(row) => {
                let values = (0..row.len()).map(|column| row.get(column).map(str::to_owned)).collect();
                answers.last_mut().expect("one is open").push(values);
            }
            SimpleQueryMessage::CommandComplete(_) => answers.push(Vec::new()),
            _ => {}
        }
    }
    answers.pop();
    Ok(answers)
}

/// Rows as lines, sorted: their order is nobody's promise.
pub fn lines(rows: &[Vec<Option<String>>]) -> Vec<String> {
    let value = |value: &Option<String>| value.as_deref().map_or_else(|| "NULL".to_owned(), |text| format!("'{text}'"));
    let mut lines: Vec<String> = rows.iter().map(|row| row.iter().map(value).collect::<Vec<_>>().join(", ")).collect();
    lines.sort_unstable();
    lines
}

/// Captures a query this way.
pub async fn capture(client: &Client, query: &Query, way: &Way) -> Result<Captured, tokio_postgres::Error> {
    let result = attempt(client, query, way).await;
    if result.is_err() {
        // Whatever is open is given up.
        client.batch_execute("ROLLBACK").await?;
        client.batch_execute("CLOSE ALL").await?;
        client.batch_execute(ALWAYS).await?;
        // A capture outlives a rollback. If it had not come that far, there is none.
        let _ = client.batch_execute("SELECT FROM cachetag.capture_end()").await;
        if way.mode == Mode::Prepared {
            // It may not have come that far.
            let _ = client.batch_execute("DEALLOCATE prepared").await;
        }
    }
    result
}

async fn attempt(client: &Client, query: &Query, way: &Way) -> Result<Captured, tokio_postgres::Error> {
    let role = query.role.map_or_else(|| "RESET ROLE".to_owned(), |role| format!("SET ROLE {role}"));
    let settings: String = way.settings.iter().map(|setting| format!("; {setting}")).collect();
    let before = format!("{ALWAYS}; {role}{settings}");
    let text = query.inlined();
    let end = format!("SELECT {FIELDS} FROM cachetag.capture_end()");
    let run = |sql: String| async move { answers(client, &sql).await };
    // What the last statements of a message have answered, the last of them first.
    let last = |answers: Answers| answers.into_iter().rev();
    let (rows, fields) = match way.mode {
        Mode::Simple => {
            let mut all = last(run(format!("{before}; {BEGIN}; {text}; {end}")).await?);
            let fields = all.next();
            (all.next(), fields)
        }
        Mode::Separate => {
            run(format!("{before}; {BEGIN}")).await?;
            let rows = run(text).await?.pop();
            (rows, run(end).await?.pop())
        }
        Mode::Transaction => {
            run(format!("{before}; BEGIN; {BEGIN}")).await?;
            let rows = run(text).await?.pop();
            (rows, last(run(format!("{end}; COMMIT")).await?).nth(1))
        }
        Mode::RepeatableRead => {
            run(format!("{before}; {BEGIN}")).await?;
            run("BEGIN ISOLATION LEVEL REPEATABLE READ".to_owned()).await?;
            let rows = run(text).await?.pop();
            run("COMMIT".to_owned()).await?;
            (rows, run(end).await?.pop())
        }
        Mode::Prepared => {
            let (prepare, execute) = query.prepared("prepared");
            let mut all =
                last(run(format!("{before}; {prepare}; {BEGIN}; {execute}; {end}; DEALLOCATE prepared")).await?);
            let fields = all.nth(1);
            (all.next(), fields)
        }
        Mode::Extended => {
            client.batch_execute(&before).await?;
            let statement = client.prepare(&text).await?;
            client.query(BEGIN, &[]).await?;
            client.query(&statement, &[]).await?;
            (None, run(end).await?.pop())
        }
        Mode::Cursor => {
            run(format!("{before}; BEGIN; {BEGIN}; DECLARE c NO SCROLL CURSOR FOR {text}")).await?;
            let mut rows = Vec::new();
            loop {
                let fetched = run("FETCH 2 FROM c".to_owned()).await?.pop().unwrap_or_default();
                if fetched.is_empty() {
                    break;
                }
                rows.extend(fetched);
            }
            (Some(rows), last(run(format!("CLOSE c; {end}; COMMIT")).await?).nth(1))
        }
        Mode::Opened => {
            run(format!("{before}; BEGIN; DECLARE c CURSOR FOR {text}; {BEGIN}")).await?;
            let rows = run("FETCH ALL FROM c".to_owned()).await?.pop();
            (rows, last(run(format!("{end}; COMMIT")).await?).nth(1))
        }
        Mode::Held => {
            run(format!("{before}; BEGIN; DECLARE c CURSOR WITH HOLD FOR {text}; COMMIT")).await?;
            run(BEGIN.to_owned()).await?;
            let rows = run("FETCH ALL FROM c".to_owned()).await?.pop();
            (rows, last(run(format!("{end}; CLOSE c")).await?).nth(1))
        }
        Mode::Savepoint | Mode::RolledBack => {
            let undo = if way.mode == Mode::Savepoint { "RELEASE s" } else { "ROLLBACK TO s" };
            let rows = run(format!("{before}; BEGIN; {BEGIN}; SAVEPOINT s; {text}")).await?.pop();
            (rows, last(run(format!("{undo}; {end}; COMMIT")).await?).nth(1))
        }
        Mode::OneShot => {
            let quoted = super::kind::quoted(&text);
            (None, run(format!("{before}; SELECT {FIELDS} FROM cachetag.capture({quoted})")).await?.pop())
        }
        Mode::Twice => {
            let mut all =
                last(run(format!("{before}; {BEGIN}; {text}; SET enable_seqscan = off; {text}; {end}")).await?);
            let fields = all.next();
            (all.next(), fields)
        }
    };
    let fields = fields.and_then(|rows| rows.into_iter().next()).expect("capture_end answers a row");
    let texts = |at: usize| -> Vec<String> {
        let text = fields[at].as_deref().unwrap_or("[]");
        serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
    };
    Ok(Captured {
        tags: texts(0),
        cacheable: fields[1].as_deref() == Some("t"),
        reasons: texts(2),
        rows: rows.filter(|_| !way.is_odd).map(|rows| lines(&rows)),
    })
}

//! One connection of psql.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use cachetag_core::Tag;
use tokio::net::TcpStream;

use super::Shared;
use super::pool::{ASKED, Entry, Pool, Rows, SLOW};
use super::statement::{changes_session, is_determined, is_query, is_quiet};
use super::wire::{Incoming, Message, Outgoing};

/// Codes of startup packets: requests for encryption, after which another packet comes, and for a cancellation.
const SSL_REQUEST: u32 = 80_877_103;
const GSS_REQUEST: u32 = 80_877_104;
const CANCEL_REQUEST: u32 = 80_877_102;

/// The least token: what comes of it is the commit floor.
const BEGIN: &str = "SELECT cachetag.capture_begin('0000000001.00000000000000000001')";
const END: &str =
    "SELECT pg_catalog.to_jsonb(tags), as_of, cacheable, pg_catalog.to_jsonb(reasons) FROM cachetag.capture_end()";

/// Nothing is asked for again in tests that look at what the server counts of queries and transactions; nor in the one of collations under which texts that
/// differ are equal: which of them a set operation shows depends on the plan.
const NOT_ASKED: &[&str] = &["stats", "stats_ext", "sysviews", "plancache", "collate.icu.utf8"];

/// Of a text that is told.
const TOLD: usize = 300;

/// What was sent between two moments without a transaction.
#[derive(Debug, Default)]
struct Unit {
    texts: Vec<String>,
    commands: Vec<String>,
    rows: Rows,
    messages: u64,
    began: Option<Instant>,
    is_captured: bool,
    /// A statement without a name is prepared: one of ours in between would take its place.
    is_prepared: bool,
}

struct Session {
    shared: Arc<Shared>,
    client: Outgoing,
    server: Outgoing,
    answers: Incoming,
    test: String,
    pool: Pool,
    unit: Unit,
    /// ReadyForQuery that have not come yet.
    awaited: usize,
    /// Something was sent and the server is not ready for more.
    is_busy: bool,
    /// As the server says: without a transaction, in one, in a failed one.
    status: u8,
    is_captured: bool,
    is_asked_again: bool,
}

/// Relays a connection to its end.
pub(super) async fn serve(client: TcpStream, shared: Arc<Shared>) -> io::Result<()> {
    client.set_nodelay(true)?;
    let (read, write) = client.into_split();
    let (mut requests, mut client) = (Incoming::new(read), Outgoing::new(write));
    let (code, startup) = loop {
        let Some((code, packet)) = requests.startup().await? else { return Ok(()) };
        if code != SSL_REQUEST && code != GSS_REQUEST {
            break (code, packet);
        }
        client.put(b"N").await?;
        client.flush().await?;
    };
    let server = TcpStream::connect(("127.0.0.1", shared.options.postgres)).await?;
    server.set_nodelay(true)?;
    let (read, write) = server.into_split();
    let (answers, mut server) = (Incoming::new(read), Outgoing::new(write));
    server.put(&startup).await?;
    server.flush().await?;
    if code == CANCEL_REQUEST {
        return Ok(());
    }
    let fields: Vec<String> =
        startup[8..].split(|&byte| byte == 0).map(|field| String::from_utf8_lossy(field).into_owned()).collect();
    let field = |name: &str| fields.chunks(2).find(|pair| pair[0] == name).and_then(|pair| pair.get(1));
    let test = field("application_name").map_or("", |name| name.trim_start_matches("pg_regress/")).to_owned();
    let is_captured = field("database") == Some(&shared.options.database) && !test.is_empty();
    let is_asked_again = is_captured && !NOT_ASKED.contains(&test.as_str());
    shared.report(|report| report.sessions += u64::from(is_captured));
    let mut session = Session {
        shared,
        client,
        server,
        answers,
        test,
        pool: Pool::default(),
        unit: Unit::default(),
        // That of the connection itself.
        awaited: 1,
        is_busy: true,
        status: b'I',
        is_captured,
        is_asked_again,
    };
    session.relay(&mut requests).await
}

impl Session {
    async fn relay(&mut self, requests: &mut Incoming) -> io::Result<()> {
        loop {
            tokio::select! {
                message = requests.next() => {
                    let Some(message) = message? else { return Ok(()) };
                    self.sent(message).await?;
                }
                message = self.answers.next() => {
                    let Some(message) = message? else { return self.client.flush().await };
                    self.answered(message).await?;
                    while let Some(message) = self.answers.whole()? {
                        self.answered(message).await?;
                    }
                    self.client.flush().await?;
                }
            }
        }
    }

    /// psql has sent something.
    async fn sent(&mut self, message: Message) -> io::Result<()> {
        let tag = message.tag();
        if !self.is_busy && tag != b'X' {
            self.is_busy = true;
            if self.status == b'I' && !self.unit.is_prepared {
                self.begin().await?;
            }
        }
        if matches!(tag, b'Q' | b'S' | b'F') {
            self.awaited += 1;
        }
        match tag {
            b'Q' => {
                self.unit.texts.push(message.text());
                self.unit.is_prepared = false;
            }
            b'P' => {
                // It is not asked for again: two texts are no query by itself.
                self.unit.texts.extend([String::new(), String::new()]);
                self.unit.is_prepared = true;
            }
            b'E' => self.unit.is_prepared = false,
            _ => {}
        }
        self.unit.messages += u64::from(matches!(tag, b'Q' | b'S'));
        self.server.put(message.bytes()).await?;
        self.server.flush().await
    }

    /// The server has answered something.
    async fn answered(&mut self, message: Message) -> io::Result<()> {
        match message.tag() {
            b'D' => self.unit.rows.add(message.body()),
            b'C' => self.unit.commands.push(message.text()),
            b'E' => self.unit.rows.error = Some(message.field(b'C').unwrap_or_default()),
            b'Z' => {
                self.awaited = self.awaited.saturating_sub(1);
                self.status = message.body().first().copied().unwrap_or(b'I');
                if self.awaited == 0 {
                    self.is_busy = false;
                    if self.status == b'I' && !self.unit.is_prepared {
                        // What came before it need not wait.
                        self.client.flush().await?;
                        self.end().await?;
                    }
                }
            }
            _ => {}
        }
        self.client.put(message.bytes()).await
    }

    async fn begin(&mut self) -> io::Result<()> {
        self.unit = Unit::default();
        if self.is_captured {
            let answer = self.ask(BEGIN).await?;
            self.unit.is_captured = answer.rows.error.is_none();
            if let Some(error) = answer.error {
                self.shared.report(|report| report.failure(&error));
            }
        }
        self.unit.began = Some(Instant::now());
        Ok(())
    }

    /// Nothing is open any more: what was captured, and what it means for what was captured before.
    async fn end(&mut self) -> io::Result<()> {
        let unit = std::mem::take(&mut self.unit);
        if !unit.is_captured {
            return Ok(());
        }
        let took = unit.began.map(|began| began.elapsed()).unwrap_or_default();
        let answer = self.ask(END).await?;
        let Some(captured) = answer.error.is_none().then(|| Captured::read(&answer.values)).flatten() else {
            let error = answer.error.unwrap_or_else(|| "capture_end answers something else".to_owned());
            self.shared.report(|report| report.failure(&error));
            return Ok(());
        };
        let is_quiet = unit.commands.iter().all(|command| is_quiet(command));
        let is_query = unit.texts.len() == 1 && unit.rows.error.is_none() && is_query(&unit.texts[0]);
        self.shared.report(|report| {
            report.captures += 1;
            report.statements += unit.messages;
            if is_query {
                report.queries += 1;
                report.cacheable += u64::from(captured.is_cacheable);
                report.finer += u64::from(
                    captured.is_cacheable
                        && captured.tags.iter().any(|tag| !tag.is_whole_family() && tag.family() != "cachetag.ddl"),
                );
                captured.reasons.iter().for_each(|reason| report.reason(reason));
            }
        });
        if !self.is_asked_again {
            return Ok(());
        }
        if unit.texts.iter().any(|text| changes_session(text)) {
            self.pool.clear();
        } else if !(is_quiet || captured.is_cacheable && is_query) {
            self.judge(&unit).await?;
        }
        if is_query
            && captured.is_cacheable
            && took < SLOW
            && !changes_session(&unit.texts[0])
            && is_determined(&unit.texts[0])
        {
            let query = unit.texts.into_iter().next().unwrap_or_default();
            self.pool.keep(Entry { query, tags: captured.tags, as_of: captured.as_of, rows: unit.rows });
        }
        Ok(())
    }

    /// Holds what was just done against the cached results.
    async fn judge(&mut self, unit: &Unit) -> io::Result<()> {
        if self.pool.is_empty() {
            return Ok(());
        }
        let shared = Arc::clone(&self.shared);
        shared.bumps.catch_up().await?;
        let (reached, left) = self.pool.split(|entry| shared.bumps.reach(&entry.tags, entry.as_of));
        shared.report(|report| {
            report.changes += 1;
            report.bumped += reached.len() as u64;
        });
        for entry in reached.iter().take(ASKED) {
            let now = self.ask(&entry.query).await?.rows;
            shared.report(|report| {
                report.asked += 1;
                report.changed += u64::from(now != entry.rows);
            });
        }
        for (at, entry) in left.into_iter().enumerate() {
            if at < ASKED {
                let now = self.ask(&entry.query).await?.rows;
                shared.report(|report| report.asked += 1);
                if now != entry.rows {
                    shared.report(|report| report.changed += 1);
                    // Others write, too: what the second answer has seen may have been bumped since.
                    shared.bumps.catch_up().await?;
                    if shared.bumps.reach(&entry.tags, entry.as_of) {
                        shared.report(|report| report.bumped += 1);
                    } else {
                        self.miss(&entry, &now, unit);
                    }
                    continue;
                }
            }
            self.pool.keep(entry);
        }
        Ok(())
    }

    fn miss(&self, entry: &Entry, now: &Rows, unit: &Unit) {
        let tags: Vec<&str> = entry.tags.iter().map(Tag::as_str).collect();
        let short = |text: &str| text.chars().take(TOLD).collect::<String>();
        let told = format!(
            "{}: {}\n    had {}, has {}; as_of {}, tags {}\n    after {}",
            self.test,
            short(&entry.query),
            entry.rows.told(),
            now.told(),
            entry.as_of,
            short(&tags.join(", ")),
            short(&unit.texts.join(" "))
        );
        self.shared.report(|report| report.misses.push(told));
    }

    /// Runs a statement of ours, while nothing else runs.
    async fn ask(&mut self, sql: &str) -> io::Result<Answer> {
        self.server.query(sql).await?;
        let mut answer = Answer::default();
        loop {
            let Some(message) = self.answers.next().await? else {
                return Err(io::ErrorKind::ConnectionReset.into());
            };
            match message.tag() {
                b'D' => {
                    answer.rows.add(message.body());
                    answer.values = message.row().unwrap_or_default();
                }
                b'E' => {
                    answer.rows.error = Some(message.field(b'C').unwrap_or_default());
                    answer.error = message.field(b'M');
                }
                b'Z' => return Ok(answer),
                // A notification, a parameter: not about our statement.
                b'A' | b'S' => self.client.put(message.bytes()).await?,
                _ => {}
            }
        }
    }
}

/// What a statement of ours has answered.
#[derive(Default)]
struct Answer {
    rows: Rows,
    /// The last row.
    values: Vec<Option<String>>,
    error: Option<String>,
}

/// What `capture_end` says.
struct Captured {
    tags: Vec<Tag>,
    as_of: u64,
    is_cacheable: bool,
    reasons: Vec<String>,
}

impl Captured {
    fn read(values: &[Option<String>]) -> Option<Captured> {
        let [tags, as_of, is_cacheable, reasons] = values else { return None };
        let list = |text: &Option<String>| serde_json::from_str::<Vec<String>>(text.as_deref()?).ok();
        let tags: Option<Vec<Tag>> = list(tags)?.iter().map(|tag| Tag::parse(tag).ok()).collect();
        let as_of = as_of.as_deref().and_then(|version| version.split('.').nth(1)?.parse().ok());
        let is_cacheable = is_cacheable.as_deref() == Some("t");
        // Where there is no version there must be a reason.
        if is_cacheable && as_of.is_none() {
            return None;
        }
        Some(Captured { tags: tags?, as_of: as_of.unwrap_or(0), is_cacheable, reasons: list(reasons)? })
    }
}

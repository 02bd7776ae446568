//! `cachetag audit`: compares entries of a live cache with the database, by the recipes that are registered there (`cachetag.recipe`).
//!
//! Nothing is written and no reader notices: Redis is asked by SCAN and read-only functions, PostgreSQL in read-only transactions. The way of an
//! entry: [`entry`] reads it with its verdict, [`database`] computes its value in a snapshot taken after that, and where they differ [`judge`]
//! decides, once the watermark has passed the snapshot, whether that was late or wrong; [`suspect`] looks for the commit behind what is wrong.

mod database;
mod entry;
mod judge;
mod report;
mod sample;
mod suspect;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use cachetag_core::KeyTemplateError;

use crate::config::{Config, ConfigError, RunArgs, parse_duration};
use crate::sink::SinkError;
use crate::source::SourceError;
use database::{Database, Recipe, Value, ValueError};
use entry::{Entries, Entry, Verdict};
use judge::Outcome;
use report::{DETAILED, Failure, Kind, Mismatch, Percentiles, Skipped, TagVersions};
use sample::Sample;

pub use report::Report;

/// Between two looks at an entry that is waited for; the watermark moves about as often on an idle server.
const LOOK_AGAIN: Duration = Duration::from_millis(10);
/// How often an entry is compared anew because another has taken its place.
const ATTEMPTS: usize = 3;
/// Different complaints that are told.
const FAILURES: usize = 20;

/// Why an audit could not be made.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// The configuration.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// PostgreSQL cannot be reached.
    #[error(transparent)]
    Connect(#[from] SourceError),
    /// The SQL connection broke, or the catalog cannot be read.
    #[error("postgres: {}", .0.as_db_error().map_or_else(|| .0.to_string(), |db| format!("{} ({})", db.message(), db.code().code())))]
    Postgres(#[from] tokio_postgres::Error),
    /// Redis cannot be used.
    #[error(transparent)]
    Redis(SinkError),
    /// The server is a standby: what it shows may be older than an entry.
    #[error("this PostgreSQL is a standby, which may be behind the cache; give --postgres the primary's address")]
    Standby,
    /// The Redis is fed from elsewhere.
    #[error("this Redis is fed by {feed}, but --postgres is {own}; give both of one installation, and its --namespace")]
    ForeignSource {
        /// What Redis says.
        feed: String,
        /// What PostgreSQL says.
        own: String,
    },
    /// No daemon has been here.
    #[error("no daemon has ever fed namespace {namespace} of this Redis; check --redis and --namespace")]
    NoState {
        /// The namespace.
        namespace: String,
    },
    /// The library is not there.
    #[error("this Redis has not got the cachetag library, which the daemon loads; is the daemon running?")]
    NoLibrary,
    /// Nothing tells what entries should be.
    #[error(
        "no recipe is registered: SELECT cachetag.recipe('page:product:{{id}}', 'SELECT … WHERE id = $1'), for the keys that are to be audited"
    )]
    NoRecipes,
    /// The catalog holds something that is no key template.
    #[error("{0}; register the recipe again")]
    KeyTemplate(KeyTemplateError),
    /// An answer that never should be given.
    #[error(
        "unexpected answer {got:?}; do this program, the extension and the library in Redis have the same version?"
    )]
    Reply {
        /// The answer.
        got: String,
    },
}

impl From<SinkError> for AuditError {
    fn from(error: SinkError) -> Self {
        AuditError::Redis(error)
    }
}

impl From<redis::RedisError> for AuditError {
    fn from(error: redis::RedisError) -> Self {
        AuditError::Redis(error.into())
    }
}

/// Flags of `cachetag audit`.
#[derive(Debug, Clone, clap::Args)]
#[command(
    after_help = "Ends with 0 if no checked entry is wrong, with 1 if one is, with 2 if nothing could be checked."
)]
pub struct AuditArgs {
    /// Configuration file of the daemon: where its servers are
    #[arg(long, env = "CACHETAG_CONFIG", value_name = "FILE")]
    pub config: Option<std::path::PathBuf>,
    /// PostgreSQL, the primary; the role needs to read what the recipes read, and nothing else
    #[arg(long, env = "CACHETAG_POSTGRES", hide_env_values = true, value_name = "URL")]
    pub postgres: Option<String>,
    /// Redis or Valkey
    #[arg(long, env = "CACHETAG_REDIS", hide_env_values = true, value_name = "URL")]
    pub redis: Option<String>,
    /// Namespace of the Redis keys [default: ct]
    #[arg(long, env = "CACHETAG_NAMESPACE")]
    pub namespace: Option<String>,
    /// How many entries to look at, chosen at random among those with a recipe
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub sample: u32,
    /// Look at all entries with a recipe
    #[arg(long, conflicts_with = "sample")]
    pub all: bool,
    /// Choose the sample that an earlier audit with this seed chose
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,
    /// Entries to look at in a second, each a query in PostgreSQL; 0: as fast as it goes
    #[arg(long, value_name = "N", default_value_t = 200)]
    pub rate: u32,
    /// Staleness bound of the readers whose view is taken; the daemon's without it
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub max_lag: Option<Duration>,
    /// How long a recipe's query may take
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = parse_duration)]
    pub timeout: Duration,
    /// How long to wait for the watermark to pass a comparison
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = parse_duration)]
    pub settle: Duration,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

/// Audits, prints what was found, and returns how the program is to end.
pub async fn main(args: AuditArgs) -> ExitCode {
    let report = match run(&args).await {
        Ok(report) => report,
        Err(error) => {
            eprintln!("cachetag: {error}");
            return ExitCode::from(2);
        }
    };
    if args.json {
        println!("{}", report.to_json());
    } else {
        print!("{report}");
    }
    match (report.wrong, report.checked) {
        (0, 0) => {
            eprintln!("cachetag: nothing could be checked, so this audit says nothing");
            ExitCode::from(2)
        }
        (0, _) => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}

/// Audits.
pub async fn run(args: &AuditArgs) -> Result<Report, AuditError> {
    let config = Config::resolve(RunArgs {
        config: args.config.clone(),
        postgres: args.postgres.clone(),
        redis: args.redis.clone(),
        namespace: args.namespace.clone(),
        ..RunArgs::default()
    })?;
    let mut entries = Entries::connect(&config, args.max_lag).await?;
    let Some(source) = entries.source().await? else {
        return Err(AuditError::NoState { namespace: config.namespace });
    };
    let database = Database::connect(&config, args.timeout, &source).await?;
    let recipes = database.recipes().await?;
    if recipes.is_empty() {
        return Err(AuditError::NoRecipes);
    }
    let seed = args.seed.unwrap_or_else(|| {
        std::time::UNIX_EPOCH.elapsed().map_or(0, |now| now.as_secs() ^ u64::from(now.subsec_nanos()))
    });
    let report = Report { seed, recipes: recipes.len(), ..Report::default() };
    let mut audit = Audit {
        entries,
        database,
        recipes,
        report,
        settle: args.settle,
        pace: Pace { began: Instant::now(), rate: args.rate, steps: 0 },
        staleness: Vec::new(),
        lags: Vec::new(),
    };
    audit.walk(if args.all { None } else { Some(Sample::new(seed, args.sample as usize)) }).await?;
    Ok(audit.finish())
}

/// At most so many steps a second.
struct Pace {
    began: Instant,
    rate: u32,
    steps: u32,
}

impl Pace {
    async fn step(&mut self) {
        if self.rate > 0 {
            let due = self.began + Duration::from_secs(1) * self.steps / self.rate;
            tokio::time::sleep_until(due.into()).await;
            self.steps += 1;
            if self.steps == self.rate {
                (self.began, self.steps) = (self.began + Duration::from_secs(1), 0);
            }
            // What was slow is not made up for by a burst.
            self.began = self.began.max(Instant::now() - Duration::from_secs(1));
        }
    }
}

/// An audit under way.
struct Audit {
    entries: Entries,
    database: Database,
    recipes: Vec<Recipe>,
    report: Report,
    settle: Duration,
    pace: Pace,
    staleness: Vec<u64>,
    lags: Vec<u64>,
}

impl Audit {
    /// Goes through all keys once. Without a sample every entry with a recipe is looked at when it comes by.
    async fn walk(&mut self, mut sample: Option<Sample>) -> Result<(), AuditError> {
        let mut cursor = 0;
        loop {
            let began = Instant::now();
            let keys;
            (cursor, keys) = self.entries.scan(cursor).await?;
            let took = began.elapsed();
            for key in keys {
                self.report.seen += 1;
                if self.recipe_of(&key).is_some() {
                    self.report.matched += 1;
                    match &mut sample {
                        Some(sample) => sample.offer(key),
                        None => self.look(&key).await?,
                    }
                }
            }
            if cursor == 0 {
                break;
            }
            // Redis belongs to its readers for at least half of the time.
            tokio::time::sleep(took).await;
        }
        for key in sample.map(Sample::into_keys).unwrap_or_default() {
            self.look(&key).await?;
        }
        Ok(())
    }

    /// The recipe that fixes most of a key, and the values of its names.
    fn recipe_of(&self, key: &str) -> Option<(usize, Vec<Option<String>>)> {
        self.recipes.iter().enumerate().find_map(|(at, recipe)| Some((at, recipe.template.values(key)?)))
    }

    /// Looks at one entry.
    async fn look(&mut self, key: &str) -> Result<(), AuditError> {
        let Some((recipe, parameters)) = self.recipe_of(key) else { return Ok(()) };
        self.pace.step().await;
        self.report.selected += 1;
        for _ in 0..ATTEMPTS {
            if self.compare(key, recipe, &parameters).await? != Some(Outcome::Replaced) {
                return Ok(());
            }
        }
        self.skip(Skipped::Replaced);
        Ok(())
    }

    /// Compares the entry with its value once; counts it unless it was replaced. `None`: it was true or could not be compared.
    async fn compare(
        &mut self,
        key: &str,
        recipe: usize,
        parameters: &[Option<String>],
    ) -> Result<Option<Outcome>, AuditError> {
        let skipped = |audit: &mut Audit, why| {
            audit.skip(why);
            Ok(None)
        };
        let Some(entry) = self.entries.read(key).await? else { return skipped(self, Skipped::Unreadable) };
        match entry.verdict {
            Verdict::Bypass => return skipped(self, Skipped::Bypass),
            Verdict::Miss => return skipped(self, Skipped::Invalid),
            Verdict::Hit | Verdict::Stale => {}
        }
        // The entry first, then the snapshot: what the reader who stored it could see, the snapshot shows too.
        let payload = entry.payload.as_deref();
        let value = match self.database.value(&mut self.recipes[recipe], parameters, payload).await {
            Ok(value) => value,
            Err(ValueError::Recipe(problem)) => {
                self.fail(recipe, problem);
                return Ok(None);
            }
            Err(ValueError::Fatal(error)) => return Err(error),
        };
        let is_true = self.database.is_same(self.recipes[recipe].compare, payload, value.bytes.as_deref()).await?;
        let is_ahead = entry.as_of.is_some_and(|as_of| {
            // Positions of another epoch may be of another history.
            as_of.lsn > value.end && entry.watermark.is_some_and(|watermark| watermark.epoch == as_of.epoch)
        });
        if is_ahead {
            self.lags.push(entry.lag_ms);
            self.mismatch(key, recipe, parameters, &entry, &value, Kind::AheadOfLog).await?;
            return Ok(Some(Outcome::Mismatch));
        }
        if is_true {
            self.report.true_now += 1;
            self.staleness.push(0);
            self.lags.push(entry.lag_ms);
            return Ok(None);
        }
        if value.is_unsteady {
            self.fail(recipe, "the query gives another value every time in one snapshot".into());
            return Ok(None);
        }
        let Some(outcome) = self.settle(key, &entry, &value).await? else { return skipped(self, Skipped::Unsettled) };
        match outcome {
            Outcome::Replaced => return Ok(Some(outcome)),
            Outcome::Gone => self.skip(Skipped::Gone),
            Outcome::Bypass => self.skip(Skipped::Bypass),
            Outcome::Late => {
                self.report.late += 1;
                // It was valid then, so it was true when the cache was last proven to be caught up.
                self.staleness.push(entry.lag_ms);
                self.lags.push(entry.lag_ms);
            }
            Outcome::SoftlyStale => {
                self.report.softly_stale += 1;
                self.lags.push(entry.lag_ms);
            }
            Outcome::Mismatch => {
                self.lags.push(entry.lag_ms);
                self.mismatch(key, recipe, parameters, &entry, &value, Kind::Differs).await?;
            }
        }
        Ok(Some(outcome))
    }

    /// Waits until it can be told what an entry is that differed from a value; `None`: the watermark did not come.
    async fn settle(&mut self, key: &str, differed: &Entry, value: &Value) -> Result<Option<Outcome>, AuditError> {
        let deadline = Instant::now() + self.settle;
        loop {
            let Some(now) = self.entries.read(key).await? else { return Ok(Some(Outcome::Gone)) };
            let outcome = judge::again(differed, &now, value.position);
            if outcome.is_some() || Instant::now() > deadline {
                return Ok(outcome);
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    async fn mismatch(
        &mut self,
        key: &str,
        recipe: usize,
        parameters: &[Option<String>],
        entry: &Entry,
        value: &Value,
        kind: Kind,
    ) -> Result<(), AuditError> {
        self.report.wrong += 1;
        if self.report.mismatches.len() == DETAILED {
            return Ok(());
        }
        let recipe = &self.recipes[recipe];
        let suspects = match kind {
            Kind::Differs => suspect::suspects(&self.database, recipe, parameters, entry).await?,
            Kind::AheadOfLog => Vec::new(),
        };
        let (cached, database) = report::difference(entry.payload.as_deref(), value.bytes.as_deref());
        self.report.mismatches.push(Mismatch {
            key: key.to_owned(),
            recipe: recipe.template.to_string(),
            kind,
            as_of: entry.as_of.map(|as_of| as_of.to_string()).unwrap_or_default(),
            tags: entry.tags.iter().map(TagVersions::from).collect(),
            cached,
            database,
            commit_at_most: value.end.to_string(),
            suspects,
        });
        Ok(())
    }

    fn skip(&mut self, why: Skipped) {
        *self.report.skipped.entry(why).or_default() += 1;
    }

    fn fail(&mut self, recipe: usize, problem: String) {
        self.skip(Skipped::Failed);
        let recipe = self.recipes[recipe].template.to_string();
        let failures = &mut self.report.failures;
        if let Some(known) = failures.iter_mut().find(|known| known.recipe == recipe && known.problem == problem) {
            known.times += 1;
        } else if failures.len() < FAILURES {
            failures.push(Failure { recipe, problem, times: 1 });
        }
    }

    fn finish(self) -> Report {
        let mut report = self.report;
        report.checked = report.true_now + report.late + report.softly_stale + report.wrong;
        // None among n: the rule of three.
        report.bound = (report.wrong == 0 && report.checked > 0).then(|| (3.0 / report.checked as f64).min(1.0));
        report.staleness_ms = Percentiles::of(self.staleness);
        report.lag_ms = Percentiles::of(self.lags);
        report
    }
}

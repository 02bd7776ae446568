//! What a run is to do: how much, under which faults, and with which emphasis.

use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;

use super::faults::Kind;

/// A reader or filler that does what it must not, to show that the checker notices. Defects of the daemon, of the Redis library and of the extension
/// come with the program and the SQL that [`Options`] name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Variant {
    /// Queries first and takes the token afterwards.
    LateToken,
    /// Stores without the tags.
    OmitTags,
    /// Stores by the rules, and later raises the entry's `as_of` by hand.
    RaiseAsOf,
    /// Stores what an older snapshot shows, without asking `covers`.
    Uncovered,
    /// A reader through the client is shown again what was once in memory, as by a layer that does not listen to its feed.
    ClientHoards,
    /// A loader of the client does not say what its value depends on.
    ClientOmitsTags,
}

/// What a run puts weight on: each makes some rare interleavings frequent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Profile {
    /// A little of everything.
    #[default]
    Mixed,
    /// Commits wait for a standby that is not there: in the log, but not visible for a while.
    Held,
    /// The log is lost all the time, and tags are.
    Forgetful,
    /// The daemon is killed all the time, and replays.
    Replays,
    /// A second daemon takes over while the first is frozen, which then goes on.
    Rivals,
    /// Redis goes back to an earlier state, by itself or behind a connection that stays.
    Restored,
    /// Redis loses everything and the slot is lost while commits are held invisible: epochs open all the time.
    Epochs,
    /// Rows move between groups and keys.
    Moves,
    /// Rules and dependencies come and go under transactions that take their time.
    Joins,
}

/// How often things are done, in percent of the occasions to do them unless said otherwise.
#[derive(Debug, Clone)]
pub struct Mix {
    /// Longest pause between two transactions of a writer.
    pub pause: Duration,
    /// Transactions that take their time before they commit.
    pub slow: usize,
    /// Longest time that these take.
    pub slowness: Duration,
    /// Updates that give a row another group or key.
    pub moves: usize,
    /// Fills that take their time between token and query, or query and put.
    pub dawdling: usize,
    /// Longest time that these take.
    pub dawdle: Duration,
    /// Mean time between two evictions.
    pub eviction: Duration,
    /// Evictions that hit the log.
    pub log_loss: usize,
    /// Longest quiet between two faults.
    pub quiet: Duration,
    /// Mean time between two changes of the schema.
    pub ddl: Duration,
    /// Changes of the schema that concern rules and dependencies.
    pub rules: usize,
    /// Faults to choose from: what their names begin with.
    pub faults: &'static [&'static str],
}

impl Profile {
    /// The numbers behind the name.
    pub fn mix(self) -> Mix {
        let ms = Duration::from_millis;
        let mixed = Mix {
            pause: ms(25),
            slow: 10,
            slowness: ms(20),
            moves: 25,
            dawdling: 20,
            dawdle: ms(15),
            eviction: ms(10),
            log_loss: 1,
            quiet: ms(2_000),
            ddl: ms(1_000),
            rules: 30,
            faults: &[""],
        };
        match self {
            Profile::Mixed => mixed,
            Profile::Held => Mix { faults: &["postgres commits-held"], quiet: ms(100), ..mixed },
            Profile::Forgetful => Mix {
                eviction: ms(1),
                log_loss: 10,
                dawdling: 60,
                dawdle: ms(30),
                quiet: ms(200),
                faults: &["daemon frozen", "postgres commits-held", "redis evicted-log"],
                ..mixed
            },
            Profile::Replays => {
                Mix { faults: &["daemon killed", "postgres walsender-terminated"], quiet: ms(200), ..mixed }
            }
            Profile::Rivals => Mix { faults: &["daemon usurped", "daemon replaced"], quiet: ms(100), ..mixed },
            Profile::Restored => Mix {
                faults: &["redis rewound", "redis back-in-old-epoch", "redis older-snapshot", "redis promotion"],
                quiet: ms(300),
                dawdling: 50,
                ..mixed
            },
            Profile::Epochs => Mix {
                faults: &["redis lost-while-commits-held", "redis flushall", "postgres slot-dropped"],
                quiet: ms(300),
                ..mixed
            },
            Profile::Moves => Mix { moves: 80, ..mixed },
            Profile::Joins => {
                Mix { ddl: ms(60), rules: 95, slow: 60, slowness: ms(60), faults: &["daemon frozen"], ..mixed }
            }
        }
    }
}

/// What a run is to do.
#[derive(Debug, Clone)]
pub struct Options {
    /// Hits that are to be checked.
    pub reads: u64,
    /// Ends the run earlier.
    pub time: Option<Duration>,
    /// Determines the schema and what every connection tries; not how they interleave.
    pub seed: u64,
    /// The faults that happen.
    pub faults: Vec<Kind>,
    /// The longest that most of them last; one of twenty lasts up to twenty times as long.
    pub outage: Duration,
    /// Goes on until each of them has happened.
    pub every_fault: bool,
    /// The daemon's bound of staleness, and the largest that readers ask for.
    pub max_lag: Duration,
    /// What it puts weight on.
    pub profile: Profile,
    /// A planted defect. The run ends with the first violation.
    pub broken: Option<Variant>,
    /// Ends with the first violation.
    pub stop_at_violation: bool,
    /// Runs this daemon instead of the one under test.
    pub daemon: Option<PathBuf>,
    /// Variables of the daemon's environment.
    pub daemon_env: Vec<(String, String)>,
    /// SQL to run after the extension has been created and before there is any rule.
    pub sql: String,
    /// A physical standby that some fillers read from.
    pub standby: bool,
    /// Some readers read through the client.
    pub client: bool,
    /// Prints what happens now and then.
    pub progress: bool,
}

impl Options {
    /// The faults of the profile, a bound of two seconds, a standby, nothing broken.
    pub fn new(profile: Profile, seed: u64) -> Options {
        Options {
            reads: 200_000,
            time: None,
            seed,
            faults: Kind::named(profile.mix().faults),
            outage: Duration::from_millis(600),
            every_fault: false,
            max_lag: Duration::from_secs(2),
            profile,
            broken: None,
            stop_at_violation: false,
            daemon: None,
            daemon_env: Vec::new(),
            sql: String::new(),
            standby: true,
            client: false,
            progress: false,
        }
    }
}

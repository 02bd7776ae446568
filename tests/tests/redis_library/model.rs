//! The consistency rule as a random walk over the real library: commits, batches, watermarks, readers, evictions, trims, flushes, failovers to
//! an older copy, daemons that crash and daemons that wake up late. At every hit: no applied commit that touches one of the entry's tags may
//! be missing from the data it was computed from. Libraries with one guard taken out show that the walk would notice.
//!
//! `CACHETAG_MODEL_SEEDS` sets the number of walks.

use std::collections::HashMap;

use crate::cache::{Dice, Got, Put, got, put};
use crate::server::{Connection, LIBRARY, Reply, Server};

const STEPS: usize = 500;

/// What a commit does: bumps of the row and the list, of the whole family, or of everything; hard or soft.
#[derive(Clone, Copy)]
struct Commit {
    kind: Touch,
    soft: bool,
}

#[derive(Clone, Copy, PartialEq)]
enum Touch {
    Row(usize),
    Family,
    Everything,
}

impl Commit {
    fn tags(self) -> Vec<String> {
        match self.kind {
            Touch::Row(row) => vec![format!("row:{row}"), "list".into()],
            Touch::Family => vec!["row:*".into()],
            Touch::Everything => vec!["*".into()],
        }
    }

    /// Written without regard to how the library does it.
    fn concerns(self, entry: &[&str]) -> bool {
        entry.iter().any(|tag| match (self.kind, *tag) {
            (_, "*") | (Touch::Everything, _) => true,
            (Touch::Row(_), "list") | (_, "row:*") => true,
            (Touch::Row(row), tag) => tag == format!("row:{row}"),
            (Touch::Family, tag) => tag.starts_with("row:"),
        })
    }
}

/// Entries: key and tags.
const ENTRIES: &[(&str, &[&str])] = &[
    ("k0", &["row:0"]),
    ("k1", &["row:1"]),
    ("k2", &["row:2"]),
    ("page", &["list"]),
    ("mix", &["row:0", "list"]),
    ("any", &["row:*"]),
    ("all", &["*"]),
    ("none", &[]),
];

struct Daemon {
    claimant: String,
    epoch: String,
    position: usize,
}

struct Reader {
    entry: usize,
    token: String,
    lease: String,
    snapshot: Option<Vec<bool>>,
}

/// A copy of the data, key by key, and what it had applied.
struct Backup {
    dumps: Vec<(String, Vec<u8>)>,
    applied: usize,
}

struct World<'a> {
    con: &'a mut Connection,
    dice: Dice,
    storm: bool,
    /// The commit of LSN i + 1.
    commits: Vec<Commit>,
    /// Which of them a new snapshot sees.
    visible: Vec<bool>,
    daemons: Vec<Daemon>,
    claims: usize,
    /// The slot's confirmed position.
    confirmed: usize,
    /// What this Redis state has applied.
    applied: usize,
    /// The last epoch, and where each began: the daemon's memory in PostgreSQL.
    last_epoch: u64,
    starts: HashMap<String, usize>,
    /// The entries of this walk: few, so that they are met again.
    entries: [usize; 3],
    readers: Vec<Reader>,
    /// What each payload was computed from.
    snapshots: Vec<Vec<bool>>,
    backup: Option<Backup>,
    return_in: usize,
    now: String,
    counts: HashMap<String, usize>,
}

fn version(epoch: &str, lsn: usize) -> String {
    format!("{epoch}.{lsn:020}")
}

impl World<'_> {
    fn step(&mut self) -> Result<(), String> {
        // Every other walk goes through a storm: what is rare below, often, and slow readers.
        let die = match self.storm && self.dice.chance(12) {
            true => 940 + self.dice.below(60),
            false => self.dice.below(1000),
        };
        match die {
            0..60 => {
                let kind = match self.dice.below(40) {
                    0 => Touch::Everything,
                    1..4 => Touch::Family,
                    row => Touch::Row(row % 3),
                };
                let soft = self.dice.chance(25);
                self.commits.push(Commit { kind, soft });
                self.visible.push(false);
            }
            60..160 => self.apply(),
            160..280 => {
                let pending: Vec<usize> = (0..self.visible.len()).filter(|i| !self.visible[*i]).collect();
                if !pending.is_empty() {
                    let i = if self.dice.chance(60) { pending[0] } else { self.dice.pick(&pending) };
                    self.visible[i] = true; // not always in commit order
                }
            }
            280..430 => self.advance(),
            430..680 => return self.read(),
            680..940 => self.fill(),
            940..958 => self.evict("{ct}:[ta]:*"),
            958..966 => drop(self.con.ok(&["DEL", "{ct}:log"])),
            966..971 => drop(self.con.ok(&["XTRIM", "{ct}:log", "MAXLEN", "1"])),
            971..973 => self.evict("{ct}:*"),
            973..983 => self.start_daemon(),
            983..988 => self.take_backup(),
            988..992 => self.fail_over(),
            992..994 => {
                self.con.ok(&["FLUSHALL"]);
                self.applied = 0;
            }
            994..997 if self.return_in == 0 => {
                // A copy takes over that is empty, then the older one comes back: epochs go up and down again.
                self.take_backup();
                self.con.ok(&["FLUSHALL"]);
                self.start_daemon();
                self.return_in = 10 + self.dice.below(60);
            }
            _ => {}
        }
        self.return_in = self.return_in.saturating_sub(1);
        if self.return_in == 1 {
            self.fail_over();
        }
        Ok(())
    }

    fn daemon(&mut self, function: &str, args: &[String]) -> Reply {
        let mut command = vec!["FCALL".to_string(), function.into(), "1".into(), "{ct}:w".into()];
        command.extend_from_slice(args);
        self.con.ok(&command)
    }

    fn start_daemon(&mut self) {
        self.claims += 1;
        let claimant = format!("daemon-{}", self.claims);
        let state =
            self.daemon("cachetag_claim", &[claimant.clone(), "source".into(), "1000000000000".into(), "60000".into()]);
        self.now = state.field("now_ms").unwrap();
        let found = state.field("applied").map(|v| (v[..10].to_string(), v[11..].parse::<usize>().unwrap()));
        let (epoch, position) = match found {
            Some((epoch, applied)) if applied >= self.confirmed => (epoch, applied),
            _ => {
                let at = self.confirmed;
                let args = [claimant.clone(), "source".into(), at.to_string(), (self.last_epoch + 1).to_string()];
                let epoch = self.daemon("cachetag_reset", &args).texts()[1][..10].to_string();
                self.last_epoch = epoch.parse().unwrap();
                self.starts.insert(epoch.clone(), at);
                self.applied = at;
                (epoch, at)
            }
        };
        self.daemons.push(Daemon { claimant, epoch, position });
        if self.daemons.len() > 2 {
            self.daemons.remove(0); // the one before may still be alive, paused
        }
    }

    /// The present daemon, or now and then the one before it.
    fn pick_daemon(&mut self) -> usize {
        if self.dice.chance(85) { self.daemons.len() - 1 } else { 0 }
    }

    /// True if the call went through; a discontinuity has the daemon start again.
    fn went_through(&mut self, reply: &Reply) -> bool {
        match reply.list()[0].text().as_str() {
            "applied" => true,
            "fenced" => false,
            "discontinuity" => {
                self.start_daemon();
                false
            }
            other => panic!("{other}"),
        }
    }

    fn apply(&mut self) {
        let i = self.pick_daemon();
        let Daemon { claimant, epoch, position } = &self.daemons[i];
        let (from, behind) = (*position, self.commits.len().saturating_sub(*position));
        if behind == 0 {
            return;
        }
        let to = from + 1 + self.dice.below(behind.min(3));
        let mut args = vec![claimant.clone(), version(epoch, from), version(epoch, to)];
        for lsn in from + 1..=to {
            let commit = self.commits[lsn - 1];
            let tags = commit.tags();
            let (hard, soft) = if commit.soft { (0, tags.len()) } else { (tags.len(), 0) };
            args.extend([version(epoch, lsn), hard.to_string(), soft.to_string()]);
            args.extend(tags);
        }
        let reply = self.daemon("cachetag_apply", &args);
        if self.went_through(&reply) {
            self.daemons[i].position = to;
            self.applied = self.applied.max(to);
            if self.dice.chance(if self.storm { 15 } else { 50 }) {
                self.confirmed = self.confirmed.max(to);
            }
        }
    }

    fn advance(&mut self) {
        let i = self.pick_daemon();
        let Daemon { claimant, epoch, position } = &self.daemons[i];
        let shown = self.visible.iter().take_while(|v| **v).count().min(*position);
        let watermark = if shown >= self.starts[epoch] { version(epoch, shown) } else { String::new() };
        let at = version(epoch, *position);
        let args = [claimant.clone(), at.clone(), at, watermark, self.now.clone()];
        let reply = self.daemon("cachetag_advance", &args);
        self.went_through(&reply);
    }

    fn read(&mut self) -> Result<(), String> {
        let entry = self.dice.pick(&self.entries);
        let key = format!("{{ct}}:e:{}", ENTRIES[entry].0);
        let mut command = vec!["FCALL", "cachetag_get", "1", &key];
        if self.dice.chance(60) {
            command.push("NOLEASE");
        }
        let answer = got(&self.con.ok(&command));
        *self.counts.entry(answer.state.clone()).or_default() += 1;
        let Got { state, payload, token, lease, .. } = answer;
        if let Some(payload) = payload {
            self.check(entry, &state, &String::from_utf8(payload).unwrap())?;
        }
        // Few at a time, or their tokens grow old before they fill.
        if !token.is_empty() && state != "hit" && self.readers.len() < 5 {
            let token = match self.visible.iter().take_while(|v| **v).count() {
                // Raised to the commit floor of the server, which may be ahead of the feed.
                floor if self.dice.chance(30) => version(&token[..10], floor.max(token[11..].parse().unwrap())),
                _ => token,
            };
            self.readers.push(Reader { entry, token, lease, snapshot: None });
        }
        Ok(())
    }

    fn fill(&mut self) {
        if self.readers.is_empty() {
            return;
        }
        let i = self.dice.below(self.readers.len());
        if self.readers[i].snapshot.is_none() {
            self.readers[i].snapshot = Some(self.visible.clone());
            if self.dice.chance(if self.storm { 90 } else { 50 }) {
                return;
            }
        }
        let Reader { entry, token, lease, snapshot } = self.readers.swap_remove(i);
        let (key, tags) = ENTRIES[entry];
        let id = self.snapshots.len().to_string();
        self.snapshots.push(snapshot.unwrap());
        let (key, count) = (format!("{{ct}}:e:{key}"), tags.len().to_string());
        let mut command = vec!["FCALL", "cachetag_put", "1", &key, &id, &token, "3600000", "TAGS", &count];
        command.extend(tags);
        command.extend(["LEASE", &lease]);
        if self.dice.chance(10) {
            command.extend(["COST", "1000000000000"]);
        }
        let outcome = match put(&self.con.ok(&command)) {
            Put::Stored(_) => "stored".into(),
            Put::Refused(reason, _) => reason,
        };
        *self.counts.entry(outcome).or_default() += 1;
    }

    fn check(&self, entry: usize, state: &str, payload: &str) -> Result<(), String> {
        let (key, tags) = ENTRIES[entry];
        let snapshot = &self.snapshots[payload.parse::<usize>().unwrap()];
        for lsn in 1..=self.applied {
            let commit = self.commits[lsn - 1];
            let seen = snapshot.get(lsn - 1).copied().unwrap_or(false);
            if !seen && commit.concerns(tags) && !(commit.soft && state == "stale") {
                return Err(format!("{state} of {key} lacks commit {lsn}, applied {}", self.applied));
            }
        }
        Ok(())
    }

    fn evict(&mut self, pattern: &str) {
        let mut keys = self.con.ok(&["KEYS", pattern]).texts();
        if !keys.is_empty() {
            keys.sort();
            let key = &keys[self.dice.below(keys.len())];
            self.con.ok(&["DEL", key.as_str()]);
        }
    }

    fn take_backup(&mut self) {
        let keys = self.con.ok(&["KEYS", "*"]).texts();
        let dumps = keys.into_iter().map(|key| match self.con.ok(&["DUMP", &key]) {
            Reply::Text(dump) => (key, dump),
            other => panic!("{other:?}"),
        });
        self.backup = Some(Backup { dumps: dumps.collect(), applied: self.applied });
    }

    /// To an older copy, and nobody tells the daemon. Until its next call readers may hit what was true at the copy, which max_lag bounds and
    /// this check does not; from then on the rule must hold again.
    fn fail_over(&mut self) {
        let Some(Backup { dumps, applied }) = &self.backup else { return };
        self.con.ok(&["FLUSHALL"]);
        for (key, dump) in dumps {
            self.con.ok(&[b"RESTORE".as_slice(), key.as_bytes(), b"3600000", dump]);
        }
        for forever in ["{ct}:w", "{ct}:log"] {
            self.con.ok(&["PERSIST", forever]);
        }
        self.applied = *applied;
    }
}

/// Walks; returns what was violated, and how often each state and outcome was met.
fn walk(source: &str, seeds: u64) -> (Option<String>, HashMap<String, usize>) {
    let server = Server::bare(&[]);
    let mut con = server.connect();
    con.load(source);
    let mut counts = HashMap::new();
    for seed in 0..seeds {
        con.ok(&["FLUSHALL"]);
        let mut dice = Dice::new(seed);
        let mut world = World {
            con: &mut con,
            entries: [dice.below(3), 3 + dice.below(3), dice.below(ENTRIES.len())],
            dice,
            storm: seed % 2 == 1,
            commits: vec![],
            visible: vec![],
            daemons: vec![],
            claims: 0,
            confirmed: 0,
            applied: 0,
            last_epoch: 2_000_000_000,
            starts: HashMap::new(),
            readers: vec![],
            snapshots: vec![],
            backup: None,
            return_in: 0,
            now: String::new(),
            counts,
        };
        world.start_daemon();
        for step in 0..STEPS {
            if let Err(violation) = world.step() {
                return (Some(format!("seed {seed}, step {step}: {violation}")), world.counts);
            }
        }
        counts = world.counts;
    }
    (None, counts)
}

/// The library with a log so short that it forgets, and scans that give up.
fn short_log() -> String {
    with(
        LIBRARY,
        &[
            ("local LOG_RECORDS = 10000", "local LOG_RECORDS = 2"),
            ("local SCAN_RECORDS = 512", "local SCAN_RECORDS = 5"),
        ],
    )
}

fn with(source: &str, changes: &[(&str, &str)]) -> String {
    changes.iter().fold(source.to_string(), |text, (old, new)| {
        assert_eq!(text.matches(old).count(), 1, "the library has {old:?} once");
        text.replace(old, new)
    })
}

#[test]
fn no_wrong_hit() {
    let seeds = std::env::var("CACHETAG_MODEL_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(120);
    let (violation, counts) = walk(&short_log(), seeds);
    println!("{counts:?}");
    assert_eq!(violation, None);
    for met in ["hit", "stale", "early", "miss", "wait", "bypass", "stored", "bumped", "unregistered", "floor", "epoch"]
    {
        assert!(counts.get(met).copied().unwrap_or(0) > 5, "{met} was met: {counts:?}");
    }
}

/// Each guard of the library is needed: without it the walk finds a wrong hit.
#[test]
fn every_guard_is_needed() {
    let guards: &[(&str, &[(&str, &str)])] = &[
        ("the log check of a fill", &[("local clean = complete and not found[name]", "local clean = true")]),
        (
            "doubt about an incomplete log",
            &[("local clean = complete and not found[name]", "local clean = not found[name]")],
        ),
        ("registration at applied", &[("clean and as_of or s.applied", "clean and as_of or s.watermark")]),
        (
            "an absent tag is a miss",
            &[("if not hard then return 'miss'", "if not hard then hard = '' elseif false then return 'miss'")],
        ),
        ("a bumped tag is a miss", &[("if hard > as_of then return 'miss'", "if false then return 'miss'")]),
        ("a soft bump is stale", &[("if soft and soft > as_of and not stale then", "if false then")]),
        ("the floor of a hit", &[("if as_of < s[1] then return 'miss', 'floor' end", "")]),
        ("the soft floor", &[("if s[4] and s[4] > as_of then return 'stale', 'soft_floor' end", "")]),
        (
            "the floor of a fill",
            &[
                ("if as_of < s.floor then return refuse('floor') end", ""),
                ("if as_of < s[1] then return 'miss', 'floor' end", ""),
            ],
        ),
        (
            "the epoch of a token",
            &[
                ("if sub(as_of, 1, 10) ~= s.epoch then return refuse('epoch') end", ""),
                ("if sub(as_of, 1, 10) ~= sub(s[1], 1, 10) then return 'miss', 'epoch' end", ""),
            ],
        ),
        ("whole families of members", &[("      add('t:' .. family .. ':*')\n", "")]),
        ("members of whole families", &[("      add('a:' .. family)\n", "")]),
        (
            "the log's own length",
            &[("if pcall_redis('XLEN', log_key) ~= tonumber(s.log_len or nil) then return found, false end", "")],
        ),
        ("where the log begins after a cut", &[("log_from = call('XRANGE', key, '-', '+', 'COUNT', 1)[1][2][2]", "")]),
        ("where the log begins after a loss", &[("log_from, length, bytes = from, 0,", "length, bytes = 0,")]),
        ("continuity", &[("if not s.claimant or s.applied ~= from then", "if not s.claimant then")]),
        (
            "fencing, and with it continuity",
            &[
                ("if s.claimant and s.claimant ~= claimant then", "if false then"),
                ("if not s.claimant or s.applied ~= from then", "if not s.claimant then"),
            ],
        ),
    ];
    let mut unnoticed = vec![];
    for (guard, changes) in guards {
        let (violation, _) = walk(&with(&short_log(), changes), 400);
        println!("without {guard}: {violation:?}");
        if violation.is_none() {
            unnoticed.push(*guard);
        }
    }
    assert!(unnoticed.is_empty(), "the walk does not miss: {unnoticed:?}");
}

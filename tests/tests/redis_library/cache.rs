//! One cache in a server, with a daemon played by the test.

use std::thread::sleep;
use std::time::Duration;

use crate::server::{Connection, LIBRARY, Reply, Server};

/// A server, the library, and the state that the test's daemon has brought about.
pub struct Cache {
    pub server: Server,
    pub con: Connection,
    /// The epoch, ten digits.
    pub epoch: String,
    /// The LSN up to which everything is applied.
    pub applied: u64,
}

/// A reply of `cachetag_get` or `cachetag_peek`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Got {
    pub state: String,
    pub payload: Option<Vec<u8>>,
    pub token: String,
    pub lease: String,
    pub age: i64,
}

/// A reply of `cachetag_put`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Put {
    Stored(String),
    Refused(String, String),
}

/// A refusal, for comparison.
pub fn refused(reason: &str, tag: &str) -> Put {
    Put::Refused(reason.into(), tag.into())
}

impl Cache {
    /// A cache whose epoch begins at LSN 100, which is also its watermark; max_lag is an hour.
    pub fn open() -> Cache {
        Cache::with_library(LIBRARY)
    }

    /// The same with another text of the library.
    pub fn with_library(source: &str) -> Cache {
        let server = Server::bare(&[]);
        server.connect().load(source);
        Cache::on(server)
    }

    /// The same on a server that has the library.
    pub fn on(server: Server) -> Cache {
        let con = server.connect();
        let mut cache = Cache { server, con, epoch: String::new(), applied: 0 };
        cache.claim();
        cache.reset(100);
        cache.advance(100);
        cache
    }

    /// Calls a function on `{ct}:w`.
    pub fn daemon(&mut self, function: &str, args: &[&str]) -> Result<Reply, String> {
        let mut command = vec!["FCALL", function, "1", "{ct}:w"];
        command.extend(args);
        self.con.call(&command)
    }

    pub fn claim(&mut self) {
        self.daemon("cachetag_claim", &["daemon", "source", "3600000", "60000"]).unwrap();
    }

    /// Opens a new epoch at an LSN; there is no watermark then.
    pub fn reset(&mut self, lsn: u64) {
        let reply = self.daemon("cachetag_reset", &["daemon", "source", &lsn.to_string(), "0"]).unwrap().texts();
        assert_eq!(reply[0], "reset");
        self.epoch = reply[1][..10].to_string();
        self.applied = lsn;
    }

    /// The version of an LSN in the present epoch.
    pub fn v(&self, lsn: u64) -> String {
        format!("{}.{lsn:020}", self.epoch)
    }

    /// Applies one batch that ends, and bumps, at `to`; returns how many tags moved.
    pub fn apply(&mut self, to: u64, hard: &[&str], soft: &[&str]) -> i64 {
        let (from, v) = (self.v(self.applied), self.v(to));
        let (nhard, nsoft) = (hard.len().to_string(), soft.len().to_string());
        let mut args = vec!["daemon", &from, &v, &v, &nhard, &nsoft];
        args.extend(hard);
        args.extend(soft);
        let reply = self.daemon("cachetag_apply", &args).unwrap();
        assert_eq!(reply.list()[0].text(), "applied");
        self.applied = to;
        let Reply::Int(moved) = reply.list()[2] else { panic!("{reply:?}") };
        moved
    }

    /// Publishes a watermark, at most `applied`, with the present time.
    pub fn advance(&mut self, watermark: u64) {
        let (from, w, now) = (self.v(self.applied), self.v(watermark), self.now().to_string());
        let reply = self.daemon("cachetag_advance", &["daemon", &from, &from, &w, &now]).unwrap();
        assert_eq!(reply.list()[0].text(), "applied");
    }

    /// Sets `fresh_at` alone.
    pub fn fresh_at(&mut self, ms: u64) {
        let from = self.v(self.applied);
        self.daemon("cachetag_advance", &["daemon", &from, &from, "", &ms.to_string()]).unwrap();
    }

    /// The server's clock in milliseconds.
    pub fn now(&mut self) -> u64 {
        let time = self.con.ok(&["TIME"]).texts();
        time[0].parse::<u64>().unwrap() * 1000 + time[1].parse::<u64>().unwrap() / 1000
    }

    pub fn get(&mut self, key: &str, options: &[&str]) -> Got {
        self.read(&["FCALL", "cachetag_get"], key, options)
    }

    pub fn peek(&mut self, key: &str, options: &[&str]) -> Got {
        self.read(&["FCALL_RO", "cachetag_peek"], key, options)
    }

    fn read(&mut self, call: &[&str], key: &str, options: &[&str]) -> Got {
        let key = format!("{{ct}}:e:{key}");
        let mut args = call.to_vec();
        args.extend(["1", &key]);
        args.extend(options);
        let reply = self.con.ok(&args);
        got(&reply)
    }

    /// The state of a plain get that takes no lease.
    pub fn state(&mut self, key: &str) -> String {
        self.get(key, &["NOLEASE"]).state
    }

    pub fn put(&mut self, key: &str, payload: &str, token: &str, tags: &[&str], options: &[&str]) -> Put {
        let reply = self.try_put(key, payload, token, "600000", tags, options).unwrap();
        put(&reply)
    }

    pub fn try_put(
        &mut self,
        key: &str,
        payload: &str,
        token: &str,
        ttl: &str,
        tags: &[&str],
        options: &[&str],
    ) -> Result<Reply, String> {
        let (key, count) = (format!("{{ct}}:e:{key}"), tags.len().to_string());
        let mut args = vec!["FCALL", "cachetag_put", "1", &key, payload, token, ttl, "TAGS", &count];
        args.extend(tags);
        args.extend(options);
        self.con.call(&args)
    }

    /// Stores an entry under the version of an LSN; panics if it is refused.
    pub fn fill(&mut self, key: &str, lsn: u64, tags: &[&str]) {
        let token = self.v(lsn);
        assert_eq!(self.put(key, key, &token, tags, &[]), Put::Stored(token));
    }

    pub fn explain(&mut self, key: &str, options: &[&str]) -> Reply {
        let key = format!("{{ct}}:e:{key}");
        let mut args = vec!["FCALL_RO", "cachetag_explain", "1", &key];
        args.extend(options);
        self.con.ok(&args)
    }

    /// A field of the state; None if there is none.
    pub fn w(&mut self, field: &str) -> Option<String> {
        match self.con.ok(&["HGET", "{ct}:w", field]) {
            Reply::Nil => None,
            value => Some(value.text()),
        }
    }

    /// The value of the key `{ct}:<suffix>`; None if there is none.
    pub fn value(&mut self, suffix: &str) -> Option<String> {
        match self.con.ok(&["GET", &format!("{{ct}}:{suffix}")]) {
            Reply::Nil => None,
            value => Some(value.text()),
        }
    }

    /// Deletes the key `{ct}:<suffix>`.
    pub fn delete_if_there(&mut self, suffix: &str) {
        self.con.ok(&["DEL", &format!("{{ct}}:{suffix}")]);
    }

    /// Deletes the key `{ct}:<suffix>`, which must be there.
    pub fn delete(&mut self, suffix: &str) {
        assert_eq!(self.con.ok(&["DEL", &format!("{{ct}}:{suffix}")]), Reply::Int(1), "{suffix}");
    }
}

/// Parses a reply of get or peek, and checks what holds for all of them.
pub fn got(reply: &Reply) -> Got {
    let [state, payload, token, lease, Reply::Int(age)] = reply.list() else { panic!("{reply:?}") };
    let payload = match payload {
        Reply::Nil => None,
        Reply::Text(bytes) => Some(bytes.clone()),
        other => panic!("payload {other:?}"),
    };
    let got = Got { state: state.text(), payload, token: token.text(), lease: lease.text(), age: *age };
    match got.state.as_str() {
        "hit" => assert!(got.lease.is_empty() && got.age >= 0),
        "stale" => assert!(got.age >= 0),
        "early" => assert!(!got.lease.is_empty() && got.age >= 0),
        "miss" => assert!(got.payload.is_none() && got.age == -1),
        "wait" => assert!(got.payload.is_none() && got.age == -1 && got.lease.is_empty()),
        "bypass" => assert!(got.payload.is_none() && got.age == -1 && got.lease.is_empty() && got.token.is_empty()),
        other => panic!("state {other}"),
    }
    assert_eq!(got.token.len(), if got.state == "bypass" { 0 } else { 31 });
    got
}

/// Parses a reply of put.
pub fn put(reply: &Reply) -> Put {
    let texts = reply.texts();
    match texts.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["stored", version] => Put::Stored(version.to_string()),
        ["refused", reason, tag] => {
            assert!(["bypass", "epoch", "floor", "bumped", "unregistered"].contains(reason), "{reason}");
            Put::Refused(reason.to_string(), tag.to_string())
        }
        other => panic!("{other:?}"),
    }
}

/// Waits; for what only time brings about.
pub fn pause(ms: u64) {
    sleep(Duration::from_millis(ms));
}

/// A small reproducible source of numbers (splitmix64).
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Dice {
        Dice(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(1))
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    /// A number below `n`.
    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }

    /// True in `percent` of cases.
    pub fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    pub fn pick<T: Copy>(&mut self, items: &[T]) -> T {
        items[self.below(items.len())]
    }
}

//! The functions inside Redis under any arguments: a documented reply or an error that begins with CACHETAG and changes nothing.

use std::sync::{Mutex, OnceLock, PoisonError};

use cachetag_invalidator::dev::{Folder, Redis, User};
use redis::{Connection, ErrorKind, RedisResult, Value};

use super::input::Input;

const LIBRARY: &str = include_str!("../../../redis/cachetag.lua");
/// The state grows with what was stored: it begins anew after so many calls.
const CALLS: u32 = 2000;

const FUNCTIONS: [(&str, &str); 12] = [
    ("cachetag_get", "{ct}:e:k"),
    ("cachetag_peek", "{ct}:e:k"),
    ("cachetag_put", "{ct}:e:k"),
    ("cachetag_drop", "{ct}:e:k"),
    ("cachetag_explain", "{ct}:e:k"),
    ("cachetag_claim", "{ct}:w"),
    ("cachetag_apply", "{ct}:w"),
    ("cachetag_advance", "{ct}:w"),
    ("cachetag_reset", "{ct}:w"),
    ("cachetag_state", "{ct}:w"),
    ("cachetag_version", ""),
    ("cachetag_release", "{ct}:e:k"),
];

/// Arguments that fit somewhere. `\0A` is replaced by the position of the state, `\0B` by one behind it.
const WORDS: [&[u8]; 34] = [
    b"\0A",
    b"\0B",
    b"by-fuzz",
    b"source",
    b"payload",
    b"",
    b"0",
    b"1",
    b"2",
    b"600000",
    b"-1",
    b"1.5",
    b"1e400",
    b"nan",
    b"TAGS",
    b"FRESH",
    b"COST",
    b"ABSENT",
    b"LEASE",
    b"MAXLAG",
    b"ATLEAST",
    b"BETA",
    b"NOLEASE",
    b"SEEN",
    b"product:1",
    b"product:*",
    b"*",
    b"category:a%20b",
    b"0/70",
    b"1@0/70",
    b"99999999999999999999",
    b"9999999999.18446744073709551615",
    b"\xff\0",
    b"a b",
];

/// Keys that do not fit.
const KEYS: [&str; 6] = ["{ct}:e:k", "{ct}:w", "k", "", "{ct}:t:product:1", "{ct}:log"];

struct Server {
    connection: Connection,
    calls: u32,
    digest: String,
    // Dropped last: it ends the server and removes its folder.
    _redis: Redis,
    _folder: Folder,
    _runtime: tokio::runtime::Runtime,
}

/// Calls, each a function and its arguments, on a private server that all inputs of the process share.
pub fn lua_arguments(data: &[u8]) {
    static SERVER: OnceLock<Mutex<Server>> = OnceLock::new();
    let server = SERVER.get_or_init(|| Mutex::new(Server::start()));
    let mut server = server.lock().unwrap_or_else(PoisonError::into_inner);
    server.begin();
    let mut input = Input::new(data);
    while !input.is_empty() {
        server.call(&mut input);
    }
}

impl Server {
    fn start() -> Server {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let folder = Folder::temporary("cachetag-fuzz").expect("a folder");
        let user = User::for_servers().expect("a user for servers");
        let home = folder.private("redis", user.as_ref()).expect("a folder");
        let options = ["--enable-debug-command", "yes"];
        let redis =
            runtime.block_on(Redis::builder(home).args(options).start()).unwrap_or_else(|error| panic!("{error}"));
        let client = redis::Client::open(redis.url()).expect("the URL of the server");
        let mut connection = client.get_connection().expect("a connection");
        let load = redis::cmd("FUNCTION").arg("LOAD").arg("REPLACE").arg(LIBRARY).exec(&mut connection);
        load.expect("the library");
        // Whatever disappears disappears by a call.
        redis::cmd("DEBUG").arg("SET-ACTIVE-EXPIRE").arg(0).exec(&mut connection).expect("DEBUG");
        let (calls, digest) = (CALLS, String::new());
        Server { connection, calls, digest, _redis: redis, _folder: folder, _runtime: runtime }
    }

    /// A state with an entry in it.
    fn begin(&mut self) {
        self.calls += 1;
        if self.calls >= CALLS || self.applied().is_none() {
            self.calls = 0;
            redis::cmd("FLUSHALL").exec(&mut self.connection).expect("FLUSHALL");
            let setup: [&[&str]; 2] = [
                &["cachetag_claim", "1", "{ct}:w", "by-fuzz", "source", "600000000", "600000000"],
                &["cachetag_reset", "1", "{ct}:w", "by-fuzz", "source", "100", "0"],
            ];
            for call in setup {
                redis::cmd("FCALL").arg(call).exec(&mut self.connection).expect("the state");
            }
        }
        self.digest = self.read_digest();
    }

    fn applied(&mut self) -> Option<String> {
        redis::cmd("HGET").arg("{ct}:w").arg("applied").query(&mut self.connection).ok().flatten()
    }

    fn read_digest(&mut self) -> String {
        redis::cmd("DEBUG").arg("DIGEST").query(&mut self.connection).expect("DEBUG DIGEST")
    }

    fn call(&mut self, input: &mut Input<'_>) {
        let (function, fitting) = FUNCTIONS[usize::from(input.below(FUNCTIONS.len() as u8))];
        let key = match input.below(32) {
            n if usize::from(n) < KEYS.len() => KEYS[usize::from(n)],
            _ => fitting,
        };
        let mut call = redis::cmd("FCALL");
        call.arg(function);
        if key.is_empty() {
            call.arg(0)
        } else {
            call.arg(1).arg(key)
        };
        let applied = self.applied().unwrap_or_default();
        let (epoch, lsn) = applied.split_once('.').unwrap_or(("0000000001", "0"));
        let next = format!("{epoch}.{:020}", lsn.parse::<u64>().unwrap_or(0).saturating_add(1));
        for _ in 0..input.below(12) {
            let n = usize::from(input.byte());
            match WORDS.get(n % 40).copied() {
                Some(b"\0A") => call.arg(&applied),
                Some(b"\0B") => call.arg(&next),
                Some(word) => call.arg(word),
                None => call.arg(input.bytes()),
            };
        }
        let reply: RedisResult<Value> = call.query(&mut self.connection);
        let digest = self.read_digest();
        match reply {
            Err(error) => {
                // A transport error means that the server is gone, a Lua traceback that the library did not expect this.
                assert_ne!(error.kind(), ErrorKind::Io, "{error}");
                assert_eq!(error.code(), Some("CACHETAG"), "{error}: {}", shown(&call));
                assert_eq!(digest, self.digest, "an error changed something: {}", shown(&call));
            }
            Ok(reply) => assert!(is_documented(function, &reply), "{reply:?}: {}", shown(&call)),
        }
        self.digest = digest;
    }
}

fn shown(call: &redis::Cmd) -> String {
    String::from_utf8_lossy(&call.get_packed_command()).escape_debug().to_string()
}

fn is_documented(function: &str, reply: &Value) -> bool {
    let text = |value: &Value| match value {
        Value::BulkString(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        Value::SimpleString(text) => text.clone(),
        Value::Int(_) => "int".to_owned(),
        Value::Nil => "nil".to_owned(),
        _ => "other".to_owned(),
    };
    let items: Vec<String> =
        if let Value::Array(items) = reply { items.iter().map(text).collect() } else { Vec::new() };
    let items: Vec<&str> = items.iter().map(String::as_str).collect();
    match function {
        "cachetag_get" | "cachetag_peek" => {
            // With SEEN one more.
            let answer = items.get(..5).filter(|_| items.len() <= 6).unwrap_or_default();
            matches!(answer, ["hit" | "stale" | "early" | "miss" | "wait" | "bypass", _, _, _, "int"])
        }
        "cachetag_put" => matches!(
            items.as_slice(),
            ["stored", _] | ["refused", "bumped" | "unregistered" | "floor" | "epoch" | "bypass", _]
        ),
        "cachetag_drop" | "cachetag_release" => matches!(reply, Value::Int(0 | 1)),
        "cachetag_apply" | "cachetag_advance" => {
            matches!(items.as_slice(), ["applied", "int", "int"] | ["fenced" | "discontinuity", _])
        }
        "cachetag_reset" => matches!(items.as_slice(), ["reset", _, "int"] | ["fenced", _]),
        "cachetag_version" => !text(reply).is_empty(),
        _ => items.len() >= 4 && items.len().is_multiple_of(2),
    }
}

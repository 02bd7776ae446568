//! A private Redis or Valkey server that dies with its handle, and a connection that shows replies and errors as they are.

use std::fmt;
use std::fs;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// The library under test.
pub const LIBRARY: &str = include_str!("../../../redis/cachetag.lua");

/// A running server on a Unix socket in a folder of its own.
pub struct Server {
    process: Child,
    folder: PathBuf,
}

impl Server {
    /// Starts a server that persists nothing, with the library loaded.
    pub fn start() -> Server {
        let server = Server::bare(&[]);
        server.connect().load(LIBRARY);
        server
    }

    /// Starts a server with further options and without the library.
    pub fn bare(options: &[&str]) -> Server {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let binary = std::env::var("CACHETAG_REDIS_SERVER").unwrap_or_else(|_| "redis-server".into());
        let name = format!("cachetag-redis-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let folder = std::env::temp_dir().join(name);
        fs::create_dir_all(&folder).unwrap();
        let mut command = Command::new(&binary);
        command.args(["--save", "", "--appendonly", "no", "--enable-debug-command", "yes", "--dir"]).arg(&folder);
        command.arg("--unixsocket").arg(folder.join("socket"));
        if !options.contains(&"--port") {
            command.args(["--port", "0"]);
        }
        command.args(options).stdout(fs::File::create(folder.join("log")).unwrap()).stdin(Stdio::null());
        // SAFETY: prctl is async-signal-safe and touches nothing of the parent's memory.
        unsafe {
            command.pre_exec(|| {
                libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                Ok(())
            });
        }
        let process = command.spawn().unwrap_or_else(|e| panic!("cannot start {binary}: {e}"));
        let server = Server { process, folder };
        let deadline = Instant::now() + Duration::from_secs(20);
        while server.try_connect().is_err() {
            let log = fs::read_to_string(server.folder.join("log")).unwrap_or_default();
            assert!(Instant::now() < deadline, "{binary} does not answer:\n{log}");
            std::thread::sleep(Duration::from_millis(5));
        }
        server
    }

    /// The server's Unix socket.
    pub fn socket(&self) -> PathBuf {
        self.folder.join("socket")
    }

    /// A new connection.
    pub fn connect(&self) -> Connection {
        self.try_connect().unwrap()
    }

    fn try_connect(&self) -> redis::RedisResult<Connection> {
        let client = redis::Client::open(format!("redis+unix://{}", self.socket().display()))?;
        let mut connection = Connection(client.get_connection()?);
        match connection.call(&["PING"]) {
            Ok(_) => Ok(connection),
            Err(_) => Err((redis::ErrorKind::Io, "not ready").into()),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

/// A reply, with text as bytes.
#[derive(Clone, PartialEq, Eq)]
pub enum Reply {
    /// nil
    Nil,
    /// an integer
    Int(i64),
    /// a bulk or simple string
    Text(Vec<u8>),
    /// an array
    List(Vec<Reply>),
}

impl Reply {
    /// The text, or the integer as text; panics on anything else.
    pub fn text(&self) -> String {
        match self {
            Reply::Text(bytes) => String::from_utf8_lossy(bytes).into_owned(),
            Reply::Int(n) => n.to_string(),
            other => panic!("not text: {other:?}"),
        }
    }

    /// The elements; panics if the reply is no array.
    pub fn list(&self) -> &[Reply] {
        match self {
            Reply::List(items) => items,
            other => panic!("not a list: {other:?}"),
        }
    }

    /// The value of a field in a flat list of fields and values.
    pub fn field(&self, name: &str) -> Option<String> {
        self.list().chunks(2).find(|pair| pair[0].text() == name).map(|pair| pair[1].text())
    }

    /// The reply as a list of texts, nil as `nil`.
    pub fn texts(&self) -> Vec<String> {
        self.list().iter().map(|r| if *r == Reply::Nil { "nil".into() } else { r.text() }).collect()
    }
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reply::Nil => f.write_str("nil"),
            Reply::Int(n) => write!(f, "{n}"),
            Reply::Text(bytes) => write!(f, "{:?}", String::from_utf8_lossy(bytes)),
            Reply::List(items) => f.debug_list().entries(items).finish(),
        }
    }
}

impl From<redis::Value> for Reply {
    fn from(value: redis::Value) -> Reply {
        match value {
            redis::Value::Nil => Reply::Nil,
            redis::Value::Int(n) => Reply::Int(n),
            redis::Value::BulkString(bytes) => Reply::Text(bytes),
            redis::Value::SimpleString(text) => Reply::Text(text.into_bytes()),
            redis::Value::Okay => Reply::Text(b"OK".to_vec()),
            redis::Value::Array(items) => Reply::List(items.into_iter().map(Reply::from).collect()),
            other => panic!("unexpected reply {other:?}"),
        }
    }
}

/// A connection.
pub struct Connection(redis::Connection);

impl Connection {
    /// Sends a command; an error is its text as the server sent it.
    pub fn call<A: AsRef<[u8]>>(&mut self, args: &[A]) -> Result<Reply, String> {
        let mut command = redis::Cmd::new();
        for arg in args {
            command.arg(arg.as_ref());
        }
        match command.query::<redis::Value>(&mut self.0) {
            Ok(value) => Ok(value.into()),
            Err(e) => Err(format!("{} {}", e.code().unwrap_or("?"), e.detail().unwrap_or_default())),
        }
    }

    /// Sends a command that must succeed.
    pub fn ok<A: AsRef<[u8]>>(&mut self, args: &[A]) -> Reply {
        self.call(args).unwrap_or_else(|e| {
            let shown: Vec<_> =
                args.iter().take(12).map(|a| String::from_utf8_lossy(a.as_ref()).into_owned()).collect();
            panic!("{shown:?}: {e}")
        })
    }

    /// Loads a library, in place of the one of the same name.
    pub fn load(&mut self, source: &str) {
        self.ok(&["FUNCTION", "LOAD", "REPLACE", source]);
    }

    /// A digest of the whole data set.
    pub fn digest(&mut self) -> String {
        self.ok(&["DEBUG", "DIGEST"]).text()
    }
}

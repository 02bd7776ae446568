//! A private PostgreSQL server in a folder.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::{Duration, Instant};

use tokio_postgres::{Client, NoTls};

use super::DevError;
use super::folder::private_folder;
use super::installation::Installation;
use super::port::{free_port, is_free};
use super::process::{POLL, Process};
use super::user::User;

/// The role that owns everything in a private server.
const SUPERUSER: &str = "postgres";
/// A first start replays at most what a killed server left; a loaded machine may take its time.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// After this, an orderly stop (which waits for replication clients) becomes an immediate one.
const STOP_GRACE: Duration = Duration::from_secs(15);
/// An immediate stop only waits for the backends to go.
const KILL_GRACE: Duration = Duration::from_secs(10);
/// How long a predecessor that got its death signal may need to leave the folder.
const PREDECESSOR_GRACE: Duration = Duration::from_secs(5);
/// Another process may take a free port between our look and the server's bind.
const PORT_ATTEMPTS: u32 = 5;
/// A Unix socket's path has 107 bytes; the server appends `/.s.PGSQL.<port>`.
const SOCKET_FOLDER_MAX: usize = 107 - "/.s.PGSQL.65535".len();
/// Our settings, included from `postgresql.conf`.
const SETTINGS_FILE: &str = "cachetag.conf";

/// What every private server runs with. Durability is off: its data is a copy of something, or a test's.
const SETTINGS: &[(&str, &str)] = &[
    ("listen_addresses", "127.0.0.1"),
    ("wal_level", "logical"),
    ("max_wal_senders", "20"),
    ("max_replication_slots", "20"),
    ("fsync", "off"),
    ("full_page_writes", "off"),
    ("logging_collector", "off"),
    ("log_destination", "stderr"),
    ("log_line_prefix", "%m [%p] %q%a "),
];

/// How a private server is set up; see [`Postgres::builder`].
#[derive(Debug)]
pub struct Builder {
    data: PathBuf,
    installation: Option<Installation>,
    port: Option<u16>,
    password: Option<String>,
    settings: Vec<(String, String)>,
    template: Option<PathBuf>,
}

/// A running private server. Dropping it stops it at once; its data stays.
#[derive(Debug)]
pub struct Postgres {
    installation: Installation,
    user: Option<User>,
    data: PathBuf,
    port: u16,
    password: Option<String>,
    settings: Vec<(String, String)>,
    process: Option<Process>,
}

impl Builder {
    /// Runs this server instead of the one that [`Installation::find`] finds.
    pub fn installation(mut self, installation: Installation) -> Self {
        self.installation = Some(installation);
        self
    }

    /// Listens on this port; without it on a free one.
    pub fn port(mut self, port: u16) -> Self {
        self.port = Some(port);
        self
    }

    /// Asks for this password (SCRAM) over TCP when the folder is new; without it everybody on this machine may connect.
    pub fn password(mut self, password: impl Into<String>) -> Self {
        self.password = Some(password.into());
        self
    }

    /// Adds a line to the server's configuration; the last one of a name counts.
    pub fn setting(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.settings.push((name.into(), value.into()));
        self
    }

    /// Copies this data folder of a stopped server instead of running `initdb`.
    pub fn template(mut self, data: impl Into<PathBuf>) -> Self {
        self.template = Some(data.into());
        self
    }

    /// Creates the data folder if it is not there, starts the server and waits until it accepts connections.
    pub async fn start(self) -> Result<Postgres, DevError> {
        let installation = match self.installation {
            Some(installation) => installation,
            None => Installation::find()?,
        };
        let mut postgres = Postgres {
            user: User::for_servers()?,
            installation,
            data: self.data,
            port: 0,
            password: self.password,
            settings: self.settings,
            process: None,
        };
        if postgres.data.join("PG_VERSION").is_file() {
            postgres.check_version()?;
        } else if let Some(template) = &self.template {
            postgres.copy(template).await?;
        } else {
            postgres.initdb().await?;
        }
        if let Some(port) = self.port {
            if !is_free(port) {
                return Err(DevError::PortTaken { port });
            }
            postgres.port = port;
            postgres.launch().await?;
            return Ok(postgres);
        }
        for attempt in 1.. {
            postgres.port = free_port()?;
            match postgres.launch().await {
                Err(DevError::Exited { tail, .. })
                    if attempt < PORT_ATTEMPTS && tail.contains("Address already in use") => {}
                result => return result.map(|()| postgres),
            }
        }
        unreachable!("the loop returns")
    }
}

impl Postgres {
    /// A server whose data is in `data`, which is created if need be and belongs to the server's user. Its log is `data` with `.log` appended.
    pub fn builder(data: impl Into<PathBuf>) -> Builder {
        Builder {
            data: data.into(),
            installation: None,
            port: None,
            password: None,
            settings: Vec::new(),
            template: None,
        }
    }

    /// The port of 127.0.0.1 that it listens on.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The data folder.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// The server's log.
    pub fn log(&self) -> PathBuf {
        self.sibling("log")
    }

    /// The settings that it was given, beyond those of every private server.
    pub fn settings(&self) -> &[(String, String)] {
        &self.settings
    }

    /// The process id of its first process while it runs.
    pub fn id(&self) -> Option<u32> {
        self.process.as_ref().map(Process::id)
    }

    /// The installation that it runs.
    pub fn installation(&self) -> &Installation {
        &self.installation
    }

    /// The connection URL of one database.
    pub fn url(&self, database: &str) -> String {
        let password = self.password.as_ref().map(|text| format!(":{}", percent_encode(text))).unwrap_or_default();
        format!("postgres://{SUPERUSER}{password}@127.0.0.1:{}/{database}", self.port)
    }

    /// A connection as superuser; it is closed when the client is dropped.
    pub async fn connect(&self, database: &str) -> Result<Client, DevError> {
        let (client, connection) =
            tokio_postgres::connect(&self.url(database), NoTls).await.map_err(DevError::postgres("connect"))?;
        tokio::spawn(connection);
        Ok(client)
    }

    /// Creates a database; returns whether it was not there yet.
    pub async fn create_database(&self, database: &str) -> Result<bool, DevError> {
        let client = self.connect("postgres").await?;
        let known = client.query("SELECT FROM pg_database WHERE datname = $1", &[&database]).await;
        if !known.map_err(DevError::postgres("list the databases"))?.is_empty() {
            return Ok(false);
        }
        let statement = format!("CREATE DATABASE \"{}\"", database.replace('"', "\"\""));
        client.batch_execute(&statement).await.map_err(DevError::postgres(format!("create database {database}")))?;
        Ok(true)
    }

    /// Creates the extension in a database; says how to install it if the server does not have it.
    pub async fn create_extension(&self, database: &str) -> Result<(), DevError> {
        let client = self.connect(database).await?;
        let created = client.batch_execute("CREATE EXTENSION IF NOT EXISTS cachetag").await;
        created.map_err(|error| {
            let explained = self.installation.extension_missing();
            explained.unwrap_or_else(|| DevError::postgres("create extension cachetag")(error))
        })
    }

    /// Runs a file of SQL in a database with psql, to its first error.
    pub async fn psql_file(&self, database: &str, file: &Path) -> Result<(), DevError> {
        let mut command = Command::new(self.installation.psql());
        command.args(["--no-psqlrc", "--quiet", "--set", "ON_ERROR_STOP=1", "--file"]).arg(file);
        command.args(["--dbname", &self.url(database)]);
        let name = format!("psql --file {}", file.display());
        Process::spawn(&name, command, &self.sibling("psql.log"), None, libc::SIGKILL)?.success().await
    }

    /// Adds settings to the configuration. They take effect with the next [`reload`](Self::reload) or [`restart`](Self::restart).
    pub fn configure(&mut self, settings: &[(&str, &str)]) -> Result<(), DevError> {
        self.settings.extend(settings.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        self.write_settings()
    }

    /// Makes the running server read its configuration again and waits until it has.
    pub async fn reload(&mut self) -> Result<(), DevError> {
        let client = self.connect("postgres").await?;
        let question = "SELECT pg_conf_load_time()::text";
        let loaded_at = async || -> Result<String, DevError> {
            let row = client.query_one(question, &[]).await.map_err(DevError::postgres("read the load time"))?;
            Ok(row.get(0))
        };
        let before = loaded_at().await?;
        self.signal(libc::SIGHUP);
        let deadline = Instant::now() + START_TIMEOUT;
        while loaded_at().await? == before {
            if Instant::now() > deadline {
                return Err(self.not_ready());
            }
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }

    /// Stops the server in order: open transactions are rolled back, and replication clients get what was written (one that does not
    /// answer is given up after some seconds).
    pub async fn stop(&mut self) -> Option<ExitStatus> {
        let mut process = self.process.take()?;
        process.signal(libc::SIGINT);
        match process.wait(STOP_GRACE).await {
            Some(status) => Some(status),
            None => process.end(libc::SIGQUIT, KILL_GRACE).await,
        }
    }

    /// Stops the server as a crash would: no checkpoint, nobody is told. The next start recovers.
    pub async fn kill(&mut self) -> Option<ExitStatus> {
        self.process.take()?.end(libc::SIGQUIT, KILL_GRACE).await
    }

    /// Starts a stopped server again, on the same port.
    pub async fn start_again(&mut self) -> Result<(), DevError> {
        if self.process.is_none() { self.launch().await } else { Ok(()) }
    }

    /// Stops in order and starts again, with the settings configured since.
    pub async fn restart(&mut self) -> Result<(), DevError> {
        self.stop().await;
        self.launch().await
    }

    /// How the server ended, if it did so by itself.
    pub fn exited(&mut self) -> Option<DevError> {
        let process = self.process.as_mut()?;
        let status = process.exited()?;
        Some(process.ended(status))
    }

    /// Sends a signal to the server's first process (SIGSTOP and SIGCONT reach that one only, not the backends).
    pub fn signal(&mut self, signal: i32) {
        if let Some(process) = &mut self.process {
            process.signal(signal);
        }
    }

    async fn initdb(&self) -> Result<(), DevError> {
        // Under another name until it is complete: an interrupted initdb leaves nothing that looks like data.
        let fresh = self.sibling("new");
        remove_folder(&fresh)?;
        private_folder(&fresh, self.user.as_ref())?;
        let mut command = Command::new(self.installation.program("initdb"));
        command.arg("--pgdata").arg(&fresh).current_dir(&fresh);
        command.args(["--username", SUPERUSER, "--encoding", "UTF8", "--locale", "C.UTF-8", "--no-sync"]);
        command.args(["--no-instructions", "--auth-local", "trust", "--auth-host"]);
        let password_file = self.sibling("password");
        match &self.password {
            Some(password) => {
                self.write(&password_file, password)?;
                command.args(["scram-sha-256", "--pwfile"]).arg(&password_file);
            }
            None => drop(command.arg("trust")),
        }
        let process = Process::spawn("initdb", command, &self.log(), self.user.as_ref(), libc::SIGKILL)?;
        let result = process.success().await;
        if self.password.is_some() {
            std::fs::remove_file(&password_file).map_err(DevError::file("remove", &password_file))?;
        }
        result?;
        let main = fresh.join("postgresql.conf");
        let mut text = std::fs::read_to_string(&main).map_err(DevError::file("read", &main))?;
        text.push_str(&format!("\ninclude_if_exists '{SETTINGS_FILE}'\n"));
        self.write(&main, &text)?;
        std::fs::rename(&fresh, &self.data).map_err(DevError::file("rename", &fresh))
    }

    async fn copy(&self, template: &Path) -> Result<(), DevError> {
        let fresh = self.sibling("new");
        remove_folder(&fresh)?;
        let mut command = Command::new("cp");
        command.args(["--archive", "--reflink=auto"]).arg(template).arg(&fresh);
        Process::spawn("cp", command, &self.log(), None, libc::SIGKILL)?.success().await?;
        std::fs::rename(&fresh, &self.data).map_err(DevError::file("rename", &fresh))
    }

    fn check_version(&self) -> Result<(), DevError> {
        let file = self.data.join("PG_VERSION");
        let found = std::fs::read_to_string(&file).map_err(DevError::file("read", &file))?.trim().to_owned();
        match self.installation.major() {
            Some(server) if server != found => Err(DevError::DataVersion { path: self.data.clone(), found, server }),
            _ => Ok(()),
        }
    }

    async fn launch(&mut self) -> Result<(), DevError> {
        self.write_settings()?;
        self.wait_for_predecessor().await?;
        let mut command = Command::new(self.installation.program("postgres"));
        command.arg("-D").arg(&self.data).current_dir(&self.data);
        // SIGQUIT ends the backends too, and at once.
        let process = Process::spawn("postgres", command, &self.log(), self.user.as_ref(), libc::SIGQUIT)?;
        let url = format!("{}?connect_timeout=1", self.url("postgres"));
        let process = self.process.insert(process);
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            if let Some(status) = process.exited() {
                let error = process.ended(status);
                self.process = None;
                return Err(error);
            }
            if answers_from(&url, &self.data).await {
                return Ok(());
            }
            if Instant::now() > deadline {
                let error = process.not_ready(START_TIMEOUT);
                self.process = None;
                return Err(error);
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// A killed server leaves `postmaster.pid`, and by now its process id may be somebody else's: PostgreSQL would refuse to start.
    async fn wait_for_predecessor(&self) -> Result<(), DevError> {
        let file = self.data.join("postmaster.pid");
        let deadline = Instant::now() + PREDECESSOR_GRACE;
        loop {
            let Ok(text) = std::fs::read_to_string(&file) else { return Ok(()) };
            let pid = text.lines().next().unwrap_or_default().trim().to_owned();
            if !self.is_server(&pid) {
                return std::fs::remove_file(&file).map_err(DevError::file("remove", &file));
            }
            if Instant::now() > deadline {
                let by = format!("the PostgreSQL server with process id {pid}");
                return Err(DevError::FolderInUse { path: self.data.clone(), by });
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Whether this process has our data folder as its own: a server's working directory is its data folder.
    fn is_server(&self, pid: &str) -> bool {
        std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|folder| folder == self.data)
    }

    fn write_settings(&self) -> Result<(), DevError> {
        let sockets =
            if self.data.as_os_str().len() <= SOCKET_FOLDER_MAX { self.data.as_path() } else { Path::new("") };
        let mut text =
            String::from("# Written at every start; put your own settings into postgresql.conf, after the include.\n");
        let mut line = |name: &str, value: &str| {
            text.push_str(&format!("{name} = '{}'\n", value.replace('\\', "\\\\").replace('\'', "''")));
        };
        SETTINGS.iter().for_each(|(name, value)| line(name, value));
        line("port", &self.port.to_string());
        line("unix_socket_directories", &sockets.to_string_lossy());
        self.settings.iter().for_each(|(name, value)| line(name, value));
        self.write(&self.data.join(SETTINGS_FILE), &text)
    }

    /// Writes a file that the server's user can read.
    fn write(&self, file: &Path, text: &str) -> Result<(), DevError> {
        std::fs::write(file, text).map_err(DevError::file("write", file))?;
        self.user.as_ref().map_or(Ok(()), |user| user.own(file))
    }

    fn not_ready(&self) -> DevError {
        match &self.process {
            Some(process) => process.not_ready(START_TIMEOUT),
            None => {
                let log = self.log();
                let tail = super::process::tail(&log);
                DevError::NotReady { program: "postgres".to_owned(), after: START_TIMEOUT, log, tail }
            }
        }
    }

    fn sibling(&self, suffix: &str) -> PathBuf {
        let mut name = self.data.as_os_str().to_owned();
        name.push(".");
        name.push(suffix);
        name.into()
    }
}

/// Whether a server with this data folder accepts connections. Another one may have won the port: ours is about to give up then.
async fn answers_from(url: &str, data: &Path) -> bool {
    let Ok((client, connection)) = tokio_postgres::connect(url, NoTls).await else { return false };
    tokio::spawn(connection);
    let answer = client.query_one("SELECT current_setting('data_directory')", &[]).await;
    answer.is_ok_and(|row| Path::new(row.get::<_, &str>(0)) == data)
}

/// A password as part of a URL.
fn percent_encode(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
    text.bytes().map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") }).collect()
}

fn remove_folder(folder: &Path) -> Result<(), DevError> {
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        removed => removed.map_err(DevError::file("remove", folder)),
    }
}

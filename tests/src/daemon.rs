//! The real daemon as a child process.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use cachetag_invalidator::dev::Process;

use crate::template::profile_folder;

/// Names the program under test.
const PROGRAM_VARIABLE: &str = "CACHETAG_BIN";
/// More than the daemon takes to finish what it is doing.
const STOP_GRACE: Duration = Duration::from_secs(20);

/// How the daemon is started.
#[derive(Debug, Clone)]
pub struct DaemonOptions {
    max_lag: Duration,
    slot: String,
    args: Vec<String>,
    env: Vec<(String, String)>,
    program: Option<PathBuf>,
}

impl DaemonOptions {
    /// The defaults of the tests: `--max-lag 2s`, slot `cachetag`.
    pub fn new() -> Self {
        DaemonOptions {
            max_lag: Duration::from_secs(2),
            slot: "cachetag".to_owned(),
            args: Vec::new(),
            env: Vec::new(),
            program: None,
        }
    }

    /// Runs this program instead of the one under test.
    pub fn program(mut self, program: impl Into<PathBuf>) -> Self {
        self.program = Some(program.into());
        self
    }

    /// The default bound of staleness.
    pub fn max_lag(mut self, max_lag: Duration) -> Self {
        self.max_lag = max_lag;
        self
    }

    /// Another replication slot.
    pub fn slot(mut self, slot: impl Into<String>) -> Self {
        self.slot = slot.into();
        self
    }

    /// Adds arguments of the command line.
    pub fn args<S: Into<String>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.args.extend(args.into_iter().map(Into::into));
        self
    }

    /// Sets a variable of the daemon's environment.
    pub fn env(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.env.push((name.into(), value.into()));
        self
    }
}

impl Default for DaemonOptions {
    fn default() -> Self {
        Self::new()
    }
}

/// A daemon that can be killed, paused and started again. Its log goes on over restarts. Dropping it kills it.
#[derive(Debug)]
pub struct Daemon {
    postgres_url: String,
    redis_url: String,
    log: PathBuf,
    options: DaemonOptions,
    process: Option<Process>,
}

impl Daemon {
    /// Starts the daemon, which logs to `log`.
    pub fn start(postgres_url: &str, redis_url: &str, log: &Path, options: DaemonOptions) -> Daemon {
        let mut daemon = Daemon {
            postgres_url: postgres_url.to_owned(),
            redis_url: redis_url.to_owned(),
            log: log.to_path_buf(),
            options,
            process: None,
        };
        daemon.start_again();
        daemon
    }

    /// Starts it again after it has ended; a running one is left alone.
    pub fn start_again(&mut self) {
        if self.is_running() {
            return;
        }
        let mut command = Command::new(self.options.program.clone().unwrap_or_else(program));
        command.args(["run", "--postgres", &self.postgres_url, "--redis", &self.redis_url]);
        command.args(["--slot", &self.options.slot, "--max-lag", &format!("{}ms", self.options.max_lag.as_millis())]);
        command.args(["--log-format", "text"]).args(&self.options.args);
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("CACHETAG_")) {
            // The settings of whoever runs the tests are not the test's.
            command.env_remove(name);
        }
        command.envs(self.options.env.iter().map(|(name, value)| (name, value)));
        let process = Process::spawn("cachetag run", command, &self.log, None, libc::SIGKILL);
        self.process = Some(process.unwrap_or_else(|error| panic!("{error}")));
    }

    /// Changes how it is started the next time.
    pub fn options(&mut self) -> &mut DaemonOptions {
        &mut self.options
    }

    /// Ends it with SIGKILL, and waits until it is gone.
    pub async fn kill9(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.end(libc::SIGKILL, STOP_GRACE).await;
        }
    }

    /// Asks it to end (SIGTERM) and returns how it did; panics if it has to be killed.
    pub async fn stop(&mut self) -> Option<ExitStatus> {
        let mut process = self.process.take()?;
        process.signal(libc::SIGTERM);
        let status = process.wait(STOP_GRACE).await;
        assert!(status.is_some(), "the daemon does not end on SIGTERM; its log:\n{}", self.log());
        status
    }

    /// Stops it in order and starts it again.
    pub async fn restart(&mut self) {
        self.stop().await;
        self.start_again();
    }

    /// Freezes it (SIGSTOP).
    pub fn pause(&mut self) {
        self.signal(libc::SIGSTOP);
    }

    /// Lets a frozen one go on (SIGCONT).
    pub fn resume(&mut self) {
        self.signal(libc::SIGCONT);
    }

    /// Sends any signal.
    pub fn signal(&mut self, signal: i32) {
        if let Some(process) = &mut self.process {
            process.signal(signal);
        }
    }

    /// Waits until it ends by itself.
    pub async fn wait(&mut self, timeout: Duration) -> Option<ExitStatus> {
        self.process.as_mut()?.wait(timeout).await
    }

    /// Whether it runs (a frozen one does).
    pub fn is_running(&self) -> bool {
        self.process.as_ref().is_some_and(Process::is_running)
    }

    /// Its process id while it runs.
    pub fn id(&self) -> Option<u32> {
        self.process.as_ref().map(Process::id)
    }

    /// Everything that it has logged, from the first start on.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&std::fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// Whether its log contains a text.
    pub fn log_contains(&self, text: &str) -> bool {
        self.log().contains(text)
    }
}

/// The program under test: `CACHETAG_BIN`, or the one that was built beside this test.
pub fn program() -> PathBuf {
    if let Some(program) = std::env::var_os(PROGRAM_VARIABLE) {
        return program.into();
    }
    let program = profile_folder().join("cachetag");
    assert!(
        program.is_file(),
        "{} is missing: run `cargo build -p cachetag-invalidator` with the profile of the tests, or set {PROGRAM_VARIABLE}",
        program.display()
    );
    program
}

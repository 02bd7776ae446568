//! Child processes that end when we do, whatever ends us.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{LazyLock, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use super::DevError;
use super::user::User;

/// How often a process that should end or become ready is looked at.
pub(super) const POLL: Duration = Duration::from_millis(10);
/// How much of a log goes into an error message.
const TAIL_BYTES: u64 = 2_000;
/// How long `Drop` lets a process end by its own means before it is killed.
const DROP_GRACE: Duration = Duration::from_secs(5);

/// A running child process. It leads a process group of its own (Ctrl-C at the terminal reaches us, who then stop it in order),
/// writes to a log file, and gets `death_signal` from the kernel when our process ends. Dropping it ends it.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    status: Option<ExitStatus>,
    log: PathBuf,
    death_signal: i32,
}

impl Process {
    /// Starts `command` with standard output and error appended to `log`, as `user` if one is given.
    ///
    /// `death_signal` is sent by the kernel when this process is gone, and by `Drop`.
    pub fn spawn(
        name: &str,
        mut command: Command,
        log: &Path,
        user: Option<&User>,
        death_signal: i32,
    ) -> Result<Process, DevError> {
        let file =
            OpenOptions::new().create(true).append(true).open(log).map_err(DevError::file("open the log", log))?;
        let copy = file.try_clone().map_err(DevError::file("open the log", log))?;
        command.stdin(Stdio::null()).stdout(file).stderr(copy).process_group(0);
        if let Some(user) = user {
            // std drops the supplementary groups along with root.
            command.uid(user.uid).gid(user.gid);
        }
        die_with_parent(&mut command, death_signal);
        let program = command.get_program().to_string_lossy().into_owned();
        let child = spawn_from_lasting_thread(command).map_err(|source| DevError::Spawn { program, source })?;
        Ok(Process { name: name.to_owned(), child, status: None, log: log.to_path_buf(), death_signal })
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The log file of standard output and error.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// How the process ended, if it has.
    pub fn exited(&mut self) -> Option<ExitStatus> {
        if self.status.is_none() {
            self.status = self.child.try_wait().ok().flatten();
        }
        self.status
    }

    /// Whether it runs, or is stopped by a signal; leaves it to others to learn how it ended.
    pub fn is_running(&self) -> bool {
        if self.status.is_some() {
            return false;
        }
        let mut info = std::mem::MaybeUninit::<libc::siginfo_t>::zeroed();
        let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
        // SAFETY: plain system call on valid memory, which stays zeroed (process id 0) while there is nothing to report.
        unsafe {
            libc::waitid(libc::P_PID, self.child.id(), info.as_mut_ptr(), options) == 0
                && info.assume_init().si_pid() == 0
        }
    }

    /// Sends a signal; a process that has ended gets none.
    pub fn signal(&mut self, signal: i32) {
        if self.exited().is_none() {
            // SAFETY: plain system call. The id is ours: the child is reaped only by `exited`, which has just said that it runs.
            unsafe { libc::kill(self.child.id() as libc::pid_t, signal) };
        }
    }

    /// Waits until the process has ended, at most `timeout`.
    pub async fn wait(&mut self, timeout: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + timeout;
        loop {
            let status = self.exited();
            if status.is_some() || Instant::now() >= deadline {
                return status;
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Sends `signal`, waits at most `grace`, then kills. Returns how the process ended.
    pub async fn end(&mut self, signal: i32, grace: Duration) -> Option<ExitStatus> {
        self.signal(signal);
        if let Some(status) = self.wait(grace).await {
            return Some(status);
        }
        self.signal(libc::SIGKILL);
        self.wait(DROP_GRACE).await
    }

    /// Runs a tool to its end; an unsuccessful status is an error that shows the end of its log.
    pub async fn success(mut self) -> Result<(), DevError> {
        loop {
            match self.exited() {
                Some(status) if status.success() => return Ok(()),
                Some(status) => return Err(self.ended(status)),
                None => tokio::time::sleep(POLL).await,
            }
        }
    }

    /// The error for a process that ended although it should not have.
    pub fn ended(&self, status: ExitStatus) -> DevError {
        DevError::Exited { program: self.name.clone(), status, log: self.log.clone(), tail: tail(&self.log) }
    }

    /// The error for a process that runs and is not ready after `after`.
    pub fn not_ready(&self, after: Duration) -> DevError {
        DevError::NotReady { program: self.name.clone(), after, log: self.log.clone(), tail: tail(&self.log) }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        for signal in [self.death_signal, libc::SIGKILL] {
            // A stopped process (SIGSTOP) must run to be able to end.
            self.signal(signal);
            self.signal(libc::SIGCONT);
            let deadline = Instant::now() + DROP_GRACE;
            while Instant::now() < deadline {
                if self.exited().is_some() {
                    return;
                }
                std::thread::sleep(POLL);
            }
        }
    }
}

/// The last lines of a log file, for error messages.
pub(super) fn tail(log: &Path) -> String {
    let read = || -> io::Result<String> {
        let mut file = File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).trim_end().to_owned())
    };
    read().unwrap_or_else(|error| format!("({error})"))
}

#[cfg(target_os = "linux")]
fn die_with_parent(command: &mut Command, signal: i32) {
    let parent = std::process::id();
    // std runs this after the change of user, which would clear the setting.
    let ask_kernel = move || {
        // SAFETY: prctl and getppid are async-signal-safe, and nothing here allocates.
        unsafe {
            if libc::prctl(libc::PR_SET_PDEATHSIG, signal as libc::c_ulong) != 0 {
                return Err(io::Error::last_os_error());
            }
            // The parent may have ended before the request: then nobody would send the signal.
            if libc::getppid() as u32 != parent {
                return Err(io::Error::from_raw_os_error(libc::ESRCH));
            }
        }
        Ok(())
    };
    // SAFETY: the closure only makes async-signal-safe calls.
    unsafe { command.pre_exec(ask_kernel) };
}

/// Elsewhere the kernel offers nothing of the kind: `Drop` ends the children, a `kill -9` leaves them.
#[cfg(not(target_os = "linux"))]
fn die_with_parent(_command: &mut Command, _signal: i32) {}

type Job = (Command, mpsc::SyncSender<io::Result<Child>>);

/// The kernel's death signal is tied to the *thread* that forked, so one thread that lives as long as the process does forks them all:
/// a caller may be a test's thread or a runtime's blocking thread, which ends long before the child should.
static SPAWNER: LazyLock<Mutex<mpsc::Sender<Job>>> = LazyLock::new(|| {
    let (sender, jobs) = mpsc::channel::<Job>();
    std::thread::spawn(move || {
        for (mut command, reply) in jobs {
            // A caller that gave up has dropped its receiver; its child must not stay behind.
            if let Err(mpsc::SendError(Ok(mut orphan))) = reply.send(command.spawn()) {
                let _ = orphan.kill();
                let _ = orphan.wait();
            }
        }
    });
    Mutex::new(sender)
});

fn spawn_from_lasting_thread(command: Command) -> io::Result<Child> {
    let (reply, child) = mpsc::sync_channel(1);
    let sender = SPAWNER.lock().unwrap_or_else(PoisonError::into_inner).clone();
    sender.send((command, reply)).map_err(|_| io::Error::other("the thread that starts processes is gone"))?;
    child.recv().map_err(|_| io::Error::other("the thread that starts processes is gone"))?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sleeper(log: &Path) -> Process {
        let mut command = Command::new("sleep");
        command.arg("600");
        Process::spawn("sleep", command, log, None, libc::SIGKILL).expect("sleep starts")
    }

    fn alive(pid: u32) -> bool {
        // A zombie still answers to kill(pid, 0); its state letter tells.
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with('Z'))
    }

    #[test]
    fn a_child_outlives_the_thread_that_asked_for_it() {
        let process = std::thread::spawn(|| sleeper(Path::new("/dev/null"))).join().expect("thread");
        std::thread::sleep(Duration::from_millis(200));
        assert!(alive(process.id()));
    }

    #[test]
    fn a_dropped_child_is_gone_even_when_stopped() {
        let mut process = sleeper(Path::new("/dev/null"));
        let pid = process.id();
        process.signal(libc::SIGSTOP);
        assert!(process.is_running());
        drop(process);
        assert!(!alive(pid));
    }

    #[tokio::test]
    async fn a_failed_tool_shows_the_end_of_its_log() {
        let log = std::env::temp_dir().join(format!("cachetag-process-{}.log", std::process::id()));
        let mut command = Command::new("sh");
        command.args(["-c", "echo the reason >&2; exit 3"]);
        let process = Process::spawn("sh", command, &log, None, libc::SIGKILL).expect("sh starts");
        while process.is_running() {
            tokio::time::sleep(POLL).await;
        }
        let error = process.success().await.expect_err("status 3").to_string();
        std::fs::remove_file(&log).expect("log");
        assert!(error.contains("the reason") && error.contains("exit status: 3"), "{error}");
    }
}

//! A physical standby that lags.

use std::process::Command;
use std::time::Duration;

use cachetag_invalidator::dev::{Postgres, Process, User};

use crate::Stack;
use crate::stack::{DATABASE, SETTINGS};

/// How much later than the primary it shows a commit.
pub const LAG: Duration = Duration::from_millis(100);

/// A hot standby of a stack's PostgreSQL.
#[derive(Debug)]
pub struct Standby {
    postgres: Postgres,
}

impl Standby {
    /// Copies the primary and follows it.
    pub async fn start(stack: &Stack) -> Standby {
        let user = User::for_servers().expect("the servers' user");
        let home = stack.private_folder("standby", user.as_ref());
        let data = home.join("data");
        let installation = stack.postgres.installation().clone();
        let mut command = Command::new(installation.program("pg_basebackup"));
        command.args(["--write-recovery-conf", "--wal-method", "stream", "--checkpoint", "fast", "--create-slot"]);
        command.args(["--slot", "standby", "--dbname", &stack.postgres.url("postgres"), "--pgdata"]).arg(&data);
        let log = home.join("basebackup.log");
        let copied = match Process::spawn("pg_basebackup", command, &log, user.as_ref(), libc::SIGKILL) {
            Ok(process) => process.success().await,
            Err(error) => Err(error),
        };
        copied.unwrap_or_else(|error| panic!("{error}"));
        let mut builder = Postgres::builder(data).installation(installation);
        for (name, value) in SETTINGS {
            builder = builder.setting(*name, *value);
        }
        let started = builder.setting("recovery_min_apply_delay", format!("{}ms", LAG.as_millis())).setting("hot_standby", "on").start().await;
        Standby { postgres: started.unwrap_or_else(|error| panic!("{error}")) }
    }

    /// The URL of its database.
    pub fn url(&self) -> String {
        self.postgres.url(DATABASE)
    }
}

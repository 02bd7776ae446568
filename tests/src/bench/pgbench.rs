//! PostgreSQL's own benchmark program.

use std::path::PathBuf;
use std::process::Command;

use crate::{DATABASE, Installation};

/// The program.
pub(super) struct Pgbench {
    program: PathBuf,
}

impl Pgbench {
    /// The server's own, or the one on the path.
    pub(super) fn find() -> Option<Pgbench> {
        let own = Installation::find().ok()?.program("pgbench");
        let program = if own.is_file() { own } else { "pgbench".into() };
        let answers = Command::new(&program).arg("--version").output().is_ok_and(|told| told.status.success());
        answers.then_some(Pgbench { program })
    }

    /// What it reports of a run on the server at this port.
    pub(super) fn run(&self, port: u16, arguments: &[&str]) -> String {
        let mut command = Command::new(&self.program);
        command.args(["-h", "127.0.0.1", "-U", "postgres", "-p", &port.to_string()]);
        let told = command.args(arguments).arg(DATABASE).output().expect("pgbench");
        assert!(told.status.success(), "pgbench: {}", String::from_utf8_lossy(&told.stderr));
        String::from_utf8_lossy(&told.stdout).into_owned()
    }
}

/// The number that follows a text in what pgbench reports.
pub(super) fn number(report: &str, text: &str) -> f64 {
    let line = report.lines().find_map(|line| line.strip_prefix(text)).expect("a line of the report");
    let digits = line.split([' ', '/']).next().expect("a word");
    digits.parse().expect("a number")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_report_is_read() {
        let report =
            "a\nnumber of transactions actually processed: 300\ntps = 1234.5 (without initial connection time)\n";
        assert_eq!(number(report, "tps = "), 1234.5);
        assert_eq!(number(report, "number of transactions actually processed: "), 300.0);
    }
}

//! What the library costs a server that has it preloaded and captures nothing, in instructions: times of one machine differ by more than that from minute to
//! minute, the number of instructions by a few in ten thousand.
//!
//! The server runs under valgrind, which counts what each of its processes executes outside the kernel. The same data, the same random numbers, and two runs of
//! different length: their difference is what the transactions took, without the start. The kernel's part is not counted, so the ratios say more than times would.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use super::Table;
use super::pgbench::Pgbench;
use crate::{DATABASE, Folder, Installation, Postgres, User};

/// Transactions of the shorter and of the longer run.
const LENGTHS: [u64; 2] = [1000, 4000];
/// What is preloaded: the library, nothing, and nothing once more.
const SIDES: [&str; 3] = ["libcachetag", "", ""];
const SCRIPTS: [(&str, &[&str]); 3] = [
    ("reads", &["-b", "select-only"]),
    ("reads, prepared", &["-b", "select-only", "-M", "prepared"]),
    ("writes", &["-b", "simple-update"]),
];

/// Measures reads and writes.
pub(super) async fn measure(table: &mut Table) {
    let Some(pgbench) = Pgbench::find() else { return };
    if !Command::new("valgrind").arg("--version").output().is_ok_and(|told| told.status.success()) {
        table.note("capture: valgrind is not installed, so the instructions of an idle library were not counted");
        return;
    }
    let folder = Folder::temporary("cachetag-bench").expect("a folder");
    let user = User::for_servers().expect("a user");
    let home = folder.private("servers", user.as_ref()).expect("a folder");
    let base = home.join("base");
    let settings = [("autovacuum", "off"), ("shared_buffers", "64MB"), ("max_parallel_workers", "0")];
    let server =
        |data: &Path| settings.iter().fold(Postgres::builder(data), |made, (name, value)| made.setting(*name, *value));
    let mut postgres = server(&base).start().await.expect("a server");
    postgres.create_database(DATABASE).await.expect("a database");
    pgbench.run(postgres.port(), &["-i", "-q", "-s", "1"]);
    postgres.stop().await;
    let counted = counted(&home, postgres.installation());

    for (what, script) in SCRIPTS {
        let mut sides = Vec::new();
        for library in SIDES {
            let mut counts = Vec::new();
            for length in LENGTHS {
                let data = home.join("run");
                let made = server(&data).template(&base).installation(counted.clone());
                let mut postgres = made.setting("shared_preload_libraries", library).start().await.expect("a server");
                let length = length.to_string();
                let arguments = [&["-n", "-c", "1", "--random-seed=1", "-t", &length], script].concat();
                pgbench.run(postgres.port(), &arguments);
                postgres.stop().await;
                counts.push(most(&home));
                std::fs::remove_dir_all(&data).expect("the folder of a stopped server");
            }
            sides.push((counts[1] - counts[0]) as f64 / (LENGTHS[1] - LENGTHS[0]) as f64);
        }
        let ratio = |side: usize| sides[side] / sides[1];
        table.row(
            &format!("capture: idle, pgbench {what}, instructions, preloaded ÷ not"),
            format!("{:.0} a transaction", sides[0]),
            format!("{:.0}; the same {:.4}", sides[1], ratio(2)),
            format!("{:.4} (≤ 1.01)", ratio(0)),
        );
    }
}

/// The installation, with a server whose processes count their instructions and leave the number in a file of this folder.
fn counted(home: &Path, installation: &Installation) -> Installation {
    let server = installation.program("postgres");
    let bin = home.join("bin");
    std::fs::create_dir(&bin).expect("a folder");
    for program in std::fs::read_dir(server.parent().expect("a folder")).expect("the programs").flatten() {
        if program.file_name() != "postgres" {
            symlink(program.path(), bin.join(program.file_name())).expect("a link");
        }
    }
    let script = format!(
        "#!/bin/sh\nexec valgrind --tool=cachegrind --cache-sim=no --trace-children=yes --cachegrind-out-file=/dev/null \
         --log-file='{}/count.%p' '{}' \"$@\"\n",
        home.display(),
        server.display()
    );
    let wrapper = bin.join("postgres");
    std::fs::write(&wrapper, script).expect("a script");
    for path in [&bin, &wrapper] {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).expect("rights");
    }
    Installation::at(&bin).expect("it has a server")
}

/// The instructions of the process that executed most: the one that served pgbench. The counts are taken away.
fn most(home: &Path) -> u64 {
    let is_count = |path: &PathBuf| path.file_stem().is_some_and(|name| name == "count");
    let files = std::fs::read_dir(home).expect("the folder").flatten().map(|file| file.path()).filter(is_count);
    let counts = files.filter_map(|file| {
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        std::fs::remove_file(&file).expect("a count");
        executed(&text)
    });
    counts.max().expect("valgrind counts")
}

/// The number in `==123== I   refs:      40,591,641`.
fn executed(text: &str) -> Option<u64> {
    let (_, number) = text.lines().find_map(|line| line.split_once("refs:"))?;
    number.trim().replace(',', "").parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_count_is_read() {
        assert_eq!(executed("==1== \n==1== I   refs:      40,591,641\n"), Some(40_591_641));
        assert_eq!(executed("==1== terminated"), None);
    }
}

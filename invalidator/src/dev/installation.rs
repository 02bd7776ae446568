//! The PostgreSQL server that is installed on this machine.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::DevError;

/// Names the folder of the server's programs; overrides every search.
const BIN_VARIABLE: &str = "CACHETAG_PG_BIN";
/// Where the packages of Debian and its children put one folder a major version.
const DEBIAN_FOLDER: &str = "/usr/lib/postgresql";
/// The extension's control file below `pg_config --sharedir`.
const CONTROL_FILE: &str = "extension/cachetag.control";

/// The extension's library below `pg_config --pkglibdir`.
const LIBRARY: &str = "libcachetag";

/// The programs of one installed server.
#[derive(Debug, Clone)]
pub struct Installation {
    bin: PathBuf,
}

impl Installation {
    /// Finds a server: `CACHETAG_PG_BIN`, then `pg_config --bindir` (of `PG_CONFIG`, or on the path), then the newest of Debian's folders.
    pub fn find() -> Result<Installation, DevError> {
        let missing =
            |remedy| DevError::ProgramMissing { program: "the PostgreSQL server (`postgres`, `initdb`)", remedy };
        if let Some(bin) = std::env::var_os(BIN_VARIABLE) {
            let bin = PathBuf::from(bin);
            return Installation::at(&bin)
                .ok_or_else(|| missing(format!("{BIN_VARIABLE}={} does not hold it", bin.display())));
        }
        let pg_config = std::env::var_os("PG_CONFIG").unwrap_or_else(|| "pg_config".into());
        let told = ask(Path::new(&pg_config), "--bindir").and_then(|bin| Installation::at(Path::new(&bin)));
        told.or_else(newest_of_debian).ok_or_else(|| {
            missing(format!("install the package `postgresql`, or set {BIN_VARIABLE} to the folder of its programs"))
        })
    }

    /// The server whose programs are in `bin`, if they are.
    pub fn at(bin: &Path) -> Option<Installation> {
        let complete = ["postgres", "initdb"].iter().all(|program| bin.join(program).is_file());
        complete.then(|| Installation { bin: bin.to_path_buf() })
    }

    /// The path of one of its programs.
    pub fn program(&self, name: &str) -> PathBuf {
        self.bin.join(name)
    }

    /// The client `psql`: the server's own, or the one on the path.
    pub fn psql(&self) -> PathBuf {
        let own = self.program("psql");
        if own.is_file() { own } else { "psql".into() }
    }

    /// The major version, as in a data folder's `PG_VERSION`.
    pub fn major(&self) -> Option<String> {
        major_of(&self.version()?).map(str::to_owned)
    }

    /// What the server says of itself: `postgres (PostgreSQL) 15.20 (Debian 15.20-0+deb12u1)`.
    pub fn version(&self) -> Option<String> {
        ask(&self.program("postgres"), "--version")
    }

    /// The error that names the first file of the extension that is missing, if one is. A server without a `pg_config` cannot be asked.
    pub fn extension_missing(&self) -> Option<DevError> {
        let pg_config = self.program("pg_config");
        let control = PathBuf::from(ask(&pg_config, "--sharedir")?).join(CONTROL_FILE);
        let missing = [control, self.library_file()?].into_iter().find(|file| !file.is_file())?;
        Some(DevError::ExtensionMissing { missing, pg_config })
    }

    /// The name under which the server can preload the extension's library, if it has it.
    pub fn library(&self) -> Option<&'static str> {
        self.library_file()?.is_file().then_some(LIBRARY)
    }

    fn library_file(&self) -> Option<PathBuf> {
        let folder = PathBuf::from(ask(&self.program("pg_config"), "--pkglibdir")?);
        Some(folder.join(LIBRARY).with_extension("so"))
    }
}

/// One line that a program answers.
fn ask(program: &Path, flag: &str) -> Option<String> {
    let output = Command::new(program).arg(flag).output().ok()?;
    let line = String::from_utf8(output.stdout).ok()?.trim().to_owned();
    (output.status.success() && !line.is_empty()).then_some(line)
}

fn newest_of_debian() -> Option<Installation> {
    let mut versions: Vec<u32> = std::fs::read_dir(DEBIAN_FOLDER)
        .ok()?
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect();
    versions.sort_unstable();
    versions.iter().rev().find_map(|version| Installation::at(&Path::new(DEBIAN_FOLDER).join(format!("{version}/bin"))))
}

fn major_of(version: &str) -> Option<&str> {
    let number = version.split_once("(PostgreSQL) ")?.1;
    number.split(|c: char| !c.is_ascii_digit()).next().filter(|major| !major.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_major_version_is_read_from_what_the_server_says() {
        assert_eq!(major_of("postgres (PostgreSQL) 15.20 (Debian 15.20-0+deb12u1)"), Some("15"));
        assert_eq!(major_of("postgres (PostgreSQL) 19devel"), Some("19"));
        assert_eq!(major_of("postgres (EnterpriseDB) x"), None);
    }

    #[test]
    fn what_is_missing_of_the_extension_is_named() {
        use std::os::unix::fs::PermissionsExt;

        let folder = crate::dev::Folder::temporary("cachetag-devtest").expect("a folder");
        let home = folder.path();
        let script = format!("#!/bin/sh\necho {}/${{1#--}}\n", home.display());
        for program in ["postgres", "initdb", "pg_config"] {
            std::fs::write(home.join(program), &script).expect("a program");
            let may_run = std::fs::Permissions::from_mode(0o755);
            std::fs::set_permissions(home.join(program), may_run).expect("may be run");
        }
        let installation = Installation::at(home).expect("both programs are there");
        let missing = || installation.extension_missing().map(|error| error.to_string()).unwrap_or_default();
        assert!(
            missing().contains("cachetag.control is missing") && missing().contains("make install"),
            "{}",
            missing()
        );
        std::fs::create_dir_all(home.join("sharedir/extension")).expect("a folder");
        std::fs::write(home.join("sharedir").join(CONTROL_FILE), "").expect("a file");
        assert!(missing().contains("libcachetag.so is missing"), "{}", missing());
        assert_eq!(installation.library(), None);
        std::fs::create_dir_all(home.join("pkglibdir")).expect("a folder");
        std::fs::write(home.join("pkglibdir/libcachetag.so"), "").expect("a file");
        assert!(missing().is_empty() && installation.library() == Some(LIBRARY));
    }

    #[test]
    fn a_folder_without_a_server_is_none() {
        assert!(Installation::at(Path::new("/nowhere")).is_none());
    }
}

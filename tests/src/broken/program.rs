//! The daemon that was built to be broken.

use std::path::PathBuf;
use std::process::Command;
use std::sync::LazyLock;

use crate::template::profile_folder;

/// Names it.
const VARIABLE: &str = "CACHETAG_BROKEN_BIN";

/// The daemon with the feature `broken`, built on the first call if it is not there. It has a name of its own, beside the sound one.
pub fn program() -> PathBuf {
    static PROGRAM: LazyLock<PathBuf> = LazyLock::new(|| std::env::var_os(VARIABLE).map_or_else(built, PathBuf::from));
    PROGRAM.clone()
}

fn built() -> PathBuf {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = Command::new(cargo);
    build.current_dir(env!("CARGO_MANIFEST_DIR")).args(["build", "--quiet", "--package", "cachetag-invalidator"]);
    build.args(["--features", "broken", "--bin", "cachetag-broken"]);
    if !cfg!(debug_assertions) {
        build.arg("--release");
    }
    match build.status() {
        Ok(status) if status.success() => profile_folder().join("cachetag-broken"),
        Ok(status) => panic!("building the broken daemon: {status}; build it by hand and name it in {VARIABLE}"),
        Err(error) => panic!("building the broken daemon: {error}; build it by hand and name it in {VARIABLE}"),
    }
}

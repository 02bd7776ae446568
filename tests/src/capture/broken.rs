//! Capture that forgets one source of tags, on servers of its own: the extension built with its feature `broken`, in a copy of the installation.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

use cachetag_invalidator::dev::Installation;

use crate::template::profile_folder;

/// What capture can be made to forget: `extension/src/broken.rs` says what each is.
pub const GUARDS: &[&str] = &[
    "Families",
    "Constants",
    "FixedKeys",
    "RuntimeKeys",
    "LaterKeys",
    "OtherWays",
    "OtherElements",
    "Limit",
    "Subplans",
    "Functions",
    "Nulls",
    "Options",
    "Untracked",
    "Unlogged",
    "Opened",
    "Version",
    "LazyParameters",
    "Definitions",
    "Collations",
    "Settings",
    "Texts",
];

/// The extension's library.
const LIBRARY: &str = "libcachetag.so";

/// An installation whose extension can be broken, made on the first call.
pub fn installation() -> Installation {
    static INSTALLATION: LazyLock<Installation> = LazyLock::new(|| {
        let sound = Installation::find().unwrap_or_else(|error| panic!("{error}"));
        copied(&sound, &built(&sound))
    });
    INSTALLATION.clone()
}

/// Builds the library, in a folder of its own: beside the sound one it would take its name.
fn built(sound: &Installation) -> PathBuf {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let target = profile_folder().with_file_name("broken");
    let major = sound.major().expect("a server says its version");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = Command::new(cargo);
    build.current_dir(workspace).args([
        "build",
        "--quiet",
        "--release",
        "--package",
        "cachetag",
        "--no-default-features",
    ]);
    build.arg("--features").arg(format!("pg{major},broken")).arg("--target-dir").arg(&target);
    if std::env::var_os("PGRX_PG_CONFIG_PATH").is_none() {
        // Where there is no other, the headers are those of the server.
        let pg_config = std::env::var_os("PG_CONFIG").unwrap_or_else(|| "pg_config".into());
        let found = Command::new("sh").arg("-c").arg("command -v \"$0\"").arg(&pg_config).output().expect("a shell");
        build.env("PGRX_PG_CONFIG_PATH", String::from_utf8_lossy(&found.stdout).trim());
    }
    let status = build.status();
    assert!(status.as_ref().is_ok_and(|status| status.success()), "building the broken extension: {status:?}");
    target.join("release").join(LIBRARY)
}

/// A copy of the installation with another library. A server finds its folders from where its program is, so that is copied; the rest is linked.
fn copied(sound: &Installation, library: &Path) -> Installation {
    let pg_config = |flag: &str| {
        let told = Command::new(sound.program("pg_config")).arg(flag).output().expect("pg_config");
        PathBuf::from(String::from_utf8_lossy(&told.stdout).trim())
    };
    let (bin, lib, share) = (pg_config("--bindir"), pg_config("--pkglibdir"), pg_config("--sharedir"));
    let common =
        bin.ancestors().find(|folder| lib.starts_with(folder) && share.starts_with(folder)).expect("the root at least");
    let root = profile_folder().with_file_name("broken").join("installation");
    let _ = fs::remove_dir_all(&root);
    let place = |folder: &Path| root.join(folder.strip_prefix(common).expect("it is below"));
    fs::create_dir_all(place(&bin)).expect("a folder");
    fs::create_dir_all(place(&lib)).expect("a folder");
    fs::create_dir_all(place(&share).parent().expect("a folder")).expect("a folder");
    symlink(&share, place(&share)).expect("a link");
    for entry in fs::read_dir(&lib).expect("a folder of libraries").flatten() {
        if entry.file_name() != LIBRARY {
            symlink(entry.path(), place(&lib).join(entry.file_name())).expect("a link");
        }
    }
    fs::copy(library, place(&lib).join(LIBRARY)).expect("the library");
    for entry in fs::read_dir(&bin).expect("a folder of programs").flatten() {
        fs::copy(entry.path(), place(&bin).join(entry.file_name())).expect("a program");
    }
    Installation::at(&place(&bin)).expect("the copied server")
}

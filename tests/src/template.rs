//! A data folder made once and copied for every test: `initdb` takes seconds, a copy takes none.

use std::fs::{self, File};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;

use cachetag_invalidator::dev::{Folder, Installation, Postgres, User};

use crate::stack::DATABASE;

/// Changes when what is in a template changes.
const REVISION: u32 = 1;

/// The folder of the profile that this program was built in: `target/debug`, `target/release`.
pub(crate) fn profile_folder() -> PathBuf {
    let program = std::env::current_exe().expect("the path of this program");
    let folder = program.parent().expect("a program is in a folder");
    // Tests are in a folder of their own.
    if folder.ends_with("deps") { folder.parent().unwrap_or(folder).to_path_buf() } else { folder.to_path_buf() }
}

/// The data folder of a stopped server that has the test's database, made if it is not there.
pub(crate) async fn template(installation: &Installation) -> PathBuf {
    let mut hasher = DefaultHasher::new();
    (REVISION, installation.version()).hash(&mut hasher);
    let cache = profile_folder().with_file_name("tmp");
    fs::create_dir_all(&cache).expect("a folder beside the target folder");
    let template = cache.join(format!("postgres-{:016x}", hasher.finish()));

    // Test programs run side by side; one of them makes the template.
    let lock = File::create(template.with_extension("lock")).expect("a lock file");
    lock.lock().expect("the lock");
    if !template.exists() {
        make(installation, &template).await;
    }
    template
}

async fn make(installation: &Installation, template: &Path) {
    let folder = Folder::temporary("cachetag-template").expect("a temporary folder");
    let home = folder.private("postgres", User::for_servers().expect("user").as_ref()).expect("folder");
    let builder = Postgres::builder(home.join("data")).installation(installation.clone());
    let mut postgres = builder.start().await.unwrap_or_else(|error| panic!("{error}"));
    postgres.create_database(DATABASE).await.unwrap_or_else(|error| panic!("{error}"));
    postgres.stop().await;
    let half = template.with_extension("half");
    let _ = fs::remove_dir_all(&half);
    let copied = Command::new("cp").arg("--archive").arg(postgres.data()).arg(&half).status();
    assert!(copied.is_ok_and(|status| status.success()), "could not copy to {}", half.display());
    fs::rename(&half, template).expect("the template under its name");
}

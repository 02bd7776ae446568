//! The folder that holds the data of private servers: a given one, which stays, or a temporary one, which goes.

use std::fs::{DirBuilder, File, TryLockError};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use super::DevError;
use super::user::User;

/// Held as long as the folder is used; the kernel lets go of it when the process ends, however it ends.
const LOCK: &str = "lock";

/// A folder locked for this process.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    temporary: bool,
    _lock: File,
}

impl Folder {
    /// A new folder `<prefix>-…` in the system's temporary folder, removed when dropped. Removes such folders that a killed process left.
    pub fn temporary(prefix: &str) -> Result<Folder, DevError> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let parent = std::env::temp_dir();
        let parent = parent.canonicalize().map_err(DevError::file("find", &parent))?;
        sweep(&parent, prefix);
        loop {
            let number = NUMBER.fetch_add(1, Ordering::Relaxed);
            let path = parent.join(format!("{prefix}-{}-{number}", std::process::id()));
            match DirBuilder::new().mode(0o755).create(&path) {
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => continue,
                created => created.map_err(DevError::file("create", &path))?,
            }
            let lock = lock_new(&path)?;
            return Ok(Folder { path, temporary: true, _lock: lock });
        }
    }

    /// The folder `path`, created if it is missing, kept when dropped.
    pub fn at(path: &Path) -> Result<Folder, DevError> {
        DirBuilder::new().recursive(true).mode(0o755).create(path).map_err(DevError::file("create", path))?;
        let path = path.canonicalize().map_err(DevError::file("find", path))?;
        let file = path.join(LOCK);
        let lock = File::options().create(true).truncate(false).write(true).open(&file);
        let lock = lock.map_err(DevError::file("create", &file))?;
        match lock.try_lock() {
            Ok(()) => Ok(Folder { path, temporary: false, _lock: lock }),
            Err(TryLockError::WouldBlock) => {
                Err(DevError::FolderInUse { path, by: "another cachetag process".to_owned() })
            }
            Err(TryLockError::Error(source)) => Err(DevError::File { action: "lock", path: file, source }),
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A folder within, created if it is missing; it belongs to `user` and is closed to others.
    pub fn private(&self, name: &str, user: Option<&User>) -> Result<PathBuf, DevError> {
        private_folder(&self.path.join(name), user)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if self.temporary {
            // Nobody is left to tell, and the next run sweeps what stays.
            let _ = std::fs::remove_dir_all(&self.path);
        }
    }
}

/// Creates `path` if it is missing, closed to everybody but `user` (or us).
pub(super) fn private_folder(path: &Path, user: Option<&User>) -> Result<PathBuf, DevError> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
        created => created.map_err(DevError::file("create", path))?,
    }
    if let Some(user) = user {
        user.can_reach(path)?;
        user.own(path)?;
    }
    Ok(path.to_path_buf())
}

/// The lock is taken before it gets its name: a sweeping process never finds it free in a folder that has just been made.
fn lock_new(folder: &Path) -> Result<File, DevError> {
    let unnamed = folder.join("lock.new");
    let lock = File::create(&unnamed).map_err(DevError::file("create", &unnamed))?;
    lock.lock().map_err(DevError::file("lock", &unnamed))?;
    std::fs::rename(&unnamed, folder.join(LOCK)).map_err(DevError::file("rename", &unnamed))?;
    Ok(lock)
}

/// Removes our own `<prefix>-…` folders in `parent` whose owner is gone. What cannot be removed stays.
fn sweep(parent: &Path, prefix: &str) {
    let Ok(entries) = std::fs::read_dir(parent) else { return };
    // SAFETY: plain system call that cannot fail.
    let uid = unsafe { libc::geteuid() };
    for entry in entries.flatten() {
        let named = entry
            .file_name()
            .to_str()
            .is_some_and(|name| name.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('-')));
        let ours = entry.metadata().is_ok_and(|meta| meta.is_dir() && meta.uid() == uid);
        if named && ours {
            let abandoned = File::open(entry.path().join(LOCK)).is_ok_and(|lock| lock.try_lock().is_ok());
            if abandoned {
                let _ = std::fs::remove_dir_all(entry.path());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_temporary_folder_goes_and_abandoned_ones_are_swept() {
        let prefix = format!("cachetag-folder-test{}", std::process::id());
        let abandoned = std::env::temp_dir().join(format!("{prefix}-0-0"));
        std::fs::create_dir(&abandoned).expect("folder");
        std::fs::write(abandoned.join(LOCK), "").expect("lock");
        let first = Folder::temporary(&prefix).expect("folder");
        let second = Folder::temporary(&prefix).expect("folder");
        assert!(!abandoned.exists(), "nobody holds its lock");
        assert!(first.path().exists(), "its lock is held");
        let path = second.path().to_path_buf();
        drop(second);
        assert!(!path.exists());
    }

    #[test]
    fn a_given_folder_is_locked_and_kept() {
        let path = std::env::temp_dir().join(format!("cachetag-folder-given{}", std::process::id()));
        let folder = Folder::at(&path).expect("folder");
        let error = Folder::at(&path).expect_err("in use").to_string();
        assert!(error.contains("in use"), "{error}");
        drop(folder);
        Folder::at(&path).expect("free again");
        std::fs::remove_dir_all(&path).expect("kept");
    }
}

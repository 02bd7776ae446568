//! The user that private servers run as when we are root.

use std::ffi::CString;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::DevError;

/// The user that PostgreSQL's packages create.
const SERVER_USER: &str = "postgres";
/// glibc asks for 1 KiB; more than any sane entry of the user database needs.
const ENTRY_BYTES: usize = 16 * 1024;

/// An entry of the user database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// Login name.
    pub name: String,
    /// User id.
    pub uid: u32,
    /// Id of its primary group.
    pub gid: u32,
}

impl User {
    /// Who the servers must run as: nobody else for an ordinary user, `postgres` for root, since PostgreSQL refuses root.
    pub fn for_servers() -> Result<Option<User>, DevError> {
        // SAFETY: plain system call that cannot fail.
        if unsafe { libc::geteuid() } != 0 {
            return Ok(None);
        }
        User::find(SERVER_USER).map(Some).ok_or(DevError::UserMissing { name: SERVER_USER })
    }

    /// Looks a user up by name.
    pub fn find(name: &str) -> Option<User> {
        let c_name = CString::new(name).ok()?;
        let mut buffer = vec![0; ENTRY_BYTES];
        let mut entry = std::mem::MaybeUninit::<libc::passwd>::uninit();
        let mut found = std::ptr::null_mut();
        // SAFETY: every pointer is valid for the call and the buffer's length is the one given; `found` stays null unless `entry` was written.
        let entry = unsafe {
            libc::getpwnam_r(c_name.as_ptr(), entry.as_mut_ptr(), buffer.as_mut_ptr(), buffer.len(), &mut found);
            found.as_ref()?
        };
        Some(User { name: name.to_owned(), uid: entry.pw_uid, gid: entry.pw_gid })
    }

    /// Gives a file or folder to this user.
    pub(super) fn own(&self, path: &Path) -> Result<(), DevError> {
        std::os::unix::fs::chown(path, Some(self.uid), Some(self.gid))
            .map_err(DevError::file("change the owner of", path))
    }

    /// Checks that this user may pass through every folder above `path`, as root could anyway.
    pub(super) fn can_reach(&self, path: &Path) -> Result<(), DevError> {
        for folder in path.ancestors().skip(1).filter(|folder| !folder.as_os_str().is_empty()) {
            let meta = folder.metadata().map_err(DevError::file("read", folder))?;
            let bit = if meta.uid() == self.uid {
                0o100
            } else if meta.gid() == self.gid {
                0o010
            } else {
                0o001
            };
            if meta.mode() & bit == 0 {
                return Err(DevError::FolderClosed { user: self.name.clone(), path: folder.to_path_buf() });
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_found_by_name() {
        assert_eq!(User::find("root"), Some(User { name: "root".into(), uid: 0, gid: 0 }));
        assert_eq!(User::find("no-such-user-here"), None);
        assert_eq!(User::find("nul\0inside"), None);
    }

    #[test]
    fn a_folder_closed_to_others_is_named() {
        use std::os::unix::fs::PermissionsExt;
        let folder = std::env::temp_dir().join(format!("cachetag-user-{}", std::process::id()));
        std::fs::create_dir(&folder).expect("folder");
        std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o700)).expect("mode");
        let nobody = User { name: "nobody".into(), uid: 65534, gid: 65534 };
        let error = nobody.can_reach(&folder.join("data")).expect_err("closed").to_string();
        std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o755)).expect("mode");
        let open = nobody.can_reach(&folder.join("data"));
        std::fs::remove_dir(&folder).expect("folder");
        assert!(error.contains(folder.to_str().expect("utf-8")), "{error}");
        open.expect("open to all");
    }
}

//! Which SQL files a data folder has seen: the same command line may be run again on a folder that stays.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hasher};
use std::path::{Path, PathBuf};

use super::DevError;

/// One fingerprint a line.
const RECORD: &str = "loaded";

/// The fingerprints of the files that were loaded to their end.
pub(super) struct Loaded {
    record: PathBuf,
    seen: BTreeSet<String>,
}

impl Loaded {
    pub(super) fn read(folder: &Path) -> Result<Loaded, DevError> {
        let record = folder.join(RECORD);
        let text = match std::fs::read_to_string(&record) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
            text => text.map_err(DevError::file("read", &record))?,
        };
        Ok(Loaded { record, seen: text.lines().map(str::to_owned).collect() })
    }

    /// Whether a file of this content has not been loaded yet.
    pub(super) fn is_new(&self, file: &Path) -> Result<bool, DevError> {
        Ok(!self.seen.contains(&fingerprint(file)?))
    }

    /// Remembers that the file was loaded.
    pub(super) fn record(&mut self, file: &Path) -> Result<(), DevError> {
        self.seen.insert(fingerprint(file)?);
        let lines: String = self.seen.iter().map(|seen| format!("{seen}\n")).collect();
        std::fs::write(&self.record, lines).map_err(DevError::file("write", &self.record))
    }
}

/// Content only: a file that was moved is still the same.
fn fingerprint(file: &Path) -> Result<String, DevError> {
    let content = std::fs::read(file).map_err(DevError::file("read", file))?;
    let mut hasher = DefaultHasher::new();
    hasher.write(&content);
    Ok(format!("{:016x} {}", hasher.finish(), content.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_new_until_it_is_recorded_and_again_when_it_changes() {
        let folder = std::env::temp_dir().join(format!("cachetag-loaded-{}", std::process::id()));
        std::fs::create_dir(&folder).expect("folder");
        let file = folder.join("shop.sql");
        std::fs::write(&file, "SELECT 1").expect("file");
        let mut loaded = Loaded::read(&folder).expect("no record yet");
        assert!(loaded.is_new(&file).expect("readable"));
        loaded.record(&file).expect("recorded");
        let loaded = Loaded::read(&folder).expect("record");
        assert!(!loaded.is_new(&file).expect("readable"));
        std::fs::write(&file, "SELECT 2").expect("file");
        let changed = loaded.is_new(&file).expect("readable");
        std::fs::remove_dir_all(&folder).expect("folder");
        assert!(changed);
    }
}

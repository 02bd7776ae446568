//! Where the hottest keys are kept from one run to the next.

use std::io::{ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::scores::{Scored, merge, score};
use super::{Inner, WarmError};
use crate::engine::Engine;

/// The version of the file.
const FORMAT: u32 = 1;

/// A place for the hottest keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Store {
    Redis,
    File(PathBuf),
}

/// What is in the file.
#[derive(Debug, Serialize, Deserialize)]
struct Content {
    cachetag_hot_keys: u32,
    keys: Vec<Scored>,
}

impl Inner {
    /// Saves the hottest keys everywhere; how many there are. The first error, if there is one: the other stores have them all the same.
    pub async fn save(&self) -> Result<usize, WarmError> {
        let now = SystemTime::now();
        let hottest = self.engine.observer.hottest(self.options.top).into_iter();
        let hottest: Vec<Scored> =
            hottest.map(|counted| (counted.key.to_string(), score(counted.count - counted.over, now))).collect();
        let mut outcome = Ok(hottest.len());
        // Who has seen nothing yet has nothing to say.
        for store in self.stores.iter().filter(|_| !hottest.is_empty()) {
            let saved = match store {
                Store::Redis => save_in_redis(&self.engine, &hottest, self.options.top).await,
                Store::File(path) => {
                    let (path, hottest, keep) = (path.clone(), hottest.clone(), self.options.top);
                    blocking(move || save_in_file(&path, hottest, keep)).await
                }
            };
            if let Err(error) = saved {
                outcome = outcome.and(Err(error));
            }
        }
        outcome
    }

    /// What the stores have, the hottest first.
    pub async fn saved(&self) -> Result<Vec<String>, WarmError> {
        let (mut all, mut trouble, mut read) = (Vec::new(), None, self.stores.is_empty());
        for store in &self.stores {
            let found = match store {
                Store::Redis => read_from_redis(&self.engine, self.options.top).await,
                Store::File(path) => {
                    let path = path.clone();
                    blocking(move || read_file(&path)).await
                }
            };
            match found {
                Ok(found) => {
                    all = merge(all, found, self.options.top);
                    read = true;
                }
                Err(error) => {
                    tracing::warn!(%error, "the hottest keys of the last run are not known");
                    trouble = trouble.or(Some(error));
                }
            }
        }
        match trouble {
            Some(error) if !read => Err(error),
            _ => Ok(all.into_iter().map(|(key, _)| key).collect()),
        }
    }
}

async fn save_in_redis(engine: &Engine, hottest: &[Scored], keep: usize) -> Result<(), WarmError> {
    for (number, unit) in engine.shards.iter().enumerate() {
        let here: Vec<(&str, f64)> = hottest
            .iter()
            .filter(|(key, _)| engine.shard_of(key) == number)
            .map(|(key, score)| (key.as_str(), *score))
            .collect();
        if !here.is_empty() {
            unit.redis.save_hot(&engine.config.observer.name, &here, keep).await?;
        }
    }
    Ok(())
}

async fn read_from_redis(engine: &Engine, keep: usize) -> Result<Vec<Scored>, WarmError> {
    let mut all = Vec::new();
    for unit in &engine.shards {
        all.extend(unit.redis.hot(&engine.config.observer.name, keep).await?);
    }
    Ok(all)
}

/// File systems block.
async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, WarmError> + Send + 'static,
) -> Result<T, WarmError> {
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => outcome,
        // Only a runtime that is shut down ends it.
        Err(error) => Err(WarmError::File { path: PathBuf::new(), source: std::io::Error::other(error) }),
    }
}

fn read_file(path: &Path) -> Result<Vec<Scored>, WarmError> {
    let text = match std::fs::read(path) {
        Ok(text) => text,
        // The first run.
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
        Err(source) => return Err(WarmError::File { path: path.into(), source }),
    };
    let problem = match serde_json::from_slice::<Content>(&text) {
        Ok(content) if content.cachetag_hot_keys == FORMAT => return Ok(content.keys),
        Ok(content) => format!("it is of version {}, expected {FORMAT}", content.cachetag_hot_keys),
        Err(error) => error.to_string(),
    };
    Err(WarmError::Format { path: path.into(), problem })
}

/// Adds to what is in the file. A file that is something else is not touched.
fn save_in_file(path: &Path, hottest: Vec<Scored>, keep: usize) -> Result<(), WarmError> {
    let keys = merge(read_file(path)?, hottest, keep);
    let write = || {
        let text = serde_json::to_vec(&Content { cachetag_hot_keys: FORMAT, keys })?;
        // Beside it, so that it can take its place in one step: who is killed half-way has the old one.
        let beside = path.with_extension(format!("new-{}", std::process::id()));
        let mut file = std::fs::File::create(&beside)?;
        file.write_all(&text)?;
        file.sync_all()?;
        std::fs::rename(&beside, path)
    };
    write().map_err(|source| WarmError::File { path: path.into(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Folder(PathBuf);

    impl Folder {
        fn new() -> Folder {
            let folder = std::env::temp_dir().join(format!("cachetag-hot-{:x}", fastrand::u64(..)));
            std::fs::create_dir(&folder).unwrap();
            Folder(folder)
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn scored(keys: &[(&str, f64)]) -> Vec<Scored> {
        keys.iter().map(|(key, score)| (key.to_string(), *score)).collect()
    }

    #[test]
    fn a_file_keeps_the_hottest_of_all_runs() {
        let folder = Folder::new();
        let path = folder.0.join("hot.json");
        assert_eq!(read_file(&path).unwrap(), []);
        save_in_file(&path, scored(&[("a", 9.0), ("b\n\"", 7.0), ("c", 5.0)]), 3).unwrap();
        save_in_file(&path, scored(&[("d", 8.0), ("c", 10.0)]), 3).unwrap();
        assert_eq!(read_file(&path).unwrap(), scored(&[("c", 10.0), ("a", 9.0), ("d", 8.0)]));
        assert_eq!(std::fs::read_dir(&folder.0).unwrap().count(), 1, "nothing is left beside it");
    }

    #[test]
    fn what_is_no_such_file_is_neither_read_nor_replaced() {
        let folder = Folder::new();
        let path = folder.0.join("hot.json");
        for content in
            ["", "{}", "precious", r#"{"cachetag_hot_keys":2,"keys":[]}"#, r#"{"cachetag_hot_keys":1,"keys":[["a"]]}"#]
        {
            std::fs::write(&path, content).unwrap();
            for error in [read_file(&path).unwrap_err(), save_in_file(&path, scored(&[("a", 1.0)]), 3).unwrap_err()] {
                assert!(matches!(error, WarmError::Format { .. }), "{error}");
            }
            assert_eq!(std::fs::read_to_string(&path).unwrap(), content);
        }
        let error = save_in_file(&folder.0.join("none").join("hot.json"), scored(&[("a", 1.0)]), 3).unwrap_err();
        assert!(matches!(error, WarmError::File { .. }), "{error}");
    }
}

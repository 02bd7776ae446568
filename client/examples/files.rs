//! A third layer that keeps values in files: what Redis has forgotten, or lost, need not be loaded again.
//!
//! Copy `Files` into an application. To see it: `cachetag dev --load examples/shop.sql`, and with the URL that it prints
//!
//! ```text
//! REDIS_URL=redis://127.0.0.1:… cargo run --example files -- /tmp/shop-files
//! ```

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use cachetag_client::core::Tag;
use cachetag_client::third::{Answer, Layer, Stored};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::{xxh3_64, xxh3_128};

/// What comes before the payload, in one line.
#[derive(Serialize, Deserialize)]
struct Head {
    key: String,
    absent: bool,
    as_of: String,
    tags: Vec<String>,
    stored_at_ms: u64,
    expires_at_ms: u64,
    cost_ms: u64,
    seen: Option<String>,
    /// Of the payload. Nothing is synced: what a power cut leaves half-written is found out by this, and is a miss.
    checksum: u64,
}

/// Values in the files of a folder, of which the least recently used make room for new ones. Clones are the same layer.
#[derive(Clone)]
pub struct Files(Arc<Inner>);

struct Inner {
    folder: PathBuf,
    limit: u64,
    index: Mutex<Index>,
    /// Names for files that are being written.
    writes: AtomicU64,
    /// Held as long as the layer lives: two processes that keep each their own index of one folder would fill the disk.
    _lock: File,
}

/// Which files there are.
#[derive(Default)]
struct Index {
    bytes: u64,
    clock: u64,
    /// By name: size, and when it was last used.
    files: HashMap<String, (u64, u64)>,
    /// The least recently used first.
    by_use: BTreeMap<u64, String>,
}

impl Files {
    /// Opens a folder, which is made if need be and is this process's own. No more than `limit` bytes of files stay in it.
    pub fn open(folder: impl Into<PathBuf>, limit: u64) -> io::Result<Files> {
        let folder = folder.into();
        fs::create_dir_all(&folder)?;
        let lock = File::create(folder.join("lock"))?;
        lock.try_lock().map_err(|error| io::Error::other(format!("{}: {error}", folder.display())))?;
        let mut found = Vec::new();
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            let (name, about) = (entry.file_name().to_string_lossy().into_owned(), entry.metadata()?);
            match Path::new(&name).extension().and_then(|extension| extension.to_str()) {
                Some("entry") => found.push((about.modified().unwrap_or(UNIX_EPOCH), name, about.len())),
                // Of a process that was killed while it wrote.
                Some("new") => fs::remove_file(entry.path())?,
                _ => {}
            }
        }
        found.sort();
        let mut index = Index::default();
        found.into_iter().for_each(|(_, name, size)| index.add(name, size));
        let inner = Inner { folder, limit, index: Mutex::new(index), writes: AtomicU64::new(0), _lock: lock };
        inner.make_room(inner.index());
        Ok(Files(Arc::new(inner)))
    }

    /// Bytes that the files take.
    pub fn bytes(&self) -> u64 {
        self.0.index().bytes
    }

    /// File systems block.
    fn blocking<'a, T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner) -> io::Result<T> + Send + 'static,
    ) -> Answer<'a, T> {
        let inner = Arc::clone(&self.0);
        Box::pin(async move { Ok(tokio::task::spawn_blocking(move || work(&inner)).await??) })
    }
}

impl Layer for Files {
    fn name(&self) -> &str {
        "files"
    }

    fn get<'a>(&'a self, key: &'a str) -> Answer<'a, Option<Stored>> {
        let key = key.to_owned();
        self.blocking(move |inner| inner.get(&key))
    }

    fn put<'a>(&'a self, key: &'a str, stored: Stored) -> Answer<'a, ()> {
        let key = key.to_owned();
        self.blocking(move |inner| inner.put(&key, &stored))
    }

    fn remove<'a>(&'a self, key: &'a str) -> Answer<'a, ()> {
        let name = name(key);
        self.blocking(move |inner| inner.remove(&name, &mut inner.index()))
    }
}

impl Inner {
    /// Each change leaves it whole.
    fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn get(&self, key: &str) -> io::Result<Option<Stored>> {
        let name = name(key);
        let bytes = match fs::read(self.folder.join(&name)) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let stored = decode(key, bytes).filter(|stored| stored.expires_at > SystemTime::now());
        let mut index = self.index();
        if stored.is_some() {
            index.touch(&name);
        } else {
            // Damaged, expired, or of another key with the same hash: none is worth its room.
            self.remove(&name, &mut index)?;
        }
        Ok(stored)
    }

    fn put(&self, key: &str, stored: &Stored) -> io::Result<()> {
        let (name, bytes) = (name(key), encode(key, stored)?);
        let size = bytes.len() as u64;
        if size > self.limit {
            return self.remove(&name, &mut self.index());
        }
        // Beside it first, then into its place in one step: a reader, and a process that is killed, find the old file or the new one.
        let beside = self.folder.join(format!("{}.new", self.writes.fetch_add(1, Ordering::Relaxed)));
        let written = File::create(&beside).and_then(|mut file| file.write_all(&bytes));
        if let Err(error) = written {
            let _ = fs::remove_file(&beside);
            return Err(error);
        }
        let mut index = self.index();
        fs::rename(&beside, self.folder.join(&name))?;
        index.add(name, size);
        self.make_room(index);
        Ok(())
    }

    fn remove(&self, name: &str, index: &mut Index) -> io::Result<()> {
        index.forget(name);
        match fs::remove_file(self.folder.join(name)) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    fn make_room(&self, mut index: MutexGuard<'_, Index>) {
        while index.bytes > self.limit {
            let Some((_, name)) = index.by_use.pop_first() else { return };
            // A file that stays is found again when the folder is opened.
            let _ = self.remove(&name, &mut index);
        }
    }
}

impl Index {
    fn add(&mut self, name: String, size: u64) {
        self.forget(&name);
        self.clock += 1;
        self.bytes += size;
        self.by_use.insert(self.clock, name.clone());
        self.files.insert(name, (size, self.clock));
    }

    fn touch(&mut self, name: &str) {
        if let Some((size, _)) = self.files.get(name) {
            self.add(name.to_owned(), *size);
        }
    }

    fn forget(&mut self, name: &str) {
        if let Some((size, used)) = self.files.remove(name) {
            self.bytes -= size;
            self.by_use.remove(&used);
        }
    }
}

/// Of the same length for every key, and without letters that a file system may mind.
fn name(key: &str) -> String {
    format!("{:032x}.entry", xxh3_128(key.as_bytes()))
}

fn ms(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}

fn encode(key: &str, stored: &Stored) -> io::Result<Vec<u8>> {
    let head = Head {
        key: key.to_owned(),
        absent: stored.absent,
        as_of: stored.as_of.to_string(),
        tags: stored.tags.iter().map(|tag| tag.as_str().to_owned()).collect(),
        stored_at_ms: ms(stored.stored_at),
        expires_at_ms: ms(stored.expires_at),
        cost_ms: stored.cost_ms,
        seen: stored.seen.map(|position| position.to_string()),
        checksum: xxh3_64(&stored.payload),
    };
    let mut bytes = serde_json::to_vec(&head)?;
    bytes.push(b'\n');
    bytes.extend_from_slice(&stored.payload);
    Ok(bytes)
}

/// `None` for what is not, or not quite, what was written for this key.
fn decode(key: &str, bytes: Vec<u8>) -> Option<Stored> {
    let end = bytes.iter().position(|byte| *byte == b'\n')?;
    let head: Head = serde_json::from_slice(&bytes[..end]).ok()?;
    let payload = bytes::Bytes::from(bytes).slice(end + 1..);
    let time = |ms| UNIX_EPOCH.checked_add(Duration::from_millis(ms));
    (head.key == key && head.checksum == xxh3_64(&payload)).then_some(())?;
    Some(Stored {
        payload,
        absent: head.absent,
        as_of: head.as_of.parse().ok()?,
        // All of them: a tag less would be a change that nobody sees.
        tags: head.tags.iter().map(|tag| Tag::parse(tag)).collect::<Result<_, _>>().ok()?,
        stored_at: time(head.stored_at_ms)?,
        expires_at: time(head.expires_at_ms)?,
        cost_ms: head.cost_ms,
        seen: head.seen.map(|position| position.parse()).transpose().ok()?,
    })
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    use cachetag_client::Cache;
    use cachetag_client::adaptive::LayerTtl;

    let folder = std::env::args().nth(1).ok_or("the folder is missing: files FOLDER")?;
    let redis = std::env::var("REDIS_URL").map_err(|_| "REDIS_URL is not set: start `cachetag dev`")?;
    // Memory and Redis forget at once here; the files keep what they have for an hour.
    let short = (1.0, Duration::from_millis(200));
    let ttl = LayerTtl { l1: short, l2: short, l3: (1.0, Duration::from_secs(3600)) };
    let files = Files::open(folder, 64 << 20)?;
    let cache =
        Cache::builder().redis(redis).layer_ttl(ttl).ttl(Duration::from_secs(3600)).third(files.clone()).build()?;
    cache.ready(Duration::from_secs(5)).await;
    for round in 0..6 {
        let report = cache
            .get_or_load("report", |load| async move {
                load.tag("category:1");
                tokio::time::sleep(Duration::from_millis(500)).await;
                Ok::<_, io::Error>("what takes half a second to compute".to_owned())
            })
            .await?;
        println!("{round}: {} (from {:?}, {} bytes on disk)", *report, report.metadata().source(), files.bytes());
        tokio::time::sleep(Duration::from_millis(if round % 2 == 0 { 10 } else { 300 })).await;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Folder(PathBuf);

    impl Folder {
        fn new() -> Folder {
            let unique = format!("cachetag-files-{}-{:?}", std::process::id(), std::thread::current().id());
            Folder(std::env::temp_dir().join(unique))
        }

        /// Again: a process that another test starts has the lock, too, from its fork to its exec.
        async fn reopen(&self, limit: u64) -> Files {
            for _ in 0..1000 {
                if let Ok(files) = Files::open(&self.0, limit) {
                    return files;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            panic!("the folder stays locked")
        }

        fn files(&self) -> Vec<PathBuf> {
            let all = fs::read_dir(&self.0).unwrap().map(|entry| entry.unwrap().path());
            all.filter(|path| path.extension().is_some_and(|extension| extension == "entry")).collect()
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn stored(payload: &[u8]) -> Stored {
        let now = UNIX_EPOCH + Duration::from_millis(ms(SystemTime::now()));
        Stored {
            payload: payload.to_vec().into(),
            absent: false,
            as_of: "1767225600.00000000097500059720".parse().unwrap(),
            tags: vec![Tag::parse("product:42").unwrap(), Tag::parse("category:*").unwrap()],
            stored_at: now,
            expires_at: now + Duration::from_secs(60),
            cost_ms: 12,
            seen: Some("1@16/B374D848".parse().unwrap()),
        }
    }

    #[tokio::test]
    async fn what_is_put_is_got_by_the_next_process_too() {
        let folder = Folder::new();
        let files = Files::open(&folder.0, 1 << 20).unwrap();
        let (value, absent) = (stored(b"one\ntwo"), Stored { absent: true, ..stored(b"") });
        files.put("a\n/../b", value.clone()).await.unwrap();
        files.put("none", absent.clone()).await.unwrap();
        assert_eq!(files.get("a\n/../b").await.unwrap(), Some(value));
        assert!(Files::open(&folder.0, 1 << 20).is_err(), "a folder is one process's own");
        let bytes = files.bytes();
        drop(files);
        fs::write(folder.0.join("7.new"), "half-written").unwrap();
        let files = folder.reopen(1 << 20).await;
        assert!(!folder.0.join("7.new").exists());
        assert_eq!(files.bytes(), bytes);
        assert_eq!(files.get("none").await.unwrap(), Some(absent));
        files.remove("none").await.unwrap();
        files.remove("none").await.unwrap();
        assert_eq!(files.get("none").await.unwrap(), None);
    }

    #[tokio::test]
    async fn the_least_recently_used_make_room() {
        let folder = Folder::new();
        let one = encode("k0", &stored(&[0; 1000])).unwrap().len() as u64;
        let files = Files::open(&folder.0, 4 * one).unwrap();
        for key in ["k0", "k1", "k2", "k3"] {
            files.put(key, stored(&[0; 1000])).await.unwrap();
        }
        assert!(files.get("k0").await.unwrap().is_some());
        files.put("k4", stored(&[0; 1000])).await.unwrap();
        files.put("k4", stored(&[1; 1000])).await.unwrap();
        assert!(files.get("k1").await.unwrap().is_none(), "it was used least recently");
        assert!(files.get("k0").await.unwrap().is_some() && files.get("k4").await.unwrap().is_some());
        assert_eq!((files.bytes(), folder.files().len()), (4 * one, 4));
        // What is larger than all of it is not kept, nor what it was to replace.
        files.put("k4", stored(&[2; 5000])).await.unwrap();
        assert!(files.get("k4").await.unwrap().is_none());
        drop(files);
        let files = folder.reopen(2 * one).await;
        assert_eq!((files.bytes(), folder.files().len()), (2 * one, 2));
    }

    #[tokio::test]
    async fn what_is_damaged_or_expired_is_a_miss_and_goes() {
        let folder = Folder::new();
        let files = Files::open(&folder.0, 1 << 20).unwrap();
        files.put("k", stored(b"payload")).await.unwrap();
        let path = folder.files().pop().unwrap();
        let whole = fs::read(&path).unwrap();
        for cut in 0..whole.len() {
            fs::write(&path, &whole[..cut]).unwrap();
            assert_eq!(files.get("k").await.unwrap(), None, "cut at {cut}");
            assert!(!path.exists());
        }
        let mut flipped = whole.clone();
        *flipped.last_mut().unwrap() ^= 1;
        fs::write(&path, flipped).unwrap();
        assert_eq!(files.get("k").await.unwrap(), None);
        let another = encode("another key", &stored(b"payload")).unwrap();
        fs::write(&path, another).unwrap();
        assert_eq!(files.get("k").await.unwrap(), None);
        files.put("k", Stored { expires_at: SystemTime::now(), ..stored(b"payload") }).await.unwrap();
        assert_eq!((files.get("k").await.unwrap(), folder.files().len(), files.bytes()), (None, 0, 0));
    }

    #[tokio::test]
    async fn many_at_a_time_stay_within_the_limit() {
        let folder = Folder::new();
        let files = Files::open(&folder.0, 20_000).unwrap();
        let tasks: Vec<_> = (0..200u32)
            .map(|n| {
                let files = files.clone();
                tokio::spawn(async move {
                    let key = format!("k{}", n % 50);
                    files.put(&key, stored(&[(n % 50) as u8; 1000])).await.unwrap();
                    if let Some(found) = files.get(&key).await.unwrap() {
                        assert!(found.payload.iter().all(|byte| u32::from(*byte) == n % 50), "of another key");
                    }
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        let on_disk: u64 = folder.files().iter().map(|path| path.metadata().unwrap().len()).sum();
        assert_eq!(on_disk, files.bytes());
        assert!(on_disk <= 20_000 && on_disk > 10_000, "{on_disk}");
    }
}

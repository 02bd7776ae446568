//! A page of fragments of fragments in many processes, while what it is made of changes: a page that was put together of old parts and taken for
//! new would stay, and spread to all of them.

use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex};

use cachetag_client::{AtLeast, Cache, Error, ReadOptions, Source};
use cachetag_core::Lsn;
use cachetag_tests::eventually;

use super::gate::Tally;
use super::process::Process;
use crate::trial::{Database, PATIENCE, Trial};

const PROCESSES: usize = 3;
const ROUNDS: i32 = 12;
/// Reads of each process between two commits, at least.
const READS: u64 = 200;
const SHELVES: i32 = 3;

/// A front page of shelves of prices, each cached by itself, and who reads it.
pub struct Site {
    cache: Cache,
    database: Database,
    /// No price that is older may be on a page that is asked for now.
    least: AtomicI32,
    /// What each reader has read.
    readers: Mutex<Vec<Arc<Tally>>>,
    reads: Tally,
    wrong: Tally,
}

impl Site {
    pub fn new(cache: Cache, database: Database) -> Site {
        Site {
            cache,
            database,
            least: AtomicI32::new(0),
            readers: Mutex::default(),
            reads: Tally::default(),
            wrong: Tally::default(),
        }
    }

    /// The oldest price on the front page, and where the page came from.
    async fn read(&self, options: ReadOptions) -> Result<(i32, Source), Error> {
        let (cache, database) = (self.cache.clone(), self.database.clone());
        let reader = self.cache.with(options);
        let page = reader.get_or_load("front", move |_| async move {
            let mut prices = Vec::new();
            for number in 0..SHELVES {
                prices.extend(shelf(&cache, &database, number).await?);
            }
            Ok::<_, Error>(prices)
        });
        let page = page.await?;
        assert_eq!(page.len(), 9, "{page:?}");
        Ok((page.iter().copied().min().expect("nine prices"), page.metadata().source()))
    }

    /// Reads without end.
    pub fn run(self: Arc<Self>) {
        let read = Arc::new(Tally::default());
        self.readers.lock().expect("no panic").push(read.clone());
        tokio::spawn(async move {
            loop {
                let least = self.least.load(Ordering::SeqCst);
                let (oldest, _) = self.read(ReadOptions::new()).await.expect("a page");
                if oldest < least {
                    self.wrong.add();
                }
                read.add();
                self.reads.add();
                // A hit in memory waits for nothing.
                tokio::task::yield_now().await;
            }
        });
    }

    /// Waits until what is being read now has been read.
    async fn drain(&self) {
        let readers = self.readers.lock().expect("no panic").clone();
        let next: Vec<u64> = readers.iter().map(|read| read.get() + 1).collect();
        for (read, next) in readers.iter().zip(next) {
            read.wait_for(next).await;
        }
    }

    /// Waits for so many more reads; how many there were.
    pub async fn have_read(&self, more: u64) -> u64 {
        self.reads.wait_for(self.reads.get() + more).await
    }

    /// How many pages were older than they might be.
    pub fn wrong(&self) -> u64 {
        self.wrong.get()
    }
}

async fn shelf(cache: &Cache, database: &Database, number: i32) -> Result<Vec<i32>, Error> {
    let (inner, database) = (cache.clone(), database.clone());
    let key = format!("shelf:{number}");
    let prices = cache.get_or_load(&key, move |_| async move {
        let mut prices = Vec::new();
        for id in (1..=9).filter(|id| id % SHELVES == number) {
            prices.push(database.get(inner.with(ReadOptions::new()), id).await?.map_or(0, |price| *price));
        }
        Ok::<_, Error>(prices)
    });
    Ok(prices.await?.to_vec())
}

/// Asks for a commit until memory has a page that covers it: then the feed has passed it. From there on nothing older may be read. Returns how many of the
/// pages that were asked for were older than that.
pub async fn catch_up(site: &Site, options: ReadOptions, price: i32) -> u64 {
    let mut wrong = 0;
    eventually("a page in memory that covers the commit", PATIENCE, async || {
        let (oldest, source) = site.read(options).await.ok()?;
        wrong += u64::from(oldest < price);
        (source == Source::Memory).then_some(())
    })
    .await;
    // A page that is still being loaded may be of before, and whoever comes within max_lag may share it.
    site.drain().await;
    site.least.store(price, Ordering::SeqCst);
    wrong
}

#[tokio::test]
async fn no_process_serves_a_page_of_old_fragments_once_it_has_caught_up() {
    let trial = Trial::start().await;
    let mut processes = Vec::new();
    for _ in 0..PROCESSES {
        processes.push(Process::start(&trial.stack).await);
    }
    for process in &mut processes {
        process.ask("run").await;
        process.ask(format!("read {READS}")).await;
    }
    let mut reads = 0;
    for price in 11..11 + ROUNDS {
        // In the middle of it all: every process reads.
        let commit = trial.stack.commit(&format!("UPDATE items SET price = {price}")).await;
        let position = AtLeast::from(Lsn(commit));
        for process in &mut processes {
            process.tell(format!("catch {position} {price}")).await;
        }
        for process in &mut processes {
            assert_eq!(process.answer().await, "0", "a page that covers the commit has prices of before");
        }
        for process in &mut processes {
            process.tell(format!("read {READS}")).await;
        }
        reads = 0;
        for process in &mut processes {
            reads += process.answer().await.parse::<u64>().expect("a number");
        }
    }
    for process in &mut processes {
        assert_eq!(process.ask("wrong").await, "0", "of {reads} pages");
    }
    assert!(reads >= PROCESSES as u64 * READS * ROUNDS as u64, "{reads}");
}

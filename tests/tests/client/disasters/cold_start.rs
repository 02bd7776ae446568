//! Nothing is cached, and everybody comes at once: the database sees no more of it than it was meant to.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use cachetag_client::resilience::LimiterOptions;
use cachetag_client::{Cache, Load};
use deadpool_postgres::{Manager, Pool};
use tokio_postgres::NoTls;

use super::gate::Gate;
use super::patient;
use crate::trial::{PATIENCE, Trial};

const LIMIT: usize = 8;
const KEYS: i32 = 300;
/// Readers of each key.
const READERS: usize = 10;
/// Held shared by every load while it is in the database, so that the database itself can say how many there are.
const LOCK: i64 = 77;

/// A database with more connections than loads may take, which counts those that are at work.
#[derive(Clone)]
struct Counted {
    pool: Pool,
    loads: Arc<AtomicUsize>,
    running: Arc<AtomicUsize>,
    most: Arc<AtomicUsize>,
    most_in_database: Arc<AtomicUsize>,
    gate: Gate,
}

impl Counted {
    fn new(trial: &Trial) -> Counted {
        let config = trial.stack.postgres_url().parse().expect("a URL");
        Counted {
            pool: Pool::builder(Manager::new(config, NoTls)).max_size(4 * LIMIT).build().expect("a pool"),
            loads: Arc::default(),
            running: Arc::default(),
            most: Arc::default(),
            most_in_database: Arc::default(),
            gate: Gate::closed(),
        }
    }

    /// A number that only the database knows. The first loads wait for each other, inside of their transactions.
    async fn load(self, load: Load, number: i32) -> Result<i32, Box<dyn std::error::Error + Send + Sync>> {
        load.tag(format!("number:{number}"));
        self.loads.fetch_add(1, Ordering::SeqCst);
        self.most.fetch_max(self.running.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        let mut client = self.pool.get().await?;
        let transaction = client.transaction().await?;
        transaction.execute("SELECT pg_advisory_xact_lock_shared($1)", &[&LOCK]).await?;
        self.gate.pass().await;
        let sql = format!("SELECT $1::int * 7, ({AT_WORK})");
        let row = transaction.query_one(&sql, &[&number]).await?;
        self.most_in_database.fetch_max(row.get::<_, i64>(1) as usize, Ordering::SeqCst);
        transaction.commit().await?;
        self.running.fetch_sub(1, Ordering::SeqCst);
        Ok(row.get(0))
    }

    async fn read(self, cache: Cache, number: i32) -> Result<i32, cachetag_client::Error> {
        let key = format!("number:{number}");
        let read = cache.get_or_load(&key, move |load| self.load(load, number));
        read.await.map(|cached| *cached)
    }
}

const AT_WORK: &str = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 77 AND granted";

#[tokio::test]
async fn a_cold_start_loads_each_key_once_and_a_few_at_a_time() {
    let trial = Trial::start().await;
    let loads = LimiterOptions { concurrency: LIMIT, queue: KEYS as usize, wait: PATIENCE };
    let cache = trial.cache(patient(&trial).loads(loads)).await;
    let counted = Counted::new(&trial);
    let mut readers = Vec::new();
    for _ in 0..READERS {
        for number in 0..KEYS {
            readers.push((number, tokio::spawn(counted.clone().read(cache.clone(), number))));
        }
    }
    // As many as may are inside, in the database's own count, too, and stay until this test lets them go.
    counted.gate.wait_for(LIMIT).await;
    assert_eq!(trial.stack.value(AT_WORK).await, LIMIT.to_string());
    counted.gate.open();
    for (number, reader) in readers {
        assert_eq!(reader.await.expect("no panic").expect("a value"), number * 7);
    }
    assert_eq!(counted.loads.load(Ordering::SeqCst), KEYS as usize, "each key once");
    assert_eq!(counted.most.load(Ordering::SeqCst), LIMIT);
    assert_eq!(counted.most_in_database.load(Ordering::SeqCst), LIMIT);
    // It is warm now.
    for number in 0..KEYS {
        assert_eq!(counted.clone().read(cache.clone(), number).await.expect("a value"), number * 7);
    }
    assert_eq!(counted.loads.load(Ordering::SeqCst), KEYS as usize);
}

/// More than the queue holds is refused at once, and told so: it does not pile up before the database. Nothing of that is stored.
#[tokio::test]
async fn what_the_queue_does_not_hold_is_refused_and_can_come_again() {
    const QUEUE: usize = 5;
    const COME: i32 = 40;
    let trial = Trial::start().await;
    let loads = LimiterOptions { concurrency: LIMIT, queue: QUEUE, wait: PATIENCE };
    let cache = trial.cache(patient(&trial).loads(loads)).await;
    let counted = Counted::new(&trial);
    let readers: Vec<_> = (0..COME).map(|number| tokio::spawn(counted.clone().read(cache.clone(), number))).collect();
    let mut refused = HashSet::new();
    let mut served = 0;
    // Those who are refused end while the gate is still closed.
    cachetag_tests::eventually("all others refused", PATIENCE, async || {
        let ended = readers.iter().filter(|reader| reader.is_finished()).count();
        (ended == COME as usize - LIMIT - QUEUE).then_some(())
    })
    .await;
    counted.gate.wait_for(LIMIT).await;
    counted.gate.open();
    for (number, reader) in (0..COME).zip(readers) {
        match reader.await.expect("no panic") {
            Ok(value) => {
                assert_eq!(value, number * 7);
                served += 1;
            }
            Err(error) => {
                assert!(error.is_overloaded(), "{error}");
                refused.insert(number);
            }
        }
    }
    assert_eq!((served, refused.len()), (LIMIT + QUEUE, COME as usize - LIMIT - QUEUE));
    for number in refused {
        assert_eq!(counted.clone().read(cache.clone(), number).await.expect("a value"), number * 7);
    }
    assert_eq!(counted.most.load(Ordering::SeqCst), LIMIT);
}

//! Whether the system is back: a commit is made, and what shows it is stored and hit again.

use std::time::Duration;

use super::history::Moment;
use super::judge::{Finding, Question};
use super::report::Invariant;
use super::world::World;
use crate::{GetOptions, Stack, lsn};

/// The table of the probe.
pub const SCHEMA: &str = "CREATE TABLE probes (id int PRIMARY KEY, v int NOT NULL); INSERT INTO probes VALUES (1, 0);
    SELECT cachetag.track('probes', 'probe:{id}')";

const POLL: Duration = Duration::from_millis(2);
const TTL: Duration = Duration::from_secs(60);
/// A system that is not back after this is down.
const PATIENCE: Duration = Duration::from_secs(60);
/// An attempt that hangs on a connection that a fault has cut is given up.
const ATTEMPT: Duration = Duration::from_millis(1_500);

/// Waits until a commit made from now on is in the cache; how long that took.
pub async fn recovered(world: &World, since: Moment) -> Duration {
    let elapsed = || Duration::from_nanos(world.clock.now() - since);
    loop {
        if let Ok(Ok(())) = tokio::time::timeout(ATTEMPT.max(elapsed() / 2), attempt(world)).await {
            return elapsed();
        }
        assert!(
            elapsed() < PATIENCE,
            "the system is not back after {PATIENCE:?}: {:?}",
            world.incidents.borrow().last()
        );
        tokio::time::sleep(POLL).await;
    }
}

async fn attempt(world: &World) -> Result<(), Box<dyn std::error::Error>> {
    let client = world.postgres().await;
    client.batch_execute("SET synchronous_commit = local; UPDATE probes SET v = v + 1").await?;
    let row = client.query_one("SELECT v::text, cachetag.position() FROM probes", &[]).await?;
    let (value, position): (String, String) = (row.get(0), row.get(1));
    let mut cache = world.redis().await.ok_or("the run is over")?;
    let covering = GetOptions { at_least: Some(position), no_lease: true, ..GetOptions::default() };
    loop {
        let got = cache.get_with("probe", &covering).await?;
        if got.is_hit() {
            if got.text() == Some(&*value) {
                return Ok(());
            }
            panic!("the probe is {value}, the hit {got:?}, after {:?}", world.incidents.borrow().last());
        }
        if got.is_miss() {
            cache.put("probe", &value, &got.token, TTL, &["probe:1"]).await?;
        }
        tokio::time::sleep(POLL).await;
    }
}

/// When everything is quiet, every hit is what the database says now.
pub async fn converge(world: &World, stack: &Stack) {
    let flushed = lsn(&stack.value("SELECT pg_current_wal_insert_lsn()").await);
    stack.sql("UPDATE probes SET v = v + 1").await;
    stack.wait_caught_up(flushed).await;
    let mut cache = stack.cache().await;
    for (number, object) in world.schema.objects.iter().enumerate() {
        let got = cache.get(&object.key).await.expect("cachetag_get");
        let truth = stack.value(&object.query).await;
        let now = world.clock.now();
        let question = Question { from: now, to: now, covers: 0 };
        // Both what the cache and what the database says is compared with the checker's own idea.
        let known = world.judge.borrow_mut().judge(&world.schema, number, &truth, question);
        assert!(matches!(known, Finding::True), "{} is `{truth}`, which the checker does not know of", object.key);
        let mut report = world.report.borrow_mut();
        report.looked_at(Invariant::Convergence);
        let value = got.text().unwrap_or_default();
        if got.is_hit() && value != truth {
            report.violation(Invariant::Convergence, || {
                format!("at the end {} is `{value}`, in truth `{truth}`", object.key)
            });
        }
    }
}

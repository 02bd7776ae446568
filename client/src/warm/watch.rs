//! Following the feed of a shard: hot keys that are bumped are loaded again.
//!
//! What a change names is only a reason to look. Whether a copy is good is read from its own states, as a reader would: changes that were lost lose nothing.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::task::JoinSet;

use super::Inner;
use super::bursts::{Bursts, Cause, Landing};
use super::report::Outcome;
use crate::feed::View;
use crate::l1::Held;
use crate::observe::{Event, Layer};

/// So many of the hottest keys are watched.
const WATCHED: usize = 512;
/// How often the keys are looked at where no change is told: a new generation or floor is none.
const IDLE: Duration = Duration::from_secs(1);
/// The least time between two looks, so that many changes cost no more than few.
const PAUSE: Duration = Duration::from_millis(2);

/// Watches the hot keys of a shard until it is dropped.
pub(super) async fn run(inner: Arc<Inner>, shard: usize) {
    let Some(memory) = inner.engine.memory.clone() else { return };
    let feed = &inner.engine.shards[shard].feed;
    let mut changes = feed.changes();
    let mut bursts = Bursts::new(inner.options.settle);
    let mut loads: JoinSet<(Arc<str>, Outcome)> = JoinSet::new();
    loop {
        let wait = if bursts.is_waiting() { PAUSE } else { IDLE };
        tokio::select! {
            // Each is cancel safe: a change that is lost is a look that comes later.
            change = changes.recv() => match change {
                Ok(_) | Err(RecvError::Lagged(_)) => tokio::time::sleep(PAUSE).await,
                // The feed is gone.
                Err(RecvError::Closed) => return,
            },
            Some(landed) = loads.join_next(), if !loads.is_empty() => {
                // The task is aborted only with this one, and a loader's panic is an error of its load.
                if let Ok((key, outcome)) = landed {
                    land(&inner, &mut bursts, &key, &outcome);
                }
            }
            () = tokio::time::sleep(wait) => {}
        }
        // What has come meanwhile is seen by this look.
        while matches!(changes.try_recv(), Ok(_) | Err(TryRecvError::Lagged(_))) {}
        let (view, now) = (feed.view(), Instant::now());
        let switches = &inner.engine.switches;
        if !view.live || !switches.refreshes_in_background() || switches.bypasses(Layer::Loader) {
            continue;
        }
        bursts.begin();
        for counted in inner.engine.observer.hottest(WATCHED) {
            let key = &counted.key;
            if inner.engine.shard_of(key) != shard || inner.loaders.of(key).is_none() {
                continue;
            }
            if let Some(held) = memory.peek(key)
                && let Some(cause) = cause(&view, &held, now)
                && held.rate(now) >= inner.options.hot
            {
                bursts.bumped(key, cause, now);
            }
        }
        for key in bursts.due(view.watermark.map(|watermark| watermark.lsn.0), now) {
            let inner = Arc::clone(&inner);
            loads.spawn(async move {
                let outcome = inner.one(&key).await;
                (key, outcome)
            });
        }
    }
}

fn land(inner: &Inner, bursts: &mut Bursts, key: &str, outcome: &Outcome) {
    let how = match outcome {
        Outcome::Warmed => {
            inner.engine.observer.event(Event::WarmRefresh);
            Landing::Cached
        }
        // Another process, or a reader, was quicker.
        Outcome::Present => Landing::Cached,
        Outcome::NotStored | Outcome::NoLoader => Landing::Refused,
        Outcome::Failed(error) => {
            tracing::debug!(key, %error, "a hot key was not loaded again");
            Landing::Failed
        }
    };
    bursts.landed(key, how, Instant::now());
}

/// Why a copy is good no more; `None` if it is, or has only expired.
fn cause(view: &View, held: &Held, now: Instant) -> Option<Cause> {
    let what = held.what();
    if now >= what.expires_at {
        return None;
    }
    let generation = view.generation;
    if held.generation() != generation {
        // It may be true still: Redis is asked before the loader.
        return Some(Cause { generation, bumped: 0 });
    }
    let floor = [Some(view.floor), view.soft_floor].into_iter().flatten().filter(|floor| *floor > what.as_of).max();
    let bumped = held.bumped().max(floor.map(|floor| floor.lsn.0))?;
    Some(Cause { generation, bumped })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::feed::rig::Rig;
    use crate::l1::{Candidate, L1, L1Options};
    use cachetag_core::Tag;

    fn cause_of(rig: &Rig, held: &Held) -> Option<u64> {
        cause(&rig.feed.view(), held, Instant::now()).map(|cause| cause.bumped)
    }

    #[test]
    fn a_copy_is_loaded_again_for_what_a_reader_would_miss_for() {
        let mut rig = Rig::new(100);
        let l1 = L1::new(L1Options::new(1 << 20));
        let mut candidate = Candidate::new(Arc::new(7), 1, rig.v(100), Instant::now() + Duration::from_secs(60));
        candidate.tags = [Tag::parse("p:1").unwrap()].into();
        let held = l1.admit(&rig.feed, "k", candidate).unwrap();
        rig.apply(110, &["p:2", "q:1"], &[]).look();
        assert_eq!(cause_of(&rig, &held), None);
        rig.apply(120, &[], &["p:1"]).look();
        assert_eq!(cause_of(&rig, &held), Some(120), "stale: each reader would ask Redis");
        rig.apply(130, &["p:*"], &[]).look();
        assert_eq!(cause_of(&rig, &held), Some(130));
        rig.apply(140, &["*"], &[]).look();
        assert_eq!(cause_of(&rig, &held), Some(140));
        assert_eq!(cause(&rig.feed.view(), &held, Instant::now() + Duration::from_secs(61)), None, "it has expired");
        rig.reset(200).advance(200).look();
        assert_eq!(cause_of(&rig, &held), Some(0), "of another generation");
    }
}

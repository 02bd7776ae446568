//! When which tag was last bumped, from the log that the daemon writes in Redis.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use cachetag_core::Tag;
use redis::aio::MultiplexedConnection;
use tokio::sync::watch;
use tokio_postgres::Client;

use crate::log::Log;

/// The log of the daemon's default namespace.
const LOG: &str = "{ct}:log";
/// The family of the tags behind which everything before has been read. Nobody depends on it.
const FENCE: &str = "regression_fence";
/// How long a fence is waited for until another is sent: in one record with `*` it is not named.
const PATIENCE: Duration = Duration::from_secs(2);
/// Fences that are waited for until the daemon counts as stuck.
const ATTEMPTS: usize = 30;

/// The last bumps, each as the position of its commit.
#[derive(Debug, Default)]
struct Last {
    /// By tag.
    tags: HashMap<Box<str>, u64>,
    /// By family: one of its members.
    members: HashMap<Box<str>, u64>,
    /// Of `*`.
    everything: u64,
    /// Of any tag.
    any: u64,
}

/// A reader of the log, which has all of it in mind.
#[derive(Debug)]
pub(super) struct Bumps {
    last: Arc<Mutex<Last>>,
    fences: watch::Receiver<u64>,
    sent: tokio::sync::Mutex<(Client, u64)>,
}

impl Bumps {
    /// Reads on until the process ends.
    pub(super) fn follow(redis: MultiplexedConnection, postgres: Client) -> Bumps {
        let last = Arc::new(Mutex::new(Last::default()));
        let (seen, fences) = watch::channel(0);
        tokio::spawn(read(Log::new(redis, LOG.to_owned()), Arc::clone(&last), seen));
        Bumps { last, fences, sent: tokio::sync::Mutex::new((postgres, 0)) }
    }

    /// Returns when every bump of what has been committed by now is known.
    pub(super) async fn catch_up(&self) -> io::Result<()> {
        let mut fences = self.fences.clone();
        for _ in 0..ATTEMPTS {
            let number = {
                let mut sent = self.sent.lock().await;
                sent.1 += 1;
                let fence = format!("SELECT cachetag.invalidate('{FENCE}:{}')", sent.1);
                sent.0.batch_execute(&fence).await.map_err(io::Error::other)?;
                sent.1
            };
            match tokio::time::timeout(PATIENCE, fences.wait_for(|seen| *seen >= number)).await {
                Ok(Ok(_)) => return Ok(()),
                Ok(Err(_)) => break,
                Err(_) => {}
            }
        }
        Err(io::Error::other("the daemon does not bump what is committed"))
    }

    /// Has one of the tags been bumped by a commit after this position?
    pub(super) fn reach(&self, tags: &[Tag], as_of: u64) -> bool {
        let last = locked(&self.last);
        let after = |map: &HashMap<Box<str>, u64>, name: &str| map.get(name).is_some_and(|at| *at > as_of);
        last.everything > as_of
            || tags.iter().any(|tag| {
                tag.is_everything() && last.any > as_of
                    || after(&last.tags, tag.as_str())
                    || after(&last.tags, &format!("{}:*", tag.family()))
                    || tag.is_whole_family() && after(&last.members, tag.family())
            })
    }
}

fn locked(last: &Mutex<Last>) -> MutexGuard<'_, Last> {
    last.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn read(mut log: Log, last: Arc<Mutex<Last>>, seen: watch::Sender<u64>) {
    loop {
        let bumps = match log.read().await {
            Ok(bumps) => bumps,
            Err(error) => return eprintln!("the log cannot be read: {error}"),
        };
        let mut fence = 0;
        for bump in bumps {
            if bump.tag.family() == FENCE {
                let number = bump.tag.as_str().rsplit(':').next().and_then(|number| number.parse().ok());
                fence = fence.max(number.unwrap_or(0));
                continue;
            }
            let mut last = locked(&last);
            last.any = bump.at;
            if bump.tag.is_everything() {
                last.everything = bump.at;
            }
            last.members.insert(bump.tag.family().into(), bump.at);
            last.tags.insert(bump.tag.as_str().into(), bump.at);
        }
        // Not before what came before it is known.
        seen.send_if_modified(|seen| std::mem::replace(seen, fence.max(*seen)) < fence);
    }
}

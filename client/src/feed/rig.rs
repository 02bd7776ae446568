//! For tests: a Redis that does what `redis/cachetag.lua` does to the state and the log, and a feed whose looks are taken by hand.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cachetag_core::{Epoch, Lsn, Version};

use super::Feed;
use super::ledger::{Ledger, Next};
use super::look::{Look, Part, Record};
use super::options::FeedOptions;
use super::ring::Bumped;
use super::trail::Lost;

/// More than any test has records.
const ALL: usize = 1_000_000;

/// What Redis holds.
#[derive(Debug, Clone)]
pub(crate) struct Redis {
    pub(crate) epoch: Epoch,
    pub(crate) floor: Version,
    pub(crate) soft_floor: Option<Version>,
    pub(crate) watermark: Option<Version>,
    pub(crate) applied: Version,
    log_from: Version,
    log_len: u64,
    log: Vec<Record>,
}

/// The two of them.
#[derive(Debug)]
pub(crate) struct Rig {
    pub(crate) feed: Feed,
    pub(crate) redis: Redis,
    /// The highest epoch there ever was.
    epochs: u64,
    behind: Duration,
    looked: Instant,
}

impl Rig {
    /// Redis and feed at this position, in epoch 7.
    pub(crate) fn new(position: u64) -> Rig {
        Rig::with_ring(position, 1000, 1000)
    }

    /// With room for this many records in the feed's ring, and so many preloaded.
    pub(crate) fn with_ring(position: u64, records: usize, preload: usize) -> Rig {
        let options = FeedOptions::new().ring(records, 1 << 20).preload(preload);
        let feed = Feed { ledger: Arc::new(Ledger::new(&options)), _task: None };
        let start = Version::default();
        let redis = Redis {
            epoch: Epoch::ZERO,
            floor: start,
            soft_floor: None,
            watermark: None,
            applied: start,
            log_from: start,
            log_len: 0,
            log: Vec::new(),
        };
        let mut rig = Rig { feed, redis, epochs: 6, behind: Duration::ZERO, looked: Instant::now() };
        rig.reset(position).advance(position).look();
        rig
    }

    /// A version of the present epoch.
    pub(crate) fn v(&self, lsn: u64) -> Version {
        Version::new(self.redis.epoch, Lsn(lsn))
    }

    /// When the last look was sent.
    pub(crate) fn looked(&self) -> Instant {
        self.looked
    }

    /// `cachetag_apply`.
    pub(crate) fn apply(&mut self, to: u64, hard: &[&str], soft: &[&str]) -> &mut Rig {
        let shared = |tags: &[&str]| tags.iter().map(|tag| Arc::from(*tag)).collect();
        let bumped = Bumped { hard: shared(hard), soft: shared(soft) };
        let record = Record { from: self.redis.applied, to: self.v(to), bumped };
        let redis = &mut self.redis;
        if redis.log_len != redis.log.len() as u64 {
            redis.log.clear();
            redis.log_from = record.from;
        }
        redis.applied = record.to;
        if hard.contains(&"*") {
            redis.floor = record.to;
        }
        if soft.contains(&"*") {
            redis.soft_floor = Some(record.to);
        }
        redis.log.push(record);
        redis.log_len = redis.log.len() as u64;
        self
    }

    /// `cachetag_advance`, of the watermark too.
    pub(crate) fn advance(&mut self, to: u64) -> &mut Rig {
        self.redis.applied = self.v(to);
        self.redis.watermark = self.redis.watermark.max(Some(self.v(to)));
        self
    }

    /// `cachetag_reset`.
    pub(crate) fn reset(&mut self, lsn: u64) -> &mut Rig {
        self.epochs += 1;
        let epoch = Epoch::new(self.epochs).unwrap();
        let start = Version::new(epoch, Lsn(lsn));
        self.redis = Redis {
            epoch,
            floor: start,
            soft_floor: None,
            watermark: None,
            applied: start,
            log_from: start,
            log_len: 0,
            log: Vec::new(),
        };
        self
    }

    /// The log is cut by the library, which says so. It cuts after it has appended, so never a torn log, and never all of it.
    pub(crate) fn cut_log(&mut self, keep: usize) -> &mut Rig {
        let redis = &mut self.redis;
        let cut = redis.log.len().saturating_sub(keep.max(1));
        if redis.log_len == redis.log.len() as u64 && cut > 0 {
            redis.log.drain(..cut);
            redis.log_len = redis.log.len() as u64;
            redis.log_from = redis.log[0].from;
        }
        self
    }

    /// The log is trimmed by a stranger, who does not.
    pub(crate) fn trim_log(&mut self, keep: usize) -> &mut Rig {
        let cut = self.redis.log.len().saturating_sub(keep);
        self.redis.log.drain(..cut);
        self
    }

    /// How far the daemon is behind from now on.
    pub(crate) fn behind(&mut self, behind: Duration) -> &mut Rig {
        self.behind = behind;
        self
    }

    /// The feed's connection breaks.
    pub(crate) fn disconnect(&mut self) -> &mut Rig {
        self.feed.ledger.detach();
        self
    }

    /// The feed looks until nothing is left.
    pub(crate) fn look(&mut self) -> &mut Rig {
        while self.look_at(ALL) {}
        self
    }

    /// The feed takes one look, at so many records; whether it would look again at once.
    pub(crate) fn look_at(&mut self, count: usize) -> bool {
        self.looked = Instant::now();
        let question = self.feed.ledger.question(count, 1);
        let redis = &self.redis;
        let records: Vec<Record> = match question.part {
            Part::After(position) => {
                let after = redis.log.iter().filter(|record| record.to.lsn > position);
                after.take(question.count).cloned().collect()
            }
            Part::Latest => {
                let skip = redis.log.len().saturating_sub(question.count);
                redis.log[skip..].to_vec()
            }
        };
        let look = Look {
            question,
            epoch: redis.epoch,
            floor: redis.floor,
            soft_floor: redis.soft_floor,
            watermark: redis.watermark,
            applied: redis.applied,
            behind: redis.watermark.map(|_| self.behind),
            log_from: redis.log_from,
            log_len: redis.log_len,
            max_lag: Some(Duration::from_secs(2)),
            source: Arc::from("here"),
            length: redis.log.len() as u64,
            records,
        };
        self.feed.ledger.take(Ok(look), self.looked) == Next::Again
    }

    /// Redis is found emptied.
    pub(crate) fn look_at_nothing(&mut self) {
        self.feed.ledger.take(Err(Lost::NoState), Instant::now());
    }
}

//! What a cache is made of, and the way of a read through it: memory, then one flight for everybody who misses the same key.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cachetag_core::Version;
use tokio::sync::Semaphore;

use crate::builder::Config;
use crate::cached::{Cached, Found, Metadata};
use crate::codec::Typed;
use crate::error::{Error, Kind};
use crate::feed::FeedOptions;
use crate::fill::Quest;
use crate::flight::{Flights, Seat, Terms};
use crate::l1::{self, Ask, Held, L1, L1Options, Left, Miss, Verdict};
use crate::l2::{self, Shard};
use crate::load::{self, Load};
use crate::loader::Loader;
use crate::observe::{Access, Event, Eviction, Layer, MissReason, Observer};
use crate::options::{AtLeast, ReadOptions};
use crate::refresh::Background;
use crate::resilience::{Breaker, Limiter, Switches};
use crate::shard::Unit;

/// A key of Redis that is longer costs more than it saves.
const KEY_BYTES: usize = 1024;

/// Everything behind the handles of one cache.
pub(crate) struct Engine {
    pub config: Config,
    pub shards: Box<[Unit]>,
    pub memory: Option<L1>,
    pub third_breaker: Breaker,
    pub flights: Arc<Flights>,
    pub loads: Limiter,
    /// Loads that nobody waits for.
    pub background: Arc<Semaphore>,
    pub switches: Switches,
    pub observer: Observer,
}

/// What the in-process layer says, in the caller's type.
pub(crate) enum Remembered<T> {
    /// Served; and where the entry is to be made anew behind the caller's back, the right to do it.
    Hit(Option<Cached<T>>, Option<Background>),
    /// To be asked for elsewhere, and what may be served where that fails.
    Miss(Option<Arc<Held>>),
}

/// What the in-process layer says.
pub(crate) enum Recalled {
    /// A copy that is true up to there; and when it was judged.
    Hit { held: Arc<Held>, valid_to: Version, shard: usize, now: Instant },
    /// To be asked for elsewhere, and what may be served where that fails.
    Miss(Option<Arc<Held>>),
}

impl Engine {
    pub fn new(config: Config) -> Result<Arc<Engine>, Error> {
        if config.shards.is_empty() {
            return Err(Error::configuration("redis", "no URL was given: the cache needs one Redis at least"));
        }
        if tokio::runtime::Handle::try_current().is_err() {
            return Err(Error::configuration("build", "there is no tokio runtime here: call it in one"));
        }
        let observer = Observer::new(config.observer.clone());
        let mut shards = Vec::new();
        for (number, url) in config.shards.iter().enumerate() {
            let single = config.shards.len() == 1;
            let namespace = if single { config.namespace.clone() } else { format!("{}{number}", config.namespace) };
            let redis = Shard::open(url, &namespace, config.timeouts)
                .map_err(|e| Error::configuration("redis", e.to_string()))?;
            let options = FeedOptions::new().namespace(namespace).heartbeat(config.max_lag / 8);
            shards.push(Unit::new(redis, url, options, config.breaker, observer.clone())?);
        }
        let memory = (config.memory > 0).then(|| {
            let evictions = observer.clone();
            let options = L1Options::new(config.memory)
                .max_share(config.max_share)
                .ttl(config.layer_ttl.ttl(Layer::L1, Duration::MAX))
                .grace(grace(&config));
            L1::new(options.on_left(move |_, _, left| {
                let eviction = match left {
                    Left::Evicted => Eviction::Size,
                    Left::Expired => Eviction::Expired,
                    Left::Replaced => Eviction::Replaced,
                    Left::Removed => Eviction::Invalidated,
                };
                evictions.evicted(Layer::L1, eviction, 1);
            }))
        });
        Ok(Arc::new(Engine {
            shards: shards.into(),
            memory,
            third_breaker: Breaker::new(config.breaker),
            flights: Flights::new(),
            loads: Limiter::new(config.loads),
            background: Arc::new(Semaphore::new(config.background.min(Semaphore::MAX_PERMITS))),
            switches: Switches::default(),
            observer,
            config,
        }))
    }

    /// The shard of a key: the same in every process that was given the same URLs in the same order.
    pub fn shard_of(&self, key: &str) -> usize {
        if self.shards.len() == 1 {
            return 0;
        }
        // FNV-1a, 64 bits: the same in every process, build and language.
        let hash = key
            .bytes()
            .fold(0xCBF2_9CE4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01B3));
        (hash % self.shards.len() as u64) as usize
    }

    pub fn terms(&self, options: &ReadOptions) -> Terms {
        let max_lag = options.max_lag.unwrap_or(self.config.max_lag);
        let terms = Terms { max_lag, at_least: options.at_least, fresh: options.fresh };
        // A page is no newer than its fragments: what it is asked for, they are.
        load::terms().map_or(terms, |outer| terms.within(outer))
    }

    /// Is there a copy in memory that may be served?
    pub fn recall(&self, key: &str, terms: &Terms, access: &mut Access<'_>) -> Recalled {
        let Some(memory) = &self.memory else { return Recalled::Miss(None) };
        if terms.fresh || self.switches.bypasses(Layer::L1) {
            access.miss(Layer::L1, if terms.fresh { MissReason::Fresh } else { MissReason::Switch });
            return Recalled::Miss(None);
        }
        let Some((held, now)) = memory.find(key) else {
            access.miss(Layer::L1, reason_of(Miss::None));
            return Recalled::Miss(None);
        };
        let shard = self.shard_of(key);
        let ask = Ask { now, max_lag: terms.max_lag, at_least: terms.at_least };
        match l1::verdict(&self.shards[shard].feed, held, &ask) {
            Verdict::Hit { held, valid_to } => {
                access.hit(Layer::L1, held.what().cost);
                Recalled::Hit { held, valid_to, shard, now }
            }
            // What is past its best is for Redis to judge: there one caller of all processes gets the lease to make it anew.
            Verdict::Stale { held, .. } => {
                access.miss(Layer::L1, MissReason::Expired);
                Recalled::Miss(Some(held))
            }
            Verdict::Miss { why, held } => {
                access.miss(Layer::L1, reason_of(why));
                Recalled::Miss(held)
            }
        }
    }

    /// The same in the caller's type. The tags are handed to the load that this read is part of.
    pub fn remembered<T: Send + Sync + 'static>(&self, key: &str, terms: &Terms) -> Remembered<T> {
        let mut access = self.observer.access(key);
        let (held, valid_to, shard, now) = match self.recall(key, terms, &mut access) {
            Recalled::Hit { held, valid_to, shard, now } => (held, valid_to, shard, now),
            Recalled::Miss(held) => return Remembered::Miss(held),
        };
        let is_value = held.what().kind == l1::Kind::Value;
        if !is_value {
            self.observer.event(Event::NegativeHit);
        } else if !held.is::<T>() {
            // Held as another type: the layers behind have it as bytes.
            return Remembered::Miss(None);
        }
        if let Some(load) = Load::current() {
            // It was judged after `now`: it is not known to be true any later.
            load.contains(&Metadata::of(&held, valid_to, false, shard), Some(now));
        }
        let due = self.due(key, &held, now);
        Remembered::Hit(is_value.then(|| Cached::held(held, valid_to, shard)), due)
    }

    /// One flight brings what memory did not have.
    pub async fn fly(
        self: &Arc<Engine>,
        key: &str,
        terms: Terms,
        typed: Typed,
        loader: Loader,
        spare: Option<Arc<Held>>,
    ) -> Result<Found, Error> {
        check_key(key)?;
        let within = Load::current().map(|load| load.ancestry()).unwrap_or_default();
        if within.iter().any(|outer| **outer == *key) {
            return Err(Error::configuration(
                "get_or_load",
                format!("the loader of {key:?} reads {key:?} itself: it would wait for itself"),
            ));
        }
        let called = Instant::now();
        // What an earlier flight loads is good enough for whoever would take a hit that old; not for who asks for a commit or for the present.
        let mut since =
            if terms.fresh || terms.at_least.is_some() { Some(called) } else { called.checked_sub(terms.max_lag) };
        let mut loader: Option<Loader> = Some(Box::new(move |load| Box::pin(load::under(terms, loader(load)))));
        loop {
            let passenger = match self.flights.board(key, since, terms) {
                Seat::Passenger(passenger) => {
                    self.observer.event(Event::Coalesced);
                    passenger
                }
                Seat::Pilot(pilot) => {
                    let passenger = pilot.passenger();
                    let Some(loader) = loader.take() else {
                        return Err(Error::new(Kind::Overloaded {
                            key: key.into(),
                            reason: "the load that this read led was lost with its runtime".into(),
                        }));
                    };
                    // A task of its own: whoever began it may be dropped, and those who wait do not notice.
                    let spare = spare.clone();
                    let quest =
                        Quest { key: key.into(), shard: self.shard_of(key), typed, terms, within: within.clone() };
                    tokio::spawn(self.clone().lead(quest, loader, spare, pilot));
                    passenger
                }
            };
            if let Some(outcome) = passenger.arrive().await {
                // A layer that was asked before this read vouches for too early a moment.
                if let (Ok(Found { asked: Some(asked), .. }), true) = (&outcome, loader.is_some())
                    && *asked < called
                {
                    since = Some(called);
                    continue;
                }
                if let (Ok(found), Some(load)) = (&outcome, Load::current()) {
                    // A load of another's may have begun up to `max_lag` before this call.
                    load.contains(&found.metadata, found.asked.or(loader.is_some().then_some(called)));
                }
                return outcome;
            }
        }
    }

    /// Drops an entry from all layers.
    pub async fn forget(&self, key: &str) -> Result<(), Error> {
        if let Some(memory) = &self.memory {
            memory.remove(key);
        }
        if let Some(third) = &self.config.third
            && let Err(error) = third.remove(key).await
        {
            tracing::warn!(%error, layer = third.name(), key, "the third layer did not forget");
        }
        let unit = &self.shards[self.shard_of(key)];
        match unit.redis.drop_entry(key).await {
            Ok(_) => Ok(()),
            Err(error) => Err(Error::redis(error)),
        }
    }

    /// What `cachetag_get` is asked for these terms.
    pub fn get_options(&self, terms: &Terms) -> l2::GetOptions {
        l2::GetOptions {
            max_lag: Some(terms.max_lag),
            at_least: terms.at_least,
            beta: Some(self.config.beta),
            no_lease: false,
            seen: true,
        }
    }

    /// A version of a shard as a position for all of them. Each has its own epochs; what they share is the log, which the timeline names.
    pub fn position(&self, shard: usize, version: Version) -> AtLeast {
        if self.shards.len() == 1 {
            return version.into();
        }
        let view = self.shards[shard].feed.view();
        match view.timeline.filter(|_| view.epoch == version.epoch) {
            Some(timeline) => AtLeast::on(timeline, version.lsn),
            None => version.lsn.into(),
        }
    }

    /// Does a version cover what is asked for, in a shard that follows this timeline?
    pub fn covers(terms: &Terms, version: Version, timeline: Option<u32>) -> bool {
        terms.at_least.is_none_or(|at_least: AtLeast| at_least.is_covered_by(version, timeline))
    }
}

/// How long memory keeps what has expired: for whom an old value is better than an error, and because how often it was asked for is known of it alone.
fn grace(config: &Config) -> Duration {
    let pace = if config.popularity.is_some() || config.refresh.is_some() { 2 * l1::HALF_LIFE } else { Duration::ZERO };
    config.stale_if_error.unwrap_or_default().max(pace)
}

pub(crate) fn check_key(key: &str) -> Result<(), Error> {
    let problem = match key.len() {
        0 => "it is empty".to_owned(),
        length if length > KEY_BYTES => format!("{length} bytes, at most {KEY_BYTES}: hash what is long"),
        _ => return Ok(()),
    };
    Err(Error::new(Kind::Key { problem: problem.into() }))
}

fn reason_of(why: Miss) -> MissReason {
    match why {
        Miss::None => MissReason::None,
        Miss::Expired => MissReason::Expired,
        Miss::NotLive | Miss::Revalidate => MissReason::Feed,
        Miss::Lag => MissReason::Lag,
        Miss::Floor => MissReason::Floor,
        Miss::AtLeast => MissReason::Behind,
        Miss::Bumped => MissReason::Bumped,
    }
}

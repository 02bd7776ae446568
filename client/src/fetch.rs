//! Asking the layers behind memory: Redis, and the third one.

use std::sync::Arc;
use std::time::{Duration, Instant};

use cachetag_core::{Tag, Version};

use crate::cached::{AnyValue, Found, Metadata, Source, Tags};
use crate::codec::Typed;
use crate::engine::Engine;
use crate::fill::{Item, Luggage, Quest};
use crate::flight::Terms;
use crate::l2::{self, BypassCause, Got, Kind, MissCause, RawEntry, Reading, State, Verdict};
use crate::observe::{Access, Event, Layer, MissReason};
use crate::shard::{Unit, decode};

/// First wait for another process's load; doubles up to the longest.
const FIRST_WAIT: Duration = Duration::from_millis(2);
const LONGEST_WAIT: Duration = Duration::from_millis(50);

/// What is to be said of a key after Redis was read.
pub(crate) struct Judgement {
    pub entry: Result<Judged, MissReason>,
    /// What a load may be stored under.
    pub token: Option<Version>,
}

/// A valid entry of Redis, with everything that its validity rests on.
pub(crate) struct Judged {
    pub entry: RawEntry,
    /// It is true up to here.
    valid_to: Version,
    /// Up to where Redis has vouched for it, where the feed could not.
    verified: Option<Version>,
    age: Duration,
    left: Duration,
    fresh_for: Option<Duration>,
    /// How long it was good for when it was put: until it expires or becomes stale.
    pub whole: Duration,
}

impl Judged {
    fn new(
        entry: RawEntry,
        vouched: Option<Version>,
        verified: Option<Version>,
        now_ms: u64,
    ) -> Result<Judged, MissReason> {
        if !entry.tags().all(Tag::is_tag) {
            return Err(MissReason::Damaged);
        }
        Ok(Judged {
            valid_to: vouched.or(verified).map_or(entry.as_of, |version| version.max(entry.as_of)),
            verified,
            age: entry.age(now_ms),
            left: Duration::from_millis(entry.expires_at.saturating_sub(now_ms)),
            fresh_for: entry.fresh_until.map(|until| Duration::from_millis(until.saturating_sub(now_ms))),
            whole: Duration::from_millis(
                entry.expires_at.min(entry.fresh_until.unwrap_or(u64::MAX)).saturating_sub(entry.put_at),
            ),
            entry,
        })
    }

    /// How long it is good for from now on: until it expires or becomes stale.
    pub fn left_fresh(&self) -> Duration {
        self.fresh_for.map_or(self.left, |fresh| fresh.min(self.left))
    }
}

impl Engine {
    /// What the layers have, and whether it should be made anew behind the caller's back. Token, lease and spare are left in the luggage.
    pub async fn ask_layers(
        &self,
        quest: &Quest,
        luggage: &mut Luggage,
        access: &mut Access<'_>,
    ) -> Option<(Found, bool)> {
        let Quest { key, shard: number, typed, terms, within } = quest;
        let (number, typed, nested) = (*number, *typed, !within.is_empty());
        let unit = &self.shards[number];
        if self.switches.bypasses(Layer::L2) {
            access.miss(Layer::L2, MissReason::Switch);
            luggage.token = unit.token(terms.max_lag);
        } else {
            // With a live feed an entry is judged here, in one round trip, and its tags become known. So they must in a nested read.
            if unit.is_trusted(terms.max_lag) || nested {
                let asked = Instant::now();
                match self.read_entry(unit, key, terms).await {
                    Ok(judged) => match self.value_of(&judged.entry, typed) {
                        Ok(value) => {
                            access.hit(Layer::L2, judged.entry.cost);
                            return Some((self.backfill(key, number, value, judged, asked), false));
                        }
                        Err(reason) => access.miss(Layer::L2, reason),
                    },
                    // `cachetag_get` says it again, with a token and a lease.
                    Err(reason) => tracing::trace!(key, %reason, "not a hit by plain commands"),
                }
            }
            if let Some((found, refresh)) = self.get(quest, luggage, access).await {
                // In between Redis has got to what is asked for. Once more by plain commands, or what contains this could not be stored.
                if nested
                    && !refresh
                    && !found.metadata.stale
                    && let asked = Instant::now()
                    && let Ok(judged) = self.read_entry(unit, key, terms).await
                    && let Ok(value) = self.value_of(&judged.entry, typed)
                {
                    return Some((self.backfill(key, number, value, judged, asked), false));
                }
                return Some((found, refresh));
            }
        }
        let found = self.ask_third(key, number, terms, typed, access).await?;
        Some((found, false))
    }

    /// Reads an entry by plain commands and judges it.
    pub async fn read_entry(&self, unit: &Unit, key: &str, terms: &Terms) -> Result<Judged, MissReason> {
        let reading = unit.ask(unit.redis.reading(&[key])).await?;
        let judgement = self.judge_many(unit, reading, terms).await.into_iter().next();
        judgement.map_or(Err(MissReason::None), |judgement| judgement.entry)
    }

    /// Judges entries by the feed, and those that it does not reach back to by their tags in Redis, in one more round trip for all of them.
    pub async fn judge_many(&self, unit: &Unit, reading: Reading, terms: &Terms) -> Vec<Judgement> {
        let Reading { state, now_ms, entries } = reading;
        let conditions = l2::Terms { max_lag: Some(terms.max_lag), at_least: terms.at_least };
        let timeline = state.timeline();
        // Where the feed does not reach the commit that is asked for, and Redis does, the tags in Redis are asked.
        let is_ahead = state.watermark.is_some_and(|watermark| Engine::covers(terms, watermark, timeline));
        let now = Instant::now();
        let vouch = |entry: &RawEntry| match unit.vouch(entry, terms.max_lag, now) {
            Ok(valid_to) if is_ahead && !Engine::covers(terms, valid_to, timeline) => Err(MissReason::Lag),
            vouched => vouched,
        };
        let vouched: Vec<Option<Result<Version, MissReason>>> =
            entries.iter().map(|entry| entry.as_ref().map(vouch)).collect();
        let is_open = |vouched: &Option<Result<Version, MissReason>>| {
            matches!(vouched, Some(Err(MissReason::Feed | MissReason::Lag)))
        };
        let mut names: Vec<&str> = Vec::new();
        for entry in
            entries.iter().zip(&vouched).filter(|(_, vouched)| is_open(vouched)).filter_map(|(entry, _)| entry.as_ref())
        {
            names.extend(entry.keys());
        }
        names.sort_unstable();
        names.dedup();
        let tags = if names.is_empty() { None } else { Some(unit.ask(unit.redis.tags(names.iter().copied())).await) };
        // A token only where Redis vouches for something at all.
        let token = match l2::judge(None, &state, &[], now_ms, &l2::Terms { at_least: None, ..conditions }) {
            Verdict::Bypass(_) => None,
            _ => state.watermark,
        };
        let mut judged = Vec::with_capacity(entries.len());
        for (entry, vouched) in entries.iter().zip(&vouched) {
            let verdict = match (entry, vouched) {
                // The feed knows of no bump since: as good as tags that have not moved.
                (Some(entry), Some(Ok(valid_to))) if Engine::covers(terms, *valid_to, timeline) => {
                    l2::judge_unmoved(entry, &state, now_ms, &l2::Terms { at_least: None, ..conditions })
                }
                // Neither is there yet.
                (Some(_), Some(Ok(_))) => Verdict::Miss(MissCause::AtLeast),
                (Some(entry), Some(Err(MissReason::Feed | MissReason::Lag))) => match &tags {
                    Some(Ok(tags)) => {
                        l2::judge(Some(entry), &tags.state, &tags.of(&names, entry), tags.now_ms, &conditions)
                    }
                    Some(Err(reason)) => {
                        judged.push(Err(*reason));
                        continue;
                    }
                    None => l2::judge(Some(entry), &state, &[], now_ms, &conditions),
                },
                _ => Verdict::Miss(MissCause::None),
            };
            judged.push(match (verdict, vouched) {
                (_, Some(Err(reason))) if !is_open(vouched) => Err(*reason),
                (Verdict::Hit, _) => Ok(()),
                (Verdict::Stale(_), _) => Err(MissReason::Expired),
                (Verdict::Miss(cause), _) => Err(reason_of_miss(cause)),
                (Verdict::Bypass(cause), _) => Err(reason_of_bypass(cause)),
            });
        }
        let watermark = tags.and_then(Result::ok).map_or(state.watermark, |tags| tags.state.watermark);
        let all = entries.into_iter().zip(vouched).zip(judged);
        all.map(|((entry, vouched), judged)| {
            let entry = judged.and_then(|()| {
                let entry = entry.ok_or(MissReason::None)?;
                if entry.is_early(now_ms, self.config.beta, 1.0 - fastrand::f64()) {
                    return Err(MissReason::Early);
                }
                let vouched = vouched.and_then(Result::ok);
                // Up to the watermark of the moment at which they were read, the tags have vouched for the entry.
                Judged::new(entry, vouched, watermark.filter(|_| vouched.is_none()), now_ms)
            });
            Judgement { entry, token }
        })
        .collect()
    }

    /// The value of an entry; `None` for an absence.
    pub fn value_of(&self, entry: &RawEntry, typed: Typed) -> Result<AnyValue, MissReason> {
        match entry.kind {
            Kind::Absent => Ok(None),
            Kind::Value => decode(&typed, &self.config.envelope, &entry.payload).map(Some),
        }
    }

    /// Keeps a hit of Redis in memory, too.
    pub fn backfill(&self, key: &str, number: usize, value: AnyValue, judged: Judged, asked: Instant) -> Found {
        let Judged { entry, valid_to, verified, age, left, fresh_for, whole } = judged;
        let born = Instant::now().checked_sub(age).unwrap_or_else(Instant::now);
        let (as_of, cost, seen, is_absent) = (entry.as_of, entry.cost, entry.seen, value.is_none());
        let (payload, keys) = entry.into_payload_and_keys();
        let item = Item { value, payload, as_of, tags: Tags::named_by(keys), ttl: left, fresh_for, whole, cost, seen };
        self.keep(key, number, &item, verified, born);
        self.observer.event(Event::Backfilled);
        if is_absent {
            self.observer.event(Event::NegativeHit);
        }
        item.found(Source::Redis, valid_to, born, number, asked)
    }

    /// `cachetag_get`, again and again while another process loads.
    async fn get(&self, quest: &Quest, luggage: &mut Luggage, access: &mut Access<'_>) -> Option<(Found, bool)> {
        let Quest { key, shard: number, typed, terms, .. } = quest;
        let (number, typed) = (*number, *typed);
        let unit = &self.shards[number];
        let options = self.get_options(terms);
        let (began, mut pause) = (Instant::now(), FIRST_WAIT);
        loop {
            let asked = Instant::now();
            let got = match unit.get(key, &options).await {
                Ok(got) => got,
                Err(reason) => {
                    access.miss(Layer::L2, reason);
                    luggage.token = unit.token(terms.max_lag);
                    return None;
                }
            };
            luggage.token = got.token;
            luggage.lease = got.lease.clone().map(|lease| unit.redis.guard(&**key, lease));
            match got.state {
                State::Hit | State::Early | State::Stale => {
                    let (stale, refresh) = (got.state == State::Stale, luggage.lease.is_some());
                    match self.of_get(number, &got, typed, stale, asked) {
                        // Nothing could tell the caller that an absence is stale: it is asked for anew.
                        Ok(found) if stale && found.value.is_none() => {
                            access.miss(Layer::L2, MissReason::Expired);
                            return None;
                        }
                        Ok(found) => {
                            if stale {
                                access.stale(Layer::L2, Duration::ZERO)
                            } else {
                                access.hit(Layer::L2, Duration::ZERO)
                            }
                            if got.state == State::Early {
                                self.observer.event(Event::EarlyRefresh);
                            }
                            // With the loader switched off a stale value is all there is.
                            let anew = self.switches.refreshes_in_background() || self.switches.bypasses(Layer::Loader);
                            if stale && refresh && !anew {
                                luggage.spare = Some(found);
                                return None;
                            }
                            return Some((found, refresh));
                        }
                        Err(reason) => {
                            access.miss(Layer::L2, reason);
                            return None;
                        }
                    }
                }
                State::Wait if began.elapsed() < self.config.lease_wait => {
                    if pause == FIRST_WAIT {
                        self.observer.event(Event::LeaseWait);
                    }
                    // Not in step with all the others who wait.
                    tokio::time::sleep(pause.mul_f64(0.5 + fastrand::f64())).await;
                    pause = (pause * 2).min(LONGEST_WAIT);
                }
                State::Wait => {
                    access.miss(Layer::L2, MissReason::Wait);
                    return None;
                }
                State::Miss => {
                    access.miss(Layer::L2, MissReason::None);
                    return None;
                }
                State::Bypass => {
                    access.miss(Layer::L2, MissReason::Bypass);
                    return None;
                }
            }
        }
    }

    /// What `cachetag_get` served.
    fn of_get(&self, number: usize, got: &Got, typed: Typed, stale: bool, asked: Instant) -> Result<Found, MissReason> {
        let (value, size): (AnyValue, usize) = match &got.payload {
            Some(payload) => (Some(decode(&typed, &self.config.envelope, payload)?), payload.len()),
            None => (None, 0),
        };
        if value.is_none() {
            self.observer.event(Event::NegativeHit);
        }
        let born = got.age.and_then(|age| Instant::now().checked_sub(age)).unwrap_or_else(Instant::now);
        let metadata = Metadata {
            valid_to: got.token.filter(|_| !stale),
            size,
            stale,
            tags_known: false,
            seen: got.seen,
            ..Metadata::new(Source::Redis, number, born)
        };
        Ok(Found { value, metadata: Arc::new(metadata), asked: Some(asked), stored: true })
    }
}

fn reason_of_miss(cause: MissCause) -> MissReason {
    match cause {
        MissCause::None => MissReason::None,
        MissCause::Expired => MissReason::Expired,
        MissCause::Epoch => MissReason::Epoch,
        MissCause::Floor => MissReason::Floor,
        MissCause::AtLeast => MissReason::Behind,
        MissCause::Unregistered(_) => MissReason::Unregistered,
        MissCause::Bumped(_) => MissReason::Bumped,
    }
}

fn reason_of_bypass(cause: BypassCause) -> MissReason {
    match cause {
        BypassCause::Lag => MissReason::Lag,
        BypassCause::NoWatermark | BypassCause::State | BypassCause::Clock => MissReason::Bypass,
    }
}

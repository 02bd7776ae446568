//! Many readers who miss the same key wait for one load.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::cached::Found;
use crate::error::Error;
use crate::options::AtLeast;

/// Locks that keys are spread over.
const STRIPES: usize = 64;

/// What a flight brings.
pub(crate) type Outcome = Result<Found, Error>;

type Arrival = watch::Receiver<Option<Outcome>>;

/// The loads that are running, by key.
#[derive(Debug)]
pub(crate) struct Flights {
    hasher: RandomState,
    stripes: Box<[Stripe]>,
}

type Stripe = Mutex<HashMap<Box<str>, Running>>;

struct Running {
    /// What is loaded was true at some moment after this.
    began: Instant,
    /// What the answer of a layer has to satisfy.
    terms: Terms,
    arrival: Arrival,
}

impl std::fmt::Debug for Running {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Running").field("began", &self.began).finish_non_exhaustive()
    }
}

/// What a reader asks of the layers on the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Terms {
    pub max_lag: Duration,
    pub at_least: Option<AtLeast>,
    /// The layers are not asked at all.
    pub fresh: bool,
}

impl Terms {
    /// The stricter of two in everything: those of a part of what is asked for by `outer`.
    pub fn within(self, outer: Terms) -> Terms {
        let at_least = match (self.at_least, outer.at_least) {
            (Some(own), Some(outer)) => Some(own.and(outer)),
            (own, outer) => own.or(outer),
        };
        Terms { max_lag: self.max_lag.min(outer.max_lag), at_least, fresh: self.fresh || outer.fresh }
    }

    /// Is what satisfies these good enough for those?
    fn satisfy(&self, other: &Terms) -> bool {
        self.max_lag <= other.max_lag
            && (self.fresh || !other.fresh)
            && (self.fresh || other.at_least.is_none() || self.at_least == other.at_least)
    }
}

/// Somebody's place in a flight.
pub(crate) enum Seat {
    /// Nobody loads this key: the caller does, and lands.
    Pilot(Pilot),
    /// Somebody does.
    Passenger(Passenger),
}

/// Who loads. Dropped without landing (a panic), the passengers learn that nothing comes.
pub(crate) struct Pilot {
    flights: Arc<Flights>,
    key: Box<str>,
    began: Instant,
    result: watch::Sender<Option<Outcome>>,
}

/// Who waits.
pub(crate) struct Passenger(Arrival);

impl Flights {
    pub fn new() -> Arc<Flights> {
        let stripes = (0..STRIPES).map(|_| Mutex::default()).collect();
        Arc::new(Flights { hasher: RandomState::new(), stripes })
    }

    fn stripe(&self, key: &str) -> &Stripe {
        &self.stripes[self.hasher.hash_one(key) as usize % STRIPES]
    }

    /// Joins the flight of a key that is good enough: what it brings must satisfy the terms, and where it is loaded, have been true at some
    /// moment after `since`. Otherwise begins one.
    pub fn board(self: &Arc<Flights>, key: &str, since: Option<Instant>, terms: Terms) -> Seat {
        let mut running = self.stripe(key).lock();
        if let Some(flight) = running.get(key)
            && since.is_none_or(|since| flight.began >= since)
            && flight.terms.satisfy(&terms)
        {
            return Seat::Passenger(Passenger(flight.arrival.clone()));
        }
        let began = Instant::now();
        let (result, arrival) = watch::channel(None);
        running.insert(key.into(), Running { began, terms, arrival });
        Seat::Pilot(Pilot { flights: self.clone(), key: key.into(), began, result })
    }

    /// Loads that are running.
    pub fn len(&self) -> usize {
        self.stripes.iter().map(|stripe| stripe.lock().len()).sum()
    }
}

impl Pilot {
    /// A place for whoever began the flight.
    pub fn passenger(&self) -> Passenger {
        Passenger(self.result.subscribe())
    }

    /// Hands the outcome to everybody.
    pub fn land(self, outcome: Outcome) {
        self.leave();
        self.result.send_replace(Some(outcome));
    }

    fn leave(&self) {
        let mut running = self.flights.stripe(&self.key).lock();
        // A later flight of the key, for a reader who wanted it fresh, may have taken the place.
        if running.get(&*self.key).is_some_and(|flight| flight.began == self.began) {
            running.remove(&*self.key);
        }
    }
}

impl Drop for Pilot {
    fn drop(&mut self) {
        self.leave();
    }
}

impl Passenger {
    /// Waits for the outcome; `None` if there will be none. Cancel safe.
    pub async fn arrive(mut self) -> Option<Outcome> {
        self.0.wait_for(Option::is_some).await.ok()?.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cached::{Metadata, Source};
    const TERMS: Terms = Terms { max_lag: Duration::from_secs(1), at_least: None, fresh: false };

    fn found(number: i32) -> Found {
        let metadata = Metadata::new(Source::Loader, 0, Instant::now());
        Found { value: Some(Arc::new(number)), metadata: Arc::new(metadata), asked: None, stored: true }
    }

    fn number(outcome: Option<Outcome>) -> Option<i32> {
        outcome?.ok()?.typed::<i32>()?.map(|cached| *cached)
    }

    #[tokio::test]
    async fn all_who_board_arrive_with_one_value() {
        let flights = Flights::new();
        let Seat::Pilot(pilot) = flights.board("k", None, TERMS) else { panic!("nobody flies") };
        let mut waiting = vec![tokio::spawn(pilot.passenger().arrive())];
        for _ in 0..100 {
            let Seat::Passenger(passenger) = flights.board("k", None, TERMS) else { panic!("two pilots") };
            waiting.push(tokio::spawn(passenger.arrive()));
        }
        assert!(matches!(flights.board("other", None, TERMS), Seat::Pilot(_)));
        pilot.land(Ok(found(7)));
        for passenger in waiting {
            assert_eq!(number(passenger.await.unwrap()), Some(7));
        }
        assert_eq!(flights.len(), 0);
    }

    #[tokio::test]
    async fn a_pilot_that_is_gone_leaves_nobody_waiting() {
        let flights = Flights::new();
        let Seat::Pilot(pilot) = flights.board("k", None, TERMS) else { panic!("nobody flies") };
        let Seat::Passenger(passenger) = flights.board("k", None, TERMS) else { panic!("two pilots") };
        drop(pilot);
        assert!(passenger.arrive().await.is_none());
        assert!(matches!(flights.board("k", None, TERMS), Seat::Pilot(_)));
    }

    #[tokio::test]
    async fn who_wants_it_fresh_does_not_board_what_left_before() {
        let flights = Flights::new();
        let Seat::Pilot(old) = flights.board("k", None, TERMS) else { panic!("nobody flies") };
        tokio::time::sleep(Duration::from_millis(2)).await;
        let Seat::Pilot(new) = flights.board("k", Some(Instant::now()), TERMS) else { panic!("boarded an old flight") };
        old.land(Ok(found(1)));
        let Seat::Passenger(passenger) = flights.board("k", None, TERMS) else { panic!("the new flight is gone") };
        new.land(Ok(found(2)));
        assert_eq!(number(passenger.arrive().await), Some(2));
        assert_eq!(flights.len(), 0);
    }

    #[test]
    fn a_part_is_asked_for_the_stricter_of_both() {
        let second = Duration::from_secs(1);
        let at_least = |lsn| Some(AtLeast::from(cachetag_core::Lsn(lsn)));
        let outer = Terms { max_lag: 2 * second, at_least: at_least(7), fresh: true };
        assert_eq!(TERMS.within(outer), Terms { max_lag: second, ..outer });
        let own = Terms { max_lag: 3 * second, at_least: at_least(9), fresh: false };
        assert_eq!(own.within(outer), Terms { at_least: at_least(9), ..outer });
        assert_eq!(own.within(TERMS), Terms { max_lag: second, ..own });
    }

    #[tokio::test]
    async fn who_asks_for_more_flies_alone() {
        let flights = Flights::new();
        let Seat::Pilot(_pilot) = flights.board("k", None, TERMS) else { panic!("nobody flies") };
        let stricter = Terms { max_lag: Duration::from_millis(5), ..TERMS };
        assert!(matches!(flights.board("k", None, stricter), Seat::Pilot(_)));
        let Seat::Pilot(_pilot) = flights.board("fresh", None, Terms { fresh: true, ..TERMS }) else {
            panic!("nobody flies")
        };
        assert!(matches!(flights.board("fresh", None, TERMS), Seat::Passenger(_)));
    }
}

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use cachetag_tests::eventually;
use tokio::sync::watch;

use crate::trial::PATIENCE;

/// Where loaders wait until the test lets them go on.
#[derive(Clone)]
pub struct Gate {
    arrived: Arc<AtomicUsize>,
    open: Arc<watch::Sender<bool>>,
}

impl Gate {
    pub fn closed() -> Gate {
        Gate { arrived: Arc::default(), open: Arc::new(watch::Sender::new(false)) }
    }

    /// How many have come, those who went on included.
    pub fn arrived(&self) -> usize {
        self.arrived.load(Ordering::SeqCst)
    }

    pub async fn pass(&self) {
        self.arrived.fetch_add(1, Ordering::SeqCst);
        let mut open = self.open.subscribe();
        open.wait_for(|open| *open).await.expect("the gate is there");
    }

    /// Waits until so many have come.
    pub async fn wait_for(&self, count: usize) {
        eventually("all at the gate", PATIENCE, async || (self.arrived() >= count).then_some(())).await;
    }

    pub fn open(&self) {
        self.open.send_replace(true);
    }
}

/// A count that can be waited for.
#[derive(Default)]
pub struct Tally(AtomicU64);

impl Tally {
    pub fn add(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }

    pub async fn wait_for(&self, count: u64) -> u64 {
        eventually("more of them", PATIENCE, async || Some(self.get()).filter(|now| *now >= count)).await
    }
}

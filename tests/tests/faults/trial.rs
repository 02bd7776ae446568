use std::time::Duration;

use cachetag_tests::fault::{Fault, recovery};
use cachetag_tests::{DaemonOptions, Load, Random, Stack, StackOptions, eventually};

pub const MAX_LAG: Duration = Duration::from_secs(1);
/// How long a fault lasts: beyond `MAX_LAG`, so that the cache is bypassed.
pub const WHILE: Duration = Duration::from_millis(1500);
/// Far above what a loaded machine needs; how long it really took is printed.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A table that the load leaves alone.
pub const ITEMS: &str = "CREATE TABLE items (id int PRIMARY KEY, price int NOT NULL); INSERT INTO items SELECT i, 10 FROM generate_series(1, 9) i;
    SELECT cachetag.track('items', 'item:{id}')";

/// Servers, daemon and proxies, with writers, readers and fillers at work.
pub struct Trial {
    pub stack: Stack,
    pub load: Load,
    random: Random,
}

impl Trial {
    pub async fn start() -> Trial {
        Trial::with(StackOptions::new()).await
    }

    pub async fn with(options: StackOptions) -> Trial {
        let options = options.proxied().schema(Load::SCHEMA).schema(ITEMS);
        let stack = Stack::start(options.daemon(DaemonOptions::new().max_lag(MAX_LAG))).await;
        let load = Load::start(&stack, MAX_LAG);
        load.progress(20, 20).await;
        Trial { stack, load, random: Random::new(1) }
    }

    /// Suffers a fault for so long and waits for the recovery.
    pub async fn suffers(&mut self, fault: Fault, during: Duration) {
        let injected = fault.inject(&mut self.stack, &mut self.random).await;
        tokio::time::sleep(during).await;
        self.load.check();
        injected.end(&mut self.stack).await;
        self.recovers(&fault.to_string()).await;
    }

    /// Waits for the recovery, and until the load goes on.
    pub async fn recovers(&self, from: &str) {
        let took = recovery(&self.stack, PATIENCE).await;
        println!("{from}: back after {} ms", took.as_millis());
        self.load.progress(20, 20).await;
    }

    pub async fn finish(self) {
        self.load.finish(&self.stack).await;
    }

    pub async fn epoch(&self) -> String {
        let state = async || self.stack.cache().await.state().await.ok()?.remove("epoch");
        eventually("an epoch", PATIENCE, state).await
    }
}

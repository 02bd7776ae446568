//! The Rust client: what a hit costs beside what it is made of, and what does not grow with the load.

mod hits;
mod tags;
mod trips;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use cachetag_client::l2::Timeouts;
use cachetag_client::{Builder, Cache, Load};

use super::{Plan, Table, quantile, shop};
use crate::stampede::Stampede;
use crate::{DaemonOptions, Stack};

/// Bytes of a cached value.
const PAYLOAD: usize = 500;
/// On a busy machine a late watermark is not what is measured.
const MAX_LAG: Duration = Duration::from_secs(10);
const PATIENCE: Duration = Duration::from_secs(60);
/// Values that are read from memory in turn: those that a processor keeps at hand, and more.
const PAGES: [u32; 2] = [100, 10_000];
/// Readers who miss one key at the same moment.
const READERS: u32 = 5_000;
/// Processes that do.
const PROCESSES: u32 = 4;

/// Everything that the client is measured by, on servers of its own.
pub(super) async fn measure(plan: &Plan, table: &mut Table) {
    let stack = Stack::start(shop::stack().daemon(DaemonOptions::new().max_lag(MAX_LAG))).await;
    for pages in PAGES {
        hits::in_memory(plan, table, &stack, pages).await;
    }
    hits::after_bumps(table, &stack, PAGES[1]).await;
    hits::from_redis(plan, table, &stack).await;
    trips::measure(table, &stack).await;
    stampedes(table, &stack).await;
    tags::measure(plan, table, &stack).await;
    table.note(format!("client: values of {PAYLOAD} bytes with four tags; medians of turns in one process"));
}

/// A cache whose feed is live.
async fn cache(builder: Builder) -> Cache {
    let timeouts = Timeouts { connect: PATIENCE, response: PATIENCE };
    let cache = builder.max_lag(MAX_LAG).beta(0.0).timeouts(timeouts).build().expect("a cache");
    assert!(cache.ready(PATIENCE).await, "the feed is not live");
    cache
}

/// Reads a page; counts its loads.
async fn page(cache: &Cache, key: &str, loads: &Arc<AtomicU32>) -> cachetag_client::Cached<String> {
    let count = loads.clone();
    let page = cache.get_or_load(key, move |load: Load| async move {
        count.fetch_add(1, Ordering::Relaxed);
        load.tags([load.key().replace("page", "product"), "category:1".into(), "brand:1".into(), "homepage".into()]);
        Ok::<_, std::io::Error>("x".repeat(PAYLOAD))
    });
    page.await.expect("a page")
}

async fn stampedes(table: &mut Table, stack: &Stack) {
    let redis = stack.redis_url();
    let one = Stampede::of_this_process(READERS, &redis).await;
    let program = std::env::current_exe().expect("the path of this program");
    let crowd = Stampede { processes: PROCESSES, readers: READERS };
    let several = crowd.of_processes(&program, &["--stampede"], &redis).await;
    let row = |table: &mut Table, what: String, loads: u32| {
        table.row(&what, format!("{loads} load{}", if loads == 1 { "" } else { "s" }), String::new(), "(1)".into());
    };
    row(table, format!("client: {READERS} tasks miss one key"), one);
    row(table, format!("client: the same in each of {PROCESSES} processes"), several);
}

fn median(mut values: Vec<f64>) -> f64 {
    quantile(&mut values, 0.5)
}

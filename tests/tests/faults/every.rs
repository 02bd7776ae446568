use std::time::Duration;

use cachetag_tests::fault::{Fault, recovery};
use cachetag_tests::{DaemonOptions, Load, Random, Stack, StackOptions};

const MAX_LAG: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(30);

#[tokio::test]
async fn smoke() {
    let only = std::env::var("FAULT").unwrap_or_default();
    let mut random = Random::new(1);
    for fault in Fault::all().into_iter().filter(|f| f.to_string().starts_with(&only) && !f.loses_commits()) {
        let options = StackOptions::new().proxied().schema(Load::SCHEMA);
        let mut stack = Stack::start(options.daemon(DaemonOptions::new().max_lag(MAX_LAG))).await;
        let load = Load::start(&stack, MAX_LAG);
        load.progress(50, 50).await;
        let injected = fault.inject(&mut stack, &mut random).await;
        tokio::time::sleep(MAX_LAG * 2).await;
        injected.end(&mut stack).await;
        let took = recovery(&stack, PATIENCE).await;
        println!("{fault}: back after {} ms", took.as_millis());
        load.finish(&stack).await;
    }
}

//! Everybody misses one key at once.

use cachetag_tests::{DaemonOptions, StackOptions, eventually};

use super::process::Process;
use crate::trial::{PATIENCE, Trial};

const PROCESSES: usize = 4;
const READERS: usize = 750;

/// The load is held until every one of the 3,000 readers is known to wait for it: what happens then is no matter of who was quicker.
#[tokio::test]
async fn three_thousand_misses_in_four_processes_are_one_query() {
    let daemon = DaemonOptions::new().args(["--lease", "60s"]);
    let trial = Trial::with(StackOptions::new().daemon(daemon)).await;
    let mut processes = Vec::new();
    for _ in 0..PROCESSES {
        processes.push(Process::start(&trial.stack).await);
    }
    for process in &mut processes {
        process.tell(format!("crowd {READERS}")).await;
    }
    let mut loading = Vec::new();
    for process in &mut processes {
        assert_eq!(process.answer().await, READERS.to_string());
        let role = eventually("a whole crowd that waits", PATIENCE, async || {
            let stand = process.ask("stand").await;
            let (coalesced, role) = stand.split_once(' ').expect("two words");
            (coalesced == (READERS - 1).to_string() && role != "none").then(|| role.to_owned())
        });
        loading.push(role.await == "loads");
    }
    assert_eq!(loading.iter().filter(|loads| **loads).count(), 1, "one of all processes has the lease");
    let mut queries = Vec::new();
    for process in &mut processes {
        assert_eq!(process.ask("open").await, "open");
    }
    for process in &mut processes {
        let values = process.ask("values").await;
        let (values, count) = values.rsplit_once(' ').expect("values and a count");
        assert_eq!(values, "[Some(10)]", "all 750 read the price");
        queries.push(count.parse::<usize>().expect("a number"));
    }
    assert_eq!(queries.iter().sum::<usize>(), 1, "{queries:?}");
}

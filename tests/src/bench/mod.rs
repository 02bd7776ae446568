//! The benchmarks behind `make bench`. Everything is measured beside what it is compared with, in the same run on the same servers, in turns:
//! the ratios mean something on a busy machine too, the absolute numbers do not.

mod backlog;
mod capture;
mod client;
mod drain;
mod idle;
mod instructions;
mod latency;
mod peers;
mod pgbench;
mod read;
mod shop;
mod table;

use clap::{Parser, ValueEnum};
use tokio::runtime::{Builder, Runtime};

pub use table::Table;

use crate::stampede::Stampede;

/// What is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Part {
    /// Draining a backlog beside pg_recvlogical; resident memory while doing so.
    Throughput,
    /// From the acknowledged commit to the bump, beside a bare replication client.
    Latency,
    /// `cachetag_get` beside GET.
    Read,
    /// Other caches with tags, where they can be installed.
    Peers,
    /// The Rust client beside moka and GET.
    Client,
    /// What capture costs a query.
    Capture,
    /// What the library costs a server that has it preloaded and captures nothing.
    Idle,
}

/// What to run and how large. The defaults are the sizes that the targets are meant for.
#[derive(Debug, Clone, Parser)]
#[command(name = "bench", about = "Benchmarks on private servers; prints ratios of one run")]
pub struct Plan {
    /// What to measure
    #[arg(long, value_enum, value_delimiter = ',', default_values_t = [Part::Throughput, Part::Latency, Part::Read, Part::Peers, Part::Client, Part::Capture, Part::Idle])]
    pub parts: Vec<Part>,
    /// Single-row transactions in the backlog
    #[arg(long, default_value_t = 300_000)]
    pub transactions: u32,
    /// Row updates in the one large transaction
    #[arg(long, default_value_t = 1_000_000)]
    pub rows: u32,
    /// How often each backlog is drained by either side
    #[arg(long, default_value_t = 5)]
    pub repetitions: u32,
    /// Tags of products that somebody has cached while the backlog is drained
    #[arg(long, default_value_t = 10_000)]
    pub cached: u32,
    /// Transactions a second
    #[arg(long, default_value_t = 2_000)]
    pub rate: u32,
    /// Seconds of load, after two of warming up
    #[arg(long, default_value_t = 10)]
    pub seconds: u32,
    /// Reads of each kind
    #[arg(long, default_value_t = 50_000)]
    pub reads: u32,
    /// Reads of each kind by and beside each peer
    #[arg(long, default_value_t = 20_000)]
    pub peer_reads: u32,
    /// Turns that cachetag and its peers take
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..))]
    pub turns: u32,
    /// Rounds in which a fill races a commit, for each peer
    #[arg(long, default_value_t = 1_000)]
    pub rounds: u32,
    /// Entries of the tag that is invalidated beside one of a single entry
    #[arg(long, default_value_t = 100_000)]
    pub tagged: u32,
    /// Hits in memory by the client, and by moka
    #[arg(long, default_value_t = 1_500_000)]
    pub hits: u32,
    /// Entries of the tag that the client sees invalidated beside one of a single entry
    #[arg(long, default_value_t = 1_000_000)]
    pub entries: u32,
    /// This is one of several processes that miss a key: the Redis, and how many they are
    #[arg(long, hide = true, num_args = 2)]
    pub stampede: Option<Vec<String>>,
}

/// Runs the plan and prints its table.
pub fn run(plan: &Plan) {
    if let Some([redis, crowd]) = plan.stampede.as_deref() {
        let crowd = Stampede::parse(crowd).expect("processes x readers");
        return runtime().block_on(crowd.process(redis));
    }
    let mut table = Table::default();
    for part in &plan.parts {
        match part {
            Part::Throughput => runtime().block_on(drain::measure(plan, &mut table)),
            Part::Latency => runtime().block_on(latency::measure(plan, &mut table)),
            Part::Read => runtime().block_on(read::measure(plan, &mut table)),
            Part::Peers => runtime().block_on(peers::measure(plan, &mut table)),
            Part::Client => runtime().block_on(client::measure(plan, &mut table)),
            Part::Capture => runtime().block_on(capture::measure(&mut table)),
            Part::Idle => runtime().block_on(async {
                instructions::measure(&mut table).await;
                idle::measure(&mut table).await;
            }),
        }
    }
    print!("{table}");
}

/// One thread: what is measured at the same time has a thread, and so a runtime, of its own.
fn runtime() -> Runtime {
    Builder::new_current_thread().enable_all().build().expect("a runtime")
}

/// The value below which a share of the values lies; the values get sorted.
fn quantile(values: &mut [f64], share: f64) -> f64 {
    values.sort_unstable_by(f64::total_cmp);
    let last = values.len().saturating_sub(1);
    values.get((last as f64 * share).ceil() as usize).copied().unwrap_or(f64::NAN)
}

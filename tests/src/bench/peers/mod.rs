//! Other caches with tags, each in its own language on the same values, tags and servers: hits a second, what it costs to invalidate a tag, and
//! stale hits when a fill races a commit.

mod ours;
mod program;
mod rust;

use std::time::Duration;

use serde_json::Value;

pub(super) use self::ours::{slowest, watch_commands};

use self::ours::{GROUP_ROWS, Ours};
use self::program::Peer;
use self::rust::Rust;
use super::{Plan, Table, quantile};
use crate::{DaemonOptions, Stack, StackOptions};

/// Reads that are under way at the same time, where a peer can.
const AT_ONCE: u32 = 100;
/// How long nothing happens after a race; what cachetag promises holds after it.
const MAX_LAG: Duration = Duration::from_secs(2);
/// The daemon's own bound: on a busy machine a late watermark is not what is measured.
const DAEMON_MAX_LAG: Duration = Duration::from_secs(10);
/// Rounds without a race, in which nothing may be stale.
const CONTROL_ROUNDS: u32 = 20;
/// Commits of ours in a turn: what takes no time varies most.
const SAMPLES: u32 = 5;
/// Commands of Redis that take longer, in microseconds, are looked for.
const STALL: u32 = 1_000;
/// The tags `category:1` and `category:2`: of one entry, and of many.
const GROUPS: [u32; 2] = [1, 2];

/// What came of a race.
struct Race {
    rounds: u32,
    /// Entries that are there after it.
    kept: u32,
    /// Those of them that have the old value.
    stale: u32,
}

/// Asks cachetag and every peer for the same, in turns.
pub(super) async fn measure(plan: &Plan, table: &mut Table) {
    let stack = Stack::start(stack(plan)).await;
    stack.fill("hit", &value(0), &["product:0", "category:0", "brand:0", "homepage"]).await;
    let mut ours = Ours::connect(&stack).await;
    let mut peers = Peer::start_all(&stack).await;
    let rust = Rust::connect(&stack).await;
    for peer in &mut peers {
        hits(plan, table, peer, &rust).await;
    }
    drop(rust);
    races(plan, table, &mut ours, &mut peers).await;
    invalidations(plan, table, &mut ours, &mut peers).await;
    for peer in &peers {
        if let Some(why) = peer.trouble() {
            table.row(&format!("beside: {}", peer.name), String::new(), why.to_owned(), String::new());
        }
    }
    table.note("peers: values of 500 bytes with four tags; cachetag's hits are by FCALL through the same client of the same language as the peer's");
    table.note("peers: what is said to be in Rust is the Rust client in this process, beside a peer in the process of its own language: the ratio is of both, cache and language");
    table.note("peers: from Redis, cashews and cacheops read without looking at tags, since invalidating deletes entries; cacheops has no tags: its queries stand for them");
    table.note(format!(
        "peers: a race is a fill against a commit; an entry that has the old value {} s after everything is over is stale until its TTL (tests/peers/README.md)",
        MAX_LAG.as_secs()
    ));
    table.note("peers: invalidating is from the acknowledged COMMIT: until the call of the peer has returned, until cachetag answers no hit; medians of turns");
}

fn stack(plan: &Plan) -> StackOptions {
    let (rows, [one, many]) = (plan.rounds, GROUPS);
    StackOptions::new().daemon(DaemonOptions::new().max_lag(DAEMON_MAX_LAG)).schema(format!(
        "CREATE TABLE products (id int PRIMARY KEY, category_id int NOT NULL, brand_id int NOT NULL, homepage bool NOT NULL,
             price int NOT NULL);
         INSERT INTO products SELECT i, i + 1000, i + 1000, false, 0 FROM generate_series(1, greatest({rows}, {CONTROL_ROUNDS})) i;
         INSERT INTO products SELECT {GROUP_ROWS} + i, i, i, false, 0 FROM generate_series({one}, {many}) i;
         SELECT cachetag.track('products', ARRAY['product:{{id}}', 'category:{{category_id}}', 'brand:{{brand_id}}'], identity => 'full')"
    ))
}

/// What is cached, of the same size for every price.
fn value(price: i32) -> String {
    format!("{price:0>500}")
}

fn median(mut values: Vec<f64>) -> f64 {
    quantile(&mut values, 0.5)
}

/// The peer's layers, beside GET and cachetag through the same client, and beside the Rust client's.
async fn hits(plan: &Plan, table: &mut Table, peer: &mut Peer, rust: &Rust) {
    let kinds: &[u32] = if peer.hello["at_once"] == true { &[1, AT_ONCE] } else { &[1] };
    for &at_once in kinds {
        // What is in the process is there at once.
        let layers: Vec<String> =
            peer.can("layers").into_iter().filter(|layer| at_once == 1 || layer != "l1").collect();
        let reads = (plan.peer_reads / plan.turns / at_once).max(1) * at_once;
        let whats: Vec<&str> = ["get", "cachetag"].into_iter().chain(layers.iter().map(String::as_str)).collect();
        let mut rates = vec![Vec::new(); whats.len()];
        let (mut in_memory, mut from_redis, mut get_in_rust) = (Vec::new(), Vec::new(), Vec::new());
        for _ in 0..plan.turns {
            for (what, rates) in whats.iter().zip(&mut rates) {
                let Some(answer) = peer.ask(&format!("hits {what} {reads} {at_once}")).await else { return };
                rates.push(f64::from(reads) / answer["seconds"].as_f64().unwrap_or(f64::NAN));
            }
            if at_once == 1 {
                in_memory.push(rust.in_memory(reads).await);
            }
            from_redis.push(rust.in_redis(reads, at_once).await);
            get_in_rust.push(rust.get(reads, at_once).await);
        }
        let (in_memory, from_redis, get_in_rust) = (median(in_memory), median(from_redis), median(get_in_rust));
        let rates: Vec<f64> = rates.into_iter().map(median).collect();
        let (get, ours) = (rates[0], rates[1]);
        for (layer, rate) in layers.iter().zip(&rates[2..]) {
            let language = peer.hello["language"].as_str().unwrap_or_default();
            let way = if at_once == 1 { "one at a time".to_owned() } else { format!("{at_once} at once") };
            let beside = format!("{} {rate:.0}/s", peer.name);
            if layer == "l1" {
                let what = format!("hits: in process, {way}");
                let ratio = format!("{:.2}", in_memory / rate);
                table.row(&what, format!("{in_memory:.0}/s in Rust"), format!("{beside} in {language}"), ratio);
                continue;
            }
            let beside = format!("{beside} in {language} ({:.2} of GET)", rate / get);
            let measured = format!("{ours:.0}/s in {language} ({:.2} of GET)", ours / get);
            table.row(&format!("hits: from Redis, {way}"), measured, beside.clone(), format!("{:.2}", ours / rate));
            let measured = format!("{from_redis:.0}/s in Rust ({:.2} of GET)", from_redis / get_in_rust);
            table.row("  by the Rust client", measured, beside, format!("{:.2}", from_redis / rate));
        }
    }
}

async fn races(plan: &Plan, table: &mut Table, ours: &mut Ours, peers: &mut [Peer]) {
    let our_race = ours.race(plan.rounds, MAX_LAG).await;
    table.note(format!(
        "peers: in cachetag's race {} fills were stored before the commit was seen and {} refused; after it {} of {} entries were filled and hit",
        our_race.stored,
        plan.rounds - our_race.stored,
        our_race.refilled,
        plan.rounds
    ));
    for peer in peers {
        for how in peer.can("races") {
            let control =
                peer.ask(&race_command(&how, CONTROL_ROUNDS, "apart")).await.map(|answer| Race::read(&answer));
            let race = peer.ask(&race_command(&how, plan.rounds, "raced")).await.map(|answer| Race::read(&answer));
            let (Some(control), Some(race)) = (control, race) else { continue };
            let remark = match control.stale {
                0 => String::new(),
                stale => format!("; not comparable: {stale} of {CONTROL_ROUNDS} without a race"),
            };
            table.row(
                &format!("stale hits, fill against commit ({how})"),
                our_race.race.to_string(),
                format!("{} {race}{remark}", peer.name),
                String::new(),
            );
        }
    }
}

fn race_command(how: &str, rounds: u32, kind: &str) -> String {
    format!("race {how} {rounds} {} {kind}", MAX_LAG.as_millis())
}

impl Race {
    fn read(answer: &Value) -> Race {
        let field = |name: &str| answer[name].as_u64().unwrap_or(0) as u32;
        Race { rounds: field("rounds"), kept: field("hits"), stale: field("stale") }
    }
}

impl std::fmt::Display for Race {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} of {} ({} kept)", self.stale, self.rounds, self.kept)
    }
}

async fn invalidations(plan: &Plan, table: &mut Table, ours: &mut Ours, peers: &mut [Peer]) {
    let mut of_one = f64::NAN;
    for (group, entries) in GROUPS.into_iter().zip([1, plan.tagged]) {
        let (mut our_times, mut applies) = (Vec::new(), Vec::new());
        let (mut times, mut stalls) = (vec![Vec::new(); peers.len()], vec![Vec::new(); peers.len()]);
        for _ in 0..plan.turns {
            ours.fill(group, entries).await;
            for _ in 0..SAMPLES {
                let invalidated = ours.invalidate(group).await;
                our_times.push(invalidated.ms);
                applies.push(invalidated.apply);
                // The entry that is looked at; the others are there still.
                ours.fill(group, 1).await;
            }
            for ((peer, times), stalls) in peers.iter_mut().zip(&mut times).zip(&mut stalls) {
                peer.ask(&format!("fill {group} {entries}")).await;
                ours.watch_commands(STALL).await;
                let answer = peer.ask(&format!("invalidate {group}")).await;
                let stall = ours.longest_command().await;
                if let Some(answer) = answer {
                    times.push(answer["ms"].as_f64().unwrap_or(f64::NAN));
                    stalls.push(stall);
                }
            }
        }
        let what = format!("invalidating a tag of {entries}");
        let (our_time, apply) = (median(our_times), median(applies));
        let ratio = if of_one.is_nan() { String::new() } else { format!("{:.2} (this / 1 entry)", our_time / of_one) };
        of_one = our_time;
        table.row(&what, format!("{our_time:.2} ms, in Redis {:.3} ms", apply / 1e3), String::new(), ratio);
        for ((peer, times), stalls) in peers.iter().zip(times).zip(stalls) {
            if times.is_empty() {
                continue;
            }
            let (time, stall) = (median(times), median(stalls) / 1e3);
            let stall = if stall > 0.0 { format!(", Redis stood still for {stall:.1} ms") } else { String::new() };
            table.row(
                "  beside",
                String::new(),
                format!("{} {time:.2} ms{stall}", peer.name),
                format!("{:.2}", time / our_time),
            );
        }
    }
}

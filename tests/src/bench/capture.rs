//! What capturing costs a point query.
//!
//! Both sides take turns and each turn gives a ratio; the median is told, and beside it the median of the same comparison between two sides that do not
//! differ: what is not further from 1 than that is not resolved.

use std::time::Instant;

use tokio_postgres::{Client, Statement};

use super::{Table, quantile, shop};
use crate::Stack;

/// Rows that are queried: a captured result keeps the tags of so many one by one.
const ROWS: i32 = 100;
/// Queries of a turn by SPI.
const BY_SPI: i32 = 20_000;
/// Queries of a turn over the wire.
const OVER_THE_WIRE: i32 = 2_000;
/// Turns of each side, and once more as many of the side that is compared with itself.
const TURNS: usize = 31;
/// A loop of point queries, as a function of the application would have it.
const LOOP: &str = "CREATE FUNCTION point_queries(n int, rows int) RETURNS int8 LANGUAGE plpgsql STABLE AS $$
    DECLARE r text; s int8 := 0;
    BEGIN
        FOR i IN 1..n LOOP
            SELECT name INTO r FROM products WHERE id = 1 + i % rows;
            s := s + length(r);
        END LOOP;
        RETURN s;
    END $$";

/// Measures both ways of sending them.
pub(super) async fn measure(table: &mut Table) {
    let stack = Stack::start(shop::stack().without_daemon().schema(LOOP)).await;
    let client = stack.connect().await;
    let text = "SELECT name FROM products WHERE id = $1";
    let statement = client.prepare(text).await.expect("a statement");

    let mut spi = Vec::new();
    let mut wire = Vec::new();
    for turn in 0..TURNS {
        spi.push(in_turns(turn, async |captures| by_spi(&client, captures).await).await);
        wire.push(in_turns(turn, async |captures| over_the_wire(&client, &statement, captures).await).await);
    }
    let mut row = |what: &str, ratios: Vec<[f64; 2]>, bar: &str| {
        let [measured, null] = [0, 1].map(|side| median(ratios.iter().map(|ratio| ratio[side])));
        table.row(what, format!("{measured:.3}"), format!("the same {null:.3}"), format!("{measured:.3} ({bar})"));
    };
    row("capture: point queries by SPI, with ÷ without", spi, "≤ 1.15");
    row("capture: point queries over the wire, with ÷ without", wire, "≤ 1.05");
    table.note("capture: medians of paired runs; \"the same\" is the same comparison of two sides that do not differ");
}

/// One ratio of with to without, and one of without to itself; whoever is first in one turn is last in the next.
async fn in_turns(turn: usize, mut seconds: impl AsyncFnMut(bool) -> f64) -> [f64; 2] {
    if turn.is_multiple_of(2) {
        let (with, without, again) = (seconds(true).await, seconds(false).await, seconds(false).await);
        [with / without, again / without]
    } else {
        let (again, without, with) = (seconds(false).await, seconds(false).await, seconds(true).await);
        [with / without, again / without]
    }
}

async fn by_spi(client: &Client, captures: bool) -> f64 {
    let started = Instant::now();
    if captures {
        begin(client).await;
    }
    let sum = client.query_one("SELECT point_queries($1, $2)", &[&BY_SPI, &ROWS]).await.expect("a sum");
    assert!(sum.get::<_, i64>(0) > 0);
    if captures {
        end(client).await;
    }
    started.elapsed().as_secs_f64()
}

async fn over_the_wire(client: &Client, statement: &Statement, captures: bool) -> f64 {
    let started = Instant::now();
    if captures {
        begin(client).await;
    }
    for id in 0..OVER_THE_WIRE {
        client.query_one(statement, &[&(1 + id % ROWS)]).await.expect("a row");
    }
    if captures {
        end(client).await;
    }
    started.elapsed().as_secs_f64()
}

async fn begin(client: &Client) {
    client.batch_execute("SELECT cachetag.capture_begin()").await.expect("a capture");
}

/// Ends the capture, which must have found every row.
async fn end(client: &Client) {
    let text = "SELECT cacheable, cardinality(tags) FROM cachetag.capture_end()";
    let row = client.query_one(text, &[]).await.expect("the end of the capture");
    assert!(row.get::<_, bool>(0) && row.get::<_, i32>(1) >= ROWS, "{row:?}");
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    quantile(&mut values.collect::<Vec<f64>>(), 0.5)
}

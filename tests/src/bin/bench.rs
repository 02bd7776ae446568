//! `make bench`: how fast the daemon is beside what PostgreSQL and Redis do without it, on private servers, in one run. Prints ratios of that run
//! and asserts nothing.

use cachetag_tests::bench::{Plan, run};
use clap::Parser;

fn main() {
    run(&Plan::parse());
}

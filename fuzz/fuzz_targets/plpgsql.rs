//! See `cachetag_tests::fuzz`.

#![no_main]

use cachetag_tests::fuzz::run;

libfuzzer_sys::fuzz_target!(|data: &[u8]| run("plpgsql", data));

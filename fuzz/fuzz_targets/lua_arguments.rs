//! See `cachetag_tests::fuzz`.

#![no_main]

use cachetag_tests::fuzz::lua_arguments;

libfuzzer_sys::fuzz_target!(|data: &[u8]| lua_arguments(data));

//! Tests of the parser, and the encoder that they (and the tests of other modules) make messages with.
#![allow(clippy::unwrap_used, reason = "a test may fail")]

pub(crate) mod encoder;
mod literal;
mod properties;

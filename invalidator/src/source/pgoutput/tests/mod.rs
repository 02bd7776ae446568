//! Tests of the parser, and the encoder that they (and the tests of other modules) make messages with.
pub(crate) mod encoder;
mod literal;
mod properties;

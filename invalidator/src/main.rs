//! cachetag
fn main() {}

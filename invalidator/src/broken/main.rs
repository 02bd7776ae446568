//! `cachetag-broken`: the daemon without one of its guards, for the tests of the checker.

#[path = "../main.rs"]
mod program;

fn main() -> std::process::ExitCode {
    program::main()
}

//! What holds for every input, however broken: one function of bytes a subject. `fuzz/` runs them under libFuzzer, `tests/fuzz.rs` on seeds,
//! their mutations and random bytes in every test run. A function panics when something does not hold.

mod config;
mod grammar;
mod input;
mod lua;
mod mapping;
mod pgoutput;
mod replies;

pub use lua::lua_arguments;

/// A subject.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// Its name: that of the fuzz target and of its folder of seeds.
    pub name: &'static str,
    /// The body.
    pub run: fn(&[u8]),
}

/// All subjects that need no server; [`lua_arguments`] needs one.
pub const TARGETS: [Target; 13] = [
    Target { name: "tag", run: grammar::tag },
    Target { name: "template", run: grammar::template },
    Target { name: "key_template", run: grammar::key_template },
    Target { name: "plpgsql", run: grammar::plpgsql },
    Target { name: "predicate", run: grammar::predicate },
    Target { name: "version", run: grammar::version },
    Target { name: "invalidation_message", run: grammar::invalidation_message },
    Target { name: "pgoutput", run: pgoutput::messages },
    Target { name: "frames", run: pgoutput::frames },
    Target { name: "mapping", run: mapping::mapping },
    Target { name: "config", run: config::config },
    Target { name: "connection_string", run: config::connection_string },
    Target { name: "replies", run: replies::replies },
];

/// Runs the body of this name.
pub fn run(name: &str, data: &[u8]) {
    let target = TARGETS.iter().find(|target| target.name == name).unwrap_or_else(|| panic!("no target {name}"));
    (target.run)(data);
}

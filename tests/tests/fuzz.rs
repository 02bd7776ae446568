//! The bodies of the fuzz targets on seeds, on mutations of seeds and on random bytes: what `fuzz/` does at length, in every test run.
//!
//! `PROPTEST_CASES` sets how many inputs a target gets (2000). `CACHETAG_FUZZ_CORPUS` adds a folder that libFuzzer has filled, with a folder a target.

use std::fs;
use std::path::{Path, PathBuf};

use cachetag_tests::fuzz::{TARGETS, lua_arguments};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

/// The seeds that are kept with the sources: what is typical, and what was found and repaired.
fn seeds(name: &str) -> Vec<Vec<u8>> {
    let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz/seeds");
    let more = std::env::var_os("CACHETAG_FUZZ_CORPUS").map(PathBuf::from);
    let mut seeds = Vec::new();
    for folder in [Some(kept), more].into_iter().flatten() {
        for entry in fs::read_dir(folder.join(name)).into_iter().flatten() {
            let path = entry.expect("a file").path();
            seeds.push(fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())));
        }
    }
    assert!(!seeds.is_empty(), "no seeds for {name}");
    seeds
}

/// A change of an input, at a place.
#[derive(Debug, Clone)]
enum Edit {
    Insert(u8),
    Replace(u8),
    Remove,
    Repeat(u8),
    Cut,
}

fn edit() -> impl Strategy<Value = Edit> {
    let byte = || prop_oneof![any::<u8>(), prop::sample::select(b":%*{}'\"\n\0 0A".as_slice())];
    prop_oneof![
        4 => byte().prop_map(Edit::Insert),
        4 => byte().prop_map(Edit::Replace),
        3 => Just(Edit::Remove),
        2 => (1..20u8).prop_map(Edit::Repeat),
        1 => Just(Edit::Cut),
    ]
}

fn edited(mut input: Vec<u8>, edits: Vec<(prop::sample::Index, Edit)>) -> Vec<u8> {
    for (at, edit) in edits {
        let at = at.index(input.len() + 1);
        match edit {
            Edit::Insert(byte) => input.insert(at, byte),
            Edit::Replace(byte) if at < input.len() => input[at] = byte,
            Edit::Remove if at < input.len() => drop(input.remove(at)),
            Edit::Repeat(length) => {
                let end = (at + usize::from(length)).min(input.len());
                let piece = input[at..end].to_vec();
                input.splice(at..at, piece);
            }
            Edit::Cut => input.truncate(at),
            Edit::Replace(_) | Edit::Remove => {}
        }
    }
    input
}

/// Seeds as they are, then edited ones, two spliced together, and random bytes.
fn explore(name: &str, cases: u32, run: fn(&[u8])) {
    let seeds = seeds(name);
    seeds.iter().for_each(|seed| run(seed));
    let seed = prop::sample::select(seeds.clone());
    let input = prop_oneof![
        6 => (seed.clone(), vec((any::<prop::sample::Index>(), edit()), 1..8)).prop_map(|(seed, edits)| edited(seed, edits)),
        2 => (seed.clone(), seed, any::<prop::sample::Index>(), any::<prop::sample::Index>())
            .prop_map(|(a, b, i, j)| [&a[..i.index(a.len() + 1)], &b[j.index(b.len() + 1)..]].concat()),
        3 => vec(any::<u8>(), 0..300),
    ];
    let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::default() };
    let cases = if std::env::var_os("PROPTEST_CASES").is_some() { config.cases } else { cases };
    let mut runner = TestRunner::new(ProptestConfig { cases, ..config });
    let result = runner.run(&input, |input| {
        run(&input);
        Ok(())
    });
    if let Err(error) = result {
        panic!("{name}: {error}");
    }
}

#[test]
fn targets_hold_for_seeds_and_their_mutations() {
    for target in TARGETS {
        explore(target.name, 2000, target.run);
    }
}

#[test]
fn lua_arguments_hold_for_seeds_and_their_mutations() {
    explore("lua_arguments", 300, lua_arguments);
}

/// Every target has its file in `fuzz/`, and no other has.
#[test]
fn fuzz_targets_are_the_targets() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz");
    let mut expected: Vec<String> = TARGETS.iter().map(|target| target.name.to_owned()).collect();
    expected.push("lua_arguments".into());
    expected.sort();
    let names = |folder: &str| {
        let entries = fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("../fuzz").join(folder)).expect(folder);
        let name = |path: PathBuf| path.file_stem().expect("a name").to_string_lossy().into_owned();
        let mut names: Vec<String> = entries.map(|entry| name(entry.expect("a file").path())).collect();
        names.sort();
        names
    };
    assert_eq!(names("fuzz_targets"), expected);
    assert_eq!(names("seeds"), expected);
    let manifest = fs::read_to_string(folder.join("Cargo.toml")).expect("the manifest");
    for name in &expected {
        assert!(manifest.contains(&format!("name = \"{name}\"")), "{name} is not in fuzz/Cargo.toml");
    }
}

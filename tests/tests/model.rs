//! The consistency rule, explored exhaustively within small bounds, and the counterexample of each variant that lacks a guard.

use cachetag_tests::Variant;
use cachetag_tests::model::{Bounds, NO_FALSE_HIT, NO_FALSE_IN_PROCESS_HIT, World, bounds_of, check};

#[track_caller]
fn holds(name: &str, bounds: Bounds) {
    let outcome = check(World { bounds, broken: None }, 1);
    println!("the rule, {name}: {outcome}");
    assert!(outcome.counterexamples.is_empty(), "the rule does not hold, {name}: {outcome}");
}

#[test]
fn the_rule_holds_without_faults() {
    holds("no fault, two readers, every key", Bounds { faults: 0, ..Bounds::small() });
}

#[test]
fn the_rule_holds_with_one_fault() {
    holds("one fault, two readers, one key", Bounds { faults: 1, keys: vec![0], ..Bounds::small() });
    holds("one fault, one reader, every key", Bounds { faults: 1, readers: 1, ..Bounds::small() });
}

/// Two faults that follow each other are where lineages of Redis part.
#[test]
fn the_rule_holds_with_two_faults() {
    holds("two faults, one reader, one key", Bounds { readers: 1, keys: vec![0], ..Bounds::small() });
}

#[test]
fn the_rule_holds_for_the_in_process_cache() {
    let bounds = Bounds { in_process: true, readers: 1, faults: 1, keys: vec![0], ..Bounds::small() };
    holds("in-process cache, one fault, one reader, one key", bounds);
}

/// Breadth first and with one thread: the shortest way to a wrong hit.
#[test]
fn every_variant_has_a_counterexample() {
    let mut missed = Vec::new();
    for variant in Variant::in_model() {
        let bounds = bounds_of(variant);
        let property = if variant.is_in_process() { NO_FALSE_IN_PROCESS_HIT } else { NO_FALSE_HIT };
        let rule = check(World { bounds: bounds.clone(), broken: None }, 1);
        assert!(rule.counterexamples.is_empty(), "the rule itself fails within the bounds of {variant}: {rule}");
        let outcome = check(World { bounds, broken: Some(variant) }, 1);
        println!("{variant}: {outcome}");
        if !outcome.counterexamples.iter().any(|found| found.property == property) {
            missed.push(variant.to_string());
        }
    }
    assert!(missed.is_empty(), "no counterexample: {}", missed.join(", "));
}

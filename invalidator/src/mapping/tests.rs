//! The mapping as a whole: what a stream of messages bumps.

// What bumps come out says more than the outcome of each message.
#![allow(unused_must_use)]

mod streamed;

use std::collections::BTreeSet;

use cachetag_core::{Predicate, Tag, Template};
use proptest::prelude::*;

use super::*;

const PRODUCTS: u32 = 100;
const PART: u32 = 101;
const RULE: u32 = 1;
const BINDING: u32 = 2;
const DEPENDENCY: u32 = 3;

/// A row in the form `a|b|c`: `~` is NULL, `!` an unchanged TOAST value.
struct Tuple(Vec<String>);

impl Row for Tuple {
    fn value(&self, column: usize) -> Value<'_> {
        match self.0.get(column).map(String::as_str) {
            None => Value::Unknown,
            Some("~") => Value::Null,
            Some("!") => Value::Unchanged,
            Some(text) => Value::Text(text.as_bytes()),
        }
    }
}

fn tuple(text: &str) -> Tuple {
    Tuple(text.split('|').map(str::to_owned).collect())
}

fn relation(oid: u32, name: (&str, &str), identity: u8, columns: &[&str]) -> Relation {
    let column = |name: &&str| Column {
        name: name.trim_start_matches('+').into(),
        type_oid: 25,
        is_key: identity == b'f' || name.starts_with('+'),
    };
    Relation {
        oid,
        namespace: name.0.into(),
        name: name.1.into(),
        identity: ReplicaIdentity::from_byte(identity),
        columns: columns.iter().map(column).collect(),
    }
}

/// `id|category|active|body`, the id being the key.
fn products(oid: u32, identity: u8) -> Relation {
    relation(oid, ("public", "products"), identity, &["+id", "category", "active", "body"])
}

const RULE_COLUMNS: [&str; 9] =
    ["id", "relation", "template", "columns_that_matter", "operations", "soft", "predicate", "state", "comment"];
const BINDING_COLUMNS: [&str; 3] = ["id", "rule_id", "relation"];
const DEPENDENCY_COLUMNS: [&str; 6] = ["id", "parent", "child", "soft", "max_depth", "operations"];

/// A rule of `products` by its template, the fields after it given as `columns_that_matter|operations|soft|predicate|state`.
fn rule(id: i64, template: &str, rest: &str) -> String {
    format!("{id}|{PRODUCTS}|{template}|{rest}|~")
}

fn plain(id: i64, template: &str) -> String {
    rule(id, template, "~|{insert,update,delete,truncate}|f|~|ok")
}

fn load(rules: &[String], bindings: &[&str], dependencies: &[&str], limits: Limits) -> Mapper {
    let mut metadata = Metadata::default();
    let mut add = |table: MetadataTable, columns: &[&str], row: &str| {
        let row = tuple(row);
        let find = |name: &str| columns.iter().position(|column| *column == name).expect("a known column");
        metadata.add(table, |name| row.0.get(find(name)).map(String::as_str).filter(|text| *text != "~")).unwrap();
    };
    rules.iter().for_each(|row| add(MetadataTable::Rule, &RULE_COLUMNS, row));
    bindings.iter().for_each(|row| add(MetadataTable::Binding, &BINDING_COLUMNS, row));
    dependencies.iter().for_each(|row| add(MetadataTable::Dependency, &DEPENDENCY_COLUMNS, row));
    let mut mapper = Mapper::load(metadata, limits);
    mapper.relation(relation(RULE, ("cachetag", "rule"), b'f', &RULE_COLUMNS));
    mapper.relation(relation(BINDING, ("cachetag", "binding"), b'f', &BINDING_COLUMNS));
    mapper.relation(relation(DEPENDENCY, ("cachetag", "dependency"), b'f', &DEPENDENCY_COLUMNS));
    mapper.begin();
    mapper
}

/// A mapper of `products` under these rules, all of them bound.
fn mapper(identity: u8, rules: &[String]) -> Mapper {
    mapper_with(identity, rules, &[], Limits::default())
}

fn mapper_with(identity: u8, rules: &[String], dependencies: &[&str], limits: Limits) -> Mapper {
    let id_of = |rule: &String| rule.split('|').next().unwrap().to_owned();
    let bindings: Vec<String> = rules.iter().map(|rule| format!("{0}|{0}|{PRODUCTS}", id_of(rule))).collect();
    let mut mapper = load(rules, &bindings.iter().map(String::as_str).collect::<Vec<_>>(), dependencies, limits);
    mapper.relation(products(PRODUCTS, identity));
    mapper
}

/// The bumps of the transaction, hard and then soft ones in parentheses, all separated by spaces.
fn commit(mapper: &mut Mapper) -> String {
    let bumps = mapper.commit();
    let hard = bumps.hard.iter().map(Tag::to_string);
    let all: Vec<String> = hard.chain(bumps.soft.iter().map(|tag| format!("({tag})"))).collect();
    mapper.begin();
    all.join(" ")
}

fn insert(mapper: &mut Mapper, relation: u32, new: &str) -> Outcome {
    mapper.insert(relation, &tuple(new)).unwrap()
}

/// `old` is `-` for an absent row, `K…` for a key, and otherwise a full row.
fn update(mapper: &mut Mapper, relation: u32, old: &str, new: &str) -> Outcome {
    let (row, new) = (tuple(old.trim_start_matches('K')), tuple(new));
    mapper.update(relation, old_row(old, &row), &new).unwrap()
}

fn delete(mapper: &mut Mapper, relation: u32, old: &str) -> Outcome {
    let row = tuple(old.trim_start_matches('K'));
    mapper.delete(relation, old_row(old, &row)).unwrap()
}

fn old_row<'r>(old: &str, row: &'r Tuple) -> OldRow<'r, Tuple> {
    match old.as_bytes()[0] {
        b'-' => OldRow::Absent,
        b'K' => OldRow::Key(row),
        _ => OldRow::Full(row),
    }
}

#[test]
fn a_row_touches_the_tags_of_its_rules() {
    let mut m = mapper(b'f', &[plain(1, "product:{id}"), plain(2, "category:{category}"), plain(3, "products")]);
    assert_eq!(insert(&mut m, PRODUCTS, "1|7|t|x"), Outcome::Mapped);
    assert_eq!(commit(&mut m), "category:7 product:1 products");
    update(&mut m, PRODUCTS, "1|7|t|x", "1|8|t|x");
    assert_eq!(commit(&mut m), "category:7 category:8 product:1 products");
    delete(&mut m, PRODUCTS, "1|~|t|x");
    assert_eq!(commit(&mut m), "product:1 products");
    insert(&mut m, PRODUCTS, "in stock|a:b|t|x");
    assert_eq!(commit(&mut m), "category:a%3Ab product:in%20stock products");
    assert_eq!(m.truncate(PRODUCTS), Ok(Outcome::Mapped));
    assert_eq!(commit(&mut m), "category:* product:* products");
}

#[test]
fn what_the_key_identity_leaves_out_is_widened() {
    let mut m = mapper(b'd', &[plain(1, "product:{id}"), plain(2, "category:{category}")]);
    update(&mut m, PRODUCTS, "-", "1|8|t|x");
    assert_eq!(commit(&mut m), "category:* product:1");
    update(&mut m, PRODUCTS, "K1|~|~|~", "2|8|t|x");
    assert_eq!(commit(&mut m), "category:* product:1 product:2");
    delete(&mut m, PRODUCTS, "K1|~|~|~");
    assert_eq!(commit(&mut m), "category:* product:1");
    assert_eq!(m.widened(), Widened { unknown_values: 3, ..Widened::default() });
}

#[test]
fn an_absent_old_row_proves_nothing_without_a_key() {
    for identity in [b'f', b'n', b'?'] {
        let mut m = mapper(identity, &[plain(1, "product:{id}")]);
        update(&mut m, PRODUCTS, "-", "1|8|t|x");
        assert_eq!(commit(&mut m), "product:*");
    }
}

#[test]
fn unchanged_toast_values_come_from_the_old_row_or_widen() {
    let rules = [plain(1, "body:{body}")];
    let mut m = mapper(b'f', &rules);
    update(&mut m, PRODUCTS, "1|7|t|text", "1|8|t|!");
    assert_eq!(commit(&mut m), "body:text");
    let mut m = mapper(b'd', &rules);
    update(&mut m, PRODUCTS, "-", "1|8|t|!");
    assert_eq!(commit(&mut m), "body:*");
    // A key that is stored out of line is logged whenever its row is.
    let mut m = mapper(b'd', &[plain(1, "product:{id}")]);
    update(&mut m, PRODUCTS, "K1|~|~|~", "!|8|t|x");
    assert_eq!(commit(&mut m), "product:1");
    update(&mut m, PRODUCTS, "-", "!|8|t|x");
    assert_eq!(commit(&mut m), "product:*");
}

#[test]
fn tags_that_cannot_be_are_widened() {
    let mut m = mapper(b'f', &[plain(1, "body:{body}")]);
    insert(&mut m, PRODUCTS, &format!("1|7|t|{}", "x".repeat(600)));
    assert_eq!(commit(&mut m), "body:*");
    let row = [Value::Null, Value::Null, Value::Null, Value::Text(b"\xff")];
    assert_eq!(m.insert(PRODUCTS, row.as_slice()), Ok(Outcome::Mapped));
    assert_eq!(commit(&mut m), "body:*");
    assert_eq!(m.widened(), Widened { unrenderable: 2, ..Widened::default() });
    // A row that is shorter than its relation.
    insert(&mut m, PRODUCTS, "1|7");
    assert_eq!(commit(&mut m), "body:*");
}

#[test]
fn null_makes_no_tag_whatever_else_is_unknown() {
    let mut m = mapper(b'd', &[plain(1, "pair:{category}:{body}")]);
    insert(&mut m, PRODUCTS, "1|~|t|!");
    insert(&mut m, PRODUCTS, "1|7|t|~");
    assert_eq!(commit(&mut m), "");
}

#[test]
fn only_columns_that_matter_count_in_updates() {
    let mut m = mapper(b'f', &[rule(1, "category:{category}", "{body}|{update}|f|active = 't'|ok")]);
    let mut bumps = |old: &str, new: &str| {
        update(&mut m, PRODUCTS, old, new);
        commit(&mut m)
    };
    assert_eq!(bumps("1|7|t|x", "2|7|t|x"), "", "the id does not matter");
    assert_eq!(bumps("1|7|t|x", "1|7|t|!"), "");
    assert_eq!(bumps("1|7|t|x", "1|7|t|y"), "category:7");
    assert_eq!(bumps("1|7|t|x", "1|8|t|x"), "category:7 category:8");
    assert_eq!(bumps("1|7|t|x", "1|8|f|x"), "category:7");
    assert_eq!(bumps("1|7|f|x", "1|8|t|x"), "category:8");
    assert_eq!(bumps("1|7|f|x", "1|7|t|x"), "category:7");
    assert_eq!(bumps("1|7|f|x", "1|8|f|y"), "");
}

#[test]
fn what_may_have_changed_counts_as_changed() {
    let mut m = mapper(b'd', &[rule(1, "product:{id}", "{body}|{update}|f|active = 't'|ok")]);
    let mut bumps = |old: &str, new: &str| {
        update(&mut m, PRODUCTS, old, new);
        commit(&mut m)
    };
    assert_eq!(bumps("-", "1|7|t|!"), "product:1", "whether it was active is unknown");
    assert_eq!(bumps("-", "1|7|f|!"), "product:1");
    assert_eq!(bumps("-", "1|7|!|!"), "", "neither has changed");
    assert_eq!(bumps("-", "1|7|!|y"), "product:1");
    assert_eq!(bumps("K1|~|~|~", "2|7|!|!"), "product:1 product:2");
}

#[test]
fn a_matching_column_that_the_stream_lacks_makes_every_update_count() {
    let mut m = mapper(b'f', &[rule(1, "product:{id}", "{generated}|{update}|f|~|ok")]);
    update(&mut m, PRODUCTS, "1|7|t|x", "1|8|t|x");
    assert_eq!(commit(&mut m), "product:1");
}

#[test]
fn rules_listen_to_their_operations_only() {
    for (operations, expected) in [
        ("{insert}", "category:1"),
        ("{update}", "category:2 category:3"),
        ("{delete}", "category:4"),
        ("{truncate}", "category:*"),
    ] {
        let mut m = mapper(b'f', &[rule(1, "category:{category}", &format!("~|{operations}|f|~|ok"))]);
        insert(&mut m, PRODUCTS, "1|1|t|x");
        update(&mut m, PRODUCTS, "1|2|t|x", "1|3|t|x");
        delete(&mut m, PRODUCTS, "1|4|t|x");
        let bumps = if operations == "{truncate}" {
            assert_eq!(m.truncate(PRODUCTS), Ok(Outcome::Mapped));
            commit(&mut m)
        } else {
            commit(&mut m)
        };
        assert_eq!(bumps, expected);
    }
}

#[test]
fn a_move_between_partitions_is_an_update() {
    let rules = [rule(1, "product:{id}", "~|{update}|f|~|ok")];
    let edge = "1|product:5|home|f|~|{update}";
    let mut m = load(&rules, &["1|1|100", "2|1|101"], &[edge], Limits::default());
    m.relation(products(PRODUCTS, b'd'));
    m.relation(products(PART, b'd'));
    insert(&mut m, PRODUCTS, "5|7|t|x");
    assert_eq!(commit(&mut m), "");
    insert(&mut m, PART, "5|7|t|x");
    assert_eq!(commit(&mut m), "home product:5");
    delete(&mut m, PART, "K6|~|~|~");
    assert_eq!(commit(&mut m), "product:6");
}

#[test]
fn soft_rules_bump_softly_and_hard_wins() {
    let soft = |id, template| rule(id, template, "~|{insert}|t|~|ok");
    let mut m =
        mapper(b'f', &[soft(1, "product:{id}"), soft(2, "category:{category}"), plain(3, "category:{category}")]);
    insert(&mut m, PRODUCTS, "1|7|t|x");
    assert_eq!(commit(&mut m), "category:7 (product:1)");
}

#[test]
fn degraded_rules_bump_their_family() {
    let cases = [
        rule(1, "product:{sku}", "~|{insert}|f|~|ok"),
        rule(1, "product:{id}", "~|{insert}|f|~|a column is gone"),
        rule(1, "product:{id}", "~|{insert}|f|colour = 'red'|ok"),
        rule(1, "product:{id}", "~|{insert}|f|price > 3|ok"),
    ];
    for case in cases {
        let mut m = mapper(b'f', std::slice::from_ref(&case));
        insert(&mut m, PRODUCTS, "1|7|t|x");
        delete(&mut m, PRODUCTS, "1|7|t|x");
        assert_eq!(commit(&mut m), "product:*", "{case}");
        assert_eq!(m.widened().rules, 1);
    }
}

#[test]
fn a_new_description_of_a_relation_binds_its_rules_anew() {
    let mut m = mapper(b'f', &[plain(1, "product:{id}")]);
    insert(&mut m, PRODUCTS, "1|7|t|x");
    m.relation(relation(PRODUCTS, ("public", "products"), b'f', &["category", "id"]));
    insert(&mut m, PRODUCTS, "7|2");
    assert_eq!(commit(&mut m), "product:1 product:2");
}

#[test]
fn relations_without_rules_are_reported() {
    let mut m = load(&[], &["1|9|100"], &[], Limits::default());
    m.relation(products(PRODUCTS, b'f'));
    assert_eq!(insert(&mut m, PRODUCTS, "1|7|t|x"), Outcome::Unbound);
    assert_eq!(m.truncate(PRODUCTS), Ok(Outcome::Unbound));
    assert_eq!(commit(&mut m), "");
    assert_eq!(m.insert(PART, &tuple("1")), Err(MappingError::UnknownRelation(PART)));
    m.bump_everything();
    assert_eq!(commit(&mut m), "*");
}

#[test]
fn messages_bump_their_tags_and_fire_every_edge() {
    let mut m = mapper_with(b'f', &[], &["1|a:1|b|f|~|{truncate}"], Limits::default());
    assert_eq!(m.message(b"hard\na:1\nc"), Outcome::Mapped);
    assert_eq!(m.message(b"soft\na:2\nc"), Outcome::Mapped);
    assert_eq!(commit(&mut m), "a:1 b c (a:2)");
    assert!(matches!(m.message(b"hard\na 1"), Outcome::Malformed(_)));
    assert_eq!(commit(&mut m), "*");
}

#[test]
fn dependencies_follow_changes_and_widening() {
    let edges = ["1|product:1|home|f|~|~", "2|home|feed|t|~|~", "3|category:*|menu|f|~|{delete}"];
    let mut m =
        mapper_with(b'd', &[plain(1, "product:{id}"), plain(2, "category:{category}")], &edges, Limits::default());
    insert(&mut m, PRODUCTS, "1|7|t|x");
    assert_eq!(commit(&mut m), "category:7 home product:1 (feed)");
    delete(&mut m, PRODUCTS, "K2|~|~|~");
    assert_eq!(commit(&mut m), "category:* menu product:2");
    assert_eq!(m.truncate(PRODUCTS), Ok(Outcome::Mapped));
    assert_eq!(commit(&mut m), "category:* home product:* (feed)");
}

#[test]
fn a_collapsed_family_still_fires_its_members_edges() {
    let edges = ["1|product:3|home|f|~|~", "2|product:99|never|f|~|~"];
    let limits = Limits { tags: 3, ..Limits::default() };
    let mut m = mapper_with(b'f', &[plain(1, "product:{id}")], &edges, limits);
    for id in (1..9).rev() {
        insert(&mut m, PRODUCTS, &format!("{id}|7|t|x"));
    }
    assert_eq!(commit(&mut m), "home product:*");
    assert_eq!(commit(&mut m), "");
    assert_eq!(m.widened(), Widened { families: 1, ..Widened::default() });
}

#[test]
fn too_wide_a_graph_is_everything() {
    let edges = ["1|product:1|a|f|~|~", "2|product:1|b|f|~|~"];
    for (template, expected) in [(plain(1, "product:{id}"), "*"), (rule(1, "product:{id}", "~|~|t|~|ok"), "(*)")] {
        let mut m = mapper_with(b'f', &[template], &edges, Limits { edges: 1, ..Limits::default() });
        insert(&mut m, PRODUCTS, "1|7|t|x");
        assert_eq!(commit(&mut m), expected);
        assert_eq!(m.widened().transactions, 1);
        insert(&mut m, PRODUCTS, "2|7|t|x");
        assert_ne!(commit(&mut m), expected);
    }
}

#[test]
fn rules_count_from_where_they_change() {
    let mut m = mapper(b'f', &[]);
    assert_eq!(insert(&mut m, PRODUCTS, "1|7|t|x"), Outcome::Unbound);
    assert_eq!(insert(&mut m, RULE, &plain(5, "product:{id}")), Outcome::Metadata);
    assert_eq!(insert(&mut m, PRODUCTS, "1|7|t|x"), Outcome::Unbound, "not bound yet");
    assert_eq!(commit(&mut m), "product:*");
    assert_eq!(insert(&mut m, BINDING, "1|5|100"), Outcome::Metadata);
    assert_eq!(commit(&mut m), "product:*");
    assert_eq!(insert(&mut m, PRODUCTS, "1|7|t|x"), Outcome::Mapped);
    assert_eq!(commit(&mut m), "product:1");

    update(&mut m, RULE, &plain(5, "product:{id}"), &plain(5, "item:{id}"));
    assert_eq!(commit(&mut m), "item:* product:*");
    insert(&mut m, PRODUCTS, "1|7|t|x");
    assert_eq!(commit(&mut m), "item:1");

    delete(&mut m, RULE, &plain(5, "item:{id}"));
    assert_eq!(commit(&mut m), "item:*");
    delete(&mut m, BINDING, "1|5|100");
    assert_eq!(commit(&mut m), "", "its rule has bumped");
    assert_eq!(insert(&mut m, PRODUCTS, "1|7|t|x"), Outcome::Unbound);
}

#[test]
fn bindings_bump_the_family_when_they_come_and_go() {
    let mut m = mapper(b'f', &[plain(1, "product:{id}"), plain(2, "category:{category}")]);
    update(&mut m, BINDING, "1|1|100", "1|2|100");
    assert_eq!(commit(&mut m), "category:* product:*");
    delete(&mut m, BINDING, "1|2|100");
    assert_eq!(commit(&mut m), "category:*");
    insert(&mut m, PRODUCTS, "1|7|t|x");
    assert_eq!(commit(&mut m), "category:7", "the other binding is still there");
    delete(&mut m, BINDING, "2|2|100");
    assert_eq!(insert(&mut m, PRODUCTS, "1|7|t|x"), Outcome::Unbound);
}

#[test]
fn a_change_of_the_catalog_that_says_nothing_new_bumps_nothing() {
    let mut m = mapper_with(b'f', &[plain(1, "product:{id}")], &["1|a|b|f|~|~"], Limits::default());
    let touched = plain(1, "product:{id}").replace("|ok|~", "|ok|a comment");
    assert_eq!(update(&mut m, RULE, &plain(1, "product:{id}"), &touched), Outcome::Metadata);
    update(&mut m, BINDING, "1|1|100", "1|1|100");
    update(&mut m, DEPENDENCY, "1|a|b|f|~|~", "1|a|b|f|~|~");
    assert_eq!(commit(&mut m), "");
    // The memory is ahead: the log is at an older state, to which this update of an unread column belongs.
    update(&mut m, RULE, &plain(1, "item:{id}"), &plain(1, "item:{id}"));
    assert_eq!(commit(&mut m), "item:* product:*");
}

#[test]
fn the_stream_may_be_behind_the_memory() {
    // The memory has only the final state; the stream brings the whole history, twice.
    let mut m = mapper(b'f', &[plain(1, "item:{id}")]);
    for _ in 0..2 {
        insert(&mut m, RULE, &plain(1, "product:{id}"));
        assert_eq!(commit(&mut m), "item:* product:*");
        insert(&mut m, RULE, &plain(2, "gone:{id}"));
        insert(&mut m, BINDING, "2|2|100");
        delete(&mut m, RULE, &plain(2, "gone:{id}"));
        delete(&mut m, BINDING, "2|2|100");
        assert_eq!(commit(&mut m), "gone:*");
        delete(&mut m, RULE, &plain(3, "older:{id}"));
        assert_eq!(commit(&mut m), "older:*", "a rule that was gone when the memory was read");
        update(&mut m, RULE, &plain(1, "product:{id}"), &plain(1, "item:{id}"));
        assert_eq!(commit(&mut m), "item:* product:*");
        insert(&mut m, PRODUCTS, "1|7|t|x");
        assert_eq!(commit(&mut m), "item:1");
    }
}

#[test]
fn dependencies_bump_their_child_when_they_come_and_go() {
    let mut m = mapper_with(b'f', &[], &["1|b|c|f|~|~"], Limits::default());
    insert(&mut m, DEPENDENCY, "2|a|b|f|~|~");
    assert_eq!(commit(&mut m), "b c");
    assert_eq!(m.message(b"hard\na"), Outcome::Mapped);
    assert_eq!(commit(&mut m), "a b c");
    update(&mut m, DEPENDENCY, "2|a|b|f|~|~", "2|a|x|t|~|~");
    assert_eq!(commit(&mut m), "b c x", "hard, though the edge is soft");
    assert_eq!(m.message(b"hard\na"), Outcome::Mapped);
    assert_eq!(commit(&mut m), "a (x)");
    delete(&mut m, DEPENDENCY, "2|a|x|t|~|~");
    delete(&mut m, DEPENDENCY, "9|k|z|f|~|~");
    assert_eq!(commit(&mut m), "x z", "an edge that the memory never had");
    // Within one transaction, in any order with the changes that it concerns.
    assert_eq!(m.message(b"hard\nb"), Outcome::Mapped);
    delete(&mut m, DEPENDENCY, "1|b|c|f|~|~");
    assert_eq!(commit(&mut m), "b c");
}

#[test]
fn a_truncated_catalog_bumps_everything() {
    for table in [RULE, BINDING, DEPENDENCY] {
        let mut m = mapper_with(b'f', &[plain(1, "product:{id}")], &["1|product:1|b|f|~|~"], Limits::default());
        insert(&mut m, PRODUCTS, "1|7|t|x");
        assert_eq!(m.truncate(table), Ok(Outcome::Metadata));
        assert_eq!(commit(&mut m), "*");
        let outcome = insert(&mut m, PRODUCTS, "1|7|t|x");
        assert_eq!(outcome, if table == DEPENDENCY { Outcome::Mapped } else { Outcome::Unbound });
        assert_eq!(commit(&mut m), if table == DEPENDENCY { "product:1" } else { "" });
    }
}

#[test]
fn a_catalog_that_cannot_be_read_is_an_error() {
    let mut m = mapper(b'f', &[plain(1, "product:{id}")]);
    let error = m.insert(RULE, &tuple(&plain(2, "{id}"))).unwrap_err();
    assert!(error.to_string().contains("cachetag.rule, row 2, column template"), "{error}");
    for (old, new) in [("-", plain(1, "item:{id}")), ("K1", plain(1, "item:{id}"))] {
        let row = tuple(old.trim_start_matches('K'));
        let error = m.update(RULE, old_row(old, &row), &tuple(&new)).unwrap_err();
        assert!(error.to_string().contains("REPLICA IDENTITY FULL"), "{error}");
    }
    let error = m.delete(DEPENDENCY, OldRow::Key(&tuple("1|~|~|~|~|~"))).unwrap_err();
    assert!(error.to_string().contains("cachetag.dependency"), "{error}");
}

#[test]
fn other_tables_of_that_name_are_no_catalog() {
    let mut m = mapper(b'f', &[]);
    m.relation(relation(50, ("public", "rule"), b'f', &RULE_COLUMNS));
    m.relation(relation(51, ("cachetag", "rules"), b'f', &RULE_COLUMNS));
    assert_eq!(insert(&mut m, 50, &plain(1, "product:{id}")), Outcome::Unbound);
    assert_eq!(
        insert(&mut m, 51, &plain(1, "product:{id}")),
        Outcome::Mapped,
        "the extension's own, and of no concern"
    );
    assert_eq!(commit(&mut m), "");
}

#[test]
fn a_discarded_transaction_leaves_nothing_but_asks_for_a_reload() {
    let mut m = mapper_with(b'f', &[plain(1, "product:{id}")], &["1|product:1|b|f|~|~"], Limits::default());
    insert(&mut m, PRODUCTS, "1|7|t|x");
    assert!(!m.discard());
    assert_eq!(commit(&mut m), "");
    insert(&mut m, RULE, &plain(2, "item:{id}"));
    assert!(m.discard());
    assert!(!m.discard());
    insert(&mut m, RULE, &plain(3, "item:{id}"));
    assert_eq!(commit(&mut m), "item:*");
    assert!(!m.discard(), "what is committed needs no reload");
}

/// A row as the table holds it.
type Full = [Option<u8>; 4];

fn text_of(row: &Full, column: usize) -> String {
    row[column].map_or("~".to_owned(), |value| format!("v{value}"))
}

/// What the rules mean, for somebody who sees both rows: the tags that an update or a delete touches.
fn definition(
    template: &str,
    predicate: Option<&str>,
    matter: Option<&[usize]>,
    old: &Full,
    new: Option<&Full>,
) -> BTreeSet<String> {
    const COLUMNS: [&str; 4] = ["id", "category", "active", "body"];
    let template = Template::parse(template).unwrap();
    let at = |name: &str| COLUMNS.iter().position(|column| *column == name).unwrap();
    let matches = |row: &Full| {
        let texts: Vec<String> = (0..4).map(|column| text_of(row, column)).collect();
        predicate.is_none_or(|predicate| {
            let value = |name: &str| match texts[at(name)].as_str() {
                "~" => cachetag_core::Value::Null,
                text => cachetag_core::Value::Text(text.as_bytes()),
            };
            Predicate::parse(predicate).unwrap().eval(value) == Some(true)
        })
    };
    let tag = |row: &Full| {
        let texts: Vec<String> = (0..4).map(|column| text_of(row, column)).collect();
        match template.render(|name| Some(texts[at(name)].as_bytes()).filter(|text| *text != b"~")) {
            cachetag_core::Rendered::Tag(tag) => Some(tag.to_string()),
            _ => None,
        }
    };
    if let (Some(matter), Some(new)) = (matter, new) {
        let differs = |column: usize| old[column] != new[column];
        let relevant = matter.iter().any(|column| differs(*column))
            || template.columns().any(|name| differs(at(name)))
            || matches(old) != matches(new);
        if !relevant {
            return BTreeSet::new();
        }
    }
    [Some(old), new].into_iter().flatten().filter(|row| matches(row)).filter_map(tag).collect()
}

/// What pgoutput makes of an update or a delete: the old row and the new one in the notation of these tests.
/// `toasted` says which columns are stored out of line, in both rows if they have not changed.
fn decoded(
    identity: u8,
    keys: &[usize],
    toasted: [bool; 4],
    old: &Full,
    new: Option<&Full>,
) -> (String, Option<String>) {
    let join = |values: Vec<String>| values.join("|");
    let unchanged =
        |column: usize| new.is_some_and(|new| toasted[column] && old[column].is_some() && old[column] == new[column]);
    let key_row = || {
        let value = |column: usize| if keys.contains(&column) { text_of(old, column) } else { "~".to_owned() };
        format!("K{}", join((0..4).map(value).collect()))
    };
    let key_logged = new.is_none_or(|new| keys.iter().any(|&key| old[key] != new[key] || toasted[key]));
    let before = match identity {
        b'f' => join((0..4).map(|column| text_of(old, column)).collect()),
        _ if key_logged => key_row(),
        _ => "-".to_owned(),
    };
    let after = |new: &Full| {
        join((0..4).map(|column| if unchanged(column) { "!".to_owned() } else { text_of(new, column) }).collect())
    };
    (before, new.map(after))
}

fn full(keys: [bool; 4]) -> impl Strategy<Value = Full> {
    // Key columns are NOT NULL.
    let value =
        move |column: usize| (0..4u8).prop_map(move |v| if v == 3 && !keys[column] { None } else { Some(v % 3) });
    (value(0), value(1), value(2), value(3)).prop_map(|(a, b, c, d)| [a, b, c, d])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2048))]

    /// Whatever the log leaves out: every tag that a change touches is bumped, and where the log has all, no other.
    #[test]
    fn bumps_are_sound_and_under_the_full_identity_exact(
        template in prop::sample::select(vec!["t:{id}", "t:{category}", "t:{body}", "t:{id}:{body}", "t:{category}-{active}", "t:all"]),
        predicate in prop::sample::select(vec![None, Some("active = 'v1'"), Some("body <> 'v0' AND category IS NOT NULL"), Some("id IN ('v0', 'v2')")]),
        matter in prop::sample::select(vec![None, Some(vec![]), Some(vec![3]), Some(vec![0, 2])]),
        (keys, old, new) in prop::sample::select(vec![[true, false, false, false], [true, true, false, false], [true, false, false, true]])
            .prop_flat_map(|keys| (Just(keys), full(keys), prop::option::weighted(0.8, full(keys)))),
        keep in prop::array::uniform4(any::<bool>()),
        toasted in prop::array::uniform4(any::<bool>()),
        identity in prop::sample::select(vec![b'd', b'f']),
    ) {
        const COLUMNS: [&str; 4] = ["id", "category", "active", "body"];
        // Most updates leave most columns alone.
        let new = new.map(|mut new| {
            (0..4).filter(|column| keep[*column]).for_each(|column| new[column] = old[column]);
            new
        });
        let keys: Vec<usize> = (0..4).filter(|column| keys[*column]).collect();
        let names = matter.as_ref().map_or("~".to_owned(), |columns| {
            format!("{{{}}}", columns.iter().map(|column| COLUMNS[*column]).collect::<Vec<_>>().join(","))
        });
        let rule = rule(1, template, &format!("{names}|{{update,delete}}|f|{}|ok", predicate.unwrap_or("~")));
        let mut m = mapper(identity, &[rule]);
        let marked = COLUMNS.iter().enumerate().map(|(at, name)| if keys.contains(&at) { format!("+{name}") } else { (*name).to_owned() });
        let marked: Vec<String> = marked.collect();
        m.relation(relation(PRODUCTS, ("public", "products"), identity, &marked.iter().map(String::as_str).collect::<Vec<_>>()));

        let (before, after) = decoded(identity, &keys, toasted, &old, new.as_ref());
        let _ = match &after {
            Some(after) => update(&mut m, PRODUCTS, &before, after),
            None => delete(&mut m, PRODUCTS, &before),
        };
        let bumps: BTreeSet<String> = m.commit().hard.iter().map(Tag::to_string).collect();
        let touched = definition(template, predicate, matter.as_deref(), &old, new.as_ref());
        if identity == b'f' {
            prop_assert_eq!(bumps, touched);
        } else if !bumps.contains("t:*") {
            prop_assert!(bumps.is_superset(&touched), "{:?} does not cover {:?} ({} → {:?})", bumps, touched, before, after);
        }
    }
}

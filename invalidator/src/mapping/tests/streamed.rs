//! Transactions that are streamed before their commit bump what they would have bumped as whole ones.

use super::*;

const RULES: [&str; 2] = ["product:{id}", "category:{category}"];
const DEPENDENCIES: [&str; 4] = [
    "1|product:1|homepage|f|~|~",
    "2|category:*|menu|f|~|~",
    "3|homepage|front:en|t|~|~",
    "4|product:2|other|f|~|{delete}",
];

fn streaming(limits: Limits) -> Mapper {
    let rules = [plain(1, RULES[0]), plain(2, RULES[1])];
    mapper_with(b'f', &rules, &DEPENDENCIES, limits)
}

fn commit_streamed(m: &mut Mapper, xid: u32) -> String {
    let bumps = m.commit_streamed(xid).unwrap();
    let hard = bumps.hard.iter().map(Tag::to_string);
    hard.chain(bumps.soft.iter().map(|tag| format!("({tag})"))).collect::<Vec<_>>().join(" ")
}

/// A block with its changes, each of a subtransaction.
fn block(m: &mut Mapper, xid: u32, is_first: bool, rows: &[(u32, &str)]) {
    m.begin_block(xid, is_first).unwrap();
    if is_first {
        m.within(xid);
        m.relation(products(PRODUCTS, b'f'));
    }
    for (subxid, row) in rows {
        m.within(*subxid);
        insert(m, PRODUCTS, row);
    }
    m.end_block();
}

#[test]
fn blocks_of_several_transactions_are_kept_apart() {
    let mut m = streaming(Limits::default());
    block(&mut m, 10, true, &[(10, "1|7|t|x")]);
    block(&mut m, 20, true, &[(20, "3|8|t|x")]);
    block(&mut m, 10, false, &[(10, "4|7|t|x")]);
    m.begin();
    insert(&mut m, PRODUCTS, "5|9|t|x");
    assert_eq!(commit(&mut m), "category:9 menu product:5");
    assert_eq!(commit_streamed(&mut m, 10), "category:7 homepage menu product:1 product:4 (front:en)");
    assert_eq!(commit_streamed(&mut m, 20), "category:8 menu product:3");
    assert_eq!(m.streamed_tags(), 0);
}

#[test]
fn what_is_rolled_back_bumps_nothing() {
    let mut m = streaming(Limits::default());
    block(&mut m, 10, true, &[(10, "1|7|t|x"), (11, "2|8|t|x"), (12, "3|~|t|x")]);
    m.abort_streamed(10, 11);
    block(&mut m, 10, false, &[(12, "4|~|t|x")]);
    assert_eq!(commit_streamed(&mut m, 10), "category:7 homepage menu product:1 product:3 product:4 (front:en)");
    block(&mut m, 20, true, &[(20, "1|7|t|x")]);
    m.abort_streamed(20, 20);
    assert_eq!(m.commit_streamed(20), Err(MappingError::UnknownTransaction(20)));
    assert_eq!(m.begin_block(30, false), Err(MappingError::UnknownTransaction(30)));
    // Of this one everything was sent before the daemon came.
    m.abort_streamed(40, 41);
}

#[test]
fn many_subtransactions_are_merged_and_lose_nothing() {
    let mut m = streaming(Limits::default());
    let rows: Vec<String> = (0..300).map(|n| format!("{}|~|t|x", 1000 + n)).collect();
    let rows: Vec<(u32, &str)> = rows.iter().enumerate().map(|(n, row)| (100 + n as u32, row.as_str())).collect();
    block(&mut m, 10, true, &rows);
    // The first was merged long ago: its rollback comes too late, that of the last does not.
    m.abort_streamed(10, 100);
    m.abort_streamed(10, 399);
    let bumped = commit_streamed(&mut m, 10);
    assert_eq!(bumped.split(' ').count(), 299);
    assert!(bumped.contains("product:1000") && !bumped.contains("product:1299"));
}

#[test]
fn a_large_transaction_becomes_its_families_whose_edges_all_fire() {
    let mut m = streaming(Limits { tags: 50, ..Limits::default() });
    let rows: Vec<String> = (0..200).map(|n| format!("{n}|~|t|x")).collect();
    let rows: Vec<(u32, &str)> = rows.iter().map(|row| (10, row.as_str())).collect();
    block(&mut m, 10, true, &rows);
    assert!(m.streamed_tags() <= 50);
    assert_eq!(commit_streamed(&mut m, 10), "homepage other product:* (front:en)");
}

#[test]
fn all_open_transactions_together_stay_within_the_limit() {
    let mut m = streaming(Limits { streamed_tags: 500, ..Limits::default() });
    for xid in 1..=100 {
        let rows: Vec<String> = (0..40).map(|n| format!("{n}|{}|t|x", 1000 * xid + n)).collect();
        let rows: Vec<(u32, &str)> = rows.iter().map(|row| (xid, row.as_str())).collect();
        block(&mut m, xid, true, &rows);
        assert!(m.streamed_tags() <= 500, "{}", m.streamed_tags());
    }
    for xid in 1..=100 {
        let bumped = commit_streamed(&mut m, xid);
        for n in 0..40 {
            let covered = |tag: &str, family: &str| {
                bumped.split(' ').any(|bump| bump == "*" || bump == tag || bump == format!("{family}:*"))
            };
            assert!(covered(&format!("product:{n}"), "product"), "{bumped}");
            assert!(covered(&format!("category:{}", 1000 * xid + n), "category"), "{bumped}");
        }
    }
}

#[test]
fn a_changed_catalog_waits_for_the_commit_and_bumps_everything() {
    let mut m = streaming(Limits::default());
    m.begin_block(10, true).unwrap();
    m.within(10);
    m.relation(products(PRODUCTS, b'f'));
    m.relation(super::relation(RULE, ("cachetag", "rule"), b'f', &RULE_COLUMNS));
    insert(&mut m, RULE, &plain(3, "body:{body}"));
    m.relation(super::relation(BINDING, ("cachetag", "binding"), b'f', &BINDING_COLUMNS));
    insert(&mut m, BINDING, &format!("3|3|{PRODUCTS}"));
    insert(&mut m, PRODUCTS, "1|~|t|x");
    m.end_block();
    m.begin();
    insert(&mut m, PRODUCTS, "9|~|t|x");
    assert_eq!(commit(&mut m), "product:9", "the rule is not in force yet");
    assert_eq!(commit_streamed(&mut m, 10), "*");
    insert(&mut m, PRODUCTS, "9|~|t|x");
    assert_eq!(commit(&mut m), "body:x product:9");
}

#[test]
fn a_changed_catalog_of_a_rolled_back_subtransaction_is_forgotten() {
    let mut m = streaming(Limits::default());
    block(&mut m, 10, true, &[(10, "1|~|t|x")]);
    m.begin_block(10, false).unwrap();
    m.within(11);
    m.relation(super::relation(RULE, ("cachetag", "rule"), b'f', &RULE_COLUMNS));
    delete(&mut m, RULE, &plain(1, RULES[0]));
    m.end_block();
    m.abort_streamed(10, 11);
    assert_eq!(commit_streamed(&mut m, 10), "homepage product:1 (front:en)");
    insert(&mut m, PRODUCTS, "9|~|t|x");
    assert_eq!(commit(&mut m), "product:9");
}

#[test]
fn rules_that_changed_before_the_commit_make_it_bump_everything() {
    let mut m = streaming(Limits::default());
    block(&mut m, 10, true, &[(10, "5|~|t|x")]);
    m.begin();
    insert(&mut m, RULE, &plain(3, "body:{body}"));
    insert(&mut m, BINDING, &format!("3|3|{PRODUCTS}"));
    assert_eq!(commit(&mut m), "body:*");
    assert_eq!(commit_streamed(&mut m, 10), "*");
}

#[test]
fn too_much_metadata_is_an_error() {
    let mut m = streaming(Limits { streamed_metadata: 2, ..Limits::default() });
    m.begin_block(10, true).unwrap();
    m.within(10);
    m.relation(super::relation(RULE, ("cachetag", "rule"), b'f', &RULE_COLUMNS));
    for id in 3..6 {
        insert(&mut m, RULE, &plain(id, "body:{body}"));
    }
    m.end_block();
    assert_eq!(m.commit_streamed(10), Err(MappingError::TooMuchMetadata(10)));
}

#[test]
fn a_table_looks_to_each_transaction_as_it_was_described_to_it() {
    let mut m = streaming(Limits::default());
    m.begin_block(10, true).unwrap();
    m.within(10);
    // ALTER TABLE in this transaction: the first two columns have changed places.
    m.relation(super::relation(PRODUCTS, ("public", "products"), b'f', &["category", "+id", "active", "body"]));
    insert(&mut m, PRODUCTS, "7|5|t|x");
    m.end_block();
    m.begin();
    insert(&mut m, PRODUCTS, "6|~|t|x");
    assert_eq!(commit(&mut m), "product:6");
    assert_eq!(commit_streamed(&mut m, 10), "category:7 menu product:5");
    insert(&mut m, PRODUCTS, "8|4|t|x");
    assert_eq!(commit(&mut m), "category:8 menu product:4");
}

/// A change: transaction, subtransaction, row. Subtransaction 0 is the transaction itself.
#[derive(Debug, Clone)]
enum Step {
    Change(usize, u32, u8, u8),
    Rollback(usize, u32),
    Commit(usize),
    Abort(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => (0..3usize, 0..4u32, 0..30u8, 0..6u8).prop_map(|(t, s, id, c)| Step::Change(t, s, id, c)),
        2 => (0..3usize, 1..4u32).prop_map(|(t, s)| Step::Rollback(t, s)),
        1 => (0..3usize).prop_map(Step::Commit),
        1 => (0..3usize).prop_map(Step::Abort),
    ]
}

fn bumps_of(rows: &[(u32, u8, u8)], limits: Limits) -> TransactionBumps {
    let mut whole = streaming(limits);
    for (_, id, category) in rows {
        insert(&mut whole, PRODUCTS, &format!("{id}|{category}|t|x"));
    }
    whole.commit()
}

/// Does `wide` bump at least as hard whatever `narrow` bumps?
fn covers(wide: &TransactionBumps, narrow: &TransactionBumps) -> bool {
    let has = |tags: &[Tag], tag: &Tag| tags.iter().any(|t| t == tag || t.is_everything() || *t == tag.whole_family());
    narrow.hard.iter().all(|tag| has(&wide.hard, tag))
        && narrow.soft.iter().all(|tag| has(&wide.hard, tag) || has(&wide.soft, tag))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn streamed_is_whole_and_under_limits_wider(
        steps in prop::collection::vec(step(), 1..120),
        tight in any::<bool>(),
    ) {
        let unlimited = Limits::default();
        let limits = if tight { Limits { tags: 8, streamed_tags: 12, ..unlimited } } else { unlimited };
        let mut m = streaming(limits);
        // Of each transaction: the rows that are not rolled back.
        let mut open: [Option<Vec<(u32, u8, u8)>>; 3] = [None, None, None];
        for step in steps {
            match step {
                Step::Change(t, sub, id, category) => {
                    let (xid, is_first) = (10 * (t as u32 + 1), open[t].is_none());
                    block(&mut m, xid, is_first, &[(xid + sub, &format!("{id}|{category}|t|x"))]);
                    open[t].get_or_insert_default().push((sub, id, category));
                }
                Step::Rollback(t, sub) => if let Some(rows) = &mut open[t] {
                    rows.retain(|row| row.0 != sub);
                    let xid = 10 * (t as u32 + 1);
                    m.abort_streamed(xid, xid + sub);
                },
                Step::Abort(t) => if open[t].take().is_some() {
                    let xid = 10 * (t as u32 + 1);
                    m.abort_streamed(xid, xid);
                },
                Step::Commit(t) => if let Some(rows) = open[t].take() {
                    let streamed = m.commit_streamed(10 * (t as u32 + 1)).unwrap();
                    let whole = bumps_of(&rows, unlimited);
                    if tight {
                        prop_assert!(covers(&streamed, &whole), "{:?} does not cover {:?}", streamed, whole);
                    } else {
                        prop_assert_eq!(streamed, whole);
                    }
                },
            }
            prop_assert!(m.streamed_tags() <= limits.streamed_tags.max(3));
        }
    }
}

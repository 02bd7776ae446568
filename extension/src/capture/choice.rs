//! Which rule speaks for what a scan reads.

use cachetag_core::Tag;
use pgrx::pg_sys;

use super::cover::{Conditions, Equality, Scan, Source};
use super::nodes;
use crate::rules::{Form, Rule, TableRules};

/// The rule, and what is known of the tags.
pub enum Choice {
    /// A tag for each combination of the values that the columns of the rule's template meet: for each way in which a row can satisfy the conditions, a
    /// source a column, in the template's order.
    Keys { rule: usize, ways: Vec<Vec<Source>> },
    /// A tag that every change touches.
    Constant { rule: usize, tag: Tag },
    /// Every change touches some tag of the family.
    Family { rule: usize },
}

/// The finest rule that sees every change of a row that the scan could return; or why there is none.
///
/// # Safety
///
/// The scan's relation is open.
pub unsafe fn choose(rules: &TableRules, conditions: &Conditions, scan: &Scan) -> Result<Choice, String> {
    if rules.rules.is_empty() {
        return Err("no rule tracks it".to_owned());
    }
    // A soft rule lets readers have the old value for a while: only where no other speaks.
    for soft in [false, true] {
        let candidates =
            || rules.rules.iter().enumerate().filter(|(_, rule)| rule.soft == soft && rule.blind_to.is_none());
        let keys = candidates().filter_map(|(at, rule)| {
            let ways = ways(rules, rule, conditions)?;
            Some((columns_of(rule).len(), at, ways))
        });
        // Of several with as many columns the one that was made first.
        if let Some((_, rule, ways)) = keys.max_by_key(|(columns, at, _)| (*columns, std::cmp::Reverse(*at))) {
            return Ok(Choice::Keys { rule, ways });
        }
        let constant = candidates().find_map(|(at, rule)| Some((at, constant(rule)?)));
        if let Some((rule, tag)) = constant {
            return Ok(Choice::Constant { rule, tag });
        }
        // SAFETY: the caller's promise.
        if let Some((rule, _)) = candidates().find(|(_, rule)| unsafe { nullable(rules, rule, scan) }.is_none()) {
            return Ok(Choice::Family { rule });
        }
    }
    let reasons = rules.rules.iter().map(|rule| match rule.blind_to {
        Some(blind_to) => format!("rule {} does not see {blind_to}", rule.template),
        None => {
            // SAFETY: the caller's promise.
            let column = unsafe { nullable(rules, rule, scan) }.unwrap_or_default();
            format!("rule {} does not see rows whose {column} is NULL", rule.template)
        }
    });
    Err(reasons.collect::<Vec<_>>().join("; "))
}

/// The places of the columns of a rule's template.
pub fn columns_of(rule: &Rule) -> &[usize] {
    match &rule.form {
        Form::Exact { template, .. } => template.columns(),
        Form::Family => &[],
    }
}

fn constant(rule: &Rule) -> Option<Tag> {
    match &rule.form {
        Form::Exact { template, .. } if template.columns().is_empty() => Tag::parse(&rule.template).ok(),
        _ => None,
    }
}

/// A column that may be NULL: a row where it is has no tag.
unsafe fn nullable<'r>(rules: &'r TableRules, rule: &Rule, scan: &Scan) -> Option<&'r str> {
    columns_of(rule).iter().find_map(|column| {
        let column = &rules.columns[*column];
        // SAFETY: the caller's promise; the rules' columns are those of this relation.
        let is_never_null = unsafe { nodes::is_never_null(scan.relation, column.number) };
        (!is_never_null).then_some(column.name.as_str())
    })
}

/// How each column of the rule's template gets its values, for each way to satisfy the conditions.
fn ways(rules: &TableRules, rule: &Rule, conditions: &Conditions) -> Option<Vec<Vec<Source>>> {
    if columns_of(rule).is_empty() {
        return None;
    }
    let sources = |some: &[Equality]| -> Option<Vec<Source>> {
        let bound = |column: &usize| {
            let number = rules.columns[*column].number;
            finest(conditions.all.iter().chain(some).filter(|equality| equality.attribute == number))
        };
        columns_of(rule).iter().map(bound).collect()
    };
    if let Some(sources) = sources(&[]) {
        return Some(vec![sources]);
    }
    conditions.one_of.iter().find_map(|arms| arms.iter().map(|arm| sources(arm)).collect())
}

/// Of several equalities of one column the one with the fewest values: they all hold.
fn finest<'e>(equalities: impl Iterator<Item = &'e Equality>) -> Option<Source> {
    let count = |source: &Source| match source {
        Source::Fixed { values, .. } => values.len(),
        Source::Texts(texts) => texts.len(),
        Source::Parameter { is_array: false, .. } | Source::Key { .. } => 2,
        Source::Parameter { is_array: true, .. } => usize::MAX,
    };
    equalities.map(|equality| &equality.source).min_by_key(|source| count(source)).cloned()
}

/// The columns that the conditions bind, by name: all of them, or of the first alternatives those that all have in common.
///
/// # Safety
///
/// The scan's relation is open.
pub unsafe fn bound_columns(conditions: &Conditions, scan: &Scan) -> Vec<String> {
    let mut numbers: Vec<i16> = conditions.all.iter().map(|equality| equality.attribute).collect();
    for arms in &conditions.one_of {
        let binds = |arm: &[Equality], number| arm.iter().any(|equality| equality.attribute == number);
        let first = arms.first().into_iter().flatten().map(|equality| equality.attribute);
        numbers.extend(first.filter(|number| arms.iter().all(|arm| binds(arm, *number))));
    }
    numbers.sort_unstable();
    numbers.dedup();
    let name = |number: &i16| {
        // SAFETY: the caller's promise; equalities are about columns that the relation has.
        let name =
            unsafe { std::ffi::CStr::from_ptr((*nodes::attribute(scan.relation, *number)).attname.data.as_ptr()) };
        name.to_string_lossy().into_owned()
    };
    numbers.iter().map(name).collect()
}

/// The oid of a scan's relation.
///
/// # Safety
///
/// The relation is open.
pub unsafe fn oid_of(relation: pg_sys::Relation) -> pg_sys::Oid {
    // SAFETY: the caller's promise.
    unsafe { (*relation).rd_id }
}

//! Which rule speaks for what a scan reads.

use std::collections::BTreeSet;

use cachetag_core::{Tag, Value};
use pgrx::pg_sys;

use super::cover::{Conditions, Equality, Scan, Source};
use super::nodes;
use crate::broken::{Guard, forgets};
use crate::render::Renderer;
use crate::rules::{Form, Rule, TableRules};

/// The rule, and what is known of the tags.
pub enum Choice {
    /// A tag for each combination of the values that the columns of a rule's template meet. Several ways if a row can satisfy the conditions in several.
    Keys(Vec<Way>),
    /// A tag that every change touches.
    Constant { rule: usize, tag: Tag },
    /// Every change touches some tag of the family.
    Family { rule: usize },
}

/// A way in which a row can satisfy the conditions, and the rule whose columns it binds.
#[derive(Clone)]
pub struct Way {
    pub rule: usize,
    /// Where the value of each column of the template comes from, in the template's order.
    pub sources: Vec<Source>,
}

/// The finest rule that sees every change of a row that the scan could return; or why there is none. `read` says which columns the scan reads.
///
/// # Safety
///
/// The scan's relation is open.
pub unsafe fn choose(
    rules: &TableRules,
    conditions: &Conditions,
    scan: &Scan,
    read: impl Fn() -> Option<BTreeSet<i16>>,
) -> Result<Choice, String> {
    if rules.rules.is_empty() {
        return Err("no rule tracks it".to_owned());
    }
    let read = if rules.rules.iter().any(|rule| rule.columns.is_some()) { read() } else { None };
    let sees_columns = |rule: &Rule| match (&rule.columns, &read) {
        (None, _) => true,
        (Some(seen), Some(read)) => read.is_subset(seen),
        (Some(_), None) => false,
    };
    // SAFETY: the caller's promise.
    let sees_rows = |rule: &Rule| unsafe { matches(rules, rule, conditions) };
    let sees = |rule: &Rule| rule.blind_to.is_none() && sees_columns(rule) && sees_rows(rule);
    // A soft rule lets readers have the old value for a while: only where no other speaks.
    for soft in [false, true] {
        let candidates = || {
            rules
                .rules
                .iter()
                .enumerate()
                .filter(|(_, rule)| rule.soft == soft && (forgets(Guard::Options) || sees(rule)))
        };
        let finest = |some: &[Equality]| {
            let bound = candidates().filter_map(|(rule, _)| way(rules, rule, conditions, some));
            // Of several with as many columns the one that was made first.
            bound.max_by_key(|way| (way.sources.len(), std::cmp::Reverse(way.rule)))
        };
        if let Some(way) = finest(&[]) {
            return Ok(Choice::Keys(vec![way]));
        }
        let ways = |arms: &Vec<Vec<Equality>>| arms.iter().map(|arm| finest(arm)).collect::<Option<Vec<Way>>>();
        if let Some(ways) = conditions.one_of.iter().find_map(ways) {
            let ways = if forgets(Guard::OtherWays) { ways.into_iter().take(1).collect() } else { ways };
            return Ok(Choice::Keys(ways));
        }
        let constant = candidates().find_map(|(at, rule)| Some((at, constant(rule)?)));
        if let Some((rule, tag)) = constant {
            return Ok(Choice::Constant { rule, tag });
        }
        // SAFETY: the caller's promise.
        let sees_all = |rule| unsafe { nullable(rules, rule, scan) }.is_none() || forgets(Guard::Nulls);
        if let Some((rule, _)) = candidates().find(|(_, rule)| sees_all(rule)) {
            return Ok(Choice::Family { rule });
        }
    }
    let reasons = rules.rules.iter().map(|rule| match rule.blind_to {
        Some(blind_to) => format!("rule {} does not see {blind_to}", rule.template),
        None if !sees_rows(rule) => format!("rule {} does not see rows that its predicate leaves out", rule.template),
        None if !sees_columns(rule) => format!("rule {} does not see updates of some columns", rule.template),
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

/// Does every row that satisfies the conditions satisfy the rule's predicate? A change that the scan could see has such a row before it or after it.
unsafe fn matches(rules: &TableRules, rule: &Rule, conditions: &Conditions) -> bool {
    let Some(predicate) = rule.predicate() else { return true };
    let mut renderer = Renderer::default();
    let value_of = |column: &usize| {
        let column = &rules.columns[*column];
        if conditions.nulls.contains(&column.number) {
            return (None, true);
        }
        let equalities = conditions.all.iter().filter(|equality| equality.attribute == column.number);
        // SAFETY: the constants are those of the plan that is looked at.
        let mut texts =
            equalities.filter_map(|equality| unsafe { equality.source.only_text(column.type_oid, &mut renderer) });
        (texts.next(), false)
    };
    let values: Vec<(Option<Vec<u8>>, bool)> = predicate.columns().iter().map(value_of).collect();
    let verdict = predicate.eval(|column| {
        let place = predicate.columns().iter().position(|known| *known == column);
        match place.map(|place| &values[place]) {
            Some((_, true)) => Value::Null,
            Some((Some(text), _)) => Value::Text(text),
            _ => Value::Unknown,
        }
    });
    verdict == Some(true)
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

/// How each column of the rule's template gets its values, if the conditions, with some more, bind them all.
fn way(rules: &TableRules, rule: usize, conditions: &Conditions, some: &[Equality]) -> Option<Way> {
    let columns = columns_of(&rules.rules[rule]);
    if columns.is_empty() {
        return None;
    }
    let bound = |column: &usize| {
        let number = rules.columns[*column].number;
        finest_of(conditions.all.iter().chain(some).filter(|equality| equality.attribute == number))
    };
    let sources = columns.iter().map(bound).collect::<Option<Vec<Source>>>()?;
    Some(Way { rule, sources })
}

/// Of several equalities of one column the one with the fewest values: they all hold.
fn finest_of<'e>(equalities: impl Iterator<Item = &'e Equality>) -> Option<Source> {
    let count = |source: &Source| match source {
        Source::Fixed { values, .. } => values.len(),
        Source::Texts(texts) => texts.len(),
        Source::Several(sources) => sources.len(),
        Source::External { is_array: false, .. } | Source::Parameter { is_array: false, .. } | Source::Key { .. } => 2,
        Source::External { is_array: true, .. } | Source::Parameter { is_array: true, .. } => usize::MAX,
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

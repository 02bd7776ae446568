//! Which rules would make which queries finer.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::ffi::{CStr, c_char};

use cachetag_core::Tag;
use pgrx::pg_sys;

use super::choice::Choice;
use super::session::ScanReport;
use crate::rules::TableRules;

/// Advice beyond this is not kept.
const MAX_ADVICE: usize = 1000;
/// Of the text of a statement so many characters are kept.
const EXAMPLE_LEN: usize = 200;

/// What a rule would be good for.
pub struct Advice {
    /// Scans that would have had finer tags.
    pub scans: i64,
    /// A statement that has one.
    pub example: String,
}

thread_local! {
    /// By table and template, what this session has captured so far.
    static ADVICE: RefCell<BTreeMap<(u32, String), Advice>> = const { RefCell::new(BTreeMap::new()) };
}

/// How a scan was covered, and what would cover it better: a rule with the columns that its conditions bind.
pub fn report(
    relation: pg_sys::Oid,
    rules: &TableRules,
    choice: Result<&Choice, &String>,
    binds: &[String],
) -> ScanReport {
    let of = |rule: usize| rules.rules[rule].template.clone();
    let (templates, reason) = match choice {
        Ok(Choice::Keys(ways)) => {
            let mut templates: Vec<String> = ways.iter().map(|way| of(way.rule)).collect();
            templates.dedup();
            (templates, None)
        }
        Ok(Choice::Constant { rule, .. } | Choice::Family { rule }) => {
            let reason = if binds.is_empty() {
                "no condition binds a column to values whose text it determines".to_owned()
            } else {
                format!("no rule has only columns that the conditions bind ({})", binds.join(", "))
            };
            (vec![of(*rule)], Some(reason))
        }
        Err(reason) => (Vec::new(), Some(reason.clone())),
    };
    let is_fine = matches!(choice, Ok(Choice::Keys(_)));
    // Where no rule speaks for the table, even one tag for all of it is better.
    let finer = if is_fine || choice.is_ok() && binds.is_empty() { None } else { template_for(relation, rules, binds) };
    ScanReport { relation, templates, reason, finer }
}

/// The template of a rule for this table by these columns; a constant one without columns.
fn template_for(relation: pg_sys::Oid, rules: &TableRules, columns: &[String]) -> Option<String> {
    // SAFETY: a look-up that gives NULL for a relation that does not exist.
    let name = unsafe {
        let name = pg_sys::get_rel_name(relation);
        if name.is_null() {
            return None;
        }
        CStr::from_ptr(name).to_string_lossy().into_owned()
    };
    let mut family = Tag::new(&name, &[]).ok()?;
    if !columns.is_empty() && rules.rules.iter().any(|rule| rule.whole_family == family.whole_family()) {
        // The same number would mean two things in one family.
        family = Tag::new(&format!("{name}_{}", columns.join("_")), &[]).ok()?;
    }
    let columns = columns.iter().map(|column| format!(":{{{}}}", column.replace('}', "}}")));
    Some(format!("{family}{}", columns.collect::<String>()))
}

/// Keeps what the report advises.
///
/// # Safety
///
/// `statement` is a C string or NULL.
pub unsafe fn remember(report: &ScanReport, statement: *const c_char) {
    let Some(template) = &report.finer else { return };
    ADVICE.with_borrow_mut(|all| {
        let key = (report.relation.to_u32(), template.clone());
        if let Some(advice) = all.get_mut(&key) {
            advice.scans += 1;
        } else if all.len() < MAX_ADVICE {
            let text = if statement.is_null() {
                "".into()
            } else {
                // SAFETY: the caller's promise.
                unsafe { CStr::from_ptr(statement) }.to_string_lossy()
            };
            let example = text.trim().chars().take(EXAMPLE_LEN).collect();
            all.insert(key, Advice { scans: 1, example });
        }
    });
}

/// All advice, what concerns most scans first: table, template, number of scans, an example.
pub fn all() -> Vec<(pg_sys::Oid, String, i64, String)> {
    let mut all: Vec<_> = ADVICE.with_borrow(|all| {
        let row = |((relation, template), advice): (&(u32, String), &Advice)| {
            (pg_sys::Oid::from(*relation), template.clone(), advice.scans, advice.example.clone())
        };
        all.iter().map(row).collect()
    });
    all.sort_by_key(|(_, _, scans, _)| std::cmp::Reverse(*scans));
    all
}

/// The statement that makes a rule.
pub fn track_sql(relation: pg_sys::Oid, template: &str) -> String {
    let quoted = |text: &str| format!("'{}'", text.replace('\'', "''"));
    format!("SELECT cachetag.track({}, {});", quoted(&crate::column::table_name(relation)), quoted(template))
}

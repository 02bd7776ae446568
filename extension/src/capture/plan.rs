//! The walk through a plan that is about to run.

use std::collections::BTreeSet;
use std::ffi::{c_char, c_void};
use std::rc::Rc;

use pgrx::prelude::*;

use super::choice::{Choice, bound_columns, choose, oid_of};
use super::cover::{Conditions, Scan};
use super::expression::{Expressions, names_a_moment};
use super::session::{self, Suspended};
use super::{advice, nodes, watch};
use crate::broken::{Guard, forgets};
use crate::column::table_name;
use crate::rules::{TableRules, rules_of};

mod raw {
    use pgrx::pg_sys;
    use std::ffi::c_void;

    pub type Walker = unsafe extern "C-unwind" fn(*mut pg_sys::PlanState, *mut c_void) -> bool;

    // Exported by every server; renamed in PostgreSQL 16, before which the bindings have not got it.
    unsafe extern "C-unwind" {
        #[cfg_attr(not(feature = "pg15"), link_name = "planstate_tree_walker_impl")]
        pub fn planstate_tree_walker(state: *mut pg_sys::PlanState, walker: Walker, context: *mut c_void) -> bool;
    }
}

/// What is known of the statement whose plan is walked.
struct Statement {
    expressions: Expressions,
    scans: Vec<*mut pg_sys::PlanState>,
    reasons: BTreeSet<String>,
}

/// Records what a statement reads that is known now, and sees to it that the rest is recorded while it runs.
///
/// # Safety
///
/// The query has been started by the executor and has not run yet.
pub unsafe fn instrument(query: *mut pg_sys::QueryDesc) {
    // SAFETY: the caller's promise. Nothing of this walk holds a borrow while C runs.
    unsafe {
        let plan = (*query).plannedstmt;
        let mut statement =
            Statement { expressions: Expressions::default(), scans: Vec::new(), reasons: BTreeSet::new() };
        visit((*query).planstate, (&raw mut statement).cast());
        if statement.expressions.findings.ends_capture {
            if !statement.scans.is_empty() {
                session::refuse("the query that ends the capture reads tables itself");
            }
            return;
        }
        if (*plan).commandType != pg_sys::CmdType::CMD_SELECT || (*plan).hasModifyingCTE {
            statement.reasons.insert("it writes".to_owned());
        } else if !(*plan).rowMarks.is_null() {
            statement.reasons.insert("FOR UPDATE and FOR SHARE lock rows".to_owned());
        } else if statement.expressions.reads_system_column {
            statement.reasons.insert("a system column (ctid, xmin …) changes without a change of the row".to_owned());
        }
        if names_a_moment((*query).sourceText) {
            let reason = "'now', 'today', 'tomorrow' or 'yesterday' in the statement may stand for a time";
            statement.reasons.insert(reason.to_owned());
        }
        if pg_sys::GetTopTransactionIdIfAny() != pg_sys::InvalidTransactionId {
            statement.reasons.insert("the transaction has written, and sees what nobody else sees yet".to_owned());
        }
        let findings = std::mem::take(&mut statement.expressions.findings);
        session::with(|capture| {
            for reason in findings.reasons.iter().chain(&statement.reasons) {
                capture.refuse(reason);
            }
            for what in &findings.session {
                capture.depends_on_session(what);
            }
            if (*plan).dependsOnRole {
                capture.depends_on_session("current_user");
            }
        });
        for entry in nodes::list((*plan).rtable) {
            relation(entry.cast());
        }
        for state in statement.scans {
            scan(state, (*query).sourceText);
        }
    }
}

/// Looks at one node and goes on to those below it: the walker visits subplans too.
#[pg_guard]
unsafe extern "C-unwind" fn visit(state: *mut pg_sys::PlanState, context: *mut c_void) -> bool {
    use pg_sys::NodeTag::*;
    if state.is_null() {
        return false;
    }
    // SAFETY: the context is what `instrument` passed; the tag of a node says what it is.
    unsafe {
        let subplans = (*(*state).state).es_subplanstates;
        if forgets(Guard::Subplans) && nodes::list(subplans).any(|subplan| subplan == state.cast()) {
            return false;
        }
        let statement = &mut *context.cast::<Statement>();
        match (*state).type_ {
            T_SeqScanState
            | T_TidScanState
            | T_TidRangeScanState
            | T_IndexScanState
            | T_IndexOnlyScanState
            | T_BitmapHeapScanState => statement.scans.push(state),
            T_SampleScanState => {
                statement.scans.push(state);
                statement.reasons.insert("TABLESAMPLE takes other rows each time".to_owned());
            }
            T_ForeignScanState | T_CustomScanState => {
                statement.reasons.insert("a foreign or custom scan reads what the log does not have".to_owned());
            }
            T_ModifyTableState => {
                statement.reasons.insert("it writes".to_owned());
            }
            T_LockRowsState => {
                statement.reasons.insert("FOR UPDATE and FOR SHARE lock rows".to_owned());
            }
            T_NamedTuplestoreScanState => {
                statement.reasons.insert("a transition table exists in a trigger only".to_owned());
            }
            T_BitmapIndexScanState
            | T_SubqueryScanState
            | T_FunctionScanState
            | T_TableFuncScanState
            | T_ValuesScanState
            | T_CteScanState
            | T_WorkTableScanState => {}
            other => {
                // The tags of all scans are side by side.
                let is_scan = (T_ScanState as u32..=T_CustomScanState as u32).contains(&(other as u32));
                if is_scan {
                    statement.reasons.insert("a scan of an unknown kind".to_owned());
                }
            }
        }
        statement.expressions.look_at_plan((*state).plan);
        raw::planstate_tree_walker(state, visit, context)
    }
}

/// A relation that the statement names.
unsafe fn relation(entry: *mut pg_sys::RangeTblEntry) {
    // SAFETY: the caller's promise: an entry of a range table. A view keeps its oid, since PostgreSQL 16 as a subquery.
    let (oid, kind) = unsafe { ((*entry).relid, (*entry).relkind as u8) };
    if oid == pg_sys::InvalidOid || session::with(|capture| capture.knows_relation(oid)) {
        return;
    }
    let mut families: Vec<Box<str>> = Vec::new();
    let refusal = match kind {
        pg_sys::RELKIND_RELATION | pg_sys::RELKIND_PARTITIONED_TABLE if oid.to_u32() < pg_sys::FirstNormalObjectId => {
            Some("is a system catalog, whose changes are not published")
        }
        pg_sys::RELKIND_RELATION | pg_sys::RELKIND_PARTITIONED_TABLE => {
            // SAFETY: a look-up of a relation that the statement has locked.
            let persistence = unsafe { pg_sys::get_rel_persistence(oid) } as u8;
            match persistence {
                pg_sys::RELPERSISTENCE_TEMP => Some("is temporary"),
                pg_sys::RELPERSISTENCE_UNLOGGED if forgets(Guard::Unlogged) => None,
                pg_sys::RELPERSISTENCE_UNLOGGED => Some("is unlogged, so its changes are not published"),
                _ => {
                    families = match rules(oid) {
                        Ok(rules) => rules.rules.iter().map(|rule| rule.whole_family.as_str().into()).collect(),
                        Err(error) => {
                            session::refuse(error);
                            Vec::new()
                        }
                    };
                    None
                }
            }
        }
        // SAFETY: as above. A view may be temporary.
        pg_sys::RELKIND_VIEW if unsafe { pg_sys::get_rel_persistence(oid) } as u8 == pg_sys::RELPERSISTENCE_TEMP => {
            Some("is temporary")
        }
        pg_sys::RELKIND_VIEW => None,
        pg_sys::RELKIND_MATVIEW => Some("is a materialized view, whose changes are not published"),
        pg_sys::RELKIND_FOREIGN_TABLE => Some("is a foreign table, whose changes are not in this server's log"),
        pg_sys::RELKIND_SEQUENCE => Some("is a sequence"),
        _ => Some("is not a table"),
    };
    if let Some(refusal) = refusal {
        session::refuse(format!("{} {refusal}", table_name(oid)));
    }
    session::with(|capture| capture.add_relation(oid, families));
}

/// The rules of a table, read without being captured.
fn rules(table: pg_sys::Oid) -> Result<Rc<TableRules>, String> {
    let _suspended = Suspended::enter();
    rules_of(table).map_err(|error| format!("the rules of {} cannot be read: {error}", table_name(table)))
}

/// A scan of a relation.
unsafe fn scan(state: *mut pg_sys::PlanState, statement: *const c_char) {
    // SAFETY: the caller's promise: a scan of a relation, which is open, as are its indexes.
    unsafe {
        let relation = (*state.cast::<pg_sys::ScanState>()).ss_currentRelation;
        let oid = oid_of(relation);
        let kind = (*(*relation).rd_rel).relkind as u8;
        let persistence = (*(*relation).rd_rel).relpersistence as u8;
        if relation.is_null()
            || oid.to_u32() < pg_sys::FirstNormalObjectId
            || kind != pg_sys::RELKIND_RELATION
            || persistence != pg_sys::RELPERSISTENCE_PERMANENT
        {
            // Its entry in the range table has made the result one that is not cached.
            return;
        }
        let rules = match rules(oid) {
            Ok(rules) => rules,
            Err(error) => return session::refuse(error),
        };
        let mut scan = Scan {
            state,
            relation,
            number: (*(*state).plan.cast::<pg_sys::Scan>()).scanrelid as i32,
            index: std::ptr::null_mut(),
        };
        let conditions = conditions(&mut scan);
        let choice = choose(&rules, &conditions, &scan);
        let is_detailed = session::with(|capture| capture.is_detailed());
        if is_detailed || !matches!(choice, Ok(Choice::Keys(_))) {
            let binds = bound_columns(&conditions, &scan);
            let report = advice::report(oid, &rules, choice.as_ref(), &binds);
            advice::remember(&report, statement);
            session::with(|capture| capture.add_scan(report));
        }
        match choice {
            Ok(Choice::Keys(ways)) => {
                let mut watch = watch::Watch::new(oid, rules, ways);
                if watch.is_fixed() {
                    if !forgets(Guard::FixedKeys) {
                        watch.record(state);
                    }
                } else if !forgets(Guard::RuntimeKeys) {
                    watch::install(state, watch);
                }
            }
            Ok(Choice::Constant { .. }) if forgets(Guard::Constants) => {}
            Ok(Choice::Family { .. }) if forgets(Guard::Families) => {}
            Ok(Choice::Constant { rule, tag }) => {
                let family = &rules.rules[rule].whole_family;
                session::with(|capture| capture.add_tag(oid, family, tag.as_str()));
            }
            Ok(Choice::Family { rule }) => {
                let family = &rules.rules[rule].whole_family;
                session::with(|capture| capture.add_family(oid, family));
            }
            Err(_) if rules.rules.is_empty() && forgets(Guard::Untracked) => {}
            Err(reason) => session::refuse(format!("table {}: {reason}", table_name(oid))),
        }
    }
}

unsafe fn conditions(scan: &mut Scan) -> Conditions {
    use pg_sys::NodeTag::*;
    let mut conditions = Conditions::default();
    // SAFETY: the caller's promise; the tag of a node says what it is.
    unsafe {
        let plan = (*scan.state).plan;
        match (*scan.state).type_ {
            T_IndexScanState => {
                let state = &*scan.state.cast::<pg_sys::IndexScanState>();
                conditions.add((*plan.cast::<pg_sys::IndexScan>()).indexqualorig, scan);
                conditions.add((*plan).qual, scan);
                let index = state.iss_RelationDesc;
                conditions.add_runtime_keys(scan, index, state.iss_RuntimeKeys, state.iss_NumRuntimeKeys);
            }
            T_IndexOnlyScanState => {
                let state = &*scan.state.cast::<pg_sys::IndexOnlyScanState>();
                scan.index = state.ioss_RelationDesc;
                conditions.add((*plan.cast::<pg_sys::IndexOnlyScan>()).indexqual, scan);
                conditions.add((*plan).qual, scan);
                conditions.add_runtime_keys(scan, scan.index, state.ioss_RuntimeKeys, state.ioss_NumRuntimeKeys);
            }
            T_BitmapHeapScanState => {
                // What the bitmaps were made by, whichever of them were made.
                conditions.add((*plan.cast::<pg_sys::BitmapHeapScan>()).bitmapqualorig, scan);
                conditions.add((*plan).qual, scan);
            }
            _ => conditions.add((*plan).qual, scan),
        }
    }
    conditions
}

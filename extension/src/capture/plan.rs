//! The walk through a plan that is about to run.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::ffi::{CStr, c_void};
use std::rc::Rc;

use cachetag_core::Tag;
use pgrx::prelude::*;

use super::choice::{Choice, bound_columns, choose, oid_of};
use super::cover::{Conditions, Scan};
use super::expression::{Expressions, names_a_moment};
use super::functions::{self, Findings};
use super::reads::columns_of_one_row;
use super::record::{Known, Recorder};
use super::session::{ScanReport, Suspended};
use super::{advice, nodes, row_types};
use crate::broken::{Guard, forgets};
use crate::column::table_name;
use crate::rules::{TableRules, rules_of};

pub mod raw {
    use pgrx::pg_sys;
    use std::ffi::c_void;

    pub type Walker = unsafe extern "C-unwind" fn(*mut pg_sys::PlanState, *mut c_void) -> bool;

    // Exported by every server; renamed in PostgreSQL 16, before which the bindings have not got it.
    unsafe extern "C-unwind" {
        #[cfg_attr(not(feature = "pg15"), link_name = "planstate_tree_walker_impl")]
        pub fn planstate_tree_walker(state: *mut pg_sys::PlanState, walker: Walker, context: *mut c_void) -> bool;
    }
}

/// What a plan depends on in every execution.
pub struct Analysis {
    /// It calls `cachetag.capture_end`: it is no part of the capture.
    pub ends_capture: bool,
    pub findings: Findings,
    pub relations: Vec<Named>,
    pub scans: Vec<ScanOf>,
    /// How many of them have to be looked at while the query runs.
    pub watched: usize,
    /// Is it the same in the next execution of the plan? Not if the executor leaves partitions out when it starts.
    pub is_reusable: bool,
}

/// A relation that the statement names.
pub struct Named {
    pub oid: pg_sys::Oid,
    /// The families of the rules about it.
    pub families: Vec<Box<str>>,
}

/// A scan of a relation.
pub struct ScanOf {
    /// The scan's node, by which its state is found.
    pub plan: *mut pg_sys::Plan,
    pub tags: Tags,
    /// Made for scans that could be finer; for all, if the capture is to explain itself.
    pub report: Option<ScanReport>,
}

/// What a scan depends on.
pub enum Tags {
    Recorded {
        known: Known,
        recorder: Rc<RefCell<Recorder>>,
    },
    Constant {
        whole_family: Tag,
        tag: Tag,
    },
    Family(Tag),
    /// No tag speaks for it.
    None(String),
}

impl Tags {
    /// When the values of a scan are known that has some.
    pub fn known(&self) -> Option<Known> {
        match self {
            Tags::Recorded { known, .. } => Some(*known),
            _ => None,
        }
    }
}

/// What is gathered in the walk.
#[derive(Default)]
struct Walk {
    expressions: Expressions,
    scans: Vec<*mut pg_sys::PlanState>,
    reasons: BTreeSet<String>,
    prunes_at_start: bool,
}

/// Finds out what a statement depends on.
///
/// # Safety
///
/// The query has been started by the executor and has not run yet.
pub unsafe fn analyse(query: *mut pg_sys::QueryDesc, is_detailed: bool) -> Analysis {
    // SAFETY: the caller's promise. Nothing of this walk holds a borrow while C runs.
    unsafe {
        let plan = (*query).plannedstmt;
        let mut walk = Walk::default();
        // An error unwinds from here on, so that what is held is given back.
        pg_sys::ffi::pg_guard_ffi_boundary(|| visit((*query).planstate, (&raw mut walk).cast()));
        let mut findings = std::mem::take(&mut walk.expressions.findings);
        let mut analysis = Analysis {
            ends_capture: findings.ends_capture,
            findings: Findings::default(),
            relations: Vec::new(),
            scans: Vec::new(),
            watched: 0,
            is_reusable: !walk.prunes_at_start,
        };
        if analysis.ends_capture {
            if !walk.scans.is_empty() {
                analysis.findings.reasons.insert("the query that ends the capture reads tables itself".to_owned());
            }
            return analysis;
        }
        findings.reasons.append(&mut walk.reasons);
        if (*plan).commandType != pg_sys::CmdType::CMD_SELECT || (*plan).hasModifyingCTE {
            findings.reasons.insert("it writes".to_owned());
        } else if !(*plan).rowMarks.is_null() {
            findings.reasons.insert("FOR UPDATE and FOR SHARE lock rows".to_owned());
        } else if walk.expressions.reads_system_column {
            findings.reasons.insert("a system column (ctid, xmin …) changes without a change of the row".to_owned());
        }
        functions::look_at_inlined(plan, &mut findings);
        let text = (*query).sourceText;
        if !text.is_null() && names_a_moment(CStr::from_ptr(text).to_bytes()) {
            let reason = "'now', 'today', 'tomorrow' or 'yesterday' in the statement may stand for a time";
            findings.reasons.insert(reason.to_owned());
        }
        if (*plan).dependsOnRole {
            findings.session.insert("current_user".to_owned());
        }
        for entry in nodes::list((*plan).rtable) {
            analysis.relations.extend(relation(entry.cast(), &mut findings));
        }
        // After those that are read, whose tags may be enough.
        let mut types = std::mem::take(&mut walk.expressions.types);
        types.append(&mut findings.types);
        for oid in row_types::relations(types).into_iter().map(pg_sys::Oid::from) {
            if pg_sys::get_rel_persistence(oid) as u8 == pg_sys::RELPERSISTENCE_TEMP {
                findings.reasons.insert(format!("{} is temporary", table_name(oid)));
            }
            analysis.relations.push(Named { oid, families: Vec::new() });
        }
        for state in walk.scans {
            analysis.scans.extend(scan(state, &mut findings, is_detailed));
        }
        analysis.watched = analysis.scans.iter().filter(|scan| scan.tags.known() == Some(Known::WhileRunning)).count();
        analysis.findings = findings;
        analysis
    }
}

/// Looks at one node and goes on to those below it: the walker visits subplans too.
#[pg_guard]
unsafe extern "C-unwind" fn visit(state: *mut pg_sys::PlanState, context: *mut c_void) -> bool {
    use pg_sys::NodeTag::*;
    if state.is_null() {
        return false;
    }
    // SAFETY: the context is what `analyse` passed; the tag of a node says what it is.
    unsafe {
        let subplans = (*(*state).state).es_subplanstates;
        if forgets(Guard::Subplans) && nodes::list(subplans).any(|subplan| subplan == state.cast()) {
            return false;
        }
        let walk = &mut *context.cast::<Walk>();
        match (*state).type_ {
            T_SeqScanState
            | T_TidScanState
            | T_TidRangeScanState
            | T_IndexScanState
            | T_IndexOnlyScanState
            | T_BitmapHeapScanState => walk.scans.push(state),
            T_SampleScanState => {
                walk.scans.push(state);
                walk.reasons.insert("TABLESAMPLE takes other rows each time".to_owned());
            }
            T_ForeignScanState | T_CustomScanState => {
                walk.reasons.insert("a foreign or custom scan reads what the log does not have".to_owned());
            }
            T_ModifyTableState => {
                walk.reasons.insert("it writes".to_owned());
            }
            T_LockRowsState => {
                walk.reasons.insert("FOR UPDATE and FOR SHARE lock rows".to_owned());
            }
            T_NamedTuplestoreScanState => {
                walk.reasons.insert("a transition table exists in a trigger only".to_owned());
            }
            T_AppendState | T_MergeAppendState => {
                if let Some(pruning) = pruning(state) {
                    walk.prunes_at_start = true;
                    look_at_pruning(pruning, &mut walk.expressions);
                }
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
                    walk.reasons.insert("a scan of an unknown kind".to_owned());
                }
            }
        }
        walk.expressions.look_at_plan((*state).plan);
        raw::planstate_tree_walker(state, visit, context)
    }
}

/// By what the executor leaves parts of an Append or MergeAppend out, some of them when it starts.
unsafe fn pruning(state: *mut pg_sys::PlanState) -> Option<*mut pg_sys::PartitionPruneInfo> {
    // SAFETY: the tag of a node says what it is.
    unsafe {
        let plan = (*state).plan;
        let is_append = (*plan).type_ == pg_sys::NodeTag::T_Append;
        #[cfg(not(feature = "pg18"))]
        let pruning = if is_append {
            (*plan.cast::<pg_sys::Append>()).part_prune_info
        } else {
            (*plan.cast::<pg_sys::MergeAppend>()).part_prune_info
        };
        #[cfg(feature = "pg18")]
        let pruning = {
            let at = if is_append {
                (*plan.cast::<pg_sys::Append>()).part_prune_index
            } else {
                (*plan.cast::<pg_sys::MergeAppend>()).part_prune_index
            };
            let all = (*(*(*state).state).es_plannedstmt).partPruneInfos;
            usize::try_from(at)
                .ok()
                .and_then(|at| nodes::list(all).nth(at))
                .map_or(std::ptr::null_mut(), |info| info.cast::<pg_sys::PartitionPruneInfo>())
        };
        (!pruning.is_null()).then_some(pruning)
    }
}

/// What decides which parts are left out is in no part: there may be none left.
unsafe fn look_at_pruning(pruning: *mut pg_sys::PartitionPruneInfo, expressions: &mut Expressions) {
    // SAFETY: a list of lists of these nodes; the tag of a step says what it is.
    unsafe {
        for of_tree in nodes::list((*pruning).prune_infos) {
            for info in nodes::list(of_tree.cast()) {
                let info = info.cast::<pg_sys::PartitionedRelPruneInfo>();
                let steps = [(*info).initial_pruning_steps, (*info).exec_pruning_steps];
                for step in steps.into_iter().flat_map(nodes::list) {
                    if (*step.cast::<pg_sys::Node>()).type_ == pg_sys::NodeTag::T_PartitionPruneStepOp {
                        let step = step.cast::<pg_sys::PartitionPruneStepOp>();
                        expressions.look_at((*step).exprs.cast());
                        for function in nodes::numbers((*step).cmpfns) {
                            expressions.call(function);
                        }
                    }
                }
            }
        }
    }
}

/// A relation that the statement names.
unsafe fn relation(entry: *mut pg_sys::RangeTblEntry, findings: &mut Findings) -> Option<Named> {
    // SAFETY: the caller's promise: an entry of a range table. A view keeps its oid, since PostgreSQL 16 as a subquery.
    let (oid, kind) = unsafe { ((*entry).relid, (*entry).relkind as u8) };
    if oid == pg_sys::InvalidOid {
        return None;
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
                            findings.reasons.insert(error);
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
        findings.reasons.insert(format!("{} {refusal}", table_name(oid)));
    }
    Some(Named { oid, families })
}

/// The rules of a table, read without being captured.
fn rules(table: pg_sys::Oid) -> Result<Rc<TableRules>, String> {
    let _suspended = Suspended::enter();
    rules_of(table).map_err(|error| format!("the rules of {} cannot be read: {error}", table_name(table)))
}

/// A scan of a relation.
unsafe fn scan(state: *mut pg_sys::PlanState, findings: &mut Findings, is_detailed: bool) -> Option<ScanOf> {
    // SAFETY: the caller's promise: a scan of a relation, which is open, as are its indexes.
    unsafe {
        let relation = (*state.cast::<pg_sys::ScanState>()).ss_currentRelation;
        if relation.is_null() {
            findings.reasons.insert("a scan of no relation".to_owned());
            return None;
        }
        let oid = oid_of(relation);
        let form = &*(*relation).rd_rel;
        if oid.to_u32() < pg_sys::FirstNormalObjectId
            || form.relkind as u8 != pg_sys::RELKIND_RELATION
            || form.relpersistence as u8 != pg_sys::RELPERSISTENCE_PERMANENT
        {
            // Its entry in the range table has made the result one that is not cached.
            return None;
        }
        let rules = match rules(oid) {
            Ok(rules) => rules,
            Err(error) => {
                findings.reasons.insert(error);
                return None;
            }
        };
        let plan = (*state).plan;
        let mut scan =
            Scan { relation, number: (*plan.cast::<pg_sys::Scan>()).scanrelid as i32, index: std::ptr::null_mut() };
        let conditions = conditions(&mut scan, state);
        let choice = choose(&rules, &conditions, &scan, || columns_of_one_row(state, &conditions, &scan));
        let report = (is_detailed || !matches!(choice, Ok(Choice::Keys(_)))).then(|| {
            let binds = bound_columns(&conditions, &scan);
            advice::report(oid, &rules, choice.as_ref(), &binds)
        });
        let whole_family = |rule: usize| rules.rules[rule].whole_family.clone();
        let tags = match choice {
            Ok(Choice::Constant { .. }) if forgets(Guard::Constants) => return None,
            Ok(Choice::Family { .. }) if forgets(Guard::Families) => return None,
            Err(_) if rules.rules.is_empty() && forgets(Guard::Untracked) => return None,
            Ok(Choice::Constant { rule, tag }) => Tags::Constant { whole_family: whole_family(rule), tag },
            Ok(Choice::Family { rule }) => Tags::Family(whole_family(rule)),
            Ok(Choice::Keys(ways)) => {
                let recorder = Recorder::new(rules, ways);
                Tags::Recorded { known: recorder.known(), recorder: Rc::new(RefCell::new(recorder)) }
            }
            Err(reason) => Tags::None(format!("table {}: {reason}", table_name(oid))),
        };
        Some(ScanOf { plan, tags, report })
    }
}

unsafe fn conditions(scan: &mut Scan, state: *mut pg_sys::PlanState) -> Conditions {
    use pg_sys::NodeTag::*;
    let mut conditions = Conditions::default();
    // SAFETY: the caller's promise; the tag of a node says what it is.
    unsafe {
        let plan = (*state).plan;
        match (*state).type_ {
            T_IndexScanState => {
                let state = &*state.cast::<pg_sys::IndexScanState>();
                conditions.add((*plan.cast::<pg_sys::IndexScan>()).indexqualorig, scan);
                conditions.add((*plan).qual, scan);
                let index = state.iss_RelationDesc;
                conditions.add_partial_index(index, scan);
                conditions.add_runtime_keys(scan, index, state.iss_RuntimeKeys, state.iss_NumRuntimeKeys);
            }
            T_IndexOnlyScanState => {
                let state = &*state.cast::<pg_sys::IndexOnlyScanState>();
                scan.index = state.ioss_RelationDesc;
                conditions.add_partial_index(scan.index, scan);
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

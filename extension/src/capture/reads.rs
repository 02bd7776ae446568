//! Which columns a scan reads, and whether it finds more than one row: what has to be known before a rule can speak for it that looks at some columns only.

use std::collections::BTreeSet;
use std::ffi::c_void;

use pgrx::prelude::*;

use super::cover::{Conditions, Scan, Source};
use super::equality::kind_of;
use super::expression::raw::expression_tree_walker;
use super::nodes;

/// Types that [`kind_of`] does not know, of which equal texts are equal values all the same.
const EXACT_TEXTS: [pg_sys::Oid; 7] = [
    pg_sys::NUMERICOID,
    pg_sys::FLOAT4OID,
    pg_sys::FLOAT8OID,
    pg_sys::BPCHAROID,
    pg_sys::INTERVALOID,
    pg_sys::JSONOID,
    pg_sys::JSONBOID,
];

struct Walk {
    number: i32,
    columns: BTreeSet<i16>,
    /// Something that is no column of the table: its whole row, a column of the system, a column of another node.
    is_unknown: bool,
}

/// The columns that a scan by a plain index reads, for its conditions too, if it finds at most one row in each pass: with more of them, their order could
/// change with a column that is not read. `None`: it may find more, or what it reads is not known.
///
/// # Safety
///
/// The state is that of a scan of the relation, which is open, as is its index; the conditions are its.
pub unsafe fn columns_of_one_row(
    state: *mut pg_sys::PlanState,
    conditions: &Conditions,
    scan: &Scan,
) -> Option<BTreeSet<i16>> {
    // SAFETY: the caller's promise; the tag of a node says what it is.
    unsafe {
        let plan = (*state).plan;
        let mut walk = Walk { number: scan.number, columns: BTreeSet::new(), is_unknown: false };
        let (index, lists) = match (*state).type_ {
            pg_sys::NodeTag::T_SeqScanState => (std::ptr::null_mut(), Vec::new()),
            pg_sys::NodeTag::T_IndexScanState => {
                let plan = &*plan.cast::<pg_sys::IndexScan>();
                let index = (*state.cast::<pg_sys::IndexScanState>()).iss_RelationDesc;
                (index, vec![plan.indexqualorig, plan.indexorderbyorig])
            }
            // Its expressions are about the columns of the index, all of which count as read.
            pg_sys::NodeTag::T_IndexOnlyScanState => (scan.index, Vec::new()),
            _ => return None,
        };
        if !index.is_null() && !pg_sys::RelationGetIndexPredicate(index).is_null() {
            // Conditions that the index implies are left out of the plan.
            return None;
        }
        if !scan.index.is_null() {
            let form = &*(*scan.index).rd_index;
            let numbers = std::slice::from_raw_parts(form.indkey.values.as_ptr(), form.indnatts as usize);
            walk.columns.extend(numbers);
            walk.is_unknown = numbers.iter().any(|number| *number <= 0);
        } else {
            let lists = lists.into_iter().chain([(*plan).targetlist, (*plan).qual]);
            for list in lists.filter(|list| !list.is_null()) {
                visit(list.cast(), (&raw mut walk).cast());
            }
        }
        if walk.is_unknown
            || !finds_one_row(conditions, scan)
            || !walk.columns.iter().all(|column| is_exact(*column, scan))
        {
            return None;
        }
        Some(walk.columns)
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn visit(node: *mut pg_sys::Node, context: *mut c_void) -> bool {
    if node.is_null() {
        return false;
    }
    // SAFETY: the context is what `columns_of_one_row` passed; the tag of a node says what it is.
    unsafe {
        if (*node).type_ == pg_sys::NodeTag::T_Var {
            let walk = &mut *context.cast::<Walk>();
            let variable = &*node.cast::<pg_sys::Var>();
            if variable.varno == walk.number && variable.varlevelsup == 0 && variable.varattno > 0 {
                walk.columns.insert(variable.varattno);
            } else {
                walk.is_unknown = true;
            }
        }
        expression_tree_walker(node, visit, context)
    }
}

/// Has the column a type of which equal texts are equal values? The daemon compares texts to see whether an update has changed it.
unsafe fn is_exact(column: i16, scan: &Scan) -> bool {
    // SAFETY: the caller's promise: a column of the scan's relation.
    let attribute = unsafe { &*nodes::attribute(scan.relation, column) };
    // A generated column is not in the log.
    attribute.attgenerated == 0 && (kind_of(attribute.atttypid).is_some() || EXACT_TEXTS.contains(&attribute.atttypid))
}

/// Do the conditions bind all columns of a unique index to one value each?
unsafe fn finds_one_row(conditions: &Conditions, scan: &Scan) -> bool {
    let is_bound = |column: &i16| {
        conditions.all.iter().any(|equality| equality.attribute == *column && is_one_value(&equality.source))
    };
    // SAFETY: the caller's promise: the relation is open. A row of pg_index is released after it was looked at.
    unsafe {
        let cache = pg_sys::SysCacheIdentifier::INDEXRELID as i32;
        let is_unique = |index: pg_sys::Oid| {
            let tuple = pg_sys::SearchSysCache1(cache, pg_sys::Datum::from(index));
            if tuple.is_null() {
                return false;
            }
            let form = &*pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_index>();
            let keys = std::slice::from_raw_parts(form.indkey.values.as_ptr(), form.indnkeyatts as usize);
            let mut is_whole = false;
            pg_sys::SysCacheGetAttr(cache, tuple, pg_sys::Anum_pg_index_indpred as i16, &mut is_whole);
            let found = form.indisunique
                && form.indimmediate
                && form.indisvalid
                && is_whole
                && keys.iter().all(|key| *key > 0 && is_bound(key));
            pg_sys::ReleaseSysCache(tuple);
            found
        };
        let indexes = pg_sys::RelationGetIndexList(scan.relation);
        let count = if indexes.is_null() { 0 } else { (*indexes).length as usize };
        let found = (0..count).any(|at| is_unique((*(*indexes).elements.add(at)).oid_value));
        pg_sys::list_free(indexes);
        found
    }
}

fn is_one_value(source: &Source) -> bool {
    match source {
        Source::Fixed { values, .. } => values.len() <= 1,
        Source::External { is_array, .. } | Source::Parameter { is_array, .. } => !is_array,
        // May be an array, which is seen when it is computed.
        Source::Key { .. } | Source::Several(_) | Source::Texts(_) => false,
    }
}

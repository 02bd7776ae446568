//! One execution of a statement: what is known of its plan, and what only this execution has.

use std::cell::RefCell;
use std::ffi::c_void;
use std::rc::Rc;

use pgrx::prelude::*;

use super::hash::FastMap;
use super::plan::{self, Analysis, ScanOf, Tags};
use super::record::{Known, Values};
use super::{advice, functions, session, watch};
use crate::broken::{Guard, forgets};
use crate::rules;

/// Plans beyond this are analysed every time.
const MAX_PLANS: usize = 10_000;

/// Under which state of rules, of functions, and of types and operators an analysis was made.
type Stamp = (u64, u64, u64);

/// A plan that has been analysed.
struct Analysed {
    analysis: Analysis,
    stamp: Stamp,
    /// The capture that has what does not depend on the execution.
    told: u64,
}

thread_local! {
    /// By the place of the plan in memory. A callback takes a plan out when its memory goes.
    static ANALYSED: RefCell<FastMap<usize, Rc<RefCell<Analysed>>>> = RefCell::default();
}

mod raw {
    use pgrx::pg_sys;

    // As in the bindings, without the guard: it does not fail.
    unsafe extern "C-unwind" {
        pub fn GetTopTransactionIdIfAny() -> pg_sys::TransactionId;
    }
}

/// Records what a statement reads that is known now, and sees to it that the rest is recorded while it runs.
///
/// # Safety
///
/// The query has been started by the executor and has not run yet.
pub unsafe fn capture(query: *mut pg_sys::QueryDesc) {
    // SAFETY: the caller's promise.
    unsafe {
        let analysed = find(query);
        let mut analysed = analysed.borrow_mut();
        let is_told = std::mem::replace(&mut analysed.told, session::generation()) == session::generation();
        let analysis = &analysed.analysis;
        if !is_told {
            tell(analysis, query);
        }
        if analysis.ends_capture {
            return;
        }
        if raw::GetTopTransactionIdIfAny() != pg_sys::InvalidTransactionId {
            session::refuse("the transaction has written, and sees what nobody else sees yet");
        }
        for scan in &analysis.scans {
            if let Tags::Recorded { known: Known::AtStart, recorder } = &scan.tags
                && !forgets(Guard::FixedKeys)
            {
                recorder.borrow_mut().record(Values { external: (*query).params, state: std::ptr::null_mut() });
            }
        }
        if analysis.watched > 0 && !forgets(Guard::RuntimeKeys) {
            let mut search = Search { scans: &analysis.scans, left: analysis.watched };
            if !search.visit((*query).planstate) {
                let search = (&raw mut search).cast();
                // An error unwinds from here on, so that what is held is given back.
                pg_sys::ffi::pg_guard_ffi_boundary(|| {
                    plan::raw::planstate_tree_walker((*query).planstate, install, search)
                });
            }
        }
    }
}

/// The analysis of the query's plan: the one from its last execution, if that is still good.
unsafe fn find(query: *mut pg_sys::QueryDesc) -> Rc<RefCell<Analysed>> {
    // SAFETY: the caller's promise.
    unsafe {
        let plan = (*query).plannedstmt;
        let place = plan as usize;
        let is_detailed = session::with(|capture| capture.is_detailed());
        let known = ANALYSED.with_borrow(|all| all.get(&place).cloned());
        if let Some(known) = &known
            && !is_detailed
            && known.borrow().is_current()
            && known.borrow().analysis.is_reusable
        {
            return Rc::clone(known);
        }
        // Before the rules are read: what changes in between makes the analysis one to be made again.
        let stamp = stamp();
        let analysis = plan::analyse(query, is_detailed);
        let is_kept = analysis.is_reusable && !is_detailed;
        let analysed = Rc::new(RefCell::new(Analysed { analysis, stamp, told: 0 }));
        if is_kept && (known.is_some() || forget_with_memory(plan)) {
            ANALYSED.with_borrow_mut(|all| all.insert(place, Rc::clone(&analysed)));
        }
        analysed
    }
}

fn stamp() -> Stamp {
    (rules::generation(), functions::generation(), functions::generation_of_names())
}

impl Analysed {
    fn is_current(&self) -> bool {
        let (now, then) = (stamp(), self.stamp);
        // Most statements do not mind a new type, as every temporary table is.
        (now.0, now.1) == (then.0, then.1) && (now.2 == then.2 || !self.analysis.findings.is_of_text)
    }
}

/// Has the plan taken out of the map when its memory goes; `false`: there are too many.
unsafe fn forget_with_memory(plan: *mut pg_sys::PlannedStmt) -> bool {
    if ANALYSED.with_borrow(|all| all.len() >= MAX_PLANS) {
        return false;
    }
    // SAFETY: the plan is a chunk of its own in the context of its statement; the callback lives in the same.
    unsafe {
        let context = pg_sys::GetMemoryChunkContext(plan.cast());
        let callback = pg_sys::MemoryContextAlloc(context, size_of::<pg_sys::MemoryContextCallback>())
            .cast::<pg_sys::MemoryContextCallback>();
        *callback =
            pg_sys::MemoryContextCallback { func: Some(on_reset), arg: plan.cast(), next: std::ptr::null_mut() };
        pg_sys::MemoryContextRegisterResetCallback(context, callback);
    }
    true
}

unsafe extern "C-unwind" fn on_reset(plan: *mut c_void) {
    // Not while the map is borrowed: nothing of the server runs then. At the end of the process there is no map.
    let _ = ANALYSED.try_with(|all| {
        if let Ok(mut all) = all.try_borrow_mut() {
            all.remove(&(plan as usize));
        }
    });
}

/// Tells the capture what is the same in every execution.
unsafe fn tell(analysis: &Analysis, query: *mut pg_sys::QueryDesc) {
    session::with(|capture| {
        for reason in &analysis.findings.reasons {
            capture.refuse(reason);
        }
        for what in &analysis.findings.session {
            capture.depends_on_session(what);
        }
        for relation in &analysis.relations {
            capture.add_relation(relation.oid, &relation.families);
        }
        for scan in &analysis.scans {
            let place = scan.report.as_ref().and_then(|report| {
                // SAFETY: the query's text is a C string or NULL.
                unsafe { advice::remember(report, (*query).sourceText) };
                capture.add_scan(report)
            });
            match &scan.tags {
                Tags::Recorded { recorder, .. } => recorder.borrow_mut().place = place,
                Tags::Constant { whole_family, tag } => {
                    capture.add_tag(place, whole_family, tag.as_str());
                }
                Tags::Family(whole_family) => capture.add_family(place, whole_family),
                Tags::None(reason) => capture.refuse(reason),
            }
        }
    });
    for scan in &analysis.scans {
        if let Tags::Recorded { known: Known::InPlan, recorder } = &scan.tags
            && !forgets(Guard::FixedKeys)
        {
            // SAFETY: no value is asked for.
            unsafe {
                recorder.borrow_mut().record(Values { external: std::ptr::null_mut(), state: std::ptr::null_mut() })
            };
        }
    }
}

/// The search for the scans whose values are set while the query runs.
struct Search<'a> {
    scans: &'a [ScanOf],
    /// How many of them have not been found.
    left: usize,
}

impl Search<'_> {
    /// Has a scan looked at, if it is one of these. `true`: all are found.
    ///
    /// # Safety
    ///
    /// The state is one of the query whose scans are looked for, which has not run yet.
    unsafe fn visit(&mut self, state: *mut pg_sys::PlanState) -> bool {
        // SAFETY: the caller's promise.
        unsafe {
            if let Some(scan) = self.scans.iter().find(|scan| scan.plan == (*state).plan)
                && let Tags::Recorded { known: Known::WhileRunning, recorder } = &scan.tags
                && watch::install(state, recorder)
            {
                self.left -= 1;
            }
        }
        self.left == 0
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn install(state: *mut pg_sys::PlanState, context: *mut c_void) -> bool {
    if state.is_null() {
        return false;
    }
    // SAFETY: the context is the search of `capture`, which holds it alone.
    unsafe { (*context.cast::<Search<'_>>()).visit(state) || plan::raw::planstate_tree_walker(state, install, context) }
}

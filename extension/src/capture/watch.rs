//! Scans whose keys change while the query runs: what they are is read off after every row.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use pgrx::prelude::*;

use super::record::{Recorder, Values};
use super::session;

struct Watched {
    original: pg_sys::ExecProcNodeMtd,
    estate: usize,
    recorder: Recorder,
}

thread_local! {
    static WATCHED: RefCell<HashMap<usize, Box<Watched>>> = RefCell::default();
}

/// The scan that returned a row last and what is kept of it: the inner side of a join returns many in a row.
static LAST_NODE: AtomicUsize = AtomicUsize::new(0);
static LAST_WATCHED: AtomicUsize = AtomicUsize::new(0);

/// Has the scan looked at after every call.
///
/// # Safety
///
/// The state is that of a scan that has not run yet.
pub unsafe fn install(state: *mut pg_sys::PlanState, recorder: Recorder) {
    // SAFETY: the caller's promise. ExecProcNode still is the function that on its first call copies ExecProcNodeReal, and the one with instrumentation
    // calls it too: so Real is the one to replace. A subplan of a condition that several partitions have is met several times, and is one scan.
    unsafe {
        if (*state).ExecProcNodeReal.is_some_and(|real| real as usize == after_original as *const () as usize) {
            return;
        }
        let watched = Watched { original: (*state).ExecProcNodeReal, estate: (*state).state as usize, recorder };
        (*state).ExecProcNodeReal = Some(after_original);
        WATCHED.with_borrow_mut(|all| all.insert(state as usize, Box::new(watched)));
    }
    forget_last();
}

/// Forgets the scans of a query that has ended.
pub fn remove(estate: usize) {
    WATCHED.with_borrow_mut(|all| {
        if !all.is_empty() {
            all.retain(|_, watched| watched.estate != estate);
            forget_last();
        }
    });
}

/// Forgets all scans: no query is left.
pub fn clear() {
    WATCHED.with(|all| {
        if let Ok(mut all) = all.try_borrow_mut()
            && !all.is_empty()
        {
            all.clear();
        }
    });
    forget_last();
}

fn forget_last() {
    LAST_NODE.store(0, Relaxed);
}

/// Runs in the place of the scan's own function. An error may jump over this frame: nothing in it needs a destructor while the original runs.
unsafe extern "C-unwind" fn after_original(state: *mut pg_sys::PlanState) -> *mut pg_sys::TupleTableSlot {
    // SAFETY: only scans that `install` has put into the map have this function. A box stays where it is until its query ends.
    unsafe {
        let watched = if LAST_NODE.load(Relaxed) == state as usize {
            LAST_WATCHED.load(Relaxed) as *mut Watched
        } else {
            look_up(state)
        };
        let Some(original) = (*watched).original else { return std::ptr::null_mut() };
        let slot = original(state);
        // The original has computed the keys of this pass; they stay until the next one. A pass that was never begun has read nothing.
        if session::is_active() && !(*watched).recorder.is_settled() {
            record(watched, state);
        }
        slot
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn look_up(state: *mut pg_sys::PlanState) -> *mut Watched {
    let found = WATCHED.with_borrow_mut(|all| all.get_mut(&(state as usize)).map(|watched| &raw mut **watched));
    let Some(found) = found else { error!("cachetag: a scan is not registered") };
    LAST_NODE.store(state as usize, Relaxed);
    LAST_WATCHED.store(found as usize, Relaxed);
    found
}

#[pg_guard]
unsafe extern "C-unwind" fn record(watched: *mut Watched, state: *mut pg_sys::PlanState) {
    // SAFETY: the caller's promise; rendering runs no query, so nobody else touches the box.
    unsafe {
        let external = (*(*state).state).es_param_list_info;
        (*watched).recorder.record(Values { external, state });
    }
}

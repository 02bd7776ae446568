//! Scans whose keys change while the query runs: what they are is read off after every row.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use pgrx::prelude::*;

use super::hash::FastMap;
use super::record::{Recorder, Values};
use super::session;

struct Watched {
    original: pg_sys::ExecProcNodeMtd,
    estate: usize,
    recorder: Rc<RefCell<Recorder>>,
}

/// A query that is running, and how many of its scans are watched.
struct Query {
    estate: usize,
    count: usize,
}

#[derive(Default)]
struct All {
    /// By the state of the scan.
    scans: FastMap<usize, Watched>,
    /// From the outermost to the innermost.
    queries: Vec<Query>,
    /// The states of the scans of all of them, in the same order.
    states: Vec<usize>,
}

thread_local! {
    static WATCHED: RefCell<All> = RefCell::default();
}

/// The scan that returned a row last and what is kept of it: the inner side of a join returns many in a row.
static LAST_NODE: AtomicUsize = AtomicUsize::new(0);
static LAST_ORIGINAL: AtomicUsize = AtomicUsize::new(0);
static LAST_RECORDER: AtomicUsize = AtomicUsize::new(0);

/// Has the scan looked at after every call. `false`: it is already.
///
/// # Safety
///
/// The state is that of a scan that has not run yet.
pub unsafe fn install(state: *mut pg_sys::PlanState, recorder: &Rc<RefCell<Recorder>>) -> bool {
    // SAFETY: the caller's promise. ExecProcNode still is the function that on its first call copies ExecProcNodeReal, and the one with instrumentation
    // calls it too: so Real is the one to replace. A subplan of a condition that several partitions have is met several times, and is one scan.
    let (original, estate) = unsafe {
        if (*state).ExecProcNodeReal.is_some_and(|real| real as usize == after_original as *const () as usize) {
            return false;
        }
        ((*state).ExecProcNodeReal, (*state).state as usize)
    };
    WATCHED.with_borrow_mut(|all| {
        match all.queries.last_mut() {
            Some(query) if query.estate == estate => query.count += 1,
            _ => {
                // One that an error has left may have been at the same place.
                all.remove(estate);
                all.queries.push(Query { estate, count: 1 });
            }
        }
        all.states.push(state as usize);
        all.scans.insert(state as usize, Watched { original, estate, recorder: Rc::clone(recorder) });
    });
    // SAFETY: as above. Not before it is in the map.
    unsafe { (*state).ExecProcNodeReal = Some(after_original) };
    forget_last();
    true
}

/// Forgets the scans of a query that has ended.
pub fn remove(estate: usize) {
    WATCHED.with_borrow_mut(|all| {
        if !all.queries.is_empty() && all.remove(estate) {
            forget_last();
        }
    });
}

/// Forgets all scans: no query is left.
pub fn clear() {
    WATCHED.with(|all| {
        if let Ok(mut all) = all.try_borrow_mut()
            && !all.queries.is_empty()
        {
            *all = All::default();
        }
    });
    forget_last();
}

impl All {
    /// `false`: it has none.
    fn remove(&mut self, estate: usize) -> bool {
        let Some(at) = self.queries.iter().rposition(|query| query.estate == estate) else { return false };
        let count = self.queries.remove(at).count;
        let behind: usize = self.queries[at..].iter().map(|query| query.count).sum();
        let end = self.states.len() - behind;
        for state in self.states.drain(end - count..end) {
            // A scan of another query may have taken the place of one that an error has left.
            if self.scans.get(&state).is_some_and(|watched| watched.estate == estate) {
                self.scans.remove(&state);
            }
        }
        true
    }
}

fn forget_last() {
    LAST_NODE.store(0, Relaxed);
}

/// Runs in the place of the scan's own function. An error may jump over this frame: nothing in it needs a destructor while the original runs.
unsafe extern "C-unwind" fn after_original(state: *mut pg_sys::PlanState) -> *mut pg_sys::TupleTableSlot {
    // SAFETY: only scans that `install` has put into the map have this function. A recorder stays where it is until its query ends.
    unsafe {
        if LAST_NODE.load(Relaxed) != state as usize {
            look_up(state);
        }
        let original: pg_sys::ExecProcNodeMtd = std::mem::transmute(LAST_ORIGINAL.load(Relaxed));
        let Some(original) = original else { return std::ptr::null_mut() };
        let slot = original(state);
        // The original has computed the keys of this pass; they stay until the next one. A pass that was never begun has read nothing.
        if session::is_active() {
            if LAST_NODE.load(Relaxed) != state as usize {
                look_up(state);
            }
            let recorder = LAST_RECORDER.load(Relaxed) as *const RefCell<Recorder>;
            if !(*(*recorder).as_ptr()).is_settled() {
                record(recorder, state);
            }
        }
        slot
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn look_up(state: *mut pg_sys::PlanState) {
    let found = WATCHED.with_borrow(|all| {
        let watched = all.scans.get(&(state as usize))?;
        Some((watched.original.map_or(0, |original| original as usize), Rc::as_ptr(&watched.recorder) as usize))
    });
    let Some((original, recorder)) = found else { error!("cachetag: a scan is not registered") };
    LAST_NODE.store(state as usize, Relaxed);
    LAST_ORIGINAL.store(original, Relaxed);
    LAST_RECORDER.store(recorder, Relaxed);
}

#[pg_guard]
unsafe extern "C-unwind" fn record(recorder: *const RefCell<Recorder>, state: *mut pg_sys::PlanState) {
    // SAFETY: the caller's promise; rendering runs no query, so nobody else touches the recorder.
    unsafe {
        let external = (*(*state).state).es_param_list_info;
        (*recorder).borrow_mut().record(Values { external, state });
    }
}

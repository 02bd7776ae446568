//! Where capture meets the executor.
//!
//! The hooks run for every query of every session that has loaded the library. Without a capture they do next to nothing, and they call what comes
//! after them without a guard: an error may jump over their frames, in which nothing needs a destructor.

use std::cell::RefCell;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering::Relaxed};

use pgrx::prelude::*;

use super::expression::names_a_moment;
use super::{nodes, session, statement, watch};
use crate::broken::{Guard, forgets};
use crate::floor;

mod raw {
    use pgrx::pg_sys;
    use std::ffi::{c_char, c_int};

    // As in the bindings, without the guard around each call.
    unsafe extern "C-unwind" {
        pub fn standard_ExecutorStart(query: *mut pg_sys::QueryDesc, flags: c_int);
        #[cfg(not(feature = "pg18"))]
        pub fn standard_ExecutorRun(
            query: *mut pg_sys::QueryDesc,
            direction: pg_sys::ScanDirection::Type,
            count: u64,
            once: bool,
        );
        #[cfg(feature = "pg18")]
        pub fn standard_ExecutorRun(query: *mut pg_sys::QueryDesc, direction: pg_sys::ScanDirection::Type, count: u64);
        pub fn standard_ExecutorEnd(query: *mut pg_sys::QueryDesc);
        pub fn standard_ProcessUtility(
            statement: *mut pg_sys::PlannedStmt,
            text: *const c_char,
            read_only: bool,
            context: pg_sys::ProcessUtilityContext::Type,
            parameters: pg_sys::ParamListInfo,
            environment: *mut pg_sys::QueryEnvironment,
            destination: *mut pg_sys::DestReceiver,
            completion: *mut pg_sys::QueryCompletion,
        );
    }
}

/// The hooks that were there before, set once when the library is loaded.
struct Previous {
    start: pg_sys::ExecutorStart_hook_type,
    run: pg_sys::ExecutorRun_hook_type,
    end: pg_sys::ExecutorEnd_hook_type,
    utility: pg_sys::ProcessUtility_hook_type,
}

static PREVIOUS: std::sync::OnceLock<Previous> = std::sync::OnceLock::new();

/// A query that is running: where on the stack, and with which snapshot.
#[derive(Clone, Copy)]
struct Frame {
    address: usize,
    snapshot: usize,
}

#[derive(Default)]
struct Running {
    /// From the outermost to the innermost.
    frames: Vec<Frame>,
    /// Those that were running when the capture began. Their snapshots are older than the capture.
    older: Vec<Frame>,
    /// Queries that the capture saw start: their state and which capture it was.
    seen: Vec<(usize, u64)>,
}

/// What belongs to a backend, which has one thread. A thread's own would be looked up by a call, twice for each query of every session.
struct OfBackend<T>(T);

// SAFETY: no other thread of the process calls into the library.
unsafe impl<T> Sync for OfBackend<T> {}

static RUNNING: OfBackend<RefCell<Running>> =
    OfBackend(RefCell::new(Running { frames: Vec::new(), older: Vec::new(), seen: Vec::new() }));
/// A capture has seen a query start in this transaction.
static HAS_SEEN: AtomicBool = AtomicBool::new(false);

/// The statement within which the library was loaded, by when it began: which queries were running then is not known.
static LOADED_IN: AtomicI64 = AtomicI64::new(0);
/// Is the capture one of a single query, which nothing that was running before can get into?
static IS_ONE_SHOT: AtomicBool = AtomicBool::new(false);
/// May there be cursors WITH HOLD? Their rows were read before any capture that fetches them.
static MAY_HOLD: AtomicBool = AtomicBool::new(true);

/// Installs the hooks.
pub fn init() {
    // SAFETY: called once, when the library is loaded; the hooks are those of this process.
    unsafe {
        let previous = Previous {
            start: pg_sys::ExecutorStart_hook,
            run: pg_sys::ExecutorRun_hook,
            end: pg_sys::ExecutorEnd_hook,
            utility: pg_sys::ProcessUtility_hook,
        };
        if PREVIOUS.set(previous).is_err() {
            return;
        }
        pg_sys::ExecutorStart_hook = Some(on_start);
        pg_sys::ExecutorRun_hook = Some(on_run);
        pg_sys::ExecutorEnd_hook = Some(on_end);
        pg_sys::ProcessUtility_hook = Some(on_utility);
        pg_sys::RegisterXactCallback(Some(on_transaction_end), std::ptr::null_mut());
        pg_sys::RegisterSubXactCallback(Some(on_subtransaction_end), std::ptr::null_mut());
        if !pg_sys::process_shared_preload_libraries_in_progress {
            LOADED_IN.store(pg_sys::GetCurrentStatementStartTimestamp(), Relaxed);
        }
    }
}

/// A capture begins: what runs now is older than it.
pub fn on_begin(is_one_shot: bool) {
    IS_ONE_SHOT.store(is_one_shot, Relaxed);
    let mut running = RUNNING.0.borrow_mut();
    running.older = if is_one_shot { Vec::new() } else { running.frames.clone() };
    running.seen.clear();
}

/// Whether cursors WITH HOLD have to be looked for; asked once, then again after one was declared.
pub fn may_hold() -> bool {
    MAY_HOLD.load(Relaxed)
}

pub fn holds_none() {
    MAY_HOLD.store(false, Relaxed);
}

unsafe extern "C-unwind" fn on_start(query: *mut pg_sys::QueryDesc, flags: c_int) {
    // SAFETY: calls what the server would have called.
    unsafe {
        match PREVIOUS.get().and_then(|previous| previous.start) {
            Some(start) => start(query, flags),
            None => raw::standard_ExecutorStart(query, flags),
        }
        if session::is_active() && flags & pg_sys::EXEC_FLAG_EXPLAIN_ONLY as c_int == 0 {
            started(query);
        }
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn started(query: *mut pg_sys::QueryDesc) {
    // SAFETY: the executor has just started the query.
    unsafe {
        let snapshot = (*query).snapshot as usize;
        HAS_SEEN.store(true, Relaxed);
        let is_older = {
            let mut running = RUNNING.0.borrow_mut();
            running.seen.push(((*query).estate as usize, session::generation()));
            running.older.iter().any(|frame| frame.snapshot == snapshot)
        };
        if is_older {
            session::refuse("a query ran with a snapshot from before capture_begin");
        } else if LOADED_IN.load(Relaxed) != 0
            && LOADED_IN.load(Relaxed) == pg_sys::GetCurrentStatementStartTimestamp()
            && !IS_ONE_SHOT.load(Relaxed)
        {
            session::refuse("the library was loaded within this statement: LOAD 'libcachetag' first, or preload it");
        }
        if !forgets(Guard::Functions) || RUNNING.0.borrow().frames.is_empty() {
            statement::capture(query);
        }
    }
}

// Parallel workers would keep what they read to themselves, so a captured query runs in one process: recent minor releases look at already_executed,
// older ones at execute_once.
#[cfg(not(feature = "pg18"))]
unsafe extern "C-unwind" fn on_run(
    query: *mut pg_sys::QueryDesc,
    direction: pg_sys::ScanDirection::Type,
    count: u64,
    once: bool,
) {
    let mut once = once;
    // SAFETY: calls what the server would have called.
    unsafe {
        let address = (&raw const once) as usize;
        enter(query, address);
        if session::is_active() && (*(*query).plannedstmt).parallelModeNeeded {
            (*query).already_executed = true;
            once = false;
        }
        match PREVIOUS.get().and_then(|previous| previous.run) {
            Some(run) => run(query, direction, count, once),
            None => raw::standard_ExecutorRun(query, direction, count, once),
        }
        leave(address);
    }
}

#[cfg(feature = "pg18")]
unsafe extern "C-unwind" fn on_run(query: *mut pg_sys::QueryDesc, direction: pg_sys::ScanDirection::Type, count: u64) {
    let here = 0_u8;
    // SAFETY: calls what the server would have called.
    unsafe {
        let address = (&raw const here) as usize;
        enter(query, address);
        if session::is_active() && (*(*query).plannedstmt).parallelModeNeeded {
            (*query).already_executed = true;
        }
        match PREVIOUS.get().and_then(|previous| previous.run) {
            Some(run) => run(query, direction, count),
            None => raw::standard_ExecutorRun(query, direction, count),
        }
        leave(address);
    }
}

unsafe fn enter(query: *mut pg_sys::QueryDesc, address: usize) {
    // SAFETY: the executor is about to run the query.
    unsafe {
        let snapshot = (*query).snapshot as usize;
        let Ok(mut running) = RUNNING.0.try_borrow_mut() else { return };
        // The stack grows downwards: what is at this address or below it was left by an error.
        while running.frames.last().is_some_and(|frame| frame.address <= address) {
            running.frames.pop();
        }
        running.frames.push(Frame { address, snapshot });
        if session::is_active() {
            let key = ((*query).estate as usize, session::generation());
            let is_foreign = !running.seen.contains(&key) && !forgets(Guard::Opened);
            drop(running);
            if is_foreign {
                opened_before();
            }
        }
    }
}

#[pg_guard]
extern "C-unwind" fn opened_before() {
    session::refuse("a cursor was read that had been opened before capture_begin");
}

fn leave(address: usize) {
    let Ok(mut running) = RUNNING.0.try_borrow_mut() else { return };
    while running.frames.last().is_some_and(|frame| frame.address <= address) {
        running.frames.pop();
    }
    if !running.older.is_empty() {
        running.older.retain(|frame| frame.address > address);
    }
}

unsafe extern "C-unwind" fn on_end(query: *mut pg_sys::QueryDesc) {
    // SAFETY: calls what the server would have called.
    unsafe {
        if HAS_SEEN.load(Relaxed) {
            ended((*query).estate as usize);
        }
        match PREVIOUS.get().and_then(|previous| previous.end) {
            Some(end) => end(query),
            None => raw::standard_ExecutorEnd(query),
        }
    }
}

fn ended(estate: usize) {
    watch::remove(estate);
    if let Ok(mut running) = RUNNING.0.try_borrow_mut() {
        running.seen.retain(|(seen, _)| *seen != estate);
    }
}

unsafe extern "C-unwind" fn on_utility(
    statement: *mut pg_sys::PlannedStmt,
    text: *const c_char,
    read_only: bool,
    context: pg_sys::ProcessUtilityContext::Type,
    parameters: pg_sys::ParamListInfo,
    environment: *mut pg_sys::QueryEnvironment,
    destination: *mut pg_sys::DestReceiver,
    completion: *mut pg_sys::QueryCompletion,
) {
    // SAFETY: calls what the server would have called.
    unsafe {
        floor::before_utility((*statement).utilityStmt);
        utility((*statement).utilityStmt, text);
        match PREVIOUS.get().and_then(|previous| previous.utility) {
            Some(run) => {
                run(statement, text, read_only, context, parameters, environment, destination, completion);
            }
            None => raw::standard_ProcessUtility(
                statement,
                text,
                read_only,
                context,
                parameters,
                environment,
                destination,
                completion,
            ),
        }
    }
}

/// # Safety
///
/// The statement is a utility statement; the text is a C string or NULL.
unsafe fn utility(statement: *mut pg_sys::Node, text: *const c_char) {
    use pg_sys::NodeTag::*;
    // SAFETY: the tag of a node says what it is.
    unsafe {
        let is_hold = match (*statement).type_ {
            T_DeclareCursorStmt => {
                (*statement.cast::<pg_sys::DeclareCursorStmt>()).options & pg_sys::CURSOR_OPT_HOLD as c_int != 0
            }
            // A procedure that commits makes its open cursors ones that are held.
            T_CallStmt | T_DoStmt => true,
            _ => false,
        };
        if is_hold {
            MAY_HOLD.store(true, Relaxed);
        }
        if session::is_active() {
            captured_utility(statement, text);
        }
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn captured_utility(statement: *mut pg_sys::Node, text: *const c_char) {
    use pg_sys::NodeTag::*;
    // SAFETY: the tag of a node says what it is; a portal is looked up by a C string.
    unsafe {
        match (*statement).type_ {
            T_TransactionStmt | T_PrepareStmt | T_DeallocateStmt | T_DeclareCursorStmt | T_ClosePortalStmt
            | T_DoStmt => {}
            T_ExecuteStmt => {
                let parameters = (*statement.cast::<pg_sys::ExecuteStmt>()).params;
                if !nodes::list(parameters).all(|parameter| is_constant(parameter.cast())) {
                    session::refuse("EXECUTE computes a parameter, and what of is not seen");
                } else if !parameters.is_null() && !text.is_null() && names_a_moment(CStr::from_ptr(text).to_bytes()) {
                    session::refuse(
                        "a parameter of EXECUTE says 'now', 'today', 'tomorrow' or 'yesterday', which may stand for a time",
                    );
                }
            }
            T_VariableSetStmt => {
                if floor::imports_snapshot(statement) {
                    session::refuse("a snapshot was imported, which may be older than capture_begin");
                }
            }
            T_VariableShowStmt => {
                let name = (*statement.cast::<pg_sys::VariableShowStmt>()).name;
                let name = CStr::from_ptr(name).to_string_lossy().to_lowercase();
                if name != "cachetag.floor" {
                    session::with(|capture| capture.depends_on_session(&format!("current_setting({name})")));
                }
            }
            T_FetchStmt => {
                let portal = pg_sys::GetPortalByName((*statement.cast::<pg_sys::FetchStmt>()).portalname);
                // A running query is looked at when it is run on.
                if !portal.is_null() && (*portal).queryDesc.is_null() {
                    session::refuse("a cursor WITH HOLD was read, whose rows were there before");
                }
            }
            T_DiscardStmt
                if (*statement.cast::<pg_sys::DiscardStmt>()).target == pg_sys::DiscardMode::DISCARD_PLANS => {}
            other => session::refuse(format!("a {} is not a query", command_name(other))),
        }
    }
}

/// Is an expression, as it was parsed, the same whenever it is evaluated?
unsafe fn is_constant(expression: *mut pg_sys::Node) -> bool {
    use pg_sys::NodeTag::*;
    // SAFETY: the caller's promise: a node of a statement; its tag says what it is.
    unsafe {
        match (*expression).type_ {
            T_A_Const | T_ParamRef => true,
            T_TypeCast => is_constant((*expression.cast::<pg_sys::TypeCast>()).arg),
            T_A_ArrayExpr => nodes::list((*expression.cast::<pg_sys::A_ArrayExpr>()).elements)
                .all(|element| is_constant(element.cast())),
            _ => false,
        }
    }
}

/// The name of a statement, from that of its node: `CopyStmt` is `Copy statement`.
fn command_name(tag: pg_sys::NodeTag) -> String {
    let name = format!("{tag:?}");
    format!("{} statement", name.trim_start_matches("T_").trim_end_matches("Stmt"))
}

unsafe extern "C-unwind" fn on_transaction_end(event: pg_sys::XactEvent::Type, _argument: *mut c_void) {
    use pg_sys::XactEvent::*;
    match event {
        XACT_EVENT_ABORT => {
            forget_queries();
            session::refuse("a transaction was rolled back");
        }
        XACT_EVENT_COMMIT => forget_queries(),
        XACT_EVENT_PREPARE => session::refuse("a transaction was prepared"),
        _ => {}
    }
}

/// An error that was caught may have decided the result after a read that was not recorded any more.
unsafe extern "C-unwind" fn on_subtransaction_end(
    event: pg_sys::SubXactEvent::Type,
    _subtransaction: pg_sys::SubTransactionId,
    _parent: pg_sys::SubTransactionId,
    _argument: *mut c_void,
) {
    if event == pg_sys::SubXactEvent::SUBXACT_EVENT_ABORT_SUB {
        session::refuse("an error was caught or a savepoint rolled back to");
    }
}

/// At the end of a transaction no query is left but those that call us: procedures that commit.
fn forget_queries() {
    if HAS_SEEN.swap(false, Relaxed) {
        watch::clear();
        if let Ok(mut running) = RUNNING.0.try_borrow_mut() {
            running.seen.clear();
        }
    }
}

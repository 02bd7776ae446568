//! The commit floor: the newest position up to which every commit is surely visible to a snapshot taken from now on.
//!
//! Decoded is not visible: the log has a commit before a snapshot sees it. So, where the library is preloaded, each backend has a slot in shared
//! memory. Before its commit record gets a place in the log it notes where the log ends; once the commit is visible it clears the note.
//! The floor is the end of the log, read first, or the least note, read second. It is no further than what is flushed: after a crash the log goes on
//! from there, and the position of a commit to come must not be one that a stored value claims to cover.

mod prepared;

use std::cell::Cell;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, AtomicUsize, Ordering};

use cachetag_core::Lsn;
use pgrx::prelude::*;

mod raw {
    use pgrx::pg_sys;
    use std::ffi::c_int;

    // Not in the bindings; or there with a guard, which functions that never fail do not need in the way of every commit.
    unsafe extern "C-unwind" {
        pub static max_prepared_xacts: c_int;
        pub fn GetXLogInsertRecPtr() -> u64;
        pub fn GetTopTransactionIdIfAny() -> pg_sys::TransactionId;
    }
}

/// One backend's note; a cache line, so that backends do not take it from each other.
#[repr(C, align(64))]
struct Slot(AtomicU64);

/// `AddinShmemInitLock` among the server's individual locks, the same from PostgreSQL 15 to 18.
const SHMEM_INIT_LOCK: usize = 21;

static SLOTS: AtomicPtr<Slot> = AtomicPtr::new(std::ptr::null_mut());
static SLOT_COUNT: AtomicUsize = AtomicUsize::new(0);
/// Is there a note of this process?
static IS_NOTED: AtomicBool = AtomicBool::new(false);

struct Previous {
    request: pg_sys::shmem_request_hook_type,
    startup: pg_sys::shmem_startup_hook_type,
}

static PREVIOUS: OnceLock<Previous> = OnceLock::new();

thread_local! {
    /// What SHOW cachetag.floor said in this transaction before it had a snapshot.
    static SHOWN: Cell<Option<Lsn>> = const { Cell::new(None) };
}

/// Defines the setting; if the library is being preloaded, takes shared memory.
pub fn init() {
    static VALUE: AtomicPtr<c_char> = AtomicPtr::new(std::ptr::null_mut());
    // SAFETY: called once, when the library is loaded. The texts live as long as the process; the server keeps its value in VALUE.
    unsafe {
        pg_sys::DefineCustomStringVariable(
            c"cachetag.floor".as_ptr(),
            c"The position up to which every commit is visible to a snapshot taken after this was shown.".as_ptr(),
            c"In a REPEATABLE READ transaction, show it before the first query: a token is good for its snapshot up to there.".as_ptr(),
            VALUE.as_ptr(),
            c"".as_ptr(),
            pg_sys::GucContext::PGC_INTERNAL,
            (pg_sys::GUC_NO_SHOW_ALL | pg_sys::GUC_NOT_IN_SAMPLE | pg_sys::GUC_DISALLOW_IN_FILE) as c_int,
            None,
            None,
            Some(show),
        );
        pg_sys::RegisterXactCallback(Some(on_transaction), std::ptr::null_mut());
        pg_sys::RegisterResourceReleaseCallback(Some(on_release), std::ptr::null_mut());
        if pg_sys::process_shared_preload_libraries_in_progress {
            let previous = Previous { request: pg_sys::shmem_request_hook, startup: pg_sys::shmem_startup_hook };
            if PREVIOUS.set(previous).is_ok() {
                pg_sys::shmem_request_hook = Some(on_request);
                pg_sys::shmem_startup_hook = Some(on_startup);
            }
        }
    }
}

/// Why the floor is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unknown {
    /// Without preload nobody keeps notes.
    NotPreloaded,
    /// A subscription has a transaction prepared, and its worker will commit it without telling.
    Subscription,
}

/// Every commit whose end is not after this is visible to any snapshot taken from now on.
///
/// On a standby, this is how far it has replayed.
pub fn current() -> Result<Lsn, Unknown> {
    // SAFETY: reads of shared memory.
    unsafe {
        if pg_sys::RecoveryInProgress() {
            return Ok(Lsn(pg_sys::GetXLogReplayRecPtr(std::ptr::null_mut())));
        }
        let slots = SLOTS.load(Ordering::Relaxed);
        if slots.is_null() {
            return Err(Unknown::NotPreloaded);
        }
        let mut floor = raw::GetXLogInsertRecPtr();
        // After the end of the log: a note that is not there yet is about a commit behind it.
        std::sync::atomic::fence(Ordering::SeqCst);
        for at in 0..SLOT_COUNT.load(Ordering::Relaxed) {
            let note = (*slots.add(at)).0.load(Ordering::SeqCst);
            if note != 0 && note < floor {
                floor = note;
            }
        }
        // After the end of the log, too: what is not among the prepared transactions any more is visible.
        if raw::max_prepared_xacts > 0 && prepared::is_any_of_a_subscription() {
            return Err(Unknown::Subscription);
        }
        Ok(Lsn(floor.min(pg_sys::GetFlushRecPtr(std::ptr::null_mut()))))
    }
}

/// The floor that was shown in this transaction before it had a snapshot, if it was.
pub fn shown() -> Option<Lsn> {
    SHOWN.get()
}

unsafe extern "C-unwind" fn show() -> *const c_char {
    match shown_text() {
        // SAFETY: a copy in the memory of the caller, which frees it with all else.
        Ok(text) => unsafe { pg_sys::pstrdup(text.as_ptr()) },
        Err(Unknown::NotPreloaded) => {
            c"unknown: add libcachetag to shared_preload_libraries and restart the server".as_ptr()
        }
        Err(Unknown::Subscription) => {
            c"unknown: a subscription with two_phase has a prepared transaction (pg_prepared_xacts)".as_ptr()
        }
    }
}

fn shown_text() -> Result<CString, Unknown> {
    let floor = current()?;
    // SAFETY: reads of the state of this backend.
    let is_first = unsafe { pg_sys::IsTransactionState() && !pg_sys::FirstSnapshotSet };
    // The first one counts: snapshots come after all of them.
    if is_first && SHOWN.get().is_none() {
        SHOWN.set(Some(floor));
    }
    Ok(CString::new(floor.to_string()).unwrap_or_default())
}

/// More than backends can ever have as a number: prepared transactions and the server's own processes are numbered too.
unsafe fn slot_count() -> usize {
    // SAFETY: the numbers are final when shared memory is asked for.
    unsafe {
        let processes = pg_sys::MaxBackends + pg_sys::NUM_AUXILIARY_PROCS as c_int + raw::max_prepared_xacts;
        usize::try_from(processes).unwrap_or(0) + 1
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn on_request() {
    // SAFETY: calls what was there before; the server allows requests here only.
    unsafe {
        if let Some(request) = PREVIOUS.get().and_then(|previous| previous.request) {
            request();
        }
        pg_sys::RequestAddinShmemSpace((slot_count() + 1) * size_of::<Slot>());
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn on_startup() {
    // SAFETY: calls what was there before. The lock keeps another process from initialising at the same time; one slot more leaves room to align.
    unsafe {
        if let Some(startup) = PREVIOUS.get().and_then(|previous| previous.startup) {
            startup();
        }
        let lock = &raw mut (*pg_sys::MainLWLockArray.add(SHMEM_INIT_LOCK)).lock;
        pg_sys::LWLockAcquire(lock, pg_sys::LWLockMode::LW_EXCLUSIVE);
        let count = slot_count();
        let mut is_there = false;
        let memory =
            pg_sys::ShmemInitStruct(c"cachetag commit floor".as_ptr(), (count + 1) * size_of::<Slot>(), &mut is_there);
        let slots = memory.add(memory.align_offset(align_of::<Slot>())).cast::<Slot>();
        if !is_there {
            std::ptr::write_bytes(slots, 0, count);
        }
        SLOT_COUNT.store(count, Ordering::Relaxed);
        SLOTS.store(slots, Ordering::Relaxed);
        pg_sys::LWLockRelease(lock);
    }
}

/// The slot of this process.
unsafe fn own_slot() -> Option<&'static AtomicU64> {
    let slots = SLOTS.load(Ordering::Relaxed);
    // SAFETY: a process that has no number has no place in the array either; the array outlives it.
    unsafe {
        if slots.is_null() || pg_sys::MyProc.is_null() {
            return None;
        }
        #[cfg(any(feature = "pg15", feature = "pg16"))]
        let number = (*pg_sys::MyProc).pgprocno;
        #[cfg(any(feature = "pg17", feature = "pg18"))]
        let number = pg_sys::MyProcNumber;
        let number = usize::try_from(number).ok()?;
        (number < SLOT_COUNT.load(Ordering::Relaxed)).then(|| &(*slots.add(number)).0)
    }
}

/// A commit record of this process may be written from here on.
unsafe fn note() {
    // SAFETY: the caller is within a transaction of this process.
    unsafe {
        if IS_NOTED.load(Ordering::Relaxed) {
            return;
        }
        if let Some(slot) = own_slot() {
            slot.store(raw::GetXLogInsertRecPtr(), Ordering::SeqCst);
            // Before the record gets its place in the log.
            std::sync::atomic::fence(Ordering::SeqCst);
            IS_NOTED.store(true, Ordering::Relaxed);
        }
    }
}

unsafe fn clear() {
    if IS_NOTED.swap(false, Ordering::Relaxed) {
        // SAFETY: as for `note`, which found the slot.
        if let Some(slot) = unsafe { own_slot() } {
            slot.store(0, Ordering::Release);
        }
    }
}

/// Is a statement `SET TRANSACTION SNAPSHOT`? Such a snapshot is older than the transaction.
///
/// # Safety
///
/// The statement is a utility statement.
pub unsafe fn imports_snapshot(statement: *mut pg_sys::Node) -> bool {
    // SAFETY: the tag of a node says what it is; a name is a C string or NULL.
    unsafe {
        if (*statement).type_ != pg_sys::NodeTag::T_VariableSetStmt {
            return false;
        }
        let name = (*statement.cast::<pg_sys::VariableSetStmt>()).name;
        !name.is_null() && CStr::from_ptr(name) == c"TRANSACTION SNAPSHOT"
    }
}

/// `COMMIT PREPARED` is about to run: it writes a commit record without being a commit of this process's transaction, whose end comes after it. Or a snapshot is
/// about to be imported: what was shown is not about it.
///
/// # Safety
///
/// The statement is a utility statement.
pub unsafe fn before_utility(statement: *mut pg_sys::Node) {
    // SAFETY: the tag of a node says what it is.
    unsafe {
        if (*statement).type_ == pg_sys::NodeTag::T_TransactionStmt
            && (*statement.cast::<pg_sys::TransactionStmt>()).kind
                == pg_sys::TransactionStmtKind::TRANS_STMT_COMMIT_PREPARED
        {
            note();
        } else if imports_snapshot(statement) {
            SHOWN.set(None);
        }
    }
}

// Nothing here fails, so there is no guard in the way of every commit.
unsafe extern "C-unwind" fn on_transaction(event: pg_sys::XactEvent::Type, _argument: *mut c_void) {
    use pg_sys::XactEvent::*;
    // SAFETY: the server calls this at these points of this process's transaction.
    unsafe {
        match event {
            // Without a number a transaction writes no commit record that is decoded.
            XACT_EVENT_PRE_COMMIT if raw::GetTopTransactionIdIfAny() != pg_sys::InvalidTransactionId => note(),
            // Its note stays until others have been told what to forget of their caches: see below.
            XACT_EVENT_COMMIT => SHOWN.set(None),
            XACT_EVENT_ABORT | XACT_EVENT_PREPARE => {
                clear();
                SHOWN.set(None);
            }
            _ => {}
        }
    }
}

/// After its locks, a transaction has nothing left to do that others could see: its changes are visible, and the message that the rules have changed is sent.
unsafe extern "C-unwind" fn on_release(
    phase: pg_sys::ResourceReleasePhase::Type,
    _is_commit: bool,
    is_top_level: bool,
    _argument: *mut c_void,
) {
    if is_top_level && phase == pg_sys::ResourceReleasePhase::RESOURCE_RELEASE_AFTER_LOCKS {
        // SAFETY: the server calls this at the end of this process's transaction.
        unsafe { clear() };
    }
}

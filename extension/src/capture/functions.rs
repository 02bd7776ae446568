//! What the result of a function depends on besides its arguments and what its queries read.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};
use std::ffi::{CStr, CString, c_char};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use cachetag_core::plpgsql;
use pgrx::prelude::*;

use super::expression::{Expressions, names_a_moment};
use super::function_names::{HARMLESS, KEYWORDS_OF_SESSION, KEYWORDS_OF_TIME, OF_SESSION, OF_TIME, OWN, READ_TIME};
use super::nodes;
use super::row_types::is_of_users;

/// What was found about a function.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Findings {
    /// Why a result that it took part in may not be cached.
    pub reasons: BTreeSet<String>,
    /// What of the session it depends on.
    pub session: BTreeSet<String>,
    /// It is `cachetag.capture_end`: whoever calls it is not a part of the capture.
    pub ends_capture: bool,
    /// Types that users have made, by their numbers: what its values are depends on their definitions.
    pub types: BTreeSet<u32>,
    /// It was found in a text, where new types and operators may mean something else.
    pub is_of_text: bool,
}

/// The language sql, by its number in `pg_language`.
const SQL_LANGUAGE: u32 = 14;
/// The columns of `pg_aggregate` that name functions whose results reach the aggregate's: aggtransfn, aggfinalfn, aggmtransfn, aggminvtransfn, aggmfinalfn.
const FUNCTIONS_OF_AGGREGATE: [i16; 5] = [4, 5, 9, 10, 11];
/// The catalog of casts, which begins with four numbers: oid, castsource, casttarget, castfunc.
const CASTS: u32 = 2605;
const FUNCTION_OF_CAST: usize = 3;

thread_local! {
    static KNOWN: RefCell<HashMap<u32, Option<Rc<Findings>>>> = RefCell::default();
}
static IS_REGISTERED: AtomicBool = AtomicBool::new(false);
/// Counts changes of functions. A callback cannot fail, so it does no more than this.
static GENERATION: AtomicU64 = AtomicU64::new(0);
/// Counts changes of types, operators and casts: each new temporary table is one.
static NAMES: AtomicU64 = AtomicU64::new(0);
/// The sum of the counts under which [`KNOWN`] was filled.
static KNOWN_UNDER: AtomicU64 = AtomicU64::new(0);

/// Changes whenever a function may have changed.
pub fn generation() -> u64 {
    GENERATION.load(Relaxed)
}

/// Changes whenever what [`Findings::is_of_text`] may have changed.
pub fn generation_of_names() -> u64 {
    NAMES.load(Relaxed)
}

/// What is to be known about a function; `None`: nothing, its result depends on its arguments and what its queries read.
pub fn findings_of(function: pg_sys::Oid) -> Option<Rc<Findings>> {
    if !IS_REGISTERED.swap(true, Relaxed) {
        use pg_sys::SysCacheIdentifier::{CASTSOURCETARGET, OPEROID, PROCOID, TYPEOID};
        for (cache, count) in [(PROCOID, &GENERATION), (TYPEOID, &NAMES), (OPEROID, &NAMES), (CASTSOURCETARGET, &NAMES)]
        {
            let count = pg_sys::Datum::from(std::ptr::from_ref(count));
            // SAFETY: the callback and the count live as long as the library, which is never unloaded.
            unsafe { pg_sys::CacheRegisterSyscacheCallback(cache as i32, Some(on_change), count) };
        }
    }
    let now = generation().wrapping_add(generation_of_names());
    if KNOWN_UNDER.swap(now, Relaxed) != now {
        KNOWN.take();
    }
    if let Some(known) = KNOWN.with_borrow(|known| known.get(&function.to_u32()).cloned()) {
        return known;
    }
    // A function that calls itself adds nothing to what it depends on.
    KNOWN.with_borrow_mut(|known| known.insert(function.to_u32(), None));
    let mut findings = Findings::default();
    examine(function, &mut findings);
    let found = (findings != Findings::default()).then(|| Rc::new(findings));
    KNOWN.with_borrow_mut(|known| known.insert(function.to_u32(), found.clone()));
    found
}

#[pg_guard]
unsafe extern "C-unwind" fn on_change(count: pg_sys::Datum, _cache: i32, _hash: u32) {
    // SAFETY: one of the counts, as registered.
    unsafe { (*count.cast_mut_ptr::<AtomicU64>()).fetch_add(1, Relaxed) };
}

/// A row of `pg_proc`.
struct Procedure {
    name: String,
    schema: String,
    language: pg_sys::Oid,
    kind: u8,
    volatility: u8,
    source: String,
    /// Of its arguments and its result.
    types: Vec<u32>,
}

impl Procedure {
    fn find(function: pg_sys::Oid) -> Option<Procedure> {
        // SAFETY: the tuple is a row of pg_proc and is released after what is needed of it was copied.
        unsafe {
            let cache = pg_sys::SysCacheIdentifier::PROCOID as i32;
            let tuple = pg_sys::SearchSysCache1(cache, pg_sys::Datum::from(function));
            if tuple.is_null() {
                return None;
            }
            let form = pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_proc>();
            let mut is_null = false;
            let source = pg_sys::SysCacheGetAttr(cache, tuple, pg_sys::Anum_pg_proc_prosrc as i16, &mut is_null);
            let source = if is_null { None } else { String::from_datum(source, false) };
            let schema = pg_sys::get_namespace_name((*form).pronamespace);
            let mut types = vec![(*form).prorettype.to_u32()];
            let arguments = &raw const (*form).proargtypes;
            let numbers = (&raw const (*arguments).values).cast::<pg_sys::Oid>();
            types.extend((0..(*arguments).dim1 as usize).map(|at| (*numbers.add(at)).to_u32()));
            let found = Procedure {
                name: text((*form).proname.data.as_ptr()),
                schema: text(schema),
                language: (*form).prolang,
                kind: (*form).prokind as u8,
                volatility: (*form).provolatile as u8,
                source: source.unwrap_or_default(),
                types,
            };
            pg_sys::ReleaseSysCache(tuple);
            Some(found)
        }
    }
}

impl Procedure {
    fn names_a_moment(&self) -> bool {
        names_a_moment(self.source.as_bytes())
    }
}

fn examine(function: pg_sys::Oid, findings: &mut Findings) {
    let Some(procedure) = Procedure::find(function) else {
        findings.reasons.insert(format!("a function with OID {} is not known", function.to_u32()));
        return;
    };
    let name = &procedure.name;
    if procedure.schema == "cachetag" && OWN.contains(&name.as_str()) {
        findings.ends_capture = name == "capture_end";
        return;
    }
    if procedure.schema.starts_with("pg_temp") {
        findings.reasons.insert(format!("function {name}() is temporary"));
    }
    if procedure.schema == "pg_catalog" {
        return examine_builtin(&procedure, findings);
    }
    if procedure.kind == pg_sys::PROKIND_AGGREGATE {
        return examine_aggregate(function, findings);
    }
    findings.types.extend(procedure.types.iter().filter(|number| is_of_users(**number)));
    match procedure.volatility {
        pg_sys::PROVOLATILE_IMMUTABLE => {}
        pg_sys::PROVOLATILE_VOLATILE => {
            findings.reasons.insert(format!("function {name}() is volatile: if it only reads, declare it STABLE"));
        }
        _ if procedure.language.to_u32() == SQL_LANGUAGE => {}
        _ => match language_name(procedure.language).as_str() {
            "plpgsql" => examine_source(&procedure, findings),
            language => {
                findings.reasons.insert(format!("what function {name}() in language {language} reads cannot be seen"));
            }
        },
    }
}

fn examine_builtin(procedure: &Procedure, findings: &mut Findings) {
    let name = procedure.name.as_str();
    if procedure.volatility == pg_sys::PROVOLATILE_IMMUTABLE {
        return;
    }
    if OF_TIME.contains(&name) {
        findings.reasons.insert(format!("{name}() depends on the time"));
    } else if READ_TIME.contains(&name) {
        let of = name.trim_end_matches("_in");
        findings.reasons.insert(format!("a text that is cast to {of} may say 'now' or 'today'"));
    } else if procedure.volatility == pg_sys::PROVOLATILE_VOLATILE {
        findings.reasons.insert(format!("function {name}() is volatile"));
    } else if name == "current_setting" {
        // Its argument says which; where that is a constant, who found the call does not come here.
        findings.reasons.insert("current_setting() of a name that is computed".to_owned());
    } else if let Some((of, _)) = OF_SESSION.iter().find(|(_, names)| names.contains(&name)) {
        findings.session.insert((*of).to_owned());
    } else if procedure.language.to_u32() == SQL_LANGUAGE {
        // Its queries are captured as all others.
    } else if !HARMLESS.contains(&name) {
        findings.reasons.insert(format!("what function {name}() reads is not tracked"));
    }
}

/// An aggregate is declared immutable, whatever the functions are that it calls.
fn examine_aggregate(function: pg_sys::Oid, findings: &mut Findings) {
    // SAFETY: the tuple is a row of pg_aggregate and is released after the numbers were copied.
    let called = unsafe {
        let cache = pg_sys::SysCacheIdentifier::AGGFNOID as i32;
        let tuple = pg_sys::SearchSysCache1(cache, pg_sys::Datum::from(function));
        if tuple.is_null() {
            return;
        }
        let called = FUNCTIONS_OF_AGGREGATE.map(|column| {
            let mut is_null = false;
            let function = pg_sys::SysCacheGetAttr(cache, tuple, column, &mut is_null);
            pg_sys::Oid::from(function.value() as u32)
        });
        pg_sys::ReleaseSysCache(tuple);
        called
    };
    for function in called.into_iter().filter(|function| *function != pg_sys::InvalidOid) {
        findings.add(findings_of(function).as_deref());
    }
}

/// The expressions of a PL/pgSQL function are not seen when they are evaluated, so whatever its text names counts as called, and its types as used.
fn examine_source(procedure: &Procedure, findings: &mut Findings) {
    let names = plpgsql::names(&procedure.source);
    findings.is_of_text = true;
    if names.is_encoded {
        findings.reasons.insert(format!("function {}() names something by U&\"…\"", procedure.name));
    }
    if procedure.names_a_moment() {
        findings.reasons.insert(moment(&procedure.name));
    }
    for word in &names.words {
        let name = word.name.as_str();
        if KEYWORDS_OF_TIME.contains(&name) {
            findings.reasons.insert(format!("function {}() depends on the time: {name}", procedure.name));
        }
        if let Some((_, of)) = KEYWORDS_OF_SESSION.iter().find(|(keyword, _)| *keyword == name) {
            findings.session.insert((*of).to_owned());
        }
        let Ok(name) = CString::new(name) else { continue };
        // SAFETY: the list is of rows of pg_type.
        let number = |tuple| unsafe { (*pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_type>()).oid };
        let types = members(pg_sys::SysCacheIdentifier::TYPENAMENSP, &name, number);
        findings.types.extend(types.into_iter().map(pg_sys::Oid::to_u32).filter(|number| is_of_users(*number)));
        // SAFETY: the list is of rows of pg_proc.
        let called = |tuple| unsafe {
            let form = pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_proc>();
            // As `row.function`, a function of one argument is called without parentheses; those of the server have names that columns have.
            let is_called =
                word.is_called || word.is_attribute && (*form).pronargs == 1 && is_of_users((*form).oid.to_u32());
            if is_called { (*form).oid } else { pg_sys::InvalidOid }
        };
        for function in members(pg_sys::SysCacheIdentifier::PROCNAMEARGSNSP, &name, called) {
            findings.call(function);
        }
    }
    for name in names.operators.into_iter().filter_map(|name| CString::new(name).ok()) {
        // SAFETY: the list is of rows of pg_operator.
        let function = |tuple| unsafe {
            let form = pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_operator>();
            if is_of_users((*form).oid.to_u32()) { (*form).oprcode } else { pg_sys::InvalidOid }
        };
        for function in members(pg_sys::SysCacheIdentifier::OPERNAMENSP, &name, function) {
            findings.call(function);
        }
    }
    for function in functions_of_casts() {
        findings.call(function);
    }
}

/// The functions by which users have values converted: a text does not name them.
fn functions_of_casts() -> Vec<pg_sys::Oid> {
    let mut functions = Vec::new();
    // SAFETY: a walk through a catalog, whose rows are looked at before the next one is asked for.
    unsafe {
        let mode = pg_sys::AccessShareLock as pg_sys::LOCKMODE;
        let casts = pg_sys::table_open(CASTS.into(), mode);
        let none = (std::ptr::null_mut(), std::ptr::null_mut());
        let scan = pg_sys::systable_beginscan(casts, pg_sys::InvalidOid, false, none.0, 0, none.1);
        loop {
            let tuple = pg_sys::systable_getnext(scan);
            if tuple.is_null() {
                break;
            }
            let function = *pg_sys::GETSTRUCT(tuple).cast::<pg_sys::Oid>().add(FUNCTION_OF_CAST);
            if is_of_users(function.to_u32()) {
                functions.push(function);
            }
        }
        pg_sys::systable_endscan(scan);
        pg_sys::table_close(casts, mode);
    }
    functions
}

/// What the arguments depend on that a function has if it is not given them: a text that calls it does not show them.
fn examine_defaults(function: pg_sys::Oid, findings: &mut Findings) {
    // SAFETY: the tuple is a row of pg_proc; what its column holds is a list of expressions as text.
    unsafe {
        let cache = pg_sys::SysCacheIdentifier::PROCOID as i32;
        let tuple = pg_sys::SearchSysCache1(cache, pg_sys::Datum::from(function));
        if tuple.is_null() {
            return;
        }
        let mut is_null = false;
        let defaults = pg_sys::SysCacheGetAttr(cache, tuple, pg_sys::Anum_pg_proc_proargdefaults as i16, &mut is_null);
        if !is_null {
            let text = pg_sys::text_to_cstring(defaults.cast_mut_ptr());
            let mut expressions = Expressions::default();
            expressions.look_at(pg_sys::stringToNode(text).cast());
            findings.add(Some(&expressions.findings));
            findings.types.append(&mut expressions.types);
        }
        pg_sys::ReleaseSysCache(tuple);
    }
}

/// What is to be known about the functions that a plan was made with: the queries of some have become parts of it, and the texts of these are no part of the
/// statement's.
///
/// # Safety
///
/// The plan is one of a running query.
pub unsafe fn look_at_inlined(plan: *const pg_sys::PlannedStmt, findings: &mut Findings) {
    // SAFETY: the caller's promise.
    unsafe {
        for item in nodes::list((*plan).invalItems) {
            let item = item.cast::<pg_sys::PlanInvalItem>();
            if (*item).cacheId != pg_sys::SysCacheIdentifier::PROCOID as i32 {
                continue;
            }
            let hash = (*item).hashValue;
            let function = pg_sys::Oid::from(unhashed(hash));
            let none = pg_sys::Datum::from(0);
            let number = pg_sys::Datum::from(function);
            if pg_sys::GetSysCacheHashValue((*item).cacheId, number, none, none, none) != hash {
                findings.reasons.insert("which functions have become parts of the plan is not known".to_owned());
                continue;
            }
            if let Some(procedure) = Procedure::find(function)
                && procedure.language.to_u32() == SQL_LANGUAGE
                && procedure.names_a_moment()
            {
                findings.reasons.insert(moment(&procedure.name));
            }
        }
    }
}

/// The number whose hash this is: plans name functions by the server's hash of their numbers (murmurhash32, which has an inverse).
fn unhashed(mut hash: u32) -> u32 {
    hash ^= hash >> 16;
    hash = hash.wrapping_mul(0x7ed1_b41d);
    hash ^= hash >> 13 ^ hash >> 26;
    hash = hash.wrapping_mul(0xa5cb_9243);
    hash ^ hash >> 16
}

fn moment(function: &str) -> String {
    format!("function {function}() says 'now', 'today', 'tomorrow' or 'yesterday', which may stand for a time")
}

/// What is taken from each row of a catalog that has this name, in any schema. `InvalidOid`: nothing.
fn members(
    cache: pg_sys::SysCacheIdentifier::Type,
    name: &CStr,
    taken: impl Fn(pg_sys::HeapTuple) -> pg_sys::Oid,
) -> Vec<pg_sys::Oid> {
    // SAFETY: the list's members are rows of the cache's catalog; it is released after what is needed of them was copied.
    unsafe {
        let none = pg_sys::Datum::from(0);
        let list = pg_sys::SearchSysCacheList(cache as i32, 1, pg_sys::Datum::from(name.as_ptr()), none, none);
        let rows = (*list).members.as_ptr();
        let all = (0..(*list).n_members as usize).map(|at| taken(&raw mut (**rows.add(at)).tuple));
        let found = all.filter(|number| *number != pg_sys::InvalidOid).collect();
        pg_sys::ReleaseCatCacheList(list);
        found
    }
}

fn language_name(language: pg_sys::Oid) -> String {
    // SAFETY: gives NULL for a language that does not exist.
    unsafe { text(pg_sys::get_language_name(language, true)) }
}

/// # Safety
///
/// `text` is a C string or NULL.
unsafe fn text(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: the caller's promise.
    unsafe { CStr::from_ptr(text).to_string_lossy().into_owned() }
}

impl Findings {
    pub fn add(&mut self, other: Option<&Findings>) {
        if let Some(other) = other {
            self.reasons.extend(other.reasons.iter().cloned());
            self.session.extend(other.session.iter().cloned());
            self.ends_capture |= other.ends_capture;
            self.types.extend(&other.types);
            self.is_of_text |= other.is_of_text;
        }
    }

    /// A text names this function.
    fn call(&mut self, function: pg_sys::Oid) {
        if let Some(called) = findings_of(function) {
            self.add(Some(&Findings { ends_capture: false, ..(*called).clone() }));
        }
        if is_of_users(function.to_u32()) {
            examine_defaults(function, self);
        }
    }
}

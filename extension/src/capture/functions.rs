//! What the result of a function depends on besides its arguments and what its queries read.

use std::cell::RefCell;
use std::collections::{BTreeSet, HashMap};
use std::ffi::{CStr, CString, c_char};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use pgrx::prelude::*;

use super::function_names::{HARMLESS, KEYWORDS_OF_SESSION, KEYWORDS_OF_TIME, OF_SESSION, OF_TIME, OWN, READ_TIME};

/// What was found about a function.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Findings {
    /// Why a result that it took part in may not be cached.
    pub reasons: BTreeSet<String>,
    /// What of the session it depends on.
    pub session: BTreeSet<String>,
    /// It is `cachetag.capture_end`: whoever calls it is not a part of the capture.
    pub ends_capture: bool,
}

/// The language sql, by its number in `pg_language`.
const SQL_LANGUAGE: u32 = 14;
/// The columns of `pg_aggregate` that name functions whose results reach the aggregate's: aggtransfn, aggfinalfn, aggmtransfn, aggminvtransfn, aggmfinalfn.
const FUNCTIONS_OF_AGGREGATE: [i16; 5] = [4, 5, 9, 10, 11];

thread_local! {
    static KNOWN: RefCell<HashMap<u32, Option<Rc<Findings>>>> = RefCell::default();
}
static IS_REGISTERED: AtomicBool = AtomicBool::new(false);
/// Counts changes of functions. A callback cannot fail, so it does no more than this.
static GENERATION: AtomicU64 = AtomicU64::new(0);
/// The count under which [`KNOWN`] was filled.
static KNOWN_UNDER: AtomicU64 = AtomicU64::new(0);

/// Changes whenever a function may have changed.
pub fn generation() -> u64 {
    GENERATION.load(Relaxed)
}

/// What is to be known about a function; `None`: nothing, its result depends on its arguments and what its queries read.
pub fn findings_of(function: pg_sys::Oid) -> Option<Rc<Findings>> {
    if !IS_REGISTERED.swap(true, Relaxed) {
        // SAFETY: the callback lives as long as the library, which is never unloaded.
        unsafe {
            pg_sys::CacheRegisterSyscacheCallback(
                pg_sys::SysCacheIdentifier::PROCOID as i32,
                Some(on_change),
                pg_sys::Datum::from(0),
            );
        }
    }
    if KNOWN_UNDER.swap(generation(), Relaxed) != generation() {
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
unsafe extern "C-unwind" fn on_change(_argument: pg_sys::Datum, _cache: i32, _hash: u32) {
    GENERATION.fetch_add(1, Relaxed);
}

/// A row of `pg_proc`.
struct Procedure {
    name: String,
    schema: String,
    language: pg_sys::Oid,
    kind: u8,
    volatility: u8,
    source: String,
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
            let found = Procedure {
                name: text((*form).proname.data.as_ptr()),
                schema: text(schema),
                language: (*form).prolang,
                kind: (*form).prokind as u8,
                volatility: (*form).provolatile as u8,
                source: source.unwrap_or_default(),
            };
            pg_sys::ReleaseSysCache(tuple);
            Some(found)
        }
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

/// The expressions of a PL/pgSQL function are not seen when they are evaluated, so whatever its text names counts as called.
fn examine_source(procedure: &Procedure, findings: &mut Findings) {
    for (word, is_called) in words(&procedure.source) {
        if KEYWORDS_OF_TIME.contains(&word.as_str()) {
            findings.reasons.insert(format!("function {}() depends on the time: {word}", procedure.name));
        }
        if let Some((_, of)) = KEYWORDS_OF_SESSION.iter().find(|(keyword, _)| *keyword == word) {
            findings.session.insert((*of).to_owned());
        }
        if is_called {
            for function in functions_named(&word) {
                if let Some(called) = findings_of(function) {
                    findings.add(Some(&Findings { ends_capture: false, ..(*called).clone() }));
                }
            }
        }
    }
}

/// The words of a source outside comments, lower-cased, each with whether a parenthesis follows.
fn words(source: &str) -> Vec<(String, bool)> {
    let mut words = Vec::new();
    let mut rest = source;
    while let Some(first) = rest.chars().next() {
        if let Some(comment) = rest.strip_prefix("--") {
            rest = comment.split_once('\n').map_or("", |(_, after)| after);
        } else if let Some(comment) = rest.strip_prefix("/*") {
            rest = comment.split_once("*/").map_or("", |(_, after)| after);
        } else if first.is_alphabetic() || first == '_' {
            let is_part = |c: char| c.is_alphanumeric() || c == '_' || c == '$';
            let end = rest.find(|c| !is_part(c)).unwrap_or(rest.len());
            let after = rest[end..].trim_start_matches(['"', ' ', '\t', '\n', '\r']);
            words.push((rest[..end].to_lowercase(), after.starts_with('(')));
            rest = &rest[end..];
        } else {
            rest = &rest[first.len_utf8()..];
        }
    }
    words
}

fn functions_named(name: &str) -> Vec<pg_sys::Oid> {
    let Ok(name) = CString::new(name) else { return Vec::new() };
    if name.as_bytes().len() >= pg_sys::NAMEDATALEN as usize {
        return Vec::new();
    }
    // SAFETY: the list's members are rows of pg_proc; it is released after their numbers were copied.
    unsafe {
        let none = pg_sys::Datum::from(0);
        let list = pg_sys::SearchSysCacheList(
            pg_sys::SysCacheIdentifier::PROCNAMEARGSNSP as i32,
            1,
            pg_sys::Datum::from(name.as_ptr()),
            none,
            none,
        );
        let members = (*list).members.as_ptr();
        let found = (0..(*list).n_members as usize).map(|at| {
            let tuple = &raw mut (**members.add(at)).tuple;
            (*pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_proc>()).oid
        });
        let found = found.collect();
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
        }
    }
}

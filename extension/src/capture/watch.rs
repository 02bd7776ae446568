//! Scans whose keys change while the query runs: what they are is read off after every row.

use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use cachetag_core::RenderOutcome;
use pgrx::prelude::*;

use super::cover::Source;
use super::equality::{Kind, is_word, kind_of};
use super::{choice, nodes, session};
use crate::broken::{Guard, forgets};
use crate::render::Renderer;
use crate::rules::{Form, TableRules};

/// A text for each value that a column of the template meets; `None`: not known.
type Texts = Option<Vec<Vec<u8>>>;

/// The tags of one scan.
pub struct Watch {
    relation: pg_sys::Oid,
    rules: Rc<TableRules>,
    ways: Vec<Way>,
    /// All of them are.
    is_settled: bool,
}

/// One way to satisfy the conditions of the scan.
struct Way {
    rule: usize,
    /// The whole family is among the tags already.
    is_settled: bool,
    /// In the order of the template's columns.
    sources: Vec<Source>,
    /// The words of the values that were met last, where all of them are words.
    last: Option<Vec<Option<usize>>>,
}

struct Watched {
    original: pg_sys::ExecProcNodeMtd,
    estate: usize,
    watch: Watch,
}

thread_local! {
    static WATCHED: RefCell<HashMap<usize, Box<Watched>>> = RefCell::default();
}

/// The scan that returned a row last and what is kept of it: the inner side of a join returns many in a row.
static LAST_NODE: AtomicUsize = AtomicUsize::new(0);
static LAST_WATCHED: AtomicUsize = AtomicUsize::new(0);

impl Watch {
    /// # Safety
    ///
    /// The query is starting: what its conditions have as values is there.
    pub unsafe fn new(relation: pg_sys::Oid, rules: Rc<TableRules>, ways: Vec<choice::Way>) -> Watch {
        let mut renderer = Renderer::default();
        let way = |choice::Way { rule, sources }| {
            let columns = choice::columns_of(&rules.rules[rule]);
            let sources = sources.into_iter().zip(columns).map(|(source, column)| match &source {
                Source::Fixed { values, type_oid } => {
                    // SAFETY: the caller's promise.
                    Source::Texts(unsafe { written(values, *type_oid, rules.columns[*column].type_oid, &mut renderer) })
                }
                _ => source,
            });
            Way { rule, is_settled: false, sources: sources.collect(), last: None }
        };
        let ways = ways.into_iter().map(way).collect();
        drop(renderer);
        Watch { relation, rules, ways, is_settled: false }
    }

    /// Are all values known before the query runs?
    pub fn is_fixed(&self) -> bool {
        self.ways.iter().all(|way| way.sources.iter().all(|source| matches!(source, Source::Texts(_))))
    }

    /// Adds the tags of the values as they are now.
    ///
    /// # Safety
    ///
    /// The state is that of the scan, which is running; or no source needs it.
    pub unsafe fn record(&mut self, state: *mut pg_sys::PlanState) {
        for at in 0..self.ways.len() {
            if !self.ways[at].is_settled {
                // SAFETY: the caller's promise.
                unsafe { self.record_way(at, state) };
            }
        }
        self.is_settled |= forgets(Guard::LaterKeys);
    }

    unsafe fn record_way(&mut self, at: usize, state: *mut pg_sys::PlanState) {
        // SAFETY: the caller's promise.
        unsafe {
            let words = self.ways[at].words(state);
            if words.is_some() && words == self.ways[at].last {
                return;
            }
            self.ways[at].last = words;
            let columns = choice::columns_of(&self.rules.rules[self.ways[at].rule]);
            let mut renderer = Renderer::default();
            let mut texts = Vec::with_capacity(columns.len());
            for (source, column) in self.ways[at].sources.iter().zip(columns) {
                match source.texts(state, self.rules.columns[*column].type_oid, &mut renderer) {
                    Some(known) => texts.push(known),
                    None => return self.settle(at),
                }
            }
            drop(renderer);
            self.add(at, &texts);
        }
    }

    /// Adds a tag for each combination of texts.
    fn add(&mut self, at: usize, texts: &[Vec<Vec<u8>>]) {
        let rule = &self.rules.rules[self.ways[at].rule];
        let Form::Exact { template, .. } = &rule.form else { return };
        let combinations = texts.iter().try_fold(1_usize, |product, texts| product.checked_mul(texts.len()));
        let limit = crate::settings::CAPTURE_KEYS.get() as usize;
        let Some(combinations) = combinations.filter(|combinations| *combinations <= limit) else {
            // What is forgotten is that the values are too many.
            return if forgets(Guard::Limit) { () } else { self.settle(at) };
        };
        let columns = template.columns();
        let mut tag = Vec::new();
        for combination in 0..combinations {
            let mut rest = combination;
            let chosen: Vec<&[u8]> = texts
                .iter()
                .map(|texts| {
                    let text = texts[rest % texts.len()].as_slice();
                    rest /= texts.len();
                    text
                })
                .collect();
            let value = |column| {
                let place = columns.iter().position(|known| *known == column)?;
                chosen.get(place).copied()
            };
            tag.clear();
            let is_known = match template.render_into(value, &mut tag) {
                RenderOutcome::Tag => {
                    let tag = crate::tags::text(std::mem::take(&mut tag));
                    session::with(|capture| capture.add_tag(self.relation, &rule.whole_family, &tag))
                }
                // The daemon takes the whole family for such a row too; NULL is not among the texts.
                RenderOutcome::TooLong | RenderOutcome::Unrenderable | RenderOutcome::Null => false,
            };
            if !is_known {
                return self.settle(at);
            }
        }
    }

    /// The values are too many or not known. All rows that satisfy an equality have a tag of the family, since none of them is NULL there.
    fn settle(&mut self, at: usize) {
        let rule = &self.rules.rules[self.ways[at].rule];
        session::with(|capture| capture.add_family(self.relation, &rule.whole_family));
        self.ways[at].is_settled = true;
        self.is_settled = self.ways.iter().all(|way| way.is_settled);
    }
}

impl Way {
    /// The values as words, if all of them are; a parameter that has no value yet is none.
    unsafe fn words(&self, state: *mut pg_sys::PlanState) -> Option<Vec<Option<usize>>> {
        // SAFETY: the caller's promise.
        self.sources.iter().map(|source| unsafe { source.word(state) }).collect()
    }
}

impl Source {
    /// `None`: not a word. `Some(None)`: NULL, or always the same.
    unsafe fn word(&self, state: *mut pg_sys::PlanState) -> Option<Option<usize>> {
        // SAFETY: the caller's promise: keys and parameters live as long as the scan.
        unsafe {
            match self {
                Source::Fixed { .. } | Source::Texts(_) => Some(None),
                Source::Parameter { number, type_oid, is_array } => {
                    let parameter = &*(*(*state).state).es_param_exec_vals.add(*number);
                    if *is_array || !is_word(*type_oid) || !parameter.execPlan.is_null() {
                        return None;
                    }
                    Some((!parameter.isnull).then(|| parameter.value.value()))
                }
                Source::Key { key, type_oid } => {
                    let flags = (**key).sk_flags as u32;
                    if flags & pg_sys::SK_SEARCHARRAY != 0 || !is_word(*type_oid) {
                        return None;
                    }
                    Some((flags & pg_sys::SK_ISNULL == 0).then(|| (**key).sk_argument.value()))
                }
            }
        }
    }

    /// The values in text, as the column writes them.
    unsafe fn texts(&self, state: *mut pg_sys::PlanState, column: pg_sys::Oid, renderer: &mut Renderer) -> Texts {
        // SAFETY: the caller's promise; each value is of the type that comes with it.
        unsafe {
            let (values, type_oid) = match self {
                Source::Fixed { values, type_oid } => (values.clone(), *type_oid),
                Source::Texts(texts) => return Some(texts.clone()),
                Source::Parameter { number, type_oid, is_array } => {
                    let parameter = &*(*(*state).state).es_param_exec_vals.add(*number);
                    if !parameter.execPlan.is_null() {
                        // A subquery that no row has needed so far.
                        return forgets(Guard::LazyParameters).then(Vec::new);
                    }
                    (values(parameter.value, parameter.isnull, *is_array, *type_oid), *type_oid)
                }
                Source::Key { key, type_oid } => {
                    let flags = (**key).sk_flags as u32;
                    let is_array = flags & pg_sys::SK_SEARCHARRAY != 0;
                    let is_null = flags & pg_sys::SK_ISNULL != 0;
                    (values((**key).sk_argument, is_null, is_array, *type_oid), *type_oid)
                }
            };
            Some(written(&values, type_oid, column, renderer))
        }
    }
}

/// Values of a type as a column writes them with which they compare.
unsafe fn written(
    values: &[pg_sys::Datum],
    type_oid: pg_sys::Oid,
    column: pg_sys::Oid,
    renderer: &mut Renderer,
) -> Vec<Vec<u8>> {
    // inet and cidr differ in how they write a host.
    let written_by = if kind_of(column) == Some(Kind::Network) { column } else { type_oid };
    // SAFETY: the caller's promise.
    values.iter().map(|value| unsafe { renderer.text(*value, written_by) }).collect()
}

/// The values of a scalar or an array; NULL equals nothing.
unsafe fn values(value: pg_sys::Datum, is_null: bool, is_array: bool, type_oid: pg_sys::Oid) -> Vec<pg_sys::Datum> {
    if is_null {
        Vec::new()
    } else if is_array {
        // SAFETY: the caller's promise.
        let elements = unsafe { nodes::array_elements(value, type_oid) };
        if forgets(Guard::OtherElements) { elements.into_iter().take(1).collect() } else { elements }
    } else {
        vec![value]
    }
}

/// Has the scan looked at after every call.
///
/// # Safety
///
/// The state is that of a scan that has not run yet.
pub unsafe fn install(state: *mut pg_sys::PlanState, watch: Watch) {
    // SAFETY: the caller's promise. ExecProcNode still is the function that on its first call copies ExecProcNodeReal, and the one with instrumentation
    // calls it too: so Real is the one to replace.
    unsafe {
        if (*state).ExecProcNodeReal.is_some_and(|real| real as usize == after_original as *const () as usize) {
            return;
        }
        let watched = Watched { original: (*state).ExecProcNodeReal, estate: (*state).state as usize, watch };
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
        if session::is_active() && !(*watched).watch.is_settled {
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
    unsafe { (*watched).watch.record(state) };
}

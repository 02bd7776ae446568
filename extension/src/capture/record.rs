//! The tags of one scan: from the values that the columns of a template meet to the session.

use std::rc::Rc;

use cachetag_core::RenderOutcome;
use pgrx::pg_sys;

use super::choice::{self, columns_of};
use super::cover::Source;
use super::equality::{Kind, kind_of};
use super::memo::{self, Memo};
use super::{nodes, session};
use crate::broken::{Guard, forgets};
use crate::render::Renderer;
use crate::rules::{Form, TableRules};

/// Where a running query has the values of its parameters.
#[derive(Clone, Copy)]
pub struct Values {
    /// Those of the statement; may be NULL.
    pub external: pg_sys::ParamListInfo,
    /// The scan that the executor sets parameters for, while it runs; else NULL.
    pub state: *mut pg_sys::PlanState,
}

/// When the values of a scan are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Known {
    /// With the plan.
    InPlan,
    /// When the query starts.
    AtStart,
    /// As it goes on.
    WhileRunning,
}

/// Records the tags of one scan, in all executions of its plan.
pub struct Recorder {
    /// Where the capture keeps the tags of this scan apart, if it explains itself.
    pub place: Option<usize>,
    rules: Rc<TableRules>,
    ways: Vec<Way>,
    known: Known,
    /// The whole family of each way is among the tags already.
    is_settled: bool,
    /// The capture that the above is about.
    generation: u64,
    /// The values of the row that is being looked at.
    key: Vec<u8>,
}

/// One way to satisfy the conditions of the scan.
struct Way {
    rule: usize,
    is_settled: bool,
    /// In the order of the template's columns.
    sources: Vec<Source>,
    memo: Memo,
}

impl Recorder {
    /// # Safety
    ///
    /// The plan whose constants are among the sources is there.
    pub unsafe fn new(rules: Rc<TableRules>, ways: Vec<choice::Way>) -> Recorder {
        let mut renderer = Renderer::default();
        let mut way = |choice::Way { rule, sources }| {
            let columns = columns_of(&rules.rules[rule]).iter();
            // SAFETY: the caller's promise.
            let texts = |(source, column): (Source, &usize)| unsafe {
                source.without_constants(rules.columns[*column].type_oid, &mut renderer)
            };
            let sources = sources.into_iter().zip(columns).map(texts).collect();
            Way { rule, is_settled: false, sources, memo: Memo::default() }
        };
        let ways: Vec<Way> = ways.into_iter().map(&mut way).collect();
        drop(renderer);
        let sources = ways.iter().flat_map(|way| &way.sources);
        let known = sources.map(Source::known).max().unwrap_or(Known::InPlan);
        Recorder { place: None, rules, ways, known, is_settled: false, generation: 0, key: Vec::new() }
    }

    /// When are all values known?
    pub fn known(&self) -> Known {
        self.known
    }

    /// Is there nothing to add any more?
    pub fn is_settled(&self) -> bool {
        self.is_settled && self.generation == session::generation()
    }

    /// Adds the tags of the values as they are now.
    ///
    /// # Safety
    ///
    /// The values are those of the running query.
    pub unsafe fn record(&mut self, values: Values) {
        if self.generation != session::generation() {
            self.generation = session::generation();
            self.is_settled = false;
            for way in &mut self.ways {
                way.is_settled = false;
                way.memo.clear();
            }
        }
        if self.is_settled {
            return;
        }
        for at in 0..self.ways.len() {
            if !self.ways[at].is_settled {
                // SAFETY: the caller's promise.
                unsafe { self.record_way(at, values) };
            }
        }
        self.is_settled |= forgets(Guard::LaterKeys);
    }

    unsafe fn record_way(&mut self, at: usize, values: Values) {
        // SAFETY: the caller's promise.
        unsafe {
            let way = &mut self.ways[at];
            self.key.clear();
            let has_key = way.sources.iter().all(|source| source.add_key(values, &mut self.key));
            if has_key && way.memo.knows(&mut self.key) {
                return;
            }
            let columns = columns_of(&self.rules.rules[self.ways[at].rule]);
            let mut renderer = Renderer::default();
            let mut texts = Vec::with_capacity(columns.len());
            for (source, column) in self.ways[at].sources.iter().zip(columns) {
                let mut known = Vec::new();
                if !source.add_texts(values, self.rules.columns[*column].type_oid, &mut renderer, &mut known) {
                    return self.settle(at);
                }
                texts.push(known);
            }
            drop(renderer);
            self.add(at, &texts);
            if has_key {
                self.ways[at].memo.remember(&mut self.key);
            }
        }
    }

    /// Adds a tag for each combination of texts.
    fn add(&mut self, at: usize, texts: &[Vec<Vec<u8>>]) {
        let rule = &self.rules.rules[self.ways[at].rule];
        let Form::Exact { template, .. } = &rule.form else { return };
        let combinations = texts.iter().try_fold(1_usize, |product, texts| product.checked_mul(texts.len()));
        let limit = crate::settings::CAPTURE_KEYS.get() as usize;
        let Some(combinations) = combinations.filter(|combinations| *combinations <= limit) else {
            if forgets(Guard::Limit) {
                return;
            }
            return self.settle(at);
        };
        let columns = template.columns();
        let mut tag = Vec::new();
        for combination in 0..combinations {
            let value = |column: usize| {
                let place = columns.iter().position(|known| *known == column)?;
                // The combination is a number whose digits are places in the lists.
                let weight: usize = texts[..place].iter().map(Vec::len).product();
                texts[place].get(combination / weight % texts[place].len()).map(Vec::as_slice)
            };
            tag.clear();
            let is_added = match template.render_into(value, &mut tag) {
                RenderOutcome::Tag => {
                    let tag = crate::tags::text(std::mem::take(&mut tag));
                    session::with(|capture| capture.add_tag(self.place, &rule.whole_family, &tag))
                }
                // The daemon takes the whole family for such a row too; NULL is not among the texts.
                RenderOutcome::TooLong | RenderOutcome::Unrenderable | RenderOutcome::Null => false,
            };
            if !is_added {
                return self.settle(at);
            }
        }
    }

    /// The values are too many or not known. All rows that satisfy an equality have a tag of the family, since none of them is NULL there.
    fn settle(&mut self, at: usize) {
        let rule = &self.rules.rules[self.ways[at].rule];
        session::with(|capture| capture.add_family(self.place, &rule.whole_family));
        self.ways[at].is_settled = true;
        self.is_settled = self.ways.iter().all(|way| way.is_settled);
    }
}

impl Source {
    fn known(&self) -> Known {
        match self {
            Source::Fixed { .. } | Source::Texts(_) => Known::InPlan,
            Source::External { .. } => Known::AtStart,
            Source::Parameter { .. } | Source::Key { .. } => Known::WhileRunning,
            Source::Several(sources) => sources.iter().map(Source::known).max().unwrap_or(Known::InPlan),
        }
    }

    /// The only value that there is, as the column writes it; `None`: there are several, or it is not known with the plan.
    ///
    /// # Safety
    ///
    /// The plan whose constants are among the sources is there.
    pub unsafe fn only_text(&self, column: pg_sys::Oid, renderer: &mut Renderer) -> Option<Vec<u8>> {
        match self {
            Source::Fixed { values, type_oid } if values.len() == 1 => {
                let mut texts = Vec::with_capacity(1);
                // SAFETY: the caller's promise.
                unsafe { write(values, *type_oid, column, renderer, &mut texts) };
                texts.pop()
            }
            _ => None,
        }
    }

    /// Constants are written now; the plan's memory need not outlive this.
    unsafe fn without_constants(self, column: pg_sys::Oid, renderer: &mut Renderer) -> Source {
        match self {
            Source::Fixed { values, type_oid } => {
                let mut texts = Vec::with_capacity(values.len());
                // SAFETY: the caller's promise.
                unsafe { write(&values, type_oid, column, renderer, &mut texts) };
                Source::Texts(texts.into())
            }
            Source::Several(sources) => {
                // SAFETY: as above.
                let written =
                    sources.iter().map(|source| unsafe { source.clone().without_constants(column, renderer) });
                Source::Several(written.collect())
            }
            source => source,
        }
    }

    /// Adds the value in bytes: see [`memo::add_value`].
    unsafe fn add_key(&self, values: Values, key: &mut Vec<u8>) -> bool {
        // SAFETY: the caller's promise: keys and parameters live as long as the scan.
        unsafe {
            match self {
                // Always the same.
                Source::Fixed { .. } | Source::Texts(_) => true,
                Source::External { number, type_oid, is_array: false } => {
                    let mut workspace = std::mem::zeroed();
                    let Some(given) = nodes::external(values.external, *number, &mut workspace) else { return false };
                    let given = &*given;
                    given.ptype == *type_oid && memo::add_value(given.value, given.isnull, *type_oid, key)
                }
                Source::Parameter { number, type_oid, is_array: false } => {
                    let parameter = executor_parameter(values.state, *number);
                    parameter.execPlan.is_null() && memo::add_value(parameter.value, parameter.isnull, *type_oid, key)
                }
                Source::Key { place, type_oid } => {
                    let scan_key = runtime_key(values.state, *place);
                    let flags = scan_key.sk_flags as u32;
                    let is_null = flags & pg_sys::SK_ISNULL != 0;
                    flags & pg_sys::SK_SEARCHARRAY == 0
                        && memo::add_value(scan_key.sk_argument, is_null, *type_oid, key)
                }
                _ => false,
            }
        }
    }

    /// Adds the values in text, as the column writes them. `false`: they are not known.
    unsafe fn add_texts(
        &self,
        values: Values,
        column: pg_sys::Oid,
        renderer: &mut Renderer,
        texts: &mut Vec<Vec<u8>>,
    ) -> bool {
        // SAFETY: the caller's promise; each value is of the type that comes with it.
        unsafe {
            let (found, type_oid) = match self {
                Source::Fixed { values, type_oid } => (values.clone(), *type_oid),
                Source::Texts(known) => {
                    texts.extend(known.iter().cloned());
                    return true;
                }
                Source::Several(sources) => {
                    return sources.iter().all(|source| source.add_texts(values, column, renderer, texts));
                }
                Source::External { number, type_oid, is_array } => {
                    let mut workspace = std::mem::zeroed();
                    let Some(given) = nodes::external(values.external, *number, &mut workspace) else { return false };
                    let given = &*given;
                    let is_alike = if *is_array {
                        pg_sys::get_base_element_type(given.ptype) == *type_oid
                    } else {
                        given.ptype == *type_oid
                    };
                    if !is_alike {
                        return false;
                    }
                    (nodes::values(given.value, given.isnull, *is_array, *type_oid), *type_oid)
                }
                Source::Parameter { number, type_oid, is_array } => {
                    let parameter = executor_parameter(values.state, *number);
                    if !parameter.execPlan.is_null() {
                        // A subquery that no row has needed so far.
                        return forgets(Guard::LazyParameters);
                    }
                    (nodes::values(parameter.value, parameter.isnull, *is_array, *type_oid), *type_oid)
                }
                Source::Key { place, type_oid } => {
                    let key = runtime_key(values.state, *place);
                    let flags = key.sk_flags as u32;
                    let is_array = flags & pg_sys::SK_SEARCHARRAY != 0;
                    let is_null = flags & pg_sys::SK_ISNULL != 0;
                    (nodes::values(key.sk_argument, is_null, is_array, *type_oid), *type_oid)
                }
            };
            write(&found, type_oid, column, renderer, texts);
            true
        }
    }
}

unsafe fn executor_parameter<'a>(state: *mut pg_sys::PlanState, number: usize) -> &'a pg_sys::ParamExecData {
    // SAFETY: the caller's promise: the executor has made room for every parameter of the plan.
    unsafe { &*(*(*state).state).es_param_exec_vals.add(number) }
}

unsafe fn runtime_key<'a>(state: *mut pg_sys::PlanState, place: usize) -> &'a pg_sys::ScanKeyData {
    // SAFETY: the caller's promise: the scan is the one whose keys were counted when the plan was analysed.
    unsafe {
        let keys = if (*state).type_ == pg_sys::NodeTag::T_IndexScanState {
            (*state.cast::<pg_sys::IndexScanState>()).iss_RuntimeKeys
        } else {
            (*state.cast::<pg_sys::IndexOnlyScanState>()).ioss_RuntimeKeys
        };
        &*(*keys.add(place)).scan_key
    }
}

/// Writes values of a type as a column writes them with which they compare.
unsafe fn write(
    values: &[pg_sys::Datum],
    type_oid: pg_sys::Oid,
    column: pg_sys::Oid,
    renderer: &mut Renderer,
    texts: &mut Vec<Vec<u8>>,
) {
    // inet and cidr differ in how they write a host.
    let written_by = if kind_of(column) == Some(Kind::Network) { column } else { type_oid };
    let values = if forgets(Guard::OtherElements) && !values.is_empty() { &values[..1] } else { values };
    // SAFETY: the caller's promise.
    texts.extend(values.iter().map(|value| unsafe { renderer.text(*value, written_by) }));
}

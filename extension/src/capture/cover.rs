//! What the conditions of a scan say about the rows that it can return.

use pgrx::{is_a, pg_sys};

use super::equality::{Kind, is_bytewise, is_equality_of, kind_of};
use super::nodes;
use crate::broken::{Guard, forgets};

/// Every row that the scan returns has in this column one of these values.
#[derive(Clone)]
pub struct Equality {
    pub attribute: i16,
    pub source: Source,
}

/// Where the values of an equality come from.
#[derive(Clone)]
pub enum Source {
    /// Known when the query starts; no NULL among them, for NULL equals nothing.
    Fixed { values: Vec<pg_sys::Datum>, type_oid: pg_sys::Oid },
    /// The same, in text: values need not outlive the start of the query.
    Texts(Vec<Vec<u8>>),
    /// An executor parameter, which is set anew for every rescan.
    Parameter { number: usize, type_oid: pg_sys::Oid, is_array: bool },
    /// A key of an index scan, computed anew for every rescan.
    Key { key: *const pg_sys::ScanKeyData, type_oid: pg_sys::Oid },
}

/// What all conditions together demand of a row.
#[derive(Default)]
pub struct Conditions {
    /// All of these.
    pub all: Vec<Equality>,
    /// And of each of these lists one member, which is all of its equalities.
    pub one_of: Vec<Vec<Vec<Equality>>>,
}

/// The scan whose conditions are looked at.
pub struct Scan {
    pub state: *mut pg_sys::PlanState,
    pub relation: pg_sys::Relation,
    /// Its number in the range table.
    pub number: i32,
    /// The index whose columns stand in the place of the table's, for an index-only scan.
    pub index: pg_sys::Relation,
}

impl Conditions {
    /// Adds the conditions of a list, which are joined by AND.
    ///
    /// # Safety
    ///
    /// The list is one of expressions of the scan's plan, which is running.
    pub unsafe fn add(&mut self, list: *mut pg_sys::List, scan: &Scan) {
        for node in nodes::list(list) {
            // SAFETY: the caller's promise.
            unsafe { self.add_one(node.cast(), scan) };
        }
    }

    unsafe fn add_one(&mut self, node: *mut pg_sys::Node, scan: &Scan) {
        // SAFETY: the tag of a node says what it is.
        unsafe {
            match (*node).type_ {
                pg_sys::NodeTag::T_BoolExpr => {
                    let expression = node.cast::<pg_sys::BoolExpr>();
                    match (*expression).boolop {
                        pg_sys::BoolExprType::AND_EXPR => self.add((*expression).args, scan),
                        pg_sys::BoolExprType::OR_EXPR => {
                            let arms = nodes::list((*expression).args).map(|arm| {
                                let mut conditions = Conditions::default();
                                conditions.add_one(arm.cast(), scan);
                                conditions.all
                            });
                            self.one_of.push(arms.collect());
                        }
                        _ => self.all.extend(boolean(node, scan)),
                    }
                }
                pg_sys::NodeTag::T_OpExpr => self.all.extend(comparison(node.cast(), scan)),
                pg_sys::NodeTag::T_ScalarArrayOpExpr => self.all.extend(membership(node.cast(), scan)),
                _ => self.all.extend(boolean(node, scan)),
            }
        }
    }

    /// Adds the keys of an index scan that are computed when it starts, whatever the expressions.
    ///
    /// # Safety
    ///
    /// The keys are those of the scan's index.
    pub unsafe fn add_runtime_keys(
        &mut self,
        scan: &Scan,
        index: pg_sys::Relation,
        keys: *const pg_sys::IndexRuntimeKeyInfo,
        count: i32,
    ) {
        // SAFETY: the executor has opened the index and made an element of `keys` for each of `count`.
        unsafe {
            let equal = match (*(*index).rd_rel).relam.to_u32() {
                403 => 3, // btree
                405 => 1, // hash
                _ => return,
            };
            for at in 0..usize::try_from(count).unwrap_or(0) {
                let key = (*keys.add(at)).scan_key;
                let flags = (*key).sk_flags as u32;
                let other = pg_sys::SK_ROW_HEADER
                    | pg_sys::SK_ROW_MEMBER
                    | pg_sys::SK_SEARCHNULL
                    | pg_sys::SK_SEARCHNOTNULL
                    | pg_sys::SK_ORDER_BY;
                if flags & other != 0 || (*key).sk_strategy != equal || !is_bytewise((*key).sk_collation) {
                    continue;
                }
                let place = (*key).sk_attno as usize - 1;
                let Some((attribute, kind)) = index_column(index, scan, place) else { continue };
                let type_oid = match (*key).sk_subtype {
                    pg_sys::InvalidOid => *(*index).rd_opcintype.add(place),
                    subtype => subtype,
                };
                if is_equality_of((*key).sk_func.fn_oid, kind)
                    && kind_of(type_oid) == Some(kind)
                    && !self.all.iter().any(|equality| equality.attribute == attribute)
                {
                    self.all.push(Equality { attribute, source: Source::Key { key, type_oid } });
                }
            }
        }
    }
}

/// The table's column that is this one of the index.
///
/// # Safety
///
/// The index is open and belongs to the scan's relation.
unsafe fn index_column(index: pg_sys::Relation, scan: &Scan, place: usize) -> Option<(i16, Kind)> {
    // SAFETY: an index has a number for each of its columns, key or included.
    unsafe {
        if place >= (*(*index).rd_index).indnatts as usize {
            return None;
        }
        let attribute = *(*(*index).rd_index).indkey.values.as_ptr().add(place);
        column(scan.relation, attribute)
    }
}

/// A column of which equal values have equal texts.
unsafe fn column(relation: pg_sys::Relation, attribute: i16) -> Option<(i16, Kind)> {
    if attribute <= 0 {
        return None;
    }
    // SAFETY: plans name columns that their relations have.
    let kind = kind_of(unsafe { (*nodes::attribute(relation, attribute)).atttypid })?;
    Some((attribute, kind))
}

/// The column of the scan that an expression is.
unsafe fn variable(node: *mut pg_sys::Node, scan: &Scan) -> Option<(i16, Kind)> {
    // SAFETY: the tag of a node says what it is.
    unsafe {
        let node = unlabelled(node);
        if !is_a(node, pg_sys::NodeTag::T_Var) {
            return None;
        }
        let variable = &*node.cast::<pg_sys::Var>();
        if variable.varlevelsup != 0 || variable.varattno <= 0 {
            None
        } else if variable.varno as i32 == scan.number {
            column(scan.relation, variable.varattno)
        } else if variable.varno as i32 == pg_sys::INDEX_VAR && !scan.index.is_null() {
            index_column(scan.index, scan, variable.varattno as usize - 1)
        } else {
            None
        }
    }
}

/// `column = value` or `value = column`.
unsafe fn comparison(expression: *mut pg_sys::OpExpr, scan: &Scan) -> Option<Equality> {
    // SAFETY: an operator has one argument or two.
    unsafe {
        let arguments: Vec<_> = nodes::list((*expression).args).collect();
        let [left, right] = *arguments.as_slice() else { return None };
        let (left, right) = (left.cast(), right.cast());
        let ((attribute, kind), value) = match variable(left, scan) {
            Some(found) => (found, right),
            None => (variable(right, scan)?, left),
        };
        if !is_equality_of(pg_sys::get_opcode((*expression).opno), kind) || !is_bytewise((*expression).inputcollid) {
            return None;
        }
        let source = scalar(value, kind, scan)?;
        Some(Equality { attribute, source })
    }
}

/// `column = ANY (values)`.
unsafe fn membership(expression: *mut pg_sys::ScalarArrayOpExpr, scan: &Scan) -> Option<Equality> {
    // SAFETY: the expression has two arguments.
    unsafe {
        let arguments: Vec<_> = nodes::list((*expression).args).collect();
        let [left, right] = *arguments.as_slice() else { return None };
        let (attribute, kind) = variable(left.cast(), scan)?;
        if !(*expression).useOr
            || !is_equality_of(pg_sys::get_opcode((*expression).opno), kind)
            || !is_bytewise((*expression).inputcollid)
        {
            return None;
        }
        let source = array(unlabelled(right.cast()), kind, scan)?;
        Some(Equality { attribute, source })
    }
}

/// A boolean column by itself, or NOT of it.
unsafe fn boolean(node: *mut pg_sys::Node, scan: &Scan) -> Option<Equality> {
    // SAFETY: NOT has one argument.
    unsafe {
        let (inner, value) = if is_a(node, pg_sys::NodeTag::T_BoolExpr) {
            let expression = node.cast::<pg_sys::BoolExpr>();
            if (*expression).boolop != pg_sys::BoolExprType::NOT_EXPR {
                return None;
            }
            (nodes::list((*expression).args).next()?.cast(), false)
        } else {
            (node, true)
        };
        let (attribute, kind) = variable(inner, scan)?;
        let fixed = Source::Fixed { values: vec![pg_sys::Datum::from(value)], type_oid: pg_sys::BOOLOID };
        (kind == Kind::Plain(pg_sys::BOOLOID)).then_some(Equality { attribute, source: fixed })
    }
}

/// One value, of this kind.
unsafe fn scalar(node: *mut pg_sys::Node, kind: Kind, scan: &Scan) -> Option<Source> {
    // SAFETY: the tag of a node says what it is.
    unsafe {
        let node = unlabelled(node);
        if let Some(parameter) = executor_parameter(node) {
            return (kind_of(parameter.paramtype) == Some(kind)).then_some(Source::Parameter {
                number: parameter.paramid as usize,
                type_oid: parameter.paramtype,
                is_array: false,
            });
        }
        let (value, type_oid) = known(node, scan)?;
        (kind_of(type_oid) == Some(kind)).then(|| Source::Fixed { values: value.into_iter().collect(), type_oid })
    }
}

/// The elements of an array, of this kind.
unsafe fn array(node: *mut pg_sys::Node, kind: Kind, scan: &Scan) -> Option<Source> {
    // SAFETY: the tag of a node says what it is; a value that is known is of the type that comes with it.
    unsafe {
        if is_a(node, pg_sys::NodeTag::T_ArrayExpr) {
            let expression = node.cast::<pg_sys::ArrayExpr>();
            let element = (*expression).element_typeid;
            if (*expression).multidims || kind_of(element) != Some(kind) {
                return None;
            }
            let mut values = Vec::new();
            for node in nodes::list((*expression).elements) {
                let (value, type_oid) = known(unlabelled(node.cast()), scan)?;
                // A value is written as its own type writes it.
                if kind_of(type_oid) != Some(kind) || pg_sys::getBaseType(type_oid) != pg_sys::getBaseType(element) {
                    return None;
                }
                values.extend(value);
            }
            return Some(Source::Fixed { values, type_oid: element });
        }
        if let Some(parameter) = executor_parameter(node) {
            let element = pg_sys::get_base_element_type(parameter.paramtype);
            return (kind_of(element) == Some(kind)).then_some(Source::Parameter {
                number: parameter.paramid as usize,
                type_oid: element,
                is_array: true,
            });
        }
        let (value, type_oid) = known(node, scan)?;
        let element = pg_sys::get_base_element_type(type_oid);
        if kind_of(element) != Some(kind) {
            return None;
        }
        let mut values = value.map_or_else(Vec::new, |value| nodes::array_elements(value, element));
        if forgets(Guard::OtherElements) {
            values.truncate(1);
        }
        Some(Source::Fixed { values, type_oid: element })
    }
}

/// A parameter that the executor sets while it runs.
unsafe fn executor_parameter<'a>(node: *mut pg_sys::Node) -> Option<&'a pg_sys::Param> {
    // SAFETY: the tag of a node says what it is; plans outlive this walk.
    unsafe {
        if !is_a(node, pg_sys::NodeTag::T_Param) {
            return None;
        }
        let parameter = &*node.cast::<pg_sys::Param>();
        (parameter.paramkind == pg_sys::ParamKind::PARAM_EXEC).then_some(parameter)
    }
}

/// A value that is known before the query runs: a constant or a parameter of the statement; `None` within is NULL.
unsafe fn known(node: *mut pg_sys::Node, scan: &Scan) -> Option<(Option<pg_sys::Datum>, pg_sys::Oid)> {
    // SAFETY: the tag of a node says what it is. A parameter's number is looked at before its place; the fetch hook takes a workspace.
    unsafe {
        match (*node).type_ {
            pg_sys::NodeTag::T_Const => {
                let constant = &*node.cast::<pg_sys::Const>();
                Some(((!constant.constisnull).then_some(constant.constvalue), constant.consttype))
            }
            pg_sys::NodeTag::T_Param => {
                let parameter = &*node.cast::<pg_sys::Param>();
                let list = (*(*scan.state).state).es_param_list_info;
                if parameter.paramkind != pg_sys::ParamKind::PARAM_EXTERN
                    || list.is_null()
                    || parameter.paramid < 1
                    || parameter.paramid > (*list).numParams
                {
                    return None;
                }
                let mut workspace: pg_sys::ParamExternData = std::mem::zeroed();
                let given = match (*list).paramFetch {
                    Some(fetch) => {
                        pg_sys::ffi::pg_guard_ffi_boundary(|| fetch(list, parameter.paramid, false, &mut workspace))
                    }
                    None => (*list).params.as_mut_ptr().add(parameter.paramid as usize - 1),
                };
                if (*given).ptype != parameter.paramtype {
                    return None;
                }
                Some(((!(*given).isnull).then_some((*given).value), (*given).ptype))
            }
            _ => None,
        }
    }
}

/// The expression under relabellings, which change the type and not the value.
unsafe fn unlabelled(mut node: *mut pg_sys::Node) -> *mut pg_sys::Node {
    // SAFETY: the tag of a node says what it is.
    unsafe {
        while is_a(node, pg_sys::NodeTag::T_RelabelType) {
            node = (*node.cast::<pg_sys::RelabelType>()).arg.cast();
        }
    }
    node
}

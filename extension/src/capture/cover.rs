//! What the conditions of a scan say about the rows that it can return.

use std::rc::Rc;

use pgrx::{is_a, pg_sys};

use super::equality::{Kind, is_bytewise, is_equality_of, kind_of};
use super::nodes;

/// Every row that the scan returns has in this column one of these values.
#[derive(Clone)]
pub struct Equality {
    pub attribute: i16,
    pub source: Source,
}

/// Where the values of an equality come from.
#[derive(Clone)]
pub enum Source {
    /// Constants of the plan; no NULL among them, for NULL equals nothing.
    Fixed { values: Vec<pg_sys::Datum>, type_oid: pg_sys::Oid },
    /// The same, in text.
    Texts(Rc<[Vec<u8>]>),
    /// A parameter of the statement.
    External { number: i32, type_oid: pg_sys::Oid, is_array: bool },
    /// The values of all of these.
    Several(Rc<[Source]>),
    /// An executor parameter, which is set anew for every rescan.
    Parameter { number: usize, type_oid: pg_sys::Oid, is_array: bool },
    /// A key of an index scan, computed anew for every rescan: its place among those.
    Key { place: usize, type_oid: pg_sys::Oid },
}

/// What all conditions together demand of a row.
#[derive(Default)]
pub struct Conditions {
    /// All of these.
    pub all: Vec<Equality>,
    /// And of each of these lists one member, which is all of its equalities.
    pub one_of: Vec<Vec<Vec<Equality>>>,
    /// Columns that are NULL in every row.
    pub nulls: Vec<i16>,
}

/// The scan whose conditions are looked at.
pub struct Scan {
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
                pg_sys::NodeTag::T_NullTest => self.nulls.extend(null_column(node.cast(), scan)),
                pg_sys::NodeTag::T_ScalarArrayOpExpr => self.all.extend(membership(node.cast(), scan)),
                _ => self.all.extend(boolean(node, scan)),
            }
        }
    }

    /// Adds what a partial index says of its rows: the planner leaves conditions out that the index implies.
    ///
    /// # Safety
    ///
    /// The index is open and belongs to the scan's relation.
    pub unsafe fn add_partial_index(&mut self, index: pg_sys::Relation, scan: &Scan) {
        // SAFETY: the caller's promise. In the predicate of an index its table is the first of one.
        unsafe {
            if !index.is_null() {
                let of_index = Scan { relation: scan.relation, number: 1, index: std::ptr::null_mut() };
                self.add(pg_sys::RelationGetIndexPredicate(index), &of_index);
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
                    self.all.push(Equality { attribute, source: Source::Key { place: at, type_oid } });
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
        } else if variable.varno == scan.number {
            column(scan.relation, variable.varattno)
        } else if variable.varno == pg_sys::INDEX_VAR && !scan.index.is_null() {
            index_column(scan.index, scan, variable.varattno as usize - 1)
        } else {
            None
        }
    }
}

/// The column of `column IS NULL`, of whatever type. Of a row of its own, IS NULL says another thing.
unsafe fn null_column(test: *mut pg_sys::NullTest, scan: &Scan) -> Option<i16> {
    // SAFETY: the tag of a node says what it is.
    unsafe {
        let node = (*test).arg.cast::<pg_sys::Node>();
        if (*test).nulltesttype != pg_sys::NullTestType::IS_NULL
            || (*test).argisrow
            || !is_a(node, pg_sys::NodeTag::T_Var)
        {
            return None;
        }
        let variable = &*node.cast::<pg_sys::Var>();
        let is_own = variable.varlevelsup == 0 && variable.varno == scan.number && variable.varattno > 0;
        is_own.then_some(variable.varattno)
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
        let source = scalar(value, kind)?;
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
        let source = array(unlabelled(right.cast()), kind)?;
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
unsafe fn scalar(node: *mut pg_sys::Node, kind: Kind) -> Option<Source> {
    // SAFETY: the tag of a node says what it is.
    unsafe {
        let node = unlabelled(node);
        let type_oid = pg_sys::exprType(node);
        if kind_of(type_oid) == Some(kind) { value(node, type_oid, false) } else { None }
    }
}

/// The elements of an array, of this kind.
unsafe fn array(node: *mut pg_sys::Node, kind: Kind) -> Option<Source> {
    // SAFETY: the tag of a node says what it is.
    unsafe {
        if is_a(node, pg_sys::NodeTag::T_ArrayExpr) {
            let expression = node.cast::<pg_sys::ArrayExpr>();
            if (*expression).multidims {
                return None;
            }
            let elements = nodes::list((*expression).elements).map(|element| scalar(element.cast(), kind));
            return Some(Source::Several(elements.collect::<Option<Vec<Source>>>()?.into()));
        }
        let element = pg_sys::get_base_element_type(pg_sys::exprType(node));
        if kind_of(element) == Some(kind) { value(node, element, true) } else { None }
    }
}

/// A value, or an array of them, that is a constant or a parameter.
unsafe fn value(node: *mut pg_sys::Node, type_oid: pg_sys::Oid, is_array: bool) -> Option<Source> {
    // SAFETY: the tag of a node says what it is; a constant is of its type.
    unsafe {
        match (*node).type_ {
            pg_sys::NodeTag::T_Const => {
                let constant = &*node.cast::<pg_sys::Const>();
                let values = nodes::values(constant.constvalue, constant.constisnull, is_array, type_oid);
                Some(Source::Fixed { values, type_oid })
            }
            pg_sys::NodeTag::T_Param => {
                let parameter = &*node.cast::<pg_sys::Param>();
                match parameter.paramkind {
                    pg_sys::ParamKind::PARAM_EXTERN => {
                        Some(Source::External { number: parameter.paramid, type_oid, is_array })
                    }
                    pg_sys::ParamKind::PARAM_EXEC => {
                        Some(Source::Parameter { number: parameter.paramid as usize, type_oid, is_array })
                    }
                    _ => None,
                }
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

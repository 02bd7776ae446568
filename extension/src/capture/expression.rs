//! What the expressions of a plan depend on besides rows.

use std::collections::BTreeSet;
use std::ffi::c_void;

use pgrx::prelude::*;
use pgrx::{PgList, is_a};

use super::functions::{Findings, findings_of};
use super::nodes;
use super::row_types::is_of_users;

pub mod raw {
    use pgrx::pg_sys;
    use std::ffi::c_void;

    pub type Walker = unsafe extern "C-unwind" fn(*mut pg_sys::Node, *mut c_void) -> bool;

    // Its type in C changed with its name; the bindings have it with the new one only.
    unsafe extern "C-unwind" {
        #[cfg_attr(not(feature = "pg15"), link_name = "expression_tree_walker_impl")]
        pub fn expression_tree_walker(node: *mut pg_sys::Node, walker: Walker, context: *mut c_void) -> bool;
    }
}

/// `current_setting(text)` and `current_setting(text, boolean)`.
const CURRENT_SETTING: [u32; 2] = [2077, 3294];

/// What the expressions of one statement depend on.
#[derive(Default)]
pub struct Expressions {
    pub findings: Findings,
    /// A column like `ctid` or `xmin`, which changes without a change of the row.
    pub reads_system_column: bool,
    /// The types of its values that users have made.
    pub types: BTreeSet<u32>,
}

impl Expressions {
    /// # Safety
    ///
    /// The node is an expression, a list of them, or NULL.
    pub unsafe fn look_at(&mut self, node: *mut pg_sys::Node) {
        if !node.is_null() {
            // SAFETY: the caller's promise; the walker gets this back as its context.
            unsafe { visit(node, (&raw mut *self).cast()) };
        }
    }

    /// All expressions of a plan node itself. PostgreSQL has no walker for these.
    ///
    /// # Safety
    ///
    /// The plan is one of a running query.
    pub unsafe fn look_at_plan(&mut self, plan: *mut pg_sys::Plan) {
        use pg_sys::NodeTag::*;
        // SAFETY: the tag of a node says what it is.
        unsafe {
            self.look_at((*plan).targetlist.cast());
            self.look_at((*plan).qual.cast());
            match (*plan).type_ {
                T_NestLoop => self.look_at((*plan.cast::<pg_sys::NestLoop>()).join.joinqual.cast()),
                T_MergeJoin => {
                    self.look_at((*plan.cast::<pg_sys::MergeJoin>()).join.joinqual.cast());
                    self.look_at((*plan.cast::<pg_sys::MergeJoin>()).mergeclauses.cast());
                }
                T_HashJoin => {
                    self.look_at((*plan.cast::<pg_sys::HashJoin>()).join.joinqual.cast());
                    self.look_at((*plan.cast::<pg_sys::HashJoin>()).hashclauses.cast());
                }
                T_IndexScan => {
                    self.look_at((*plan.cast::<pg_sys::IndexScan>()).indexqualorig.cast());
                    self.look_at((*plan.cast::<pg_sys::IndexScan>()).indexorderbyorig.cast());
                }
                T_IndexOnlyScan => {
                    self.look_at((*plan.cast::<pg_sys::IndexOnlyScan>()).indexqual.cast());
                    self.look_at((*plan.cast::<pg_sys::IndexOnlyScan>()).indexorderby.cast());
                }
                T_BitmapIndexScan => self.look_at((*plan.cast::<pg_sys::BitmapIndexScan>()).indexqualorig.cast()),
                T_BitmapHeapScan => self.look_at((*plan.cast::<pg_sys::BitmapHeapScan>()).bitmapqualorig.cast()),
                T_TidScan => self.look_at((*plan.cast::<pg_sys::TidScan>()).tidquals.cast()),
                T_TidRangeScan => self.look_at((*plan.cast::<pg_sys::TidRangeScan>()).tidrangequals.cast()),
                T_FunctionScan => {
                    for function in nodes::list((*plan.cast::<pg_sys::FunctionScan>()).functions) {
                        self.look_at((*function.cast::<pg_sys::RangeTblFunction>()).funcexpr);
                    }
                }
                T_ValuesScan => self.look_at((*plan.cast::<pg_sys::ValuesScan>()).values_lists.cast()),
                T_TableFuncScan => self.look_at((*plan.cast::<pg_sys::TableFuncScan>()).tablefunc.cast()),
                T_Limit => {
                    self.look_at((*plan.cast::<pg_sys::Limit>()).limitOffset);
                    self.look_at((*plan.cast::<pg_sys::Limit>()).limitCount);
                }
                T_WindowAgg => {
                    self.look_at((*plan.cast::<pg_sys::WindowAgg>()).startOffset);
                    self.look_at((*plan.cast::<pg_sys::WindowAgg>()).endOffset);
                    self.look_at((*plan.cast::<pg_sys::WindowAgg>()).runCondition.cast());
                }
                T_Result => self.look_at((*plan.cast::<pg_sys::Result>()).resconstantqual),
                _ => {}
            }
        }
    }

    /// # Safety
    ///
    /// The node is one of an expression.
    unsafe fn look_at_type(&mut self, node: *mut pg_sys::Node) {
        use pg_sys::NodeTag::*;
        // SAFETY: these nodes have a type.
        let type_oid = unsafe {
            match (*node).type_ {
                T_Const | T_Param | T_Var | T_FuncExpr | T_RowExpr | T_ConvertRowtypeExpr | T_CoerceViaIO
                | T_RelabelType | T_CoerceToDomain | T_ArrayExpr | T_ArrayCoerceExpr => pg_sys::exprType(node).to_u32(),
                _ => return,
            }
        };
        if is_of_users(type_oid) {
            self.types.insert(type_oid);
        }
    }

    /// A function is called.
    pub fn call(&mut self, function: pg_sys::Oid) {
        self.findings.add(findings_of(function).as_deref());
    }

    /// # Safety
    ///
    /// The expression is a call of `current_setting`.
    unsafe fn setting(&mut self, call: *mut pg_sys::FuncExpr) {
        // SAFETY: a constant that is not NULL and of type text is one.
        let name = unsafe {
            let argument = PgList::<pg_sys::Node>::from_pg((*call).args).get_ptr(0);
            argument.filter(|argument| is_a(*argument, pg_sys::NodeTag::T_Const)).and_then(|argument| {
                let constant = &*argument.cast::<pg_sys::Const>();
                String::from_datum(constant.constvalue, constant.constisnull)
            })
        };
        match name {
            Some(name) => self.findings.session.insert(format!("current_setting({})", name.to_lowercase())),
            None => self.findings.reasons.insert("current_setting() of a name that is computed".to_owned()),
        };
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn visit(node: *mut pg_sys::Node, context: *mut c_void) -> bool {
    use pg_sys::NodeTag::*;
    if node.is_null() {
        return false;
    }
    // SAFETY: the context is what `look_at` passed, borrowed by nobody else while C walks; the tag of a node says what it is.
    unsafe {
        let expressions = &mut *context.cast::<Expressions>();
        expressions.look_at_type(node);
        match (*node).type_ {
            T_FuncExpr if CURRENT_SETTING.contains(&(*node.cast::<pg_sys::FuncExpr>()).funcid.to_u32()) => {
                expressions.setting(node.cast());
            }
            T_SQLValueFunction => expressions.look_at_value_function((*node.cast::<pg_sys::SQLValueFunction>()).op),
            T_NextValueExpr => {
                expressions.findings.reasons.insert("nextval() is volatile".to_owned());
            }
            T_CurrentOfExpr => {
                expressions.findings.reasons.insert("CURRENT OF depends on a cursor".to_owned());
            }
            T_Var => {
                let number = i32::from((*node.cast::<pg_sys::Var>()).varattno);
                if number < 0 && number != pg_sys::TableOidAttributeNumber {
                    expressions.reads_system_column = true;
                }
            }
            _ => {
                pg_sys::check_functions_in_node(node, Some(check), context);
            }
        }
        raw::expression_tree_walker(node, visit, context)
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn check(function: pg_sys::Oid, context: *mut c_void) -> bool {
    // SAFETY: as in `visit`, which does not use its own borrow of the context while this runs.
    let expressions = unsafe { &mut *context.cast::<Expressions>() };
    expressions.call(function);
    false
}

impl Expressions {
    fn look_at_value_function(&mut self, function: pg_sys::SQLValueFunctionOp::Type) {
        use pg_sys::SQLValueFunctionOp::*;
        match function {
            SVFOP_CURRENT_ROLE | SVFOP_CURRENT_USER | SVFOP_USER => {
                self.findings.session.insert("current_user".to_owned());
            }
            SVFOP_SESSION_USER => {
                self.findings.session.insert("session_user".to_owned());
            }
            SVFOP_CURRENT_SCHEMA => {
                self.findings.session.insert("search_path".to_owned());
            }
            SVFOP_CURRENT_CATALOG => {}
            _ => {
                self.findings
                    .reasons
                    .insert("CURRENT_DATE, CURRENT_TIMESTAMP and their kin depend on the time".to_owned());
            }
        }
    }
}

/// Has the text of a statement behind a quote a word that input functions take for the present moment, at any place in it (`'12:00 today'`)? Its value is a
/// constant when the statement is planned, or part of one.
pub fn names_a_moment(statement: &[u8]) -> bool {
    const WORDS: [&[u8]; 4] = [b"now", b"today", b"tomorrow", b"yesterday"];
    let Some(first) = statement.iter().position(|byte| matches!(byte, b'\'' | b'$')) else { return false };
    let is_part = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_' || !byte.is_ascii();
    // Each with what ends it: now() is a function.
    let mut words = statement[first..].split_inclusive(|byte| !is_part(byte));
    words.any(|word| {
        let word = word.strip_suffix(b"(").map_or(word, |_| b"");
        let word = word.split(|byte| !is_part(byte)).next().unwrap_or_default();
        WORDS.iter().any(|moment| word.eq_ignore_ascii_case(moment))
    })
}

//! Transactions that a subscription with `two_phase` has prepared here.
//!
//! Its worker writes their commit records by a call inside the server that no hook sees, so there is no note of them. While there is such a
//! transaction, its commit may be in the log without being visible.

use pgrx::prelude::*;

/// `pg_prepared_xact()`, by its number in `pg_proc`.
const PG_PREPARED_XACT: u32 = 1065;
/// The place of the transaction's name in its rows.
const GID: i16 = 2;
/// How the server names those of subscriptions: `pg_gid_<subscription>_<xid>`.
const OF_SUBSCRIPTION: &str = "pg_gid_";

/// Is there one that may yet be committed? One that is not listed any more is visible.
///
/// Through the function and not a query on it: the floor is asked for before the transaction has a snapshot.
pub fn is_any_of_a_subscription() -> bool {
    // SAFETY: a call of a function of the server, without arguments, as the executor calls those that give sets: again and again, with the same
    // state, until it says that it has ended. Each row is a tuple in the memory of this call.
    unsafe {
        if !pg_sys::IsTransactionState() {
            return true;
        }
        let context = pg_sys::CreateStandaloneExprContext();
        let mut function = pg_sys::FmgrInfo::default();
        pg_sys::fmgr_info(pg_sys::Oid::from(PG_PREPARED_XACT), &mut function);
        let mut result = pg_sys::ReturnSetInfo {
            type_: pg_sys::NodeTag::T_ReturnSetInfo,
            econtext: context,
            allowedModes: pg_sys::SetFunctionReturnMode::SFRM_ValuePerCall as i32,
            returnMode: pg_sys::SetFunctionReturnMode::SFRM_ValuePerCall,
            ..Default::default()
        };
        let mut call = pg_sys::FunctionCallInfoBaseData {
            flinfo: &mut function,
            resultinfo: (&raw mut result).cast(),
            ..Default::default()
        };
        let Some(address) = function.fn_addr else { return true };
        let mut is_any = false;
        loop {
            call.isnull = false;
            result.isDone = pg_sys::ExprDoneCond::ExprSingleResult;
            let row = pg_sys::ffi::pg_guard_ffi_boundary(|| address(&mut call));
            if result.isDone != pg_sys::ExprDoneCond::ExprMultipleResult {
                break;
            }
            let mut is_null = false;
            let gid = pg_sys::GetAttributeByNum(row.cast_mut_ptr(), GID, &mut is_null);
            is_any |= String::from_datum(gid, is_null).is_some_and(|gid| gid.starts_with(OF_SUBSCRIPTION));
        }
        pg_sys::FreeExprContext(context, true);
        is_any
    }
}

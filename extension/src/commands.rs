//! What the event triggers have to know of a command and SQL does not tell.

use std::ffi::CStr;

use pgrx::prelude::*;
use pgrx::{PgList, is_a};

use crate::error::{Error, Result};
use crate::snapshot;

/// Event trigger at the start of commands that run in several transactions: what others see after the first one has to be said in the first one. And of
/// those that give a table another name: afterwards nobody knows the old one.
///
/// Names mean here what they mean in the session: it must not be declared with a search path of its own.
#[pg_extern(sql = false)]
fn on_start(fcinfo: pg_sys::FunctionCallInfo) -> Result<(), pg_sys::panic::ErrorReport> {
    // SAFETY: the server calls event triggers with this context, and everything in it is a parse tree that lives through the call.
    let statement = unsafe {
        let context = (*fcinfo).context;
        if context.is_null() || !is_a(context, pg_sys::NodeTag::T_EventTriggerData) {
            return Err(Error::NotAnEventTrigger.into());
        }
        (*context.cast::<pg_sys::EventTriggerData>()).parsetree
    };
    if statement.is_null() {
        return Ok(());
    }
    // SAFETY: the tag of a node says what it is.
    unsafe {
        if is_a(statement, pg_sys::NodeTag::T_AlterTableStmt) {
            let statement = &*statement.cast::<pg_sys::AlterTableStmt>();
            if detaches_concurrently(statement) {
                tell(c"SELECT cachetag._before_detach($1)::text", relation(statement.relation))?;
            }
        } else if is_a(statement, pg_sys::NodeTag::T_RenameStmt) {
            let statement = &*statement.cast::<pg_sys::RenameStmt>();
            if statement.renameType == pg_sys::ObjectType::OBJECT_TABLE {
                tell(c"SELECT cachetag._before_rename($1)::text", relation(statement.relation))?;
            }
        } else if is_a(statement, pg_sys::NodeTag::T_AlterObjectSchemaStmt) {
            let statement = &*statement.cast::<pg_sys::AlterObjectSchemaStmt>();
            if statement.objectType == pg_sys::ObjectType::OBJECT_TABLE {
                tell(c"SELECT cachetag._before_rename($1)::text", relation(statement.relation))?;
            }
        } else if is_a(statement, pg_sys::NodeTag::T_DropStmt) {
            let statement = &*statement.cast::<pg_sys::DropStmt>();
            if statement.concurrent && statement.removeType == pg_sys::ObjectType::OBJECT_INDEX {
                for name in PgList::<pg_sys::List>::from_pg(statement.objects).iter_ptr() {
                    let index = relation(pg_sys::makeRangeVarFromNameList(name));
                    tell(c"SELECT cachetag._before_drop_concurrently($1)::text", index)?;
                }
            }
        }
    }
    Ok(())
}

/// Whether a command, a `pg_ddl_command`, changes the text of values that are stored: it renames an enum's value or alters a composite type.
#[pg_extern(sql = false)]
fn changes_texts(fcinfo: pg_sys::FunctionCallInfo) -> bool {
    // SAFETY: declared in SQL as strict with one argument of type pg_ddl_command, which is a pointer to this.
    unsafe {
        let Some(command) = pgrx::fcinfo::pg_getarg_datum(fcinfo, 0) else { return false };
        let statement = (*command.cast_mut_ptr::<pg_sys::CollectedCommand>()).parsetree;
        if statement.is_null() {
            false
        } else if is_a(statement, pg_sys::NodeTag::T_AlterEnumStmt) {
            !(*statement.cast::<pg_sys::AlterEnumStmt>()).oldVal.is_null()
        } else {
            is_a(statement, pg_sys::NodeTag::T_AlterTableStmt)
                && (*statement.cast::<pg_sys::AlterTableStmt>()).objtype == pg_sys::ObjectType::OBJECT_TYPE
        }
    }
}

/// # Safety
///
/// The statement is one of the parser's.
unsafe fn detaches_concurrently(statement: &pg_sys::AlterTableStmt) -> bool {
    // SAFETY: a list of AlterTableCmd; that of DETACH PARTITION holds a PartitionCmd.
    unsafe {
        PgList::<pg_sys::AlterTableCmd>::from_pg(statement.cmds).iter_ptr().any(|command| {
            (*command).subtype == pg_sys::AlterTableType::AT_DetachPartition
                && !(*command).def.is_null()
                && (*(*command).def.cast::<pg_sys::PartitionCmd>()).concurrent
        })
    }
}

/// The relation of this name, as the session sees it; InvalidOid if there is none, of which the command itself will tell.
///
/// # Safety
///
/// The name is one of the parser's.
unsafe fn relation(name: *const pg_sys::RangeVar) -> pg_sys::Oid {
    // SAFETY: a look-up without a lock; the command takes its own.
    unsafe {
        pg_sys::RangeVarGetRelidExtended(
            name,
            pg_sys::NoLock as pg_sys::LOCKMODE,
            pg_sys::RVROption::RVR_MISSING_OK,
            None,
            std::ptr::null_mut(),
        )
    }
}

fn tell(function: &CStr, relation: pg_sys::Oid) -> Result<()> {
    if relation != pg_sys::InvalidOid {
        snapshot::call(function, relation)?;
    }
    Ok(())
}

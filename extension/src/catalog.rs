//! What the catalog's SQL needs of the server's internals.

use pgrx::prelude::*;

mod raw {
    use pgrx::pg_sys;

    // In no header that pgrx reads; the same since PostgreSQL 9.
    unsafe extern "C-unwind" {
        pub fn find_all_inheritors(
            parent: pg_sys::Oid,
            lockmode: pg_sys::LOCKMODE,
            member_counts: *mut *mut pg_sys::List,
        ) -> *mut pg_sys::List;
    }
}

/// The role on whose behalf the current statement runs: the one that SET ROLE chose, not the owner of a SECURITY DEFINER function.
#[pg_extern(sql = false)]
fn caller() -> pg_sys::Oid {
    // SAFETY: a read of the state of this backend.
    unsafe { pg_sys::GetOuterUserId() }
}

/// Locks a table and all tables below it until the end of the transaction, so that no writer is in flight: in SHARE ROW EXCLUSIVE mode, or in
/// ACCESS EXCLUSIVE mode if the replica identity is to be changed (raising the lock later could deadlock with a reader).
#[pg_extern(sql = false)]
fn lock_tree(table: pg_sys::Oid, exclusive: bool) {
    let mode = if exclusive { pg_sys::AccessExclusiveLock } else { pg_sys::ShareRowExclusiveLock } as pg_sys::LOCKMODE;
    // SAFETY: locks by oid; a table that is gone is found out by who looks at it afterwards.
    unsafe {
        pg_sys::PreventCommandDuringRecovery(c"cachetag.track()".as_ptr());
        pg_sys::LockRelationOid(table, mode);
        pg_sys::ffi::pg_guard_ffi_boundary(|| raw::find_all_inheritors(table, mode, std::ptr::null_mut()));
    }
}

/// Lets the publication go with the extension. It is not a member: pg_dump leaves members out, but not the tables that belong to them.
#[pg_extern(sql = false)]
fn own_publication(publication: pg_sys::Oid) {
    // SAFETY: records and removes rows of pg_depend for objects that exist.
    unsafe {
        let extension = pg_sys::get_extension_oid(c"cachetag".as_ptr(), true);
        if extension == pg_sys::InvalidOid {
            return;
        }
        let address = |class, object| pg_sys::ObjectAddress { classId: class, objectId: object, objectSubId: 0 };
        let depender = address(pg_sys::PublicationRelationId, publication);
        let referenced = address(pg_sys::ExtensionRelationId, extension);
        pg_sys::recordDependencyOn(&depender, &referenced, pg_sys::DependencyType::DEPENDENCY_AUTO_EXTENSION);
    }
}

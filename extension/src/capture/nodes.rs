//! What C has as macros and inline functions.

use std::ffi::{c_int, c_void};

use pgrx::pg_sys;

/// The elements of a list of pointers; none for an empty one.
pub fn list(list: *mut pg_sys::List) -> impl Iterator<Item = *mut c_void> {
    // SAFETY: such a list holds pointers.
    cells(list).map(|cell| unsafe { cell.ptr_value })
}

/// The elements of a list of numbers.
pub fn numbers(list: *mut pg_sys::List) -> impl Iterator<Item = pg_sys::Oid> {
    // SAFETY: such a list holds numbers.
    cells(list).map(|cell| unsafe { cell.oid_value })
}

fn cells(list: *mut pg_sys::List) -> impl Iterator<Item = pg_sys::ListCell> {
    // SAFETY: the server's lists have as many cells as they say and live through the walk of the plan that they belong to.
    let length = if list.is_null() { 0 } else { unsafe { (*list).length as usize } };
    // SAFETY: as above.
    (0..length).map(move |at| unsafe { *(*list).elements.add(at) })
}

/// A column of a relation.
///
/// # Safety
///
/// The relation is open and has a column of this number.
pub unsafe fn attribute(relation: pg_sys::Relation, number: i16) -> *const pg_sys::FormData_pg_attribute {
    // SAFETY: the caller's promise; since PostgreSQL 18 the columns follow an array of their compact forms.
    unsafe {
        let description = (*relation).rd_att;
        let at = number as usize - 1;
        #[cfg(not(feature = "pg18"))]
        return (*description).attrs.as_ptr().add(at);
        #[cfg(feature = "pg18")]
        return (*description)
            .compact_attrs
            .as_ptr()
            .add((*description).natts as usize)
            .cast::<pg_sys::FormData_pg_attribute>()
            .add(at);
    }
}

/// Is there no NULL in a column, neither now nor later? A constraint that is not valid yet does not say so.
///
/// # Safety
///
/// The relation is open and has a column of this number.
pub unsafe fn is_never_null(relation: pg_sys::Relation, number: i16) -> bool {
    // SAFETY: the caller's promise.
    unsafe {
        #[cfg(not(feature = "pg18"))]
        return (*attribute(relation, number)).attnotnull;
        #[cfg(feature = "pg18")]
        return (*(*(*relation).rd_att).compact_attrs.as_ptr().add(number as usize - 1)).attnullability as u8
            == pg_sys::ATTNULLABLE_VALID;
    }
}

/// The elements of an array that are not NULL.
///
/// # Safety
///
/// The value is an array of elements of this type, and not NULL.
pub unsafe fn array_elements(array: pg_sys::Datum, element: pg_sys::Oid) -> Vec<pg_sys::Datum> {
    // SAFETY: the caller's promise; the server allocates both arrays with as many elements as it says.
    unsafe {
        let array = pg_sys::pg_detoast_datum(array.cast_mut_ptr()).cast::<pg_sys::ArrayType>();
        let (mut length, mut by_value, mut alignment) = (0, false, 0);
        pg_sys::get_typlenbyvalalign(element, &mut length, &mut by_value, &mut alignment);
        let (mut values, mut nulls, mut count) = (std::ptr::null_mut(), std::ptr::null_mut(), 0);
        pg_sys::deconstruct_array(
            array,
            (*array).elemtype,
            length as c_int,
            by_value,
            alignment,
            &mut values,
            &mut nulls,
            &mut count,
        );
        (0..count as usize).filter(|at| !*nulls.add(*at)).map(|at| *values.add(at)).collect()
    }
}

/// The values of a scalar or an array; NULL equals nothing.
///
/// # Safety
///
/// The value is of this type, or an array of it.
pub unsafe fn values(value: pg_sys::Datum, is_null: bool, is_array: bool, type_oid: pg_sys::Oid) -> Vec<pg_sys::Datum> {
    if is_null {
        Vec::new()
    } else if is_array {
        // SAFETY: the caller's promise.
        unsafe { array_elements(value, type_oid) }
    } else {
        vec![value]
    }
}

/// A parameter of a statement; `None`: there is none of this number and type.
///
/// # Safety
///
/// `list` is the statement's, or NULL; `workspace` is for the hook that fetches it, if there is one.
pub unsafe fn external(
    list: pg_sys::ParamListInfo,
    number: c_int,
    workspace: &mut pg_sys::ParamExternData,
) -> Option<*const pg_sys::ParamExternData> {
    // SAFETY: the caller's promise; the number is looked at before its place.
    unsafe {
        if list.is_null() || number < 1 || number > (*list).numParams {
            return None;
        }
        let given = match (*list).paramFetch {
            Some(fetch) => pg_sys::ffi::pg_guard_ffi_boundary(|| fetch(list, number, false, &raw mut *workspace)),
            None => (*list).params.as_mut_ptr().add(number as usize - 1),
        };
        Some(given.cast_const())
    }
}

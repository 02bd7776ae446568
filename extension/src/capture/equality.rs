//! Which equalities are equalities of texts: only these say which tag a row has.

use std::ffi::c_char;

use pgrx::pg_sys;

use crate::broken::{Guard, forgets};

/// Types whose equal values have equal texts. Values of the same kind compare with each other across types.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Integer,
    Text,
    Network,
    Enum(pg_sys::Oid),
    /// A type that compares with itself only.
    Plain(pg_sys::Oid),
}

/// The kind of a type, domains taken off. `None`: equal values may look different (numeric, float, interval, jsonb, char(n), arrays …) or the type is not known here.
pub fn kind_of(type_oid: pg_sys::Oid) -> Option<Kind> {
    // SAFETY: look-ups of a type; an unknown one is its own base type and of type 0.
    let (base, type_type) = unsafe {
        let base = pg_sys::getBaseType(type_oid);
        (base, pg_sys::get_typtype(base))
    };
    match base {
        pg_sys::INT2OID | pg_sys::INT4OID | pg_sys::INT8OID => Some(Kind::Integer),
        pg_sys::TEXTOID | pg_sys::VARCHAROID | pg_sys::NAMEOID => Some(Kind::Text),
        pg_sys::INETOID | pg_sys::CIDROID => Some(Kind::Network),
        pg_sys::BOOLOID
        | pg_sys::OIDOID
        | pg_sys::UUIDOID
        | pg_sys::CHAROID
        | pg_sys::DATEOID
        | pg_sys::TIMEOID
        | pg_sys::TIMETZOID
        | pg_sys::TIMESTAMPOID
        | pg_sys::TIMESTAMPTZOID
        | pg_sys::MACADDROID
        | pg_sys::MACADDR8OID
        | pg_sys::BYTEAOID
        | pg_sys::BITOID
        | pg_sys::VARBITOID
        | pg_sys::PG_LSNOID
        | pg_sys::MONEYOID => Some(Kind::Plain(base)),
        pg_sys::NUMERICOID | pg_sys::BPCHAROID if forgets(Guard::Texts) => Some(Kind::Plain(base)),
        _ if type_type == pg_sys::TYPTYPE_ENUM as c_char => Some(Kind::Enum(base)),
        _ => None,
    }
}

/// Is this function, by its number in `pg_proc`, the equality of values of this kind?
pub fn is_equality_of(function: pg_sys::Oid, kind: Kind) -> bool {
    match function.to_u32() {
        // int2eq int4eq int8eq int24eq int42eq int28eq int82eq int48eq int84eq
        63 | 65 | 467 | 158 | 159 | 1850 | 1856 | 852 | 474 => kind == Kind::Integer,
        // texteq nameeq nameeqtext texteqname
        67 | 62 | 240 | 247 => kind == Kind::Text,
        // network_eq
        920 => kind == Kind::Network,
        // enum_eq
        3508 => matches!(kind, Kind::Enum(_)),
        other => {
            let of = match other {
                60 => pg_sys::BOOLOID,
                184 => pg_sys::OIDOID,
                2956 => pg_sys::UUIDOID,
                61 => pg_sys::CHAROID,
                1086 => pg_sys::DATEOID,
                1145 => pg_sys::TIMEOID,
                1352 => pg_sys::TIMETZOID,
                2052 => pg_sys::TIMESTAMPOID,
                1152 => pg_sys::TIMESTAMPTZOID,
                830 => pg_sys::MACADDROID,
                4113 => pg_sys::MACADDR8OID,
                1948 => pg_sys::BYTEAOID,
                1581 => pg_sys::BITOID,
                1666 => pg_sys::VARBITOID,
                3233 => pg_sys::PG_LSNOID,
                888 => pg_sys::MONEYOID,
                1718 => pg_sys::NUMERICOID,
                1048 => pg_sys::BPCHAROID,
                _ => return false,
            };
            kind == Kind::Plain(of)
        }
    }
}

/// Do equal texts under this collation have equal bytes?
pub fn is_bytewise(collation: pg_sys::Oid) -> bool {
    if forgets(Guard::Collations) || collation == pg_sys::InvalidOid {
        return true;
    }
    // SAFETY: a look-up of a collation that an operator of the plan uses.
    unsafe { pg_sys::get_collation_isdeterministic(collation) }
}

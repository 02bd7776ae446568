//! The Redis layer: the library's protocol, typed.

//! The in-process layer.

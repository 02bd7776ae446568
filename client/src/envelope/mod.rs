//! What is stored of a value: format, schema version and compression, stamped.

//! The PostgreSQL settings under which column values become text.

/// Name and value of every setting that changes PostgreSQL's text output of a column value.
///
/// Whoever renders a value into a tag does it under exactly these settings, whatever the session's own are: the extension around its
/// calls of output functions, the daemon as options of its replication connection.
///
/// ```
/// use cachetag_core::RENDER_SETTINGS;
///
/// let options: Vec<String> = RENDER_SETTINGS.iter().map(|(name, value)| format!("-c {name}={value}")).collect();
/// assert!(options.contains(&"-c extra_float_digits=1".to_owned()));
/// ```
pub const RENDER_SETTINGS: &[(&str, &str)] = &[
    ("datestyle", "ISO"),
    ("timezone", "UTC"),
    ("intervalstyle", "postgres"),
    ("extra_float_digits", "1"),
    ("bytea_output", "hex"),
    ("lc_monetary", "C"),
    // The output of regclass and its kin names a schema unless the search path has it.
    ("search_path", "pg_catalog"),
    ("quote_all_identifiers", "off"),
];

//! Sources of tags that capture can be made to forget on purpose, to show that its fuzzer would notice. Only with the feature `broken`, which no
//! release has, and only the one that the setting `cachetag.broken` names; without the feature every question below is a constant `false`, and there is no
//! such setting.

/// What capture can do without.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Guard {
    /// The whole family, where no column is bound.
    Families,
    /// The tag of a rule without columns.
    Constants,
    /// Tags of values that are known before the query runs.
    FixedKeys,
    /// Tags of values that are met while it runs.
    RuntimeKeys,
    /// All of these but the first.
    LaterKeys,
    /// The other ways to satisfy an OR.
    OtherWays,
    /// The other elements of an array.
    OtherElements,
    /// The whole family, where the values are too many.
    Limit,
    /// A subquery that has not run, whose value is not known.
    LazyParameters,
    /// Scans within subqueries of conditions and outputs.
    Subplans,
    /// Queries that functions run.
    Functions,
    /// Changes of definitions.
    Definitions,
    /// Rows that have no tag of the rule, since a column of it is NULL.
    Nulls,
    /// Changes that a rule does not see: its options.
    Options,
    /// Collations under which unequal texts are equal.
    Collations,
    /// Types of which equal values have unequal texts.
    Texts,
    /// The settings under which values are written.
    Settings,
    /// Tables that no rule tracks.
    Untracked,
    /// Tables whose changes are not in the log.
    Unlogged,
    /// Cursors that were opened before.
    Opened,
    /// The version of before the queries: it is that of the end.
    Version,
}

/// Is it forgotten?
#[cfg(not(feature = "broken"))]
#[inline(always)]
pub const fn forgets(_: Guard) -> bool {
    false
}

#[cfg(feature = "broken")]
pub use chosen::{forgets, init};

#[cfg(feature = "broken")]
mod chosen {
    use std::ffi::CString;

    use pgrx::{GucContext, GucFlags, GucRegistry, GucSetting};

    use super::Guard;

    static BROKEN: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(None);

    /// Defines the setting.
    pub fn init() {
        GucRegistry::define_string_guc(
            c"cachetag.broken",
            c"BROKEN ON PURPOSE, for tests only: what capture forgets.",
            c"The name of a guard.",
            &BROKEN,
            GucContext::Userset,
            GucFlags::default(),
        );
    }

    /// Is it forgotten?
    pub fn forgets(guard: Guard) -> bool {
        BROKEN.get().is_some_and(|name| name.to_str().is_ok_and(|name| name == format!("{guard:?}")))
    }
}

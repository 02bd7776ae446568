//! Guards that can be taken out on purpose, to show that the checker would notice. Only with the feature `broken`, which no release has, and only the
//! one that `CACHETAG_BROKEN` names; without the feature every question below is a constant `false`, and the daemon refuses to start
//! when that variable is set, so that a broken run is never mistaken for a sound one, nor the other way round.

/// Names the guard to take out.
pub const VARIABLE: &str = "CACHETAG_BROKEN";
/// Names a file whose library is loaded into Redis instead of the daemon's own.
pub const LIBRARY_VARIABLE: &str = "CACHETAG_BROKEN_LIBRARY";

/// What the daemon can be built without. The library in Redis and the extension lose theirs elsewhere: see `tests/src/broken`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Variant {
    /// The watermark passes commits that new snapshots do not see yet.
    WatermarkBeforeVisible,
    /// A restarted daemon applies again what Redis has.
    ReplayLowers,
    /// A Redis that lacks what was acknowledged is taken for continuity.
    NoEpochAfterLoss,
    /// A Redis of an earlier epoch is taken for continuity, so that tokens of the later one meet it.
    ForeignEpoch,
    /// An epoch publishes a watermark while commits that it skips are invisible.
    EpochNotDrained,
    /// An update bumps the tags of the new row only.
    NoOldRow,
}

/// Is this guard taken out?
#[cfg(not(feature = "broken"))]
#[inline(always)]
pub const fn is(_: Variant) -> bool {
    false
}

/// Is this guard taken out?
#[cfg(feature = "broken")]
pub fn is(variant: Variant) -> bool {
    chosen::variant() == Some(variant)
}

/// Does nothing get acknowledged? That is sound, and gives those variants something to replay.
pub fn never_acknowledges() -> bool {
    is(Variant::ReplayLowers) || is(Variant::ForeignEpoch)
}

/// What the name of a broken daemon says in place of its version's end; empty for a sound one.
pub const NOTICE: &str = if cfg!(feature = "broken") { " BROKEN ON PURPOSE, for tests only" } else { "" };

/// The library to load instead of the daemon's own.
#[cfg(not(feature = "broken"))]
pub const fn library() -> Option<&'static str> {
    None
}

#[cfg(feature = "broken")]
pub use chosen::library;

#[cfg(feature = "broken")]
mod chosen {
    use std::sync::LazyLock;

    use super::{LIBRARY_VARIABLE, VARIABLE, Variant};

    /// The library to load instead of the daemon's own.
    pub fn library() -> Option<&'static str> {
        static LIBRARY: LazyLock<Option<String>> = LazyLock::new(|| {
            let path = std::env::var_os(LIBRARY_VARIABLE)?;
            Some(std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{LIBRARY_VARIABLE}={path:?}: {error}")))
        });
        LIBRARY.as_deref()
    }

    /// Variants that are broken elsewhere have names that mean nothing here.
    pub(super) fn variant() -> Option<Variant> {
        static VARIANT: LazyLock<Option<Variant>> = LazyLock::new(|| match std::env::var(VARIABLE).ok()?.as_str() {
            "watermark-before-visible" => Some(Variant::WatermarkBeforeVisible),
            "replay-lowers" => Some(Variant::ReplayLowers),
            "no-epoch-after-loss" => Some(Variant::NoEpochAfterLoss),
            "foreign-epoch" => Some(Variant::ForeignEpoch),
            "epoch-not-drained" => Some(Variant::EpochNotDrained),
            "no-old-row" => Some(Variant::NoOldRow),
            _ => None,
        });
        *VARIANT
    }
}

#[cfg(all(test, not(feature = "broken")))]
mod tests {
    use super::*;

    #[test]
    fn an_ordinary_build_is_sound() {
        for variant in [Variant::WatermarkBeforeVisible, Variant::ReplayLowers, Variant::NoOldRow] {
            assert!(!is(variant));
        }
        assert_eq!((library(), NOTICE), (None, ""));
    }
}

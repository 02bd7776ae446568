//! Cachetag without one of its guards, on real servers: the daemon's are taken out by its feature `broken`, those of the library in Redis and of the
//! extension by patches of their text, and those of a filler by the checker itself.
//!
//! | variable | meaning |
//! | --- | --- |
//! | `CACHETAG_BROKEN_BIN` | a `cachetag` that was built with `--features broken`; by default it is built, as `cachetag-broken` |

mod library;
mod program;
mod sql;

use std::path::Path;

use crate::Variant;
use crate::checker::{self, Kind, Options, Profile};

pub use library::{LIBRARY, patched};
pub use program::program;

/// Where a variant lacks its guard.
pub fn place(variant: Variant) -> &'static str {
    match (variant, library::patches(variant).is_empty()) {
        (Variant::TokenAfterSnapshot, _) => "filler",
        (Variant::JoinUnlocked, _) => "extension",
        (Variant::ReplayLowers | Variant::ForeignEpoch, _) => "daemon and library",
        (_, false) => "library",
        (_, true) => "daemon",
    }
}

/// The profile that makes frequent what the variant gets wrong.
pub fn profile(variant: Variant) -> Profile {
    match variant {
        // What is refused while a commit is held is registered below it, and the next fill comes while it still is.
        Variant::WatermarkBeforeVisible | Variant::RegisterAtWatermark => Profile::Held,
        Variant::NoLogCheck | Variant::MissingTagIsValid => Profile::Forgetful,
        Variant::ReplayLowers => Profile::Replays,
        Variant::NoFence => Profile::Rivals,
        Variant::NoEpochAfterLoss | Variant::NoContinuity | Variant::ForeignEpoch => Profile::Restored,
        Variant::EpochNotDrained => Profile::Epochs,
        Variant::NoOldRow => Profile::Moves,
        Variant::JoinUnlocked => Profile::Joins,
        Variant::TokenAfterSnapshot | Variant::FeedGapUnnoticed | Variant::ForeignFeed | Variant::OvertakenAnswer => {
            Profile::Mixed
        }
    }
}

/// Of the profile's faults those that provoke the variant: what their names begin with.
fn faults(variant: Variant) -> &'static [&'static str] {
    match variant {
        Variant::NoFence => &["daemon usurped"],
        Variant::NoEpochAfterLoss | Variant::NoContinuity => &["redis rewound"],
        Variant::ForeignEpoch => &["redis back-in-old-epoch"],
        Variant::EpochNotDrained => &["redis lost-while-commits-held"],
        Variant::TokenAfterSnapshot | Variant::NoOldRow | Variant::JoinUnlocked => &[],
        _ => profile(variant).mix().faults,
    }
}

/// The variant's profile and faults, with nothing broken.
pub fn sound(variant: Variant, seed: u64) -> Options {
    Options { standby: false, faults: Kind::named(faults(variant)), ..Options::new(profile(variant), seed) }
}

/// The variant. Its library is written to `folder`, which must outlive the run.
pub fn broken(variant: Variant, seed: u64, folder: &Path) -> Options {
    let mut options = Options { stop_at_violation: true, ..sound(variant, seed) };
    match variant {
        Variant::TokenAfterSnapshot => options.broken = Some(checker::Variant::LateToken),
        Variant::JoinUnlocked => options.sql = sql::without_lock(),
        _ => {
            options.daemon = Some(program());
            options.daemon_env.push(("CACHETAG_BROKEN".into(), variant.to_string()));
        }
    }
    if !library::patches(variant).is_empty() {
        let path = folder.join(format!("{variant}.lua"));
        let written = std::fs::write(&path, patched(LIBRARY, variant));
        written.unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        options.daemon_env.push(("CACHETAG_BROKEN_LIBRARY".into(), path.display().to_string()));
    }
    options
}

//! The ways in which cachetag can be built wrong on purpose. Each takes one guard of the consistency rule away; the model and the checker on
//! real servers must notice every one of them, or they would not notice its loss in the real thing either.

use std::fmt;
use std::str::FromStr;

use clap::ValueEnum;

/// A cachetag without one of its guards.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, ValueEnum)]
pub enum Variant {
    /// The watermark passes commits that new snapshots do not see yet.
    WatermarkBeforeVisible,
    /// A fill registers an unknown tag without looking for its bumps in the log.
    NoLogCheck,
    /// An entry whose tag was evicted still counts as valid.
    MissingTagIsValid,
    /// A restarted daemon applies again what Redis has, and lowers versions by it.
    ReplayLowers,
    /// Calls of a former claimant are obeyed.
    NoFence,
    /// A Redis that lacks what was acknowledged is taken for continuity.
    NoEpochAfterLoss,
    /// Redis does not compare where a call continues from with where it stands.
    NoContinuity,
    /// A reader takes its token after its snapshot.
    TokenAfterSnapshot,
    /// A refused tag is registered at the watermark instead of at what is applied.
    RegisterAtWatermark,
    /// A fill with a token of another epoch is admitted.
    ForeignEpoch,
    /// An epoch publishes a watermark while commits that it skips are invisible.
    EpochNotDrained,
    /// An update bumps the tags of the new row only.
    NoOldRow,
    /// A table joins the publication without waiting for its writers.
    JoinUnlocked,
    /// An in-process cache goes on over records that the log has forgotten.
    FeedGapUnnoticed,
    /// An in-process cache goes on when the feed is that of another epoch.
    ForeignFeed,
    /// An in-process cache keeps an answer that its feed has overtaken.
    OvertakenAnswer,
}

impl Variant {
    /// Those that the model has a counterexample for.
    pub fn in_model() -> impl Iterator<Item = Variant> {
        Self::all().filter(|v| !matches!(v, Self::NoOldRow | Self::JoinUnlocked))
    }

    /// Those that run on real servers.
    pub fn on_servers() -> impl Iterator<Item = Variant> {
        Self::all().filter(|v| !v.is_in_process())
    }

    /// Is it the in-process cache that is wrong?
    pub fn is_in_process(self) -> bool {
        matches!(self, Self::FeedGapUnnoticed | Self::ForeignFeed | Self::OvertakenAnswer)
    }

    fn all() -> impl Iterator<Item = Variant> {
        Self::value_variants().iter().copied()
    }
}

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.to_possible_value().as_ref().map_or("", |value| value.get_name()))
    }
}

impl FromStr for Variant {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        <Self as ValueEnum>::from_str(text, false)
    }
}

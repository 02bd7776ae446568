//! The bounds within which each broken variant has its counterexample.

use super::bounds::{Bounds, Fault};
use crate::Variant;

/// Bounds in which the variant fails. Only the faults that it needs are on, and no more commits, readers and keys: the shortest counterexample
/// is the same, the search is shorter.
pub fn bounds_of(variant: Variant) -> Bounds {
    let bounds = |commits, readers, faults, kinds: &[Fault], keys: &[usize]| Bounds {
        commits,
        readers,
        faults,
        kinds: kinds.to_vec(),
        keys: keys.to_vec(),
        in_process: variant.is_in_process(),
        ..Bounds::small()
    };
    match variant {
        Variant::WatermarkBeforeVisible => bounds(1, 1, 0, &[], &[0]),
        // The tag was unknown when it was bumped.
        Variant::NoLogCheck => bounds(1, 1, 0, &[], &[0]),
        Variant::MissingTagIsValid => bounds(1, 1, 1, &[Fault::Evict], &[0]),
        // Two commits: replaying the first lowers what the second has raised.
        Variant::ReplayLowers => bounds(2, 2, 1, &[Fault::Crash], &[0]),
        Variant::NoFence => bounds(2, 2, 1, &[Fault::Crash], &[0]),
        Variant::NoEpochAfterLoss => bounds(2, 1, 1, &[Fault::FailOver], &[0]),
        Variant::NoContinuity => bounds(2, 1, 1, &[Fault::FailOver], &[0]),
        Variant::TokenAfterSnapshot => bounds(1, 1, 0, &[], &[0]),
        // Two readers: one is refused and registers, the other stores under a token that the registration forgives.
        Variant::RegisterAtWatermark => bounds(2, 2, 2, &[Fault::Evict, Fault::Trim], &[0]),
        Variant::ForeignEpoch => bounds(2, 1, 2, &[Fault::FailOver, Fault::Flush], &[0]),
        Variant::EpochNotDrained => bounds(2, 1, 1, &[Fault::LoseSlot, Fault::Flush], &[0]),
        Variant::FeedGapUnnoticed => bounds(2, 1, 1, &[Fault::Trim], &[0]),
        Variant::ForeignFeed => bounds(2, 1, 1, &[Fault::LoseSlot, Fault::Flush], &[0]),
        Variant::OvertakenAnswer => bounds(1, 1, 0, &[], &[0]),
        // Which tags a change touches is not part of the model: these two are for the real servers.
        Variant::NoOldRow | Variant::JoinUnlocked => Bounds::small(),
    }
}

//! The library in Redis without a guard: patches of its text, each of which must find what it replaces exactly once.

use crate::Variant;

/// The library as it is.
pub const LIBRARY: &str = include_str!("../../../redis/cachetag.lua");

type Patch = (&'static str, &'static str);

const NO_CONTINUITY: Patch = ("if not s.claimant or s.applied ~= from then", "if not s.claimant then");
/// A version falls to that of the bump, instead of staying where a later one has put it.
const LOWERING: [Patch; 2] = [
    ("if not h or old_h > h then h = old_h end", "if not h then h = old_h end"),
    ("if not s or (old_s and old_s > s) then s = old_s end", "if not s then s = old_s end"),
];

/// What is replaced for a variant, and with what. Some guards stand behind each other: then the second goes, too, or the first would not be missed.
pub(super) fn patches(variant: Variant) -> Vec<Patch> {
    match variant {
        Variant::NoLogCheck => vec![("local clean = complete and not found[name]", "local clean = true")],
        Variant::MissingTagIsValid => vec![(
            "if not hard then return 'miss', 'unregistered', keys[i], values[i] end",
            "if not hard then hard = '' end",
        )],
        Variant::RegisterAtWatermark => vec![("clean and as_of or s.applied", "clean and as_of or s.watermark")],
        Variant::NoContinuity => vec![NO_CONTINUITY],
        // Continuity would refuse the calls of a second daemon, and of one that replays, all the same.
        Variant::ReplayLowers => vec![NO_CONTINUITY, LOWERING[0], LOWERING[1]],
        Variant::NoFence => vec![
            ("if s.claimant and s.claimant ~= claimant then return", "if false then return"),
            NO_CONTINUITY,
            LOWERING[0],
            LOWERING[1],
        ],
        // A hit refuses another epoch, too.
        Variant::ForeignEpoch => vec![
            ("if sub(as_of, 1, 10) ~= s.epoch then return refuse('epoch') end", ""),
            ("if sub(as_of, 1, 10) ~= sub(s[1], 1, 10) then return 'miss', 'epoch' end", ""),
        ],
        _ => Vec::new(),
    }
}

/// A library without the variant's guard.
pub fn patched(library: &str, variant: Variant) -> String {
    patches(variant).into_iter().fold(library.to_owned(), |text, (old, new)| {
        assert_eq!(text.matches(old).count(), 1, "{variant}: the library must have {old:?} exactly once");
        text.replace(old, new)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_patch_finds_its_place() {
        for variant in Variant::on_servers() {
            let text = patched(LIBRARY, variant);
            assert_eq!(text == LIBRARY, patches(variant).is_empty(), "{variant}");
        }
    }
}

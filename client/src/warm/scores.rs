//! How hot a key is, in a form in which what different processes saw at different times can be put together. Pure.

use std::collections::HashMap;
use std::time::{Duration, SystemTime};

/// What was as hot this long ago as something is now counts half.
const HALF_LIFE: Duration = Duration::from_secs(3600);

/// A key and its score.
pub(super) type Scored = (String, f64);

/// The score of something that was counted so often until now: `log2(count) + now ÷ half-life`.
///
/// Scores of different times compare as the counts would, decayed to one moment; so none has ever to be touched again, and of two for one key the higher one
/// is right.
pub(super) fn score(count: u64, now: SystemTime) -> f64 {
    let seconds = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    (count.max(1) as f64).log2() + seconds / HALF_LIFE.as_secs_f64()
}

/// Both together, the hottest `keep` of them, the hottest first.
pub(super) fn merge(
    old: impl IntoIterator<Item = Scored>,
    new: impl IntoIterator<Item = Scored>,
    keep: usize,
) -> Vec<Scored> {
    let mut all: HashMap<String, f64> = HashMap::new();
    for (key, score) in old.into_iter().chain(new) {
        // What is no number is the coldest.
        let known = all.entry(key).or_insert(f64::NEG_INFINITY);
        *known = known.max(score);
    }
    let mut all: Vec<Scored> = all.into_iter().collect();
    all.sort_by(|a, b| b.1.total_cmp(&a.1).then_with(|| a.0.cmp(&b.0)));
    all.truncate(keep);
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn keys(scored: &[Scored]) -> Vec<&str> {
        scored.iter().map(|(key, _)| key.as_str()).collect()
    }

    #[test]
    fn what_is_hot_now_comes_before_what_was_as_hot_before() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let of = |key: &str, count, ago| (key.to_owned(), score(count, now - ago * HALF_LIFE));
        let old = [of("faded", 1000, 3), of("lasting", 1000, 1), of("both", 8, 2)];
        let new = [of("new", 400, 0), of("both", 2, 0), of("rare", 1, 0)];
        assert_eq!(keys(&merge(old, new, 5)), ["lasting", "new", "faded", "both", "rare"]);
    }

    proptest! {
        /// In whatever order, and however often, lists are put together: the result is the same.
        #[test]
        fn it_does_not_matter_who_saves_first(a in proptest::collection::vec((0u8..20, 0u32..9), 0..20), b in proptest::collection::vec((0u8..20, 0u32..9), 0..20), keep in 0usize..30) {
            let scored = |list: &[(u8, u32)]| list.iter().map(|(key, score)| (key.to_string(), f64::from(*score))).collect::<Vec<_>>();
            let (a, b) = (scored(&a), scored(&b));
            let one = merge(a.clone(), b.clone(), keep);
            prop_assert_eq!(&one, &merge(b.clone(), a, keep));
            prop_assert_eq!(&one, &merge(one.clone(), b, keep));
            prop_assert!(one.len() <= keep && one.windows(2).all(|pair| pair[0].1 >= pair[1].1));
        }
    }
}

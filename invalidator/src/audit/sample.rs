//! A sample of keys: those with the smallest hashes. Every key is as likely as any other, one seed gives one sample, and SCAN may bring a key twice.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};

/// The keys chosen so far.
#[derive(Debug)]
pub struct Sample {
    seed: u64,
    size: usize,
    chosen: BTreeSet<(u64, String)>,
}

impl Sample {
    /// An empty sample that will hold at most `size` keys.
    pub fn new(seed: u64, size: usize) -> Sample {
        Sample { seed, size, chosen: BTreeSet::new() }
    }

    /// Considers a key.
    pub fn offer(&mut self, key: String) {
        let mut hasher = DefaultHasher::new();
        (self.seed, &key).hash(&mut hasher);
        self.chosen.insert((hasher.finish(), key));
        if self.chosen.len() > self.size {
            self.chosen.pop_last();
        }
    }

    /// The keys, in an order that has nothing to do with them.
    pub fn into_keys(self) -> Vec<String> {
        self.chosen.into_iter().map(|(_, key)| key).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(seed: u64, size: usize, keys: impl Iterator<Item = u32>) -> Vec<String> {
        let mut sample = Sample::new(seed, size);
        keys.for_each(|key| sample.offer(format!("k{key}")));
        sample.into_keys()
    }

    #[test]
    fn a_seed_repeats_whatever_the_order() {
        let forward = sample(7, 10, 0..1000);
        assert_eq!(forward.len(), 10);
        assert_eq!(forward, sample(7, 10, (0..1000).rev().chain(0..500)));
        assert_ne!(forward, sample(8, 10, 0..1000));
        assert_eq!(sample(7, 10, 0..5).len(), 5);
    }

    #[test]
    fn every_key_is_as_likely() {
        // 400 samples of a tenth: each of the 100 keys is expected 40 times, with a deviation of 6.
        let mut times = vec![0; 100];
        for seed in 0..400 {
            for key in sample(seed, 10, 0..100) {
                times[key[1..].parse::<usize>().unwrap()] += 1;
            }
        }
        assert!(times.iter().all(|&n| (10..=70).contains(&n)), "{times:?}");
    }
}

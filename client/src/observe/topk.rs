//! The keys that are asked for most, in bounded memory.

use std::collections::HashMap;
use std::sync::Arc;

use serde::Serialize;

/// A key, and how often it was counted: truly between `count − over` and `count`.
///
/// ```
/// use cachetag_client::observe::SpaceSaving;
/// let mut sketch = SpaceSaving::new(8);
/// sketch.record("a");
/// let counted = &sketch.top(1)[0];
/// assert_eq!((&*counted.key, counted.count, counted.over), ("a", 1, 0));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Counted {
    /// The key.
    #[serde(serialize_with = "as_text")]
    pub key: Arc<str>,
    /// How often, at most.
    pub count: u64,
    /// By how much that may be too many.
    pub over: u64,
}

fn as_text<S: serde::Serializer>(key: &Arc<str>, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(key)
}

/// Space-Saving (Metwally, Agrawal, El Abbadi 2005): of a stream of N keys it keeps `capacity`, and
///
/// - every key that occurs more than N ÷ capacity times is among them;
/// - a count is never too low, and too high by at most N ÷ capacity.
///
/// A key that is not kept takes the place of the one with the lowest count, and inherits that count as its possible error.
///
/// ```
/// use cachetag_client::observe::SpaceSaving;
///
/// let mut sketch = SpaceSaving::new(10);
/// for n in 0..1000 {
///     sketch.record("home");
///     sketch.record(&format!("product:{n}"));
/// }
/// let first = &sketch.top(1)[0];
/// assert_eq!(&*first.key, "home");
/// assert!(first.count >= 1000 && first.count <= 1000 + sketch.total() / 10);
/// ```
#[derive(Debug, Clone)]
pub struct SpaceSaving {
    /// A heap: the lowest count first.
    heap: Vec<Counted>,
    /// Where in the heap a key is.
    places: HashMap<Arc<str>, usize>,
    capacity: usize,
    total: u64,
}

impl SpaceSaving {
    /// A sketch that keeps so many keys.
    ///
    /// ```
    /// assert_eq!(cachetag_client::observe::SpaceSaving::new(100).total(), 0);
    /// ```
    pub fn new(capacity: usize) -> SpaceSaving {
        let capacity = capacity.max(1);
        SpaceSaving { heap: Vec::new(), places: HashMap::new(), capacity, total: 0 }
    }

    /// Counts a key.
    ///
    /// ```
    /// let mut sketch = cachetag_client::observe::SpaceSaving::new(100);
    /// sketch.record("product:42");
    /// assert_eq!(sketch.total(), 1);
    /// ```
    pub fn record(&mut self, key: &str) {
        self.total += 1;
        if let Some(&place) = self.places.get(key) {
            self.heap[place].count += 1;
            self.sink(place);
            return;
        }
        let key: Arc<str> = key.into();
        if self.heap.len() < self.capacity {
            self.heap.push(Counted { key: key.clone(), count: 1, over: 0 });
            self.places.insert(key, self.heap.len() - 1);
            self.rise(self.heap.len() - 1);
            return;
        }
        let lowest = &mut self.heap[0];
        self.places.remove(&lowest.key);
        *lowest = Counted { key: key.clone(), count: lowest.count + 1, over: lowest.count };
        self.places.insert(key, 0);
        self.sink(0);
    }

    /// How many were counted, less what was halved away.
    ///
    /// ```
    /// # use cachetag_client::observe::SpaceSaving;
    /// assert_eq!(SpaceSaving::new(3).total(), 0);
    /// ```
    pub fn total(&self) -> u64 {
        self.total
    }

    /// What is known of a key.
    ///
    /// ```
    /// # use cachetag_client::observe::SpaceSaving;
    /// assert!(SpaceSaving::new(3).get("a").is_none());
    /// ```
    pub fn get(&self, key: &str) -> Option<&Counted> {
        self.places.get(key).map(|&place| &self.heap[place])
    }

    /// The `k` keys with the highest counts, highest first.
    ///
    /// ```
    /// # use cachetag_client::observe::SpaceSaving;
    /// assert!(SpaceSaving::new(3).top(2).is_empty());
    /// ```
    pub fn top(&self, k: usize) -> Vec<Counted> {
        let mut all = self.heap.clone();
        all.sort_unstable_by(|a, b| b.count.cmp(&a.count).then_with(|| a.key.cmp(&b.key)));
        all.truncate(k);
        all
    }

    /// Halves every count, so that what was hot long ago makes room for what is hot now.
    ///
    /// ```
    /// # use cachetag_client::observe::SpaceSaving;
    /// let mut sketch = SpaceSaving::new(3);
    /// (0..4).for_each(|_| sketch.record("a"));
    /// sketch.halve();
    /// assert_eq!(sketch.get("a").unwrap().count, 2);
    /// ```
    pub fn halve(&mut self) {
        // Halving keeps the order of the counts, and so the heap.
        for counted in &mut self.heap {
            // Upwards: `count` stays an upper bound.
            counted.count = counted.count.div_ceil(2);
            counted.over = counted.over.div_ceil(2).min(counted.count);
        }
        self.total = self.total.div_ceil(2);
    }

    fn swap(&mut self, a: usize, b: usize) {
        self.heap.swap(a, b);
        for place in [a, b] {
            if let Some(known) = self.places.get_mut(&self.heap[place].key) {
                *known = place;
            }
        }
    }

    fn rise(&mut self, mut place: usize) {
        while place > 0 {
            let parent = (place - 1) / 2;
            if self.heap[parent].count <= self.heap[place].count {
                return;
            }
            self.swap(place, parent);
            place = parent;
        }
    }

    fn sink(&mut self, mut place: usize) {
        loop {
            let children = 2 * place + 1..(2 * place + 3).min(self.heap.len());
            let Some(lower) = children.min_by_key(|&child| self.heap[child].count) else { return };
            if self.heap[place].count <= self.heap[lower].count {
                return;
            }
            self.swap(place, lower);
            place = lower;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn check(sketch: &SpaceSaving) {
        assert_eq!(sketch.heap.len(), sketch.places.len());
        for (place, counted) in sketch.heap.iter().enumerate() {
            assert_eq!(sketch.places[&counted.key], place);
            assert!(place == 0 || sketch.heap[(place - 1) / 2].count <= counted.count, "no heap");
        }
    }

    proptest! {
        #[test]
        fn the_bounds_of_the_paper_hold(keys in proptest::collection::vec(0u32..40, 0..600), capacity in 1usize..20, skew in 1u32..6) {
            let mut sketch = SpaceSaving::new(capacity);
            let mut exact: HashMap<String, u64> = HashMap::new();
            for key in keys {
                // Small numbers more often than large ones.
                let key = format!("key:{}", key / (1 + key % skew));
                sketch.record(&key);
                *exact.entry(key).or_default() += 1;
            }
            check(&sketch);
            prop_assert!(sketch.heap.len() <= capacity);
            prop_assert_eq!(sketch.total(), exact.values().sum::<u64>());
            let bound = sketch.total() / capacity as u64;
            for counted in sketch.top(usize::MAX) {
                let truth = exact[&*counted.key];
                prop_assert!(counted.count - counted.over <= truth && truth <= counted.count);
                prop_assert!(counted.over <= bound);
            }
            for (key, count) in exact {
                prop_assert!(count <= bound || sketch.get(&key).is_some(), "{key} is lost");
            }
        }

        #[test]
        fn halving_keeps_the_heap(keys in proptest::collection::vec(0u32..40, 0..300), halve_every in 1usize..50) {
            let mut sketch = SpaceSaving::new(8);
            for (n, key) in keys.iter().enumerate() {
                sketch.record(&key.to_string());
                if n % halve_every == 0 {
                    sketch.halve();
                }
                check(&sketch);
            }
        }
    }

    #[test]
    fn what_is_hot_now_takes_over_from_what_was() {
        let mut sketch = SpaceSaving::new(4);
        (0..1000).for_each(|_| sketch.record("old"));
        for _ in 0..8 {
            sketch.halve();
            (0..100).for_each(|_| sketch.record("new"));
        }
        assert_eq!(&*sketch.top(1)[0].key, "new");
    }
}

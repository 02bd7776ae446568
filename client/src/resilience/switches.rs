//! What can be taken out of service at run time.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use xxhash_rust::xxh3::xxh3_64;

use crate::observe::Layer;

/// Switches of a cache, at run time. Clones turn the same switches.
///
/// ```
/// use cachetag_client::{observe::Layer, resilience::Switches};
///
/// let switches = Switches::default();
/// let elsewhere = switches.clone();
/// elsewhere.bypass(Layer::L2, true);
/// assert!(switches.bypasses(Layer::L2) && !switches.bypasses(Layer::L1));
/// ```
#[derive(Clone, Default)]
pub struct Switches(Arc<State>);

struct State {
    l1: AtomicBool,
    l2: AtomicBool,
    l3: AtomicBool,
    loader: AtomicBool,
    read_only: AtomicBool,
    stale_if_error: AtomicBool,
    background: AtomicBool,
    /// The bits of an `f64`.
    write_share: AtomicU64,
}

impl Default for State {
    fn default() -> State {
        State {
            l1: AtomicBool::new(false),
            l2: AtomicBool::new(false),
            l3: AtomicBool::new(false),
            loader: AtomicBool::new(false),
            read_only: AtomicBool::new(false),
            stale_if_error: AtomicBool::new(true),
            background: AtomicBool::new(true),
            write_share: AtomicU64::new(1f64.to_bits()),
        }
    }
}

impl State {
    fn layer(&self, layer: Layer) -> &AtomicBool {
        match layer {
            Layer::L1 => &self.l1,
            Layer::L2 => &self.l2,
            Layer::L3 => &self.l3,
            Layer::Loader => &self.loader,
        }
    }
}

// Each switch stands for itself: nothing is ordered by it, so relaxed is enough.
impl Switches {
    /// Whether a layer is neither read nor written; of the loader, whether it is not called.
    ///
    /// ```
    /// # use cachetag_client::{observe::Layer, resilience::Switches};
    /// assert!(!Switches::default().bypasses(Layer::L1));
    /// ```
    #[inline]
    pub fn bypasses(&self, layer: Layer) -> bool {
        self.0.layer(layer).load(Ordering::Relaxed)
    }

    /// Takes a layer out of service, or back in.
    ///
    /// The loader bypassed, the database is left alone: what a layer has is served, also what is stale and would be made anew; where none has anything, what
    /// `stale_if_error` allows, or else an error that [is this switch's](crate::Error::is_switched_off). Nothing is refreshed or warmed.
    ///
    /// ```
    /// # use cachetag_client::{observe::Layer, resilience::Switches};
    /// let switches = Switches::default();
    /// switches.bypass(Layer::L1, true);
    /// assert!(switches.bypasses(Layer::L1));
    /// ```
    ///
    /// ```no_run
    /// # async fn render() -> Result<String, std::io::Error> { Ok(String::new()) }
    /// # async fn example(cache: cachetag_client::Cache) {
    /// use cachetag_client::observe::Layer;
    ///
    /// cache.switches().bypass(Layer::Loader, true); // while the database is being worked on
    /// match cache.get_or_load("page:1", |load| async move { load.tag("layout"); render().await }).await {
    ///     Ok(page) => println!("{}", page.len()),
    ///     Err(error) if error.is_switched_off() => println!("not cached: come back later"),
    ///     Err(error) => println!("{error}"),
    /// }
    /// # }
    /// ```
    pub fn bypass(&self, layer: Layer, on: bool) {
        self.0.layer(layer).store(on, Ordering::Relaxed);
    }

    /// Whether the cache is read and never written.
    ///
    /// ```
    /// # use cachetag_client::resilience::Switches;
    /// assert!(!Switches::default().is_read_only());
    /// ```
    #[inline]
    pub fn is_read_only(&self) -> bool {
        self.0.read_only.load(Ordering::Relaxed)
    }

    /// Reads the cache without writing to it.
    ///
    /// ```
    /// # use cachetag_client::resilience::Switches;
    /// let switches = Switches::default();
    /// switches.read_only(true);
    /// assert!(!switches.writes("any:key"));
    /// ```
    pub fn read_only(&self, on: bool) {
        self.0.read_only.store(on, Ordering::Relaxed);
    }

    /// Whether a failed load may be answered with a stale value, where the call allows it.
    ///
    /// ```
    /// # use cachetag_client::resilience::Switches;
    /// assert!(Switches::default().allows_stale_if_error());
    /// ```
    #[inline]
    pub fn allows_stale_if_error(&self) -> bool {
        self.0.stale_if_error.load(Ordering::Relaxed)
    }

    /// Allows or forbids answering a failed load with a stale value.
    ///
    /// ```
    /// # use cachetag_client::resilience::Switches;
    /// let switches = Switches::default();
    /// switches.stale_if_error(false);
    /// assert!(!switches.allows_stale_if_error());
    /// ```
    pub fn stale_if_error(&self, on: bool) {
        self.0.stale_if_error.store(on, Ordering::Relaxed);
    }

    /// Whether values are refreshed in the background.
    ///
    /// ```
    /// # use cachetag_client::resilience::Switches;
    /// assert!(Switches::default().refreshes_in_background());
    /// ```
    #[inline]
    pub fn refreshes_in_background(&self) -> bool {
        self.0.background.load(Ordering::Relaxed)
    }

    /// Allows or forbids refreshes in the background, to spare the database.
    ///
    /// ```
    /// # use cachetag_client::resilience::Switches;
    /// let switches = Switches::default();
    /// switches.background_refresh(false);
    /// assert!(!switches.refreshes_in_background());
    /// ```
    pub fn background_refresh(&self, on: bool) {
        self.0.background.store(on, Ordering::Relaxed);
    }

    /// The share of keys whose values are stored.
    ///
    /// ```
    /// # use cachetag_client::resilience::Switches;
    /// assert_eq!(Switches::default().write_share(), 1.0);
    /// ```
    pub fn write_share(&self) -> f64 {
        f64::from_bits(self.0.write_share.load(Ordering::Relaxed))
    }

    /// Stores values of this share of the keys only, 0 to 1: to bring a cache in, or to take one out, by degrees.
    ///
    /// ```
    /// # use cachetag_client::resilience::Switches;
    /// let switches = Switches::default();
    /// switches.set_write_share(0.0);
    /// assert!(!switches.writes("any:key"));
    /// ```
    pub fn set_write_share(&self, share: f64) {
        let share = if share.is_nan() { 0.0 } else { share.clamp(0.0, 1.0) };
        self.0.write_share.store(share.to_bits(), Ordering::Relaxed);
    }

    /// Whether the value of this key may be stored.
    ///
    /// ```
    /// # use cachetag_client::resilience::Switches;
    /// assert!(Switches::default().writes("product:42"));
    /// ```
    pub fn writes(&self, key: &str) -> bool {
        if self.is_read_only() {
            return false;
        }
        let share = self.write_share();
        share >= 1.0 || sampled(key, share)
    }
}

impl fmt::Debug for Switches {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Switches")
            .field("bypass_l1", &self.bypasses(Layer::L1))
            .field("bypass_l2", &self.bypasses(Layer::L2))
            .field("bypass_l3", &self.bypasses(Layer::L3))
            .field("bypass_loader", &self.bypasses(Layer::Loader))
            .field("read_only", &self.is_read_only())
            .field("stale_if_error", &self.allows_stale_if_error())
            .field("background_refresh", &self.refreshes_in_background())
            .field("write_share", &self.write_share())
            .finish()
    }
}

/// Whether a key belongs to this share of all keys. The same in every process and at every time, and whoever is in a share is in every
/// larger one.
///
/// ```
/// use cachetag_client::resilience::sampled;
/// let keys = (0..10_000).map(|n| format!("product:{n}"));
/// let within = keys.filter(|key| sampled(key, 0.25)).count();
/// assert!((2300..2700).contains(&within));
/// ```
pub fn sampled(key: &str, share: f64) -> bool {
    // 53 bits are what an f64 holds exactly.
    let place = (xxh3_64(key.as_bytes()) >> 11) as f64 / (1u64 << 53) as f64;
    place < share
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_larger_share_holds_every_smaller_one(key in ".*", a in 0.0..=1.0, b in 0.0..=1.0) {
            let (less, more) = if a < b { (a, b) } else { (b, a) };
            prop_assert!(!sampled(&key, less) || sampled(&key, more));
            prop_assert!(!sampled(&key, 0.0) && sampled(&key, 1.0));
        }
    }

    #[test]
    fn a_share_that_is_no_number_stores_nothing() {
        let switches = Switches::default();
        switches.set_write_share(f64::NAN);
        assert!(!switches.writes("a"));
        switches.set_write_share(7.0);
        assert_eq!(switches.write_share(), 1.0);
    }
}

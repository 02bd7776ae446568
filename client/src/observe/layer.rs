//! The layers of a cache.

use std::fmt;

use serde::Serialize;

/// A layer that can be asked for a value, nearest first.
///
/// ```
/// use cachetag_client::observe::Layer;
/// assert!(Layer::L1 < Layer::Loader);
/// assert_eq!(Layer::L2.to_string(), "l2");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Layer {
    /// In this process.
    L1,
    /// Redis.
    L2,
    /// What the application put behind Redis.
    L3,
    /// The application's loader: the database.
    Loader,
}

impl Layer {
    /// All layers, nearest first.
    ///
    /// ```
    /// # use cachetag_client::observe::Layer;
    /// assert_eq!(Layer::ALL.len(), 4);
    /// ```
    pub const ALL: [Layer; 4] = [Layer::L1, Layer::L2, Layer::L3, Layer::Loader];

    /// The name, as in numbers and messages.
    ///
    /// ```
    /// # use cachetag_client::observe::Layer;
    /// assert_eq!(Layer::Loader.name(), "loader");
    /// ```
    pub fn name(self) -> &'static str {
        match self {
            Layer::L1 => "l1",
            Layer::L2 => "l2",
            Layer::L3 => "l3",
            Layer::Loader => "loader",
        }
    }

    /// Its place in [`ALL`](Layer::ALL).
    pub(super) fn index(self) -> usize {
        self as usize
    }
}

impl fmt::Display for Layer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

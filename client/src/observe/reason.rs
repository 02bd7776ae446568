//! Why a layer had no answer.

use std::fmt;

use serde::Serialize;

use crate::envelope::Mismatch;

macro_rules! names {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
        #[serde(rename_all = "snake_case")]
        #[non_exhaustive]
        pub enum $name {
            $($(#[$variant_doc])* $variant,)*
        }

        impl $name {
            /// All of them, in order.
            pub const ALL: &'static [$name] = &[$($name::$variant,)*];

            /// The name, as in numbers and messages.
            pub fn name(self) -> &'static str {
                match self {
                    $($name::$variant => $text,)*
                }
            }

            /// Its place in [`ALL`](Self::ALL).
            pub(super) fn index(self) -> usize {
                self as usize
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.name())
            }
        }
    };
}
pub(super) use names;

names! {
    /// Why a layer had no answer.
    ///
    /// ```
    /// use cachetag_client::observe::MissReason;
    /// assert_eq!(MissReason::Bumped.to_string(), "bumped");
    /// assert!(MissReason::ALL.contains(&MissReason::Lag));
    /// ```
    MissReason {
        /// Nothing is stored.
        None = "none",
        /// Its TTL is over.
        Expired = "expired",
        /// One of its tags was bumped since it was read.
        Bumped = "bumped",
        /// One of its tags is not registered (expired, evicted, lost): nobody knows.
        Unregistered = "unregistered",
        /// It is of another epoch.
        Epoch = "epoch",
        /// It is below the floor.
        Floor = "floor",
        /// The layer is further behind than the caller's `max_lag`.
        Lag = "lag",
        /// The layer does not cover the commit that the caller asks for (`at_least`).
        Behind = "behind",
        /// The feed of the log is not live: nothing in the process can be trusted.
        Feed = "feed",
        /// Nothing vouches for the layer now: no daemon, or one that does not advance.
        Bypass = "bypass",
        /// A switch takes the layer out of service.
        Switch = "switch",
        /// The caller asked for a fresh value.
        Fresh = "fresh",
        /// Another caller computes it already.
        Wait = "wait",
        /// Chosen to make it anew before it expires.
        Early = "early",
        /// The entry is of another schema.
        Schema = "schema",
        /// The entry is of another format, or has a stamp of a later version.
        Format = "format",
        /// The entry is damaged, or no value of the type.
        Damaged = "damaged",
        /// The breaker leaves the layer alone.
        Breaker = "breaker",
        /// The layer did not answer in time.
        Timeout = "timeout",
        /// The layer answered with an error, or could not be reached.
        Error = "error",
    }
}

impl From<&Mismatch> for MissReason {
    fn from(mismatch: &Mismatch) -> MissReason {
        match mismatch {
            Mismatch::Schema { .. } => MissReason::Schema,
            Mismatch::Format { .. } | Mismatch::Stamp { .. } => MissReason::Format,
            Mismatch::Damaged { .. } | Mismatch::TooLong { .. } | Mismatch::Value { .. } => MissReason::Damaged,
        }
    }
}

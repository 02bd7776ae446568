//! May a look be trusted to continue from where the feed stands?

/// Why everything that was known of the log is void.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
#[non_exhaustive]
pub enum Lost {
    /// There is no state.
    #[error("no daemon has opened an epoch here, or Redis was emptied")]
    NoState,
}

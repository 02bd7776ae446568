//! What can go wrong with saved keys. What goes wrong with a key that is warmed is in the report.

use std::path::PathBuf;

/// Why the hottest keys could not be saved or read.
///
/// ```
/// use cachetag_client::warm::WarmError;
///
/// fn is_of_a_file(error: &WarmError) -> bool {
///     matches!(error, WarmError::File { .. } | WarmError::Format { .. })
/// }
/// ```
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WarmError {
    /// Redis did not do it.
    #[error("the hottest keys in Redis: {0}")]
    Redis(#[from] crate::l2::Error),
    /// The file system did not.
    #[error("the hottest keys in {}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What it says.
        source: std::io::Error,
    },
    /// The file is something else.
    #[error("{} holds no hottest keys: {problem}; remove it, or name another file", path.display())]
    Format {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
}

//! What a record of the log bumped, for those who want to know early.

use std::sync::Arc;

use cachetag_core::Version;

/// Registered tags that one record of the log bumped.
#[derive(Debug, Clone)]
pub struct Change {
    /// The record's version.
    pub version: Version,
    /// The tags, hard and soft, as the log has them: `product:*` stands for all tags of its family, `*` for everything.
    pub tags: Arc<[Arc<str>]>,
}

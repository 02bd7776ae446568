//! The task that follows the log.
use std::sync::Arc;

use super::ledger::Ledger;
use super::options::FeedOptions;

#[derive(Debug)]
pub(super) struct Task;

impl Task {
    pub(super) fn spawn(_client: redis::Client, _options: FeedOptions, _ledger: Arc<Ledger>) -> Task {
        todo!()
    }
}

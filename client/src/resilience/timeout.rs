//! How long a layer may take.

use std::future::Future;
use std::time::Duration;

use thiserror::Error;

use crate::observe::Layer;

/// A layer took longer than it may.
///
/// ```
/// use cachetag_client::{observe::Layer, resilience::TimedOut};
/// let error = TimedOut { layer: Layer::L2, after: std::time::Duration::from_millis(50) };
/// assert_eq!(error.to_string(), "l2 did not answer within 50ms");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("{layer} did not answer within {after:?}")]
pub struct TimedOut {
    /// The layer.
    pub layer: Layer,
    /// How long it was waited for.
    pub after: Duration,
}

/// What `asked` answers, unless that takes longer than `limit`: then it is dropped.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// use cachetag_client::{observe::Layer, resilience::with_timeout};
/// use std::time::Duration;
///
/// let limit = Duration::from_millis(5);
/// assert_eq!(with_timeout(Layer::L2, limit, async { 42 }).await, Ok(42));
/// let late = with_timeout(Layer::L2, limit, std::future::pending::<u8>()).await.unwrap_err();
/// assert_eq!((late.layer, late.after), (Layer::L2, limit));
/// # }
/// ```
pub async fn with_timeout<F: Future>(layer: Layer, limit: Duration, asked: F) -> Result<F::Output, TimedOut> {
    tokio::time::timeout(limit, asked).await.map_err(|_| TimedOut { layer, after: limit })
}

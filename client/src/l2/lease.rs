//! Leases: who is recomputing.

use std::fmt;
use std::sync::Arc;

use super::{Error, Shard};

/// The id of a lease. Whoever has it is the one caller that should recompute; it runs out by itself. Leases only save work.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Lease(Arc<str>);

impl Lease {
    /// A lease of this id.
    ///
    /// ```
    /// assert_eq!(cachetag_client::l2::Lease::new("5f3a").id(), "5f3a");
    /// ```
    pub fn new(id: impl Into<Arc<str>>) -> Lease {
        Lease(id.into())
    }

    /// The id.
    pub fn id(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Lease {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Lease({})", self.0)
    }
}

/// A lease that is given back when this is dropped: a loader that fails, panics or is cancelled lets the next one go at once.
///
/// ```no_run
/// # use cachetag_client::l2::{GetOptions, Put, Shard, Stored, Error};
/// # async fn load() -> Result<String, Error> { Ok(String::new()) }
/// # async fn run(shard: Shard) -> Result<(), Error> {
/// let got = shard.get("page", &GetOptions::default()).await?;
/// if let (Some(lease), Some(token)) = (got.lease, got.token) {
///     let guard = shard.guard("page", lease);
///     let page = load().await?; // an error gives the lease back
///     let mut put = Put::new(page, token, std::time::Duration::from_secs(60));
///     put.lease = Some(guard.spend()); // the put gives it back
///     shard.put("page", &put).await?;
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Debug)]
#[must_use = "dropped at once, it gives the lease back at once"]
pub struct LeaseGuard {
    shard: Shard,
    key: String,
    /// None once it is spent.
    lease: Option<Lease>,
}

impl LeaseGuard {
    pub(super) fn new(shard: Shard, key: String, lease: Lease) -> LeaseGuard {
        LeaseGuard { shard, key, lease: Some(lease) }
    }

    /// The lease, which stays with the guard: for a put whose answer may not come.
    pub(crate) fn lease(&self) -> Option<Lease> {
        self.lease.clone()
    }

    /// The lease, for a put that gives it back.
    pub fn spend(mut self) -> Lease {
        // It is there: whatever takes it also takes the guard.
        self.lease.take().unwrap_or_else(|| Lease::new(""))
    }

    /// Gives it back and waits for the answer: whether it was still held.
    pub async fn release(mut self) -> Result<bool, Error> {
        match &self.lease {
            Some(lease) => {
                let released = self.shard.release(&self.key, lease).await;
                self.lease = None;
                released
            }
            None => Ok(false),
        }
    }
}

impl Drop for LeaseGuard {
    fn drop(&mut self) {
        let Some(lease) = self.lease.take() else { return };
        // Without a runtime (it is being shut down) the lease runs out by itself.
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let (shard, key) = (self.shard.clone(), std::mem::take(&mut self.key));
            runtime.spawn(async move {
                if let Err(error) = shard.release(&key, &lease).await {
                    tracing::debug!(%error, key, "a lease was not given back and runs out by itself");
                }
            });
        }
    }
}

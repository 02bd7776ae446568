//! A get on its way, whose caller may go away.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use super::{Error, Got, Shard};

type Call = Pin<Box<dyn Future<Output = Result<Vec<Got>, Error>> + Send>>;

/// If it is dropped before the answer is there, the answer is still waited for, and its leases are given back: else everybody would wait for
/// a caller who has gone.
pub(super) struct Asked {
    /// None once it is answered.
    call: Option<Call>,
    shard: Shard,
    keys: Vec<String>,
}

impl Asked {
    pub fn new(shard: Shard, keys: Vec<String>, call: Call) -> Asked {
        Asked { call: Some(call), shard, keys }
    }
}

impl Future for Asked {
    type Output = Result<Vec<Got>, Error>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(call) = &mut self.call else { return Poll::Pending };
        let answer = ready!(call.as_mut().poll(context));
        self.call = None;
        Poll::Ready(answer)
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        let Some(call) = self.call.take() else { return };
        // Without a runtime (it is being shut down) leases run out by themselves.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let (shard, keys) = (self.shard.clone(), std::mem::take(&mut self.keys));
        runtime.spawn(async move {
            for (got, key) in call.await.into_iter().flatten().zip(keys) {
                if let Some(lease) = got.lease {
                    drop(shard.guard(key, lease));
                }
            }
        });
    }
}

//! How many loaders run at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use thiserror::Error;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// What a [`Limiter`] allows.
///
/// ```
/// use cachetag_client::resilience::LimiterOptions;
/// let options = LimiterOptions { concurrency: 4, ..LimiterOptions::default() };
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LimiterOptions {
    /// How many run at once.
    pub concurrency: usize,
    /// How many wait beyond those; more are refused at once.
    pub queue: usize,
    /// How long one waits.
    pub wait: Duration,
}

impl Default for LimiterOptions {
    /// 32 at once, 1,024 waiting, for up to 5 s.
    fn default() -> LimiterOptions {
        LimiterOptions { concurrency: 32, queue: 1024, wait: Duration::from_secs(5) }
    }
}

/// No slot: the database has all that it can take.
///
/// ```
/// use cachetag_client::resilience::LimitError;
/// let error = LimitError::QueueFull { queue: 8 };
/// assert_eq!(error.to_string(), "8 loads are waiting already: raise the limit of concurrent loads or of the queue, or load less");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum LimitError {
    /// As many wait as may.
    #[error("{queue} loads are waiting already: raise the limit of concurrent loads or of the queue, or load less")]
    QueueFull {
        /// How many may wait.
        queue: usize,
    },
    /// None came free in time.
    #[error(
        "no load ended within {after:?} to make room: raise the limit of concurrent loads or the wait, or make loads faster"
    )]
    WaitedTooLong {
        /// How long it waited.
        after: Duration,
    },
}

/// Bounds how many run at once and how many wait. First come, first served; a waiter that is dropped leaves the queue. Clones share the bounds.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// use cachetag_client::resilience::{LimitError, Limiter, LimiterOptions};
///
/// let limiter = Limiter::new(LimiterOptions { concurrency: 1, queue: 0, ..LimiterOptions::default() });
/// let slot = limiter.acquire().await.unwrap();
/// assert_eq!(limiter.acquire().await.unwrap_err(), LimitError::QueueFull { queue: 0 });
/// drop(slot);
/// assert!(limiter.acquire().await.is_ok());
/// # }
/// ```
#[derive(Debug, Clone)]
pub struct Limiter {
    slots: Arc<Semaphore>,
    waiting: Arc<AtomicUsize>,
    options: LimiterOptions,
}

/// The right to run; dropping it lets the next one in.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")] async fn main() {
/// # use cachetag_client::resilience::{Limiter, LimiterOptions};
/// let limiter = Limiter::new(LimiterOptions::default());
/// let slot = limiter.acquire().await.unwrap();
/// drop(slot);
/// assert_eq!(limiter.running(), 0);
/// # }
/// ```
#[derive(Debug)]
#[must_use = "the slot is free again once this is dropped"]
pub struct Slot(#[expect(dead_code, reason = "held for its drop")] OwnedSemaphorePermit);

impl Limiter {
    /// A limiter with these bounds.
    ///
    /// ```
    /// use cachetag_client::resilience::{Limiter, LimiterOptions};
    /// assert_eq!(Limiter::new(LimiterOptions::default()).running(), 0);
    /// ```
    pub fn new(options: LimiterOptions) -> Limiter {
        let slots = options.concurrency.min(Semaphore::MAX_PERMITS);
        Limiter { slots: Arc::new(Semaphore::new(slots)), waiting: Arc::default(), options }
    }

    /// Waits for a slot, as long and in as long a queue as is allowed.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")] async fn main() {
    /// use cachetag_client::resilience::{Limiter, LimiterOptions};
    /// let limiter = Limiter::new(LimiterOptions::default());
    /// let slot = limiter.acquire().await.unwrap();
    /// assert_eq!(limiter.running(), 1);
    /// # }
    /// ```
    pub async fn acquire(&self) -> Result<Slot, LimitError> {
        // The semaphore is fair: this takes no slot from one that waits.
        if let Ok(permit) = self.slots.clone().try_acquire_owned() {
            return Ok(Slot(permit));
        }
        let _place = Place::take(&self.waiting, self.options.queue)?;
        // Cancel-safe: dropped while waiting, the place and the turn are given up.
        match tokio::time::timeout(self.options.wait, self.slots.clone().acquire_owned()).await {
            Ok(Ok(permit)) => Ok(Slot(permit)),
            // The semaphore is never closed.
            Ok(Err(_)) | Err(_) => Err(LimitError::WaitedTooLong { after: self.options.wait }),
        }
    }

    /// How many run.
    ///
    /// ```
    /// # use cachetag_client::resilience::{Limiter, LimiterOptions};
    /// assert_eq!(Limiter::new(LimiterOptions::default()).running(), 0);
    /// ```
    pub fn running(&self) -> usize {
        self.options.concurrency.saturating_sub(self.slots.available_permits())
    }

    /// How many wait.
    ///
    /// ```
    /// # use cachetag_client::resilience::{Limiter, LimiterOptions};
    /// assert_eq!(Limiter::new(LimiterOptions::default()).waiting(), 0);
    /// ```
    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }
}

/// A place in the queue.
struct Place<'a>(&'a AtomicUsize);

impl<'a> Place<'a> {
    fn take(waiting: &'a AtomicUsize, queue: usize) -> Result<Place<'a>, LimitError> {
        let room = |waiting| (waiting < queue).then_some(waiting + 1);
        match waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, room) {
            Ok(_) => Ok(Place(waiting)),
            Err(_) => Err(LimitError::QueueFull { queue }),
        }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limiter(concurrency: usize, queue: usize) -> Limiter {
        Limiter::new(LimiterOptions { concurrency, queue, wait: Duration::from_secs(1) })
    }

    #[tokio::test(start_paused = true)]
    async fn never_more_than_the_limit_and_all_get_through() {
        let limiter = limiter(3, 1000);
        let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let tasks: Vec<_> = (0..100)
            .map(|_| {
                let (limiter, now, most) = (limiter.clone(), now.clone(), most.clone());
                tokio::spawn(async move {
                    let _slot = limiter.acquire().await.unwrap();
                    most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    now.fetch_sub(1, Ordering::SeqCst);
                })
            })
            .collect();
        for task in tasks {
            task.await.unwrap();
        }
        assert_eq!(most.load(Ordering::SeqCst), 3);
        assert_eq!((limiter.running(), limiter.waiting()), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn a_full_queue_refuses_at_once_and_a_long_wait_ends() {
        let limiter = limiter(1, 1);
        let slot = limiter.acquire().await.unwrap();
        let waiter = tokio::spawn({
            let limiter = limiter.clone();
            async move { limiter.acquire().await.map(drop) }
        });
        tokio::task::yield_now().await;
        assert_eq!(limiter.waiting(), 1);
        assert_eq!(limiter.acquire().await.unwrap_err(), LimitError::QueueFull { queue: 1 });
        assert_eq!(waiter.await.unwrap(), Err(LimitError::WaitedTooLong { after: Duration::from_secs(1) }));
        assert_eq!(limiter.waiting(), 0);
        drop(slot);
        assert!(limiter.acquire().await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_cancelled_waiter_leaves_the_queue() {
        let limiter = limiter(1, 1);
        let slot = limiter.acquire().await.unwrap();
        let waiter = tokio::spawn({
            let limiter = limiter.clone();
            async move { limiter.acquire().await.map(drop) }
        });
        tokio::task::yield_now().await;
        waiter.abort();
        assert!(waiter.await.unwrap_err().is_cancelled());
        assert_eq!(limiter.waiting(), 0);
        drop(slot);
        assert_eq!(limiter.running(), 0);
    }
}

//! Calls to Redis that are under way. They are sent in the order in which they were made and answered in that order, so an
//! advance may follow an apply without waiting for its reply: if the apply is refused, so is what continues from it.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;

use super::SinkError;

type Reply = Result<u64, SinkError>;

/// See the module's documentation. `T` says what a call was for.
pub struct Calls<T> {
    queue: VecDeque<Call<T>>,
}

struct Call<T> {
    what: T,
    future: Pin<Box<dyn Future<Output = Reply>>>,
    reply: Option<Reply>,
}

impl<T> Default for Calls<T> {
    fn default() -> Self {
        Calls { queue: VecDeque::new() }
    }
}

impl<T> Calls<T> {
    /// Puts a call behind those under way.
    pub fn push(&mut self, what: T, call: impl Future<Output = Reply> + 'static) {
        self.queue.push_back(Call { what, future: Box::pin(call), reply: None });
    }

    /// Is any call of this kind under way?
    pub fn any(&self, is: impl Fn(&T) -> bool) -> bool {
        self.queue.iter().any(|call| is(&call.what))
    }

    /// Is nothing under way?
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// The reply to the oldest call; waits for ever when there is none. Cancel-safe: a call leaves the queue only with its reply.
    pub async fn next(&mut self) -> (T, Reply) {
        poll_fn(|context| {
            // Every call is polled, oldest first, since the first poll of a call is what sends it.
            for call in &mut self.queue {
                if call.reply.is_none()
                    && let Poll::Ready(reply) = call.future.as_mut().poll(context)
                {
                    call.reply = Some(reply);
                }
            }
            match self.queue.pop_front() {
                Some(Call { what, reply: Some(reply), .. }) => Poll::Ready((what, reply)),
                Some(call) => {
                    self.queue.push_front(call);
                    Poll::Pending
                }
                None => Poll::Pending,
            }
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;
    use std::rc::Rc;

    #[tokio::test(flavor = "current_thread")]
    async fn calls_are_sent_and_answered_in_order() {
        let sent = Rc::new(RefCell::new(Vec::new()));
        let mut calls = Calls::default();
        for n in 0..3u64 {
            let sent = sent.clone();
            calls.push(n, async move {
                sent.borrow_mut().push(n);
                tokio::task::yield_now().await;
                Ok(n * 10)
            });
        }
        for n in 0..3 {
            let (what, reply) = calls.next().await;
            assert_eq!((what, reply.unwrap()), (n, n * 10));
        }
        assert_eq!(*sent.borrow(), [0, 1, 2]);
        assert!(calls.is_empty());
    }
}

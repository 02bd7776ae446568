//! Several statements on one connection in one round trip, in a known order.

use std::future::poll_fn;
use std::task::Poll;

/// Runs futures that each send a request when first polled: they are first polled in order, so that is the order on the wire.
///
/// After that only the first that is not done is polled: the answers come in the same order. (`join_all` promises neither.)
pub(crate) async fn pipelined<F: Future + Unpin>(mut futures: Vec<F>) -> Vec<F::Output> {
    let mut outputs: Vec<Option<F::Output>> = futures.iter().map(|_| None).collect();
    let mut first = true;
    let mut next = 0;
    poll_fn(|context| {
        if std::mem::take(&mut first) {
            for (future, output) in futures.iter_mut().zip(&mut outputs) {
                if let Poll::Ready(value) = std::pin::Pin::new(future).poll(context) {
                    *output = Some(value);
                }
            }
        }
        while next < futures.len() {
            if outputs[next].is_none() {
                match std::pin::Pin::new(&mut futures[next]).poll(context) {
                    Poll::Ready(value) => outputs[next] = Some(value),
                    Poll::Pending => return Poll::Pending,
                }
            }
            next += 1;
        }
        Poll::Ready(())
    })
    .await;
    outputs.into_iter().flatten().collect()
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;

    use super::*;

    #[tokio::test]
    async fn requests_are_sent_in_order_before_the_first_answer() {
        let sent = RefCell::new(Vec::new());
        let futures = (0..50).map(|i| {
            let sent = &sent;
            Box::pin(async move {
                sent.borrow_mut().push(i);
                tokio::task::yield_now().await;
                assert_eq!(sent.borrow().len(), 50);
                i
            })
        });
        let answers = pipelined(futures.collect()).await;
        assert_eq!(answers, (0..50).collect::<Vec<_>>());
        assert_eq!(*sent.borrow(), answers);
    }

    #[tokio::test]
    async fn nothing_is_done_at_once() {
        let none: Vec<std::future::Ready<()>> = Vec::new();
        assert!(pipelined(none).await.is_empty());
        assert_eq!(pipelined(vec![std::future::ready(1), std::future::ready(2)]).await, [1, 2]);
    }
}

//! Work for a stream of messages that takes milliseconds an item, done while the message before is on its way.
//!
//! Pull-based still: nothing is begun before the stream is polled, one item is made ahead of the one that was taken, and
//! dropping the stream stops the work. Each step is a task of its own, so that it goes on while nobody polls the stream.

use futures::{Stream, StreamExt, stream};
use tokio_util::task::AbortOnDropHandle;
use tonic::Status;

use crate::error::ServiceError;

/// The items of `steps`, each begun when the one before it is taken. A step that panics ends the stream with an error.
pub(super) fn one_ahead<T, S>(steps: S) -> impl Stream<Item = Result<T, Status>> + Send + 'static
where
    T: Send + 'static,
    S: Stream<Item = Result<T, Status>> + Send + Unpin + 'static,
{
    stream::once(std::future::ready(steps))
        .map(begin)
        .flat_map(|first| stream::unfold(Some(first), taken))
}

/// A step under way: its item, none at the end, and the stream for the next one.
type Step<T, S> = AbortOnDropHandle<(Option<Result<T, Status>>, S)>;

fn begin<T, S>(mut steps: S) -> Step<T, S>
where
    T: Send + 'static,
    S: Stream<Item = Result<T, Status>> + Send + Unpin + 'static,
{
    AbortOnDropHandle::new(tokio::spawn(async move {
        let item = steps.next().await;
        (item, steps)
    }))
}

async fn taken<T, S>(running: Option<Step<T, S>>) -> Option<(Result<T, Status>, Option<Step<T, S>>)>
where
    T: Send + 'static,
    S: Stream<Item = Result<T, Status>> + Send + Unpin + 'static,
{
    match running?.await {
        Ok((item, steps)) => item.map(|item| (item, Some(begin(steps)))),
        Err(error) => {
            let what = format!("a step of an answer ended early: {error}");
            Some((Err(ServiceError::Internal { what }.into()), None))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[tokio::test]
    async fn one_item_is_made_ahead_and_no_more() {
        let made = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&made);
        let steps = stream::iter(0..10).map(move |item| {
            counted.fetch_add(1, Ordering::SeqCst);
            Ok(item)
        });
        let mut ahead = Box::pin(one_ahead(steps));
        tokio::task::yield_now().await;
        assert_eq!(made.load(Ordering::SeqCst), 0, "nothing before it is polled");
        for taken in 0..4 {
            assert_eq!(ahead.next().await.unwrap().unwrap(), taken);
            for _ in 0..10 {
                tokio::task::yield_now().await;
            }
            assert_eq!(made.load(Ordering::SeqCst), taken + 2);
        }
        let rest: Vec<_> = ahead.map(Result::unwrap).collect().await;
        assert_eq!(rest, (4..10).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn a_panic_is_an_error_and_not_an_end() {
        let steps = stream::iter([1, 0]).map(|divisor| Ok(10 / divisor));
        let items: Vec<_> = one_ahead(steps).collect().await;
        assert_eq!(items.len(), 2);
        assert_eq!(items[1].as_ref().unwrap_err().code(), tonic::Code::Internal);
    }
}

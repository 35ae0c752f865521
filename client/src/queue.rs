//! What tasks make ahead, taken in its order.
//!
//! ```text
//! feeder   one task: takes place after place, as many ahead as there is room for; says at last that it is done
//! others   each makes what one place is for, several at once
//! next()   what the first place is for, once it is made
//! ```
//! A task that dies leaves a channel that ends, as one that is done does. So the end of a channel says nothing here: a queue is at
//! its end when its feeder's task has returned [`Done`], which [`Feeder::done`] alone gives. All else is [`Broken`], and stays so.
//!
//! Why here: the Python package makes its batches so, and its crate is linked to no interpreter, so that no test in Rust runs there.

use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_util::task::AbortOnDropHandle;

/// What is made ahead, first come first. Dropped, it ends its feeder.
#[derive(Debug)]
pub struct Queue<T> {
    places: mpsc::Receiver<oneshot::Receiver<T>>,
    /// The place that was waited for when the wait was broken off.
    first: Option<oneshot::Receiver<T>>,
    feeder: AbortOnDropHandle<Option<Done>>,
    /// How it came to its end, once it has.
    end: Option<Result<(), Broken>>,
}

/// Takes the places of a [`Queue`].
#[derive(Debug)]
pub struct Feeder<T>(mpsc::Sender<oneshot::Receiver<T>>);

/// The word of a [`Feeder`] that all places were taken.
#[derive(Debug)]
#[non_exhaustive]
pub struct Done;

/// Why a queue gives no more, though it is not at its end.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Broken {
    /// The feeder's task died, as these words say.
    #[error("the task that goes ahead died: {0}")]
    Feeder(String),
    /// The feeder's task returned before it was done.
    #[error("the task that goes ahead ended before it was done")]
    Early,
    /// A place was given up without a value, as a task that dies does it.
    #[error("a task that makes one of them died")]
    Place,
}

impl<T> Queue<T> {
    /// A queue with room for so many places, one at the least, which `feed` fills in a task that `spawn` starts.
    pub fn start<F>(
        room: usize,
        feed: impl FnOnce(Feeder<T>) -> F,
        spawn: impl FnOnce(F) -> JoinHandle<Option<Done>>,
    ) -> Self {
        let (sender, places) = mpsc::channel(room.clamp(1, Semaphore::MAX_PERMITS));
        Self {
            places,
            first: None,
            feeder: AbortOnDropHandle::new(spawn(feed(Feeder(sender)))),
            end: None,
        }
    }

    /// What the first place is for, once it is made; none at the end, and from then on. A wait that is broken off loses nothing.
    ///
    /// # Errors
    /// What died before the end; the same from then on.
    pub async fn next(&mut self) -> Result<Option<T>, Broken> {
        if let Some(end) = &self.end {
            return end.clone().map(|()| None);
        }
        let first = match &mut self.first {
            Some(first) => first,
            None => match self.places.recv().await {
                Some(place) => self.first.insert(place),
                None => {
                    let end = match (&mut self.feeder).await {
                        Ok(Some(Done)) => Ok(()),
                        Ok(None) => Err(Broken::Early),
                        Err(death) => Err(Broken::Feeder(death.to_string())),
                    };
                    return self.ended(end);
                }
            },
        };
        let made = first.await;
        self.first = None;
        match made {
            Ok(made) => Ok(Some(made)),
            Err(_) => self.ended(Err(Broken::Place)),
        }
    }

    fn ended(&mut self, end: Result<(), Broken>) -> Result<Option<T>, Broken> {
        self.end.insert(end).clone().map(|()| None)
    }
}

impl<T> Feeder<T> {
    /// The next place, once there is room for it; none where nobody takes from the queue any more. What it is for is sent there;
    /// a place that is dropped breaks the queue.
    pub async fn place(&self) -> Option<oneshot::Sender<T>> {
        let (place, made) = oneshot::channel();
        self.0.send(made).await.ok()?;
        Some(place)
    }

    /// Says that all places were taken.
    #[must_use]
    pub fn done(self) -> Done {
        Done
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    /// All that comes, and how it ends.
    async fn drained(queue: &mut Queue<usize>) -> (Vec<usize>, Result<(), Broken>) {
        let mut came = Vec::new();
        loop {
            match queue.next().await {
                Ok(Some(value)) => came.push(value),
                Ok(None) => return (came, Ok(())),
                Err(broken) => return (came, Err(broken)),
            }
        }
    }

    /// Takes so many places, and fills the last one first.
    async fn fill(feeder: &Feeder<usize>, count: usize) -> Option<()> {
        let mut places = Vec::new();
        for _ in 0..count {
            places.push(feeder.place().await?);
        }
        for (number, place) in places.into_iter().enumerate().rev() {
            place.send(number).ok()?;
        }
        Some(())
    }

    async fn done_after(feeder: Feeder<usize>, count: usize) -> Option<Done> {
        fill(&feeder, count).await?;
        Some(feeder.done())
    }

    async fn dead_after(feeder: Feeder<usize>, count: usize) -> Option<Done> {
        fill(&feeder, count).await?;
        panic!("place {count} breaks")
    }

    async fn away_after(feeder: Feeder<usize>, count: usize) -> Option<Done> {
        fill(&feeder, count).await?;
        None
    }

    #[tokio::test]
    async fn what_is_made_comes_in_order_and_then_the_end() {
        let mut queue = Queue::start(8, |feeder| done_after(feeder, 5), tokio::spawn);
        assert_eq!(drained(&mut queue).await, (vec![0, 1, 2, 3, 4], Ok(())));
        assert_eq!(queue.next().await, Ok(None), "from then on");
    }

    #[tokio::test]
    async fn there_is_room_for_one_and_for_as_many_as_one_may_say() {
        for (room, count) in [(0, 1), (usize::MAX, 50)] {
            let mut queue = Queue::start(room, |feeder| done_after(feeder, count), tokio::spawn);
            assert_eq!(drained(&mut queue).await, ((0..count).collect(), Ok(())));
        }
    }

    #[tokio::test]
    async fn a_feeder_that_dies_is_no_end() {
        let mut queue = Queue::start(8, |feeder| dead_after(feeder, 2), tokio::spawn);
        let (came, end) = drained(&mut queue).await;
        assert_eq!(came, [0, 1], "what it had begun");
        let broken = end.unwrap_err();
        assert!(broken.to_string().contains("place 2 breaks"), "{broken}");
        assert_eq!(queue.next().await, Err(broken), "from then on");
    }

    #[tokio::test]
    async fn a_feeder_that_is_ended_is_no_end() {
        let mut queue = Queue::start(1, |feeder| done_after(feeder, 2), tokio::spawn);
        queue.feeder.abort();
        let (came, end) = drained(&mut queue).await;
        assert!(came.is_empty(), "{came:?}");
        assert!(matches!(end, Err(Broken::Feeder(_))), "{end:?}");
    }

    #[tokio::test]
    async fn a_feeder_that_leaves_is_no_end() {
        let mut queue = Queue::start(8, |feeder| away_after(feeder, 2), tokio::spawn);
        assert_eq!(drained(&mut queue).await, (vec![0, 1], Err(Broken::Early)));
    }

    #[tokio::test]
    async fn what_comes_after_a_place_that_is_given_up_is_not_given() {
        async fn all_but_one(feeder: Feeder<usize>) -> Option<Done> {
            for number in 0..3 {
                let place = feeder.place().await?;
                if number != 1 {
                    place.send(number).ok()?;
                }
            }
            Some(feeder.done())
        }
        let mut queue = Queue::start(8, all_but_one, tokio::spawn);
        assert_eq!(drained(&mut queue).await, (vec![0], Err(Broken::Place)));
        assert_eq!(queue.next().await, Err(Broken::Place), "from then on");
    }

    #[tokio::test]
    async fn a_wait_that_is_broken_off_loses_nothing() {
        async fn when_told(feeder: Feeder<usize>, word: oneshot::Receiver<()>) -> Option<Done> {
            let place = feeder.place().await?;
            word.await.ok()?;
            place.send(7).ok()?;
            Some(feeder.done())
        }
        let (say, word) = oneshot::channel();
        let mut queue = Queue::start(1, |feeder| when_told(feeder, word), tokio::spawn);
        while queue.first.is_none() {
            assert!(queue.next().now_or_never().is_none());
            tokio::task::yield_now().await;
        }
        say.send(()).unwrap();
        assert_eq!(drained(&mut queue).await, (vec![7], Ok(())));
    }

    #[tokio::test]
    async fn a_queue_that_is_dropped_ends_its_feeder() {
        async fn for_ever(feeder: Feeder<usize>, _alive: oneshot::Sender<()>) -> Option<Done> {
            loop {
                feeder.place().await?.send(0).ok()?;
            }
        }
        let (alive, ended) = oneshot::channel();
        let mut queue = Queue::start(1, |feeder| for_ever(feeder, alive), tokio::spawn);
        assert_eq!(queue.next().await, Ok(Some(0)));
        drop(queue);
        assert!(ended.await.is_err());
    }
}

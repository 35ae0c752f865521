//! Batches made ahead, in Rust threads, and taken by Python one after another.
//!
//! ```text
//! runtime   produce: steps in order -> their clumps (fetch), waited for -> one job a step
//!           jobs: gather rows, make columns; several batches at once
//! queue     the jobs' results in the steps' order, as many as are made ahead
//! Python    next(): takes the first, with the interpreter's lock released while it waits
//! ```

use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};
use tokio_util::task::AbortOnDropHandle;

use super::column::{Handing, Named, columns};
use super::course::Course;
use super::engine::Engine;
use super::failure::Failure;
use super::fetch::{Scans, Window};
use super::gather::{Places, gather};
use super::request::Request;

/// A batch's columns, or why there are none.
type Made = Result<Vec<Named>, Failure>;

/// One reader's way through an epoch, under way.
#[derive(Debug)]
pub(super) struct Loader {
    engine: Arc<Engine>,
    queue: mpsc::Receiver<oneshot::Receiver<Made>>,
    /// The batch that was waited for when the wait was interrupted.
    waited_for: Option<oneshot::Receiver<Made>>,
    _producer: AbortOnDropHandle<()>,
}

impl Loader {
    /// Begins to read.
    ///
    /// # Errors
    /// What a course refuses; in words.
    pub(super) fn start(engine: &Arc<Engine>, request: Request) -> Result<Self, String> {
        let handing = request.handing()?;
        let course = Course::new(request.plan()?)?;
        let (results, queue) = mpsc::channel(request.ahead_batches.max(1));
        let scans = Arc::new(Scans {
            client: engine.client.clone(),
            request,
            course,
        });
        let producer = Producer {
            engine: Arc::clone(engine),
            scans,
            handing,
            results,
        };
        Ok(Self {
            _producer: AbortOnDropHandle::new(engine.spawn(producer.run())),
            engine: Arc::clone(engine),
            queue,
            waited_for: None,
        })
    }

    /// The next batch, none at the end; `look` is called while it waits, and ends the wait with an error, after which the same
    /// batch can be waited for again.
    ///
    /// # Errors
    /// Why the batch could not be made; what `look` says.
    pub(super) fn next<E: From<Failure>>(
        &mut self,
        mut look: impl FnMut() -> Result<(), E>,
    ) -> Result<Option<Vec<Named>>, E> {
        let Self {
            engine,
            queue,
            waited_for,
            ..
        } = self;
        let result = match waited_for {
            Some(result) => result,
            None => match engine.wait(&mut look, queue.recv())? {
                Some(result) => waited_for.insert(result),
                None => return Ok(None),
            },
        };
        let made = engine.wait(&mut look, result)?;
        *waited_for = None;
        let made = made.unwrap_or_else(|_| Err(Failure::defect("making a batch panicked")));
        Ok(Some(made?))
    }
}

struct Producer {
    engine: Arc<Engine>,
    scans: Arc<Scans>,
    handing: Handing,
    results: mpsc::Sender<oneshot::Receiver<Made>>,
}

impl Producer {
    async fn run(self) {
        let skip = self.scans.request.skip;
        let mut window = Window::new(Arc::clone(&self.scans), skip);
        let mut number = skip;
        while let Some(step) = self.scans.course.step(number) {
            let (sender, receiver) = oneshot::channel();
            // The place in the queue first: so many batches are ahead at most, and what they hold.
            let Ok(place) = self.results.reserve().await else {
                return;
            };
            place.send(receiver);
            match self.places(&mut window, step).await {
                Ok(places) => self.make(places, sender),
                Err(failure) => {
                    let _ = sender.send(Err(failure));
                    return;
                }
            }
            number += 1;
        }
    }

    /// The places of a step, with the clumps that have them.
    async fn places(&self, window: &mut Window, step: u64) -> Result<Vec<Places>, Failure> {
        let spans = self.scans.course.spans(step);
        let (Some(first), Some(last)) = (spans.first(), spans.last()) else {
            return Err(Failure::defect("a step has no rows"));
        };
        window.advance(first.clump, last.clump);
        let mut places = Vec::with_capacity(spans.len());
        for span in spans {
            places.push((window.get(span.clump).await?, span.places));
        }
        Ok(places)
    }

    fn make(&self, places: Vec<Places>, result: oneshot::Sender<Made>) {
        let mut handing = self.handing.clone();
        drop(self.engine.spawn(async move {
            let made = gather(&places)
                .map_err(|error| Failure::Value(error.to_string()))
                .and_then(|(batch, is_in_place)| {
                    handing.copies &= is_in_place;
                    columns(&batch, &handing).map_err(Failure::Value)
                });
            // Nobody waits for it any more where this fails.
            let _ = result.send(made);
        }));
    }
}

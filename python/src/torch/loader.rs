//! Batches made ahead, in Rust threads, and taken by Python one after another.
//!
//! ```text
//! runtime   produce: steps in order -> their clumps (fetch), waited for -> one job a step
//!           jobs: gather rows, make columns; several batches at once
//! queue     the jobs' results in the steps' order, as many as are made ahead (`jetbridge_client::queue`)
//! Python    next(): takes the first, with the interpreter's lock released while it waits (`reading`)
//! ```
//! An epoch is at its end when `produce` has come to the end of its steps and says so. If that dies, or a job does, there is a
//! batch less and no word of it: an error then, and not a shorter epoch.

use std::sync::Arc;

use jetbridge_client::queue::{Done, Feeder, Queue};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

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
    queue: Queue<Made>,
}

impl Loader {
    /// Begins to read.
    ///
    /// # Errors
    /// What a course refuses; in words.
    pub(super) fn start(engine: &Arc<Engine>, request: Request) -> Result<Self, String> {
        let handing = request.handing()?;
        let course = Course::new(request.plan()?)?;
        let room = request.ahead_batches;
        let scans = Arc::new(Scans {
            client: engine.client.clone(),
            request,
            course,
        });
        let produce = |feeder| {
            let producer = Producer {
                engine: Arc::clone(engine),
                scans,
                handing,
                feeder,
            };
            producer.run()
        };
        Ok(Self {
            queue: Queue::start(room, produce, |work| engine.spawn(work)),
            engine: Arc::clone(engine),
        })
    }

    /// The next batch, none at the end; `look` is called while it waits, and ends the wait with an error, after which the same
    /// batch can be waited for again.
    ///
    /// # Errors
    /// Why the batch could not be made; what died that makes batches; that `closed` was cancelled; what `look` says.
    pub(super) fn next<E: From<Failure>>(
        &mut self,
        closed: &CancellationToken,
        mut look: impl FnMut() -> Result<(), E>,
    ) -> Result<Option<Vec<Named>>, E> {
        let Self { engine, queue } = self;
        let next = async {
            tokio::select! {
                biased;
                () = closed.cancelled() => Err(Failure::Closed),
                made = queue.next() => {
                    made.map_err(|broken| Failure::defect(format!("batches that are made ahead: {broken}")))
                }
            }
        };
        let made = engine.wait(&mut look, next)??;
        Ok(made.transpose()?)
    }
}

struct Producer {
    engine: Arc<Engine>,
    scans: Arc<Scans>,
    handing: Handing,
    feeder: Feeder<Made>,
}

impl Producer {
    async fn run(self) -> Option<Done> {
        let skip = self.scans.request.skip;
        let mut window = Window::new(Arc::clone(&self.scans), skip);
        let mut number = skip;
        while let Some(step) = self.scans.course.step(number) {
            // The place in the queue first: so many batches are ahead at most, and what they hold.
            let result = self.feeder.place().await?;
            match self.places(&mut window, step).await {
                Ok(places) => self.make(places, result),
                Err(failure) => {
                    let _ = result.send(Err(failure));
                    return None;
                }
            }
            number += 1;
        }
        Some(self.feeder.done())
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

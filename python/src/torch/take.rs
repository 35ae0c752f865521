//! Rows by their numbers, for map-style datasets: the row groups that have them are read whole, and some are kept.
//!
//! Threads that need a row group at the same time wait for one read of it. That is a task of the runtime: it goes on whichever of
//! them waits, and ends when none of them does.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Weak};

use futures::future::{BoxFuture, Shared, ready};
use futures::{FutureExt, StreamExt, TryStreamExt, stream};
use jetbridge_client::fork::Mutex;
use tokio_util::task::AbortOnDropHandle;

use super::column::{Handing, Named, columns};
use super::course::Course;
use super::engine::Engine;
use super::failure::Failure;
use super::fetch::{Clump, Scans};
use super::gather::pick;
use super::request::Request;
use crate::fork::within;

/// Row groups that are read at once.
const READ_AT_ONCE: usize = 8;

/// Clumps with their numbers.
type Numbered = Vec<(usize, Clump)>;

/// A read of a clump under way, or what it came to.
type Reading = Shared<BoxFuture<'static, Result<Clump, Failure>>>;

/// Rows of a dataset, by their numbers.
#[derive(Debug)]
pub(super) struct Taker {
    engine: Arc<Engine>,
    scans: Arc<Scans>,
    handing: Handing,
    /// Locked to look at what is kept and to change it, and never while something is read: a signal's handler that asks for rows
    /// meanwhile would wait for itself.
    kept: Mutex<Kept>,
}

/// Row groups that were read lately.
#[derive(Debug)]
struct Kept {
    /// The last one that was used first.
    clumps: VecDeque<(usize, Clump)>,
    bytes: u64,
    limit_bytes: u64,
    /// What is read, for as long as a call holds it: until its clumps are kept, or it failed. The next one then begins anew.
    coming: HashMap<usize, Weak<Reading>>,
}

impl Taker {
    /// # Errors
    /// What a course refuses; in words.
    pub(super) fn new(engine: &Arc<Engine>, request: Request) -> Result<Self, String> {
        let handing = Handing {
            copies: false,
            ..request.handing()?
        };
        let course = Course::new(request.plan()?)?;
        Ok(Self {
            engine: Arc::clone(engine),
            handing,
            kept: Mutex::new(Kept {
                clumps: VecDeque::new(),
                bytes: 0,
                limit_bytes: request.ahead_bytes,
                coming: HashMap::new(),
            }),
            scans: Arc::new(Scans {
                client: engine.client.clone(),
                request,
                course,
            }),
        })
    }

    /// The rows of these numbers, in this order; `look` is called while they are read, and ends that with an error.
    ///
    /// # Errors
    /// A number that no row has; why the rows could not be read.
    pub(super) fn take<E: From<Failure>>(
        &self,
        numbers: &[u64],
        mut look: impl FnMut() -> Result<(), E>,
    ) -> Result<Vec<Named>, E> {
        let places = self.places(numbers)?;
        let mut missing: Vec<usize> = places.iter().map(|&(clump, _)| clump).collect();
        missing.sort_unstable();
        missing.dedup();
        let mut found = self.kept.lock().find(&missing);
        missing.retain(|clump| !found.contains_key(clump));
        let (read, readings) = self.engine.wait(&mut look, self.read(missing))??;
        found.extend(read.iter().map(|(number, clump)| (*number, Arc::clone(clump))));
        within(|| {
            let let_go = self.kept.lock().keep(&self.scans, read, &found);
            drop((let_go, readings));
        });
        Ok(self.make(&found, &places)?)
    }

    /// These clumps, and what keeps others from reading them once more until they are kept.
    async fn read(&self, missing: Vec<usize>) -> Result<(Numbered, Vec<Arc<Reading>>), Failure> {
        let read = stream::iter(missing).map(|number| async move {
            let reading = self.reading(number);
            let clump = Reading::clone(&reading).await?;
            Ok::<_, Failure>(((number, clump), reading))
        });
        let read: Vec<_> = read.buffer_unordered(READ_AT_ONCE).try_collect().await?;
        Ok(read.into_iter().unzip())
    }

    /// The read of a clump: another thread's, where one reads it or has it by now, or a new one.
    fn reading(&self, number: usize) -> Arc<Reading> {
        let mut kept = self.kept.lock();
        if let Some(clump) = kept.find(&[number]).remove(&number) {
            return Arc::new(ready(Ok(clump)).boxed().shared());
        }
        if let Some(reading) = kept.coming.get(&number).and_then(Weak::upgrade) {
            return reading;
        }
        let task = AbortOnDropHandle::new(self.engine.spawn(Arc::clone(&self.scans).read(number)));
        let read = async move {
            let read = task.await;
            read.unwrap_or_else(|death| Err(Failure::defect(format!("what reads a clump died: {death}"))))
        };
        let reading = Arc::new(read.boxed().shared());
        kept.coming.insert(number, Arc::downgrade(&reading));
        reading
    }

    /// The clump of each row, and its number in it.
    fn places(&self, numbers: &[u64]) -> Result<Vec<(usize, u64)>, Failure> {
        let order = &self.scans.course.order;
        let place = |&number: &u64| {
            let clump = order.clump_at(number);
            let found = order.clumps().get(clump);
            let found = found.ok_or_else(|| Failure::Value(format!("there is no row {number} of {}", order.rows())))?;
            Ok((clump, number - found.positions.start))
        };
        numbers.iter().map(place).collect()
    }

    fn make(&self, found: &HashMap<usize, Clump>, places: &[(usize, u64)]) -> Result<Vec<Named>, Failure> {
        let mut clumps: Vec<Clump> = Vec::new();
        let mut at: HashMap<usize, usize> = HashMap::new();
        for (&number, clump) in found {
            at.insert(number, clumps.len());
            clumps.push(Arc::clone(clump));
        }
        let rows: Vec<(usize, u64)> = places
            .iter()
            .filter_map(|(clump, row)| Some((*at.get(clump)?, *row)))
            .collect();
        let batch = pick(&clumps, &rows).map_err(|error| Failure::Value(error.to_string()))?;
        columns(&batch, &self.handing).map_err(Failure::Value)
    }
}

impl Kept {
    /// Those of these clumps that are kept.
    fn find(&self, needed: &[usize]) -> HashMap<usize, Clump> {
        let found = self.clumps.iter().filter(|(number, _)| needed.contains(number));
        found.map(|(number, clump)| (*number, Arc::clone(clump))).collect()
    }

    /// Keeps clumps that were read, as those that were `used` last; gives what there is no room for any more.
    fn keep(&mut self, scans: &Scans, read: Numbered, used: &HashMap<usize, Clump>) -> Numbered {
        for (number, clump) in read {
            // Another thread may have waited for the same read.
            if self.clumps.iter().all(|(kept, _)| *kept != number) {
                self.bytes += scans.bytes(number);
                self.clumps.push_back((number, clump));
            }
        }
        self.clumps
            .make_contiguous()
            .sort_by_key(|(number, _)| !used.contains_key(number));
        let mut let_go = Vec::new();
        while self.bytes > self.limit_bytes
            && let Some((number, clump)) = self.clumps.pop_back()
        {
            self.bytes -= scans.bytes(number);
            let_go.push((number, clump));
        }
        self.coming.retain(|_, reading| reading.strong_count() > 0);
        let_go
    }
}

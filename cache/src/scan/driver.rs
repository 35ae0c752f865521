//! Starts the units of a scan in order, as far ahead of the reader as the budget allows, and gives what they deliver.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use arrow::array::RecordBatch;
use futures::FutureExt;
use futures::future::{Either, ready};
use futures::stream::{self, BoxStream, StreamExt};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tokio_util::task::AbortOnDropHandle;

use super::charge::Memory;
use super::output::tidy;
use super::plan::{FilePlan, Shape};
use super::turn::{Ahead, ReaderAt, Turn};
use super::unit::{Delivery, UNIT_WINDOW_BATCHES, UNIT_WINDOW_BYTES, Unit, permits};
use super::work::Work;
use super::{Engine, Progress, ScanBatch, ScanRequest, Split};
use crate::budget::Purpose;
use crate::error::ReadError;
use crate::footer::Footer;
use crate::key::RowGroup;

/// Units that one scan may have begun, whatever their size: enough to hide the latency of storage from small files.
const UNITS_AHEAD: usize = 32;
/// The same where a limit may end the scan at any row.
const UNITS_AHEAD_LIMITED: usize = 2;
/// Files whose footers are read ahead.
const FOOTERS_AHEAD: usize = 16;
/// What a unit costs at least, so that many tiny ones are bounded too, in bytes.
const UNIT_COST_FLOOR_BYTES: u64 = 64 << 10;

/// Reads what was asked for. Nothing happens before the stream is polled, and everything stops when it is dropped.
pub(crate) fn scan(engine: Arc<Engine>, request: ScanRequest) -> BoxStream<'static, Result<ScanBatch, ReadError>> {
    let (limit, skip) = (request.limit, request.skip);
    let start = async move {
        let open = OpenScan::count(&engine);
        let ahead = match &request.sieve {
            _ if limit.is_some() && request.filter.is_some() => UNITS_AHEAD_LIMITED,
            Some(sieve) if sieve.tightens() => UNITS_AHEAD_LIMITED.max(engine.pool.threads()),
            _ => UNITS_AHEAD,
        };
        let (begun, units) = mpsc::channel(ahead);
        let reader_at = ReaderAt::new(0);
        let driver = Work::begin_here(drive(engine, request, (begun, reader_at.subscribe())));
        Answer {
            units,
            taken: 0,
            reader_at,
            current: None,
            skip,
            left: limit,
            driver,
            _open: open,
        }
    };
    stream::once(start)
        .flat_map(|answer| stream::unfold(answer, Answer::next))
        .boxed()
}

/// A unit that was begun: what it delivers, its share of the scan's room and of the budget, and its task.
struct Begun {
    /// Its place among the row groups of the request.
    position: usize,
    /// Rows of the answer that it delivered so far.
    rows: u64,
    deliveries: mpsc::Receiver<Delivery>,
    _share: OwnedSemaphorePermit,
    memory: Arc<Memory>,
    work: Work,
}

impl Drop for Begun {
    fn drop(&mut self) {
        self.memory.end();
    }
}

/// The reader's end of a scan.
struct Answer {
    units: mpsc::Receiver<Result<Begun, ReadError>>,
    /// How many of them came.
    taken: usize,
    reader_at: ReaderAt,
    current: Option<Begun>,
    /// Rows still to leave out, of the first unit's.
    skip: u64,
    /// Rows still to give; no bound where none.
    left: Option<u64>,
    driver: Work,
    _open: OpenScan,
}

/// One of the scans that are being read, of batches or of stored bytes.
pub(crate) struct OpenScan(Arc<Engine>);

impl OpenScan {
    /// Counts one more, until it is dropped.
    pub(crate) fn count(engine: &Arc<Engine>) -> Self {
        engine.open_scans.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(engine))
    }
}

impl Drop for OpenScan {
    fn drop(&mut self) {
        self.0.open_scans.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Answer {
    async fn next(mut self) -> Option<(Result<ScanBatch, ReadError>, Self)> {
        if self.left == Some(0) {
            return None;
        }
        loop {
            let Some(unit) = &mut self.current else {
                match self.units.recv().await {
                    Some(Ok(begun)) => {
                        self.current = Some(begun);
                        self.reader_at.send_replace(self.taken);
                        self.taken += 1;
                    }
                    Some(Err(error)) => return Some((Err(error), self.ended())),
                    None => {
                        let ended = self.driver.outcome().await;
                        return ended.err().map(|error| (Err(error), self.ended()));
                    }
                }
                continue;
            };
            match unit.deliveries.recv().await {
                Some(Ok(mut batch)) => {
                    let rows = rows_in(&batch.batch);
                    unit.rows += rows;
                    batch.progress = Progress {
                        row_groups: unit.position,
                        rows: unit.rows,
                    };
                    if rows <= self.skip {
                        self.skip -= rows;
                        continue;
                    }
                    let batch = self.cut(batch);
                    return Some((batch, self));
                }
                Some(Err(error)) => return Some((Err(error), self.ended())),
                None => {
                    let mut ended = unit.work.outcome().await;
                    if self.skip > 0 {
                        let fewer = || ReadError::internal("a row group gave fewer rows than it did before");
                        ended = ended.and_then(|()| Err(fewer()));
                    }
                    if let Err(error) = ended {
                        return Some((Err(error), self.ended()));
                    }
                    self.current = None;
                }
            }
        }
    }

    /// Nothing follows an error.
    fn ended(mut self) -> Self {
        self.left = Some(0);
        self
    }

    /// What of a batch is to be given, by the rows to skip and the rows that are left.
    fn cut(&mut self, mut given: ScanBatch) -> Result<ScanBatch, ReadError> {
        let rows = rows_in(&given.batch);
        let from = std::mem::take(&mut self.skip);
        let wanted = self.left.map_or(rows - from, |left| left.min(rows - from));
        self.left = self.left.map(|left| left - wanted);
        if wanted < rows {
            given.batch = part(&given.batch, from, wanted)?;
            given.progress.rows -= rows - from - wanted;
        }
        Ok(given)
    }
}

fn rows_in(batch: &RecordBatch) -> u64 {
    u64::try_from(batch.num_rows()).unwrap_or(u64::MAX)
}

fn part(batch: &RecordBatch, from: u64, rows: u64) -> Result<RecordBatch, ReadError> {
    let out_of_range = |_| ReadError::internal("a limit is out of range");
    let (from, rows) = (
        usize::try_from(from).map_err(out_of_range)?,
        usize::try_from(rows).map_err(out_of_range)?,
    );
    tidy(&batch.slice(from, rows)).map_err(|error| ReadError::internal(error.to_string()))
}

async fn drive(
    engine: Arc<Engine>,
    request: ScanRequest,
    (begun, reader_at): (mpsc::Sender<Result<Begun, ReadError>>, watch::Receiver<usize>),
) {
    if let Err(error) = begin_all(engine, request, (&begun, reader_at)).await {
        // The reader has gone where this fails, and nobody is left to be told.
        let _ = begun.send(Err(error)).await;
    }
}

async fn begin_all(
    engine: Arc<Engine>,
    request: ScanRequest,
    (begun, reader_at): (&mpsc::Sender<Result<Begun, ReadError>>, watch::Receiver<usize>),
) -> Result<(), ReadError> {
    let shape = Arc::new(Shape::new(&request)?);
    let row_groups: usize = request.splits.iter().map(|split| split.row_groups.len()).sum();
    let ahead_bytes = engine.ahead_bytes();
    let mut starter = Starter {
        budget: Arc::new(Semaphore::new(
            usize::try_from(permits(ahead_bytes)).unwrap_or(usize::MAX),
        )),
        ahead_bytes,
        // With fewer row groups than threads, the columns of each are decoded side by side.
        parts: engine.pool.threads().div_ceil(row_groups.max(1)),
        engine: Arc::clone(&engine),
        begun,
        units: 0,
        ahead: request.ahead,
        reader_at,
    };
    // Rows that are certainly given limit what is begun; how many a filter keeps is known only by reading.
    let whole = |limit: u64| limit.saturating_add(request.skip);
    let mut left = if request.filter.is_none() {
        request.limit.map(whole)
    } else {
        None
    };
    let mut position = 0;
    let footers = stream::iter(request.splits).map(|split| footer_of(Arc::clone(&engine), split));
    let sieve = request.sieve;
    let mut splits = 0..;
    let mut footers = std::pin::pin!(footers.buffered(FOOTERS_AHEAD));
    while left != Some(0)
        && let Some(opened) = footers.next().await
    {
        let (split, footer) = opened?;
        let at = splits.next().unwrap_or_default();
        let row_groups = split.row_groups.clone();
        let plan = Arc::new(FilePlan::new(footer, split, Arc::clone(&shape)));
        for row_group in row_groups {
            let rows = rows_of(&plan, row_group)?;
            if sieve.as_ref().is_some_and(|sieve| !sieve.wants(at, row_group)) {
                position += 1;
                continue;
            }
            let wanted = left.map_or(rows, |left| left.min(rows));
            if wanted > 0 && !starter.begin(&plan, row_group, (position, wanted)).await? {
                return Ok(());
            }
            position += 1;
            left = left.map(|left| left - wanted);
        }
    }
    Ok(())
}

/// A split with its footer, which is on its way from now on, whoever waits for it. A task of its own reads one that is not at
/// hand: others may wait for the same footer, and the scan looks at those ahead of it only as fast as its reader takes rows.
fn footer_of(
    engine: Arc<Engine>,
    split: Split,
) -> impl Future<Output = Result<(Split, Arc<Footer>), ReadError>> + Send + 'static {
    let at_hand = engine.footer_at_hand(&split.file).now_or_never().flatten();
    let Some(footer) = at_hand else {
        let read = async move { engine.footer(&split.file).await.map(|footer| (split, footer)) };
        let read = AbortOnDropHandle::new(tokio::spawn(read));
        let read = read.map(|end| end.unwrap_or_else(|death| Err(ReadError::internal(death.to_string()))));
        return Either::Left(read);
    };
    Either::Right(ready(Ok((split, footer))))
}

fn rows_of(plan: &FilePlan, row_group: RowGroup) -> Result<u64, ReadError> {
    let group = usize::try_from(row_group.0).ok().and_then(|index| plan.group(index));
    let missing = || ReadError::corrupt(&plan.split.path, Some(row_group.0), "the file has no such row group");
    group.map(|group| group.rows).ok_or_else(missing)
}

struct Starter<'a> {
    engine: Arc<Engine>,
    budget: Arc<Semaphore>,
    /// Bytes that the scan may hold ahead of its reader, which `budget` has as permits.
    ahead_bytes: u64,
    parts: usize,
    begun: &'a mpsc::Sender<Result<Begun, ReadError>>,
    /// How many were begun.
    units: usize,
    ahead: Ahead,
    reader_at: watch::Receiver<usize>,
}

impl Starter<'_> {
    /// Begins a unit as soon as the budget has its share; false once the reader has gone.
    async fn begin(
        &mut self,
        plan: &Arc<FilePlan>,
        row_group: RowGroup,
        (position, rows): (usize, u64),
    ) -> Result<bool, ReadError> {
        let rows = usize::try_from(rows).map_err(|_| ReadError::internal("more rows than this machine can count"))?;
        let (engine, plan) = (Arc::clone(&self.engine), Arc::clone(plan));
        let window_bytes = (self.ahead_bytes / 2).clamp(1, UNIT_WINDOW_BYTES);
        let unit = Unit {
            engine,
            plan,
            row_group,
            rows,
            parts: self.parts,
            window_bytes,
            ready_bytes: self.ahead.ready_bytes(window_bytes),
            turn: Turn::new(self.units, self.ahead, self.reader_at.clone()),
        };
        self.units += 1;
        let footprint = unit.footprint_bytes().max(UNIT_COST_FLOOR_BYTES);
        let share = Arc::clone(&self.budget)
            .acquire_many_owned(permits(footprint.min(self.ahead_bytes)))
            .await;
        let share = share.map_err(|_| ReadError::internal("a scan's budget was closed"))?;
        let cost = unit.cost_bytes().max(UNIT_COST_FLOOR_BYTES);
        let memory = self.engine.budget.reserve(cost, Purpose::Scans).await;
        let memory = memory.map_err(|source| ReadError::Budget {
            path: unit.plan.split.path.clone(),
            row_group: Some(row_group.0),
            source,
        })?;
        let memory = Memory::new(memory);
        let (out, deliveries) = mpsc::channel(UNIT_WINDOW_BATCHES);
        // The first one alone: its reader waits for that, and the others can be put together while it is sent.
        let is_at_hand = self.units == 1 && unit.is_at_hand();
        let run = unit.run(Arc::clone(&memory), out);
        let work = if is_at_hand {
            Work::begin_here(run)
        } else {
            Work::begin(run)
        };
        Ok(self
            .begun
            .send(Ok(Begun {
                position,
                rows: 0,
                deliveries,
                _share: share,
                memory,
                work,
            }))
            .await
            .is_ok())
    }
}

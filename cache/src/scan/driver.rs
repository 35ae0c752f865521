//! Starts the units of a scan in order, as far ahead of the reader as the budget allows, and gives what they deliver.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use arrow::array::RecordBatch;
use futures::stream::{self, BoxStream, StreamExt};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinHandle;

use super::output::tidy;
use super::plan::{FilePlan, Shape};
use super::unit::{Delivery, Memory, UNIT_WINDOW_BATCHES, UNIT_WINDOW_BYTES, Unit, permits};
use super::{Engine, ScanBatch, ScanRequest, Split};
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
    let limit = request.limit;
    let start = async move {
        let open = OpenScan::count(&engine);
        let ahead = if limit.is_some() && request.filter.is_some() {
            UNITS_AHEAD_LIMITED
        } else {
            UNITS_AHEAD
        };
        let (begun, units) = mpsc::channel(ahead);
        let driver = AbortOnDrop(tokio::spawn(drive(engine, request, begun)));
        Answer {
            units,
            current: None,
            left: limit,
            _driver: driver,
            _open: open,
        }
    };
    stream::once(start)
        .flat_map(|answer| stream::unfold(answer, Answer::next))
        .boxed()
}

/// A unit that was begun: what it delivers, its share of the scan's room and of the budget, and its task.
struct Begun {
    deliveries: mpsc::Receiver<Delivery>,
    _share: OwnedSemaphorePermit,
    _memory: Memory,
    _task: AbortOnDrop,
}

struct AbortOnDrop(JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The reader's end of a scan.
struct Answer {
    units: mpsc::Receiver<Result<Begun, ReadError>>,
    current: Option<Begun>,
    /// Rows still to give; no bound where none.
    left: Option<u64>,
    _driver: AbortOnDrop,
    _open: OpenScan,
}

/// One of the scans that are being read.
struct OpenScan(Arc<Engine>);

impl OpenScan {
    fn count(engine: &Arc<Engine>) -> Self {
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
                match self.units.recv().await? {
                    Ok(begun) => self.current = Some(begun),
                    Err(error) => return Some((Err(error), self.ended())),
                }
                continue;
            };
            match unit.deliveries.recv().await {
                Some(Ok(batch)) => {
                    let batch = self.cut(batch);
                    return Some((batch, self));
                }
                Some(Err(error)) => return Some((Err(error), self.ended())),
                None => self.current = None,
            }
        }
    }

    /// Nothing follows an error.
    fn ended(mut self) -> Self {
        self.left = Some(0);
        self
    }

    fn cut(&mut self, given: ScanBatch) -> Result<ScanBatch, ReadError> {
        let Some(left) = self.left else { return Ok(given) };
        let rows = u64::try_from(given.batch.num_rows()).unwrap_or(u64::MAX);
        self.left = Some(left.saturating_sub(rows));
        let batch = if rows > left {
            head(&given.batch, left)?
        } else {
            given.batch.clone()
        };
        Ok(ScanBatch { batch, ..given })
    }
}

fn head(batch: &RecordBatch, rows: u64) -> Result<RecordBatch, ReadError> {
    let rows = usize::try_from(rows).map_err(|_| ReadError::internal("a limit is out of range"))?;
    tidy(&batch.slice(0, rows)).map_err(|error| ReadError::internal(error.to_string()))
}

async fn drive(engine: Arc<Engine>, request: ScanRequest, begun: mpsc::Sender<Result<Begun, ReadError>>) {
    if let Err(error) = begin_all(engine, request, &begun).await {
        // The reader has gone where this fails, and nobody is left to be told.
        let _ = begun.send(Err(error)).await;
    }
}

async fn begin_all(
    engine: Arc<Engine>,
    request: ScanRequest,
    begun: &mpsc::Sender<Result<Begun, ReadError>>,
) -> Result<(), ReadError> {
    let shape = Arc::new(Shape::new(&request)?);
    let row_groups: usize = request.splits.iter().map(|split| split.row_groups.len()).sum();
    let ahead_bytes = engine.ahead_bytes();
    let starter = Starter {
        budget: Arc::new(Semaphore::new(
            usize::try_from(permits(ahead_bytes)).unwrap_or(usize::MAX),
        )),
        ahead_bytes,
        // With fewer row groups than threads, the columns of each are decoded side by side.
        parts: engine.pool.threads().div_ceil(row_groups.max(1)),
        engine: Arc::clone(&engine),
        begun,
    };
    // Rows that are certainly given limit what is begun; how many a filter keeps is known only by reading.
    let mut left = if request.filter.is_none() { request.limit } else { None };
    let footers = stream::iter(request.splits).map(|split| footer_of(Arc::clone(&engine), split));
    let mut footers = std::pin::pin!(footers.buffered(FOOTERS_AHEAD));
    while left != Some(0)
        && let Some(opened) = footers.next().await
    {
        let (split, footer) = opened?;
        let row_groups = split.row_groups.clone();
        let plan = Arc::new(FilePlan::new(footer, split, Arc::clone(&shape)));
        for row_group in row_groups {
            let rows = rows_of(&plan, row_group)?;
            let wanted = left.map_or(rows, |left| left.min(rows));
            if wanted > 0 && !starter.begin(&plan, row_group, wanted).await? {
                return Ok(());
            }
            left = left.map(|left| left - wanted);
        }
    }
    Ok(())
}

async fn footer_of(engine: Arc<Engine>, split: Split) -> Result<(Split, Arc<Footer>), ReadError> {
    let footer = engine.footer(&split.file).await?;
    Ok((split, footer))
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
}

impl Starter<'_> {
    /// Begins a unit as soon as the budget has its share; false once the reader has gone.
    async fn begin(&self, plan: &Arc<FilePlan>, row_group: RowGroup, rows: u64) -> Result<bool, ReadError> {
        let rows = usize::try_from(rows).map_err(|_| ReadError::internal("more rows than this machine can count"))?;
        let (engine, plan) = (Arc::clone(&self.engine), Arc::clone(plan));
        let unit = Unit {
            engine,
            plan,
            row_group,
            rows,
            parts: self.parts,
            window_bytes: (self.ahead_bytes / 2).clamp(1, UNIT_WINDOW_BYTES),
        };
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
        let memory = Arc::new(Mutex::new(memory));
        let (out, deliveries) = mpsc::channel(UNIT_WINDOW_BATCHES);
        let task = AbortOnDrop(tokio::spawn(unit.run(Arc::clone(&memory), out)));
        Ok(self
            .begun
            .send(Ok(Begun {
                deliveries,
                _share: share,
                _memory: memory,
                _task: task,
            }))
            .await
            .is_ok())
    }
}

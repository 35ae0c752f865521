//! Clumps on their way: each is one scan of its units, begun before it is needed.
//!
//! The scans name their row groups in the order of the epoch (`"parts"`), and the next clump's is planned and begun while the
//! one before it is read, so that the server sees what comes next and reads ahead for it.

use std::collections::VecDeque;
use std::sync::Arc;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use futures::TryStreamExt;
use jetbridge_client::{Client, ReadOptions, Scan};
use serde_json::{Value, json};
use tokio_util::task::AbortOnDropHandle;

use super::course::{Ahead, Course};
use super::failure::Failure;
use super::gather::{ClumpRows, to_u64};
use super::request::Request;

/// Clumps that are held or on their way in any case: the one that is read, and the next.
const LEAST_CLUMPS: usize = 2;

/// The scans of an epoch.
#[derive(Debug)]
pub(super) struct Scans {
    pub(super) client: Client,
    pub(super) request: Request,
    pub(super) course: Course,
}

/// A clump that has come.
pub(super) type Clump = Arc<ClumpRows>;

/// The clumps that are held or on their way, in the order in which they are needed.
#[derive(Debug)]
pub(super) struct Window {
    scans: Arc<Scans>,
    ahead: Ahead,
    held: VecDeque<Held>,
}

#[derive(Debug)]
struct Held {
    clump: usize,
    bytes: u64,
    state: State,
}

#[derive(Debug)]
enum State {
    Coming(AbortOnDropHandle<Result<Clump, Failure>>),
    Here(Clump),
}

impl Window {
    /// The clumps that a reader needs which has made so many of its steps.
    pub(super) fn new(scans: Arc<Scans>, skip: u64) -> Self {
        Self {
            scans,
            ahead: Ahead::from(skip),
            held: VecDeque::new(),
        }
    }

    /// Lets go of the clumps before `first`, and begins those up to `last`, and more that there is room for.
    pub(super) fn advance(&mut self, first: usize, last: usize) {
        while self.held.front().is_some_and(|held| held.clump < first) {
            self.held.pop_front();
        }
        let mut bytes: u64 = self.held.iter().map(|held| held.bytes).sum();
        while self.held.len() < LEAST_CLUMPS
            || bytes < self.scans.request.ahead_bytes
            || self.held.back().is_some_and(|held| held.clump < last)
        {
            let Some(clump) = self.ahead.next(&self.scans.course) else {
                return;
            };
            let held = self.begin(clump);
            bytes += held.bytes;
            self.held.push_back(held);
        }
    }

    /// A clump, once it is there.
    pub(super) async fn get(&mut self, clump: usize) -> Result<Clump, Failure> {
        let held = self.held.iter_mut().find(|held| held.clump == clump);
        let Some(held) = held else {
            return Err(Failure::defect("a clump is needed that was not begun"));
        };
        if let State::Coming(task) = &mut held.state {
            let clump = task
                .await
                .map_err(|death| Failure::defect(format!("what reads a clump died: {death}")))??;
            held.state = State::Here(clump);
        }
        match &held.state {
            State::Here(clump) => Ok(Arc::clone(clump)),
            State::Coming(_) => Err(Failure::defect("a clump that was waited for is not there")),
        }
    }

    fn begin(&self, clump: usize) -> Held {
        let scans = Arc::clone(&self.scans);
        Held {
            clump,
            bytes: scans.bytes(clump),
            state: State::Coming(AbortOnDropHandle::new(tokio::spawn(scans.read(clump)))),
        }
    }
}

impl Scans {
    /// Decoded bytes of a clump, about.
    pub(super) fn bytes(&self, clump: usize) -> u64 {
        let bytes = self.units(clump).map(|&(_, _, _, bytes)| bytes);
        bytes.fold(0, u64::saturating_add)
    }

    fn units(&self, clump: usize) -> impl Iterator<Item = &(u32, u32, u64, u64)> {
        let units = self
            .course
            .order
            .clumps()
            .get(clump)
            .map_or(&[][..], |clump| clump.units.as_slice());
        units
            .iter()
            .filter_map(|&unit| self.request.units.get(usize::try_from(unit).ok()?))
    }

    /// The scan that reads a clump.
    fn scan(&self, clump: usize) -> Scan {
        let mut parts: Vec<(&str, Vec<u32>)> = Vec::new();
        for &(file, row_group, _, _) in self.units(clump) {
            let file = usize::try_from(file).ok().and_then(|file| self.request.files.get(file));
            let file = file.map_or("", String::as_str);
            match parts.last_mut() {
                Some((last, groups)) if *last == file => groups.push(row_group),
                _ => parts.push((file, vec![row_group])),
            }
        }
        let scan = &self.request.scan;
        let mut asked = Scan {
            columns: scan.columns.clone(),
            filter: scan.filter.clone(),
            ordered: true,
            ..Scan::of(scan.path.clone())
        };
        asked.extra.extend([
            ("parts".to_owned(), json!(parts)),
            ("snapshot".to_owned(), Value::from(scan.snapshot.clone())),
            // Another epoch, as a rule.
            ("reread".to_owned(), Value::from(true)),
        ]);
        asked
    }

    /// Reads a clump.
    pub(super) async fn read(self: Arc<Self>, clump: usize) -> Result<Clump, Failure> {
        let order = Arc::clone(&self);
        // Milliseconds for a million rows, while the rows come.
        let order = tokio::spawn(async move { order.course.order.row_order(clump) });
        let (schema, pieces) = self.pieces(clump).await?;
        let order = order.await;
        let order = order.map_err(|death| Failure::defect(format!("what orders a clump died: {death}")))?;
        let rows = ClumpRows::new(schema, pieces, order).map_err(|error| Failure::Value(error.to_string()))?;
        Ok(Arc::new(rows))
    }

    /// The rows of a clump as they come.
    async fn pieces(&self, clump: usize) -> Result<(SchemaRef, Vec<RecordBatch>), Failure> {
        let plan = self.client.plan(&self.scan(clump)).await?;
        let schema = Arc::clone(&plan.schema);
        let options = ReadOptions {
            ordered: true,
            ..ReadOptions::default()
        };
        let pieces = self.client.read(&plan, options).map_ok(|piece| piece.batch);
        let pieces: Vec<RecordBatch> = pieces.try_collect().await?;
        let positions = self
            .course
            .order
            .clumps()
            .get(clump)
            .map(|clump| clump.positions.clone());
        let expected = positions.map_or(0, |positions| positions.end - positions.start);
        let found: u64 = pieces.iter().map(|piece| to_u64(piece.num_rows())).sum();
        if found != expected {
            return Err(Failure::Changed(format!(
                "{found} rows came where {expected} were counted: the data changed while it was read, or the filter does not \
                 always pass the same rows"
            )));
        }
        Ok((schema, pieces))
    }
}

//! Cutting the row groups of a scan into runs, one an endpoint.

use arrow::datatypes::Schema;
use jetbridge_cache::RowGroupInfo;

use super::Kept;
use crate::dataset::{DataFile, Dataset, FileSummary};

/// Most files that one run names, so that a ticket of many small files stays under 100 KiB.
pub(crate) const MAX_RUN_FILES: usize = 512;

/// What one endpoint reads.
#[derive(Debug, Default)]
pub struct Run {
    /// Files in reading order; empty only in the single run of an empty answer.
    pub files: Vec<RunFile>,
    /// Rows that will be read; of the answer where there is no filter.
    pub rows: u64,
    /// Decoded bytes of the columns read, as estimated from the footers.
    pub bytes: u64,
    /// Rows after which the endpoint stops.
    pub limit: Option<u64>,
}

/// Row groups of one file within a run.
#[derive(Debug)]
pub struct RunFile {
    /// Position in the dataset's files.
    pub file: usize,
    /// Its row groups, ascending.
    pub row_groups: Vec<u32>,
}

/// How to cut.
#[derive(Debug)]
pub(super) struct Cut {
    /// A run is closed before it would read more decoded bytes than this; one row group may be larger by itself.
    pub(super) run_bytes: u64,
    /// Rows of the answer at most.
    pub(super) limit: Option<u64>,
    /// Whether rows are dropped while reading.
    pub(super) filtered: bool,
}

/// Cuts `kept` into runs.
pub(super) fn cut(dataset: &Dataset, read: &Schema, kept: Vec<Kept>, how: &Cut) -> Vec<Run> {
    // Only one reader can count the rows that pass a filter.
    let one_run = how.filtered && how.limit.is_some();
    let mut cutter = Cutter {
        runs: Vec::new(),
        open: Run::default(),
        left: how.limit.filter(|_| !how.filtered),
    };
    for kept in &kept {
        let columns = read_columns(&dataset.files[kept.file], read);
        for (group, info) in row_groups(dataset, kept) {
            if cutter.left == Some(0) {
                break;
            }
            let bytes = columns
                .iter()
                .filter_map(|&column| info.decoded_bytes.get(column))
                .sum();
            if !one_run && cutter.is_full(kept.file, bytes, how.run_bytes) {
                cutter.close();
            }
            cutter.take(kept.file, group, info.rows, bytes);
        }
    }
    let mut runs = cutter.finish();
    if one_run && let Some(run) = runs.first_mut() {
        run.limit = how.limit;
    }
    runs
}

/// The row groups that `kept` names, with what the footer says of them.
pub(super) fn row_groups<'a>(dataset: &'a Dataset, kept: &'a Kept) -> impl Iterator<Item = (u32, &'a RowGroupInfo)> {
    let infos: &[RowGroupInfo] = match &dataset.files[kept.file].summary {
        Ok(FileSummary { row_groups, .. }) => row_groups,
        Err(_) => &[],
    };
    kept.row_groups
        .iter()
        .filter_map(move |&group| Some((group, infos.get(usize::try_from(group).ok()?)?)))
}

/// Positions of the file's own columns that a scan reads.
fn read_columns(file: &DataFile, read: &Schema) -> Vec<usize> {
    let Ok(summary) = &file.summary else { return Vec::new() };
    read.fields()
        .iter()
        .filter_map(|field| summary.schema.index_of(field.name()).ok())
        .collect()
}

struct Cutter {
    runs: Vec<Run>,
    open: Run,
    /// Rows that the limit still allows.
    left: Option<u64>,
}

impl Cutter {
    fn is_full(&self, file: usize, bytes: u64, run_bytes: u64) -> bool {
        let another_file = self.open.files.last().is_some_and(|last| last.file != file);
        !self.open.files.is_empty()
            && (self.open.bytes.saturating_add(bytes) > run_bytes
                || (another_file && self.open.files.len() >= MAX_RUN_FILES))
    }

    fn take(&mut self, file: usize, group: u32, rows: u64, bytes: u64) {
        let taken = self.left.map_or(rows, |left| left.min(rows));
        if let Some(left) = &mut self.left {
            *left -= taken;
        }
        if taken < rows {
            self.open.limit = Some(self.open.rows + taken);
        }
        self.open.rows += taken;
        self.open.bytes = self.open.bytes.saturating_add(bytes);
        match self.open.files.last_mut() {
            Some(last) if last.file == file => last.row_groups.push(group),
            _ => self.open.files.push(RunFile {
                file,
                row_groups: vec![group],
            }),
        }
    }

    fn close(&mut self) {
        self.runs.push(std::mem::take(&mut self.open));
    }

    fn finish(mut self) -> Vec<Run> {
        if !self.open.files.is_empty() || self.runs.is_empty() {
            self.close();
        }
        self.runs
    }
}

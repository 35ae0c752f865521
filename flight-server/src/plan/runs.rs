//! Cutting the row groups of a scan into runs, one an endpoint.

use arrow::datatypes::Schema;
use jetbridge_cache::RowGroupInfo;
use jetbridge_cache::schema::Positions;
use jetbridge_catalog::placement::SplitKey;

use super::placed::Found;
use super::{Kept, Lineage, Owners};
use crate::dataset::{DataFile, Dataset, FileSummary};

/// Most files that one run names, so that a ticket of many small files stays under 100 KiB.
pub(crate) const MAX_RUN_FILES: usize = 512;

/// Most earlier owners that one run names.
const MAX_FORMER_OWNERS: usize = 3;

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
    /// Who owns its splits; of a run that only one reader can make, whoever owns the first.
    pub owners: Owners,
    /// Its first split; none of an answer without rows.
    pub split: Option<SplitKey>,
    /// All its splits, in reading order.
    pub splits: Vec<SplitKey>,
    /// Ids of others who owned some of it under earlier epochs, the latest first; a few.
    pub former: Vec<String>,
}

impl Run {
    /// Adds the row groups of another run of the same owners.
    pub fn absorb(&mut self, other: Self) {
        for file in other.files {
            match self.files.last_mut().filter(|last| last.file == file.file) {
                Some(last) => last.row_groups.extend(file.row_groups),
                None => self.files.push(file),
            }
        }
        self.rows += other.rows;
        self.bytes += other.bytes;
        self.splits.extend(other.splits);
        for former in other.former {
            if self.former.len() < MAX_FORMER_OWNERS && !self.former.contains(&former) {
                self.former.push(former);
            }
        }
    }
}

/// Row groups of one file within a run.
#[derive(Debug)]
pub struct RunFile {
    /// Position in the dataset's files.
    pub file: usize,
    /// Its row groups, in the order to read them.
    pub row_groups: Vec<u32>,
}

/// How to cut.
#[derive(Debug)]
pub(super) struct Cut {
    /// A run is closed before it would read more decoded bytes than this; one row group may be larger by itself. Where it is
    /// 0, each row group is a run.
    pub(super) run_bytes: u64,
    /// Rows of the answer at most.
    pub(super) limit: Option<u64>,
    /// Whether rows are dropped while reading.
    pub(super) filtered: bool,
}

/// Cuts `kept` into runs.
pub(super) fn cut(dataset: &Dataset, placed: &Lineage, read: &Schema, kept: Vec<Kept>, how: &Cut) -> Vec<Run> {
    // Only one reader can count the rows that pass a filter.
    let one_run = how.filtered && how.limit.is_some();
    let mut cutter = Cutter {
        runs: Vec::new(),
        open: Run::default(),
        owned_by: None,
        left: how.limit.filter(|_| !how.filtered),
    };
    for kept in &kept {
        let columns = read_columns(&dataset.files[kept.file], read);
        for (group, info) in row_groups(dataset, kept) {
            if cutter.left == Some(0) {
                break;
            }
            let bytes = decoded_bytes(info, &columns);
            let found = placed.now.find(kept.file, group);
            if !one_run && (cutter.is_of_others(found) || cutter.is_full(kept.file, bytes, how.run_bytes)) {
                cutter.close();
            }
            cutter.own(placed, found, (kept.file, group));
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

/// What some of its file's columns take once decoded.
pub(super) fn decoded_bytes(info: &RowGroupInfo, columns: &[usize]) -> u64 {
    let bytes = columns.iter().filter_map(|&column| info.decoded_bytes.get(column));
    bytes.sum()
}

/// Positions of the file's own columns that a scan reads.
pub(crate) fn read_columns(file: &DataFile, read: &Schema) -> Vec<usize> {
    let Ok(summary) = &file.summary else { return Vec::new() };
    let mut positions = Positions::of(&summary.schema);
    let names = read.fields().iter().map(|field| field.name());
    names.filter_map(|name| positions.find(name)).collect()
}

struct Cutter {
    runs: Vec<Run>,
    open: Run,
    /// Which list of owners the open run has.
    owned_by: Option<u32>,
    /// Rows that the limit still allows.
    left: Option<u64>,
}

impl Cutter {
    fn is_of_others(&self, found: Option<Found>) -> bool {
        !self.open.files.is_empty() && self.owned_by != found.map(|found| found.list)
    }

    /// Notes who owns the open run, and who owned a row group of it before.
    fn own(&mut self, placed: &Lineage, found: Option<Found>, (file, group): (usize, u32)) {
        if self.open.files.is_empty() {
            self.owned_by = found.map(|found| found.list);
            self.open.split = found.map(|found| found.split);
            self.open.owners = found.map_or_else(Owners::default, |found| placed.now.owners(found.list));
        }
        if let Some(found) = found.filter(|found| self.open.splits.last() != Some(&found.split)) {
            self.open.splits.push(found.split);
        }
        for before in &placed.before {
            let owners = before.find(file, group).map(|found| before.owners(found.list));
            for owner in owners.iter().flat_map(|owners| before.ids(owners)) {
                let is_news = !self.open.former.iter().any(|known| known == owner)
                    && !placed.now.ids(&self.open.owners).any(|known| known == owner);
                if is_news && self.open.former.len() < MAX_FORMER_OWNERS {
                    self.open.former.push(owner.to_owned());
                }
            }
        }
    }

    fn is_full(&self, file: usize, bytes: u64, run_bytes: u64) -> bool {
        let another_file = self.open.files.last().is_some_and(|last| last.file != file);
        !self.open.files.is_empty()
            && (run_bytes == 0
                || self.open.bytes.saturating_add(bytes) > run_bytes
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

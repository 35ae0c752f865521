//! The order of an epoch: which row comes at which position.
//!
//! Two levels. The dataset's units (row groups that have rows to give) are permuted; then so many of them at a time as
//! `shuffle_buffer` says are a clump, whose rows are permuted among themselves. Both follow from (seed, epoch) alone. So a
//! clump is what a reader must hold, and the units of a clump are read whole, once.

use std::ops::Range;

use super::random::{Stream, key, shuffled};

/// How an epoch is ordered.
#[derive(Debug, Clone)]
pub(super) enum How {
    /// Units and rows are mixed.
    Shuffled {
        seed: u64,
        epoch: u64,
        /// Units of a clump, 1 or more.
        buffer: usize,
    },
    /// Nothing is; each clump has so many units, which changes no position.
    Plain { clumps: Vec<usize> },
}

/// One epoch's order over a dataset's units.
#[derive(Debug)]
pub(super) struct Order {
    how: How,
    clumps: Vec<Clump>,
}

/// Units whose rows are mixed, or that are read together where nothing is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Clump {
    /// The units, ascending.
    pub(super) units: Vec<u32>,
    /// Its rows' positions in the epoch.
    pub(super) positions: Range<u64>,
}

impl Order {
    /// The order of units that have so many rows each.
    ///
    /// # Errors
    /// More units, or more rows in a clump, than 32 bits number; in words.
    pub(super) fn new(unit_rows: &[u64], how: How) -> Result<Self, String> {
        let count =
            u32::try_from(unit_rows.len()).map_err(|_| "the dataset has more than 2^32 row groups".to_owned())?;
        let groups: Vec<Vec<u32>> = match &how {
            How::Shuffled { seed, epoch, buffer } => {
                let units = shuffled(count, key(*seed, *epoch, Stream::Units));
                units.chunks((*buffer).max(1)).map(<[u32]>::to_vec).collect()
            }
            How::Plain { clumps } => {
                let mut units = 0..count;
                clumps.iter().map(|&size| units.by_ref().take(size).collect()).collect()
            }
        };
        let mut start = 0;
        let clumps = groups.into_iter().map(|mut units| {
            units.sort_unstable();
            let rows: u64 = units.iter().map(|&unit| rows_of(unit_rows, unit)).sum();
            if matches!(how, How::Shuffled { .. }) && u32::try_from(rows).is_err() {
                let many = units.len();
                return Err(format!(
                    "shuffle_buffer is too large: {many} row groups have {rows} rows"
                ));
            }
            let positions = start..start + rows;
            start = positions.end;
            Ok(Clump { units, positions })
        });
        let clumps = clumps.collect::<Result<_, _>>()?;
        Ok(Self { how, clumps })
    }

    /// Rows of the epoch.
    pub(super) fn rows(&self) -> u64 {
        self.clumps.last().map_or(0, |clump| clump.positions.end)
    }

    /// The clumps in their order; none is without rows.
    pub(super) fn clumps(&self) -> &[Clump] {
        &self.clumps
    }

    /// Which clump has the row at a position.
    pub(super) fn clump_at(&self, position: u64) -> usize {
        self.clumps.partition_point(|clump| clump.positions.end <= position)
    }

    /// For each place in a clump, which of its rows stands there, counted through its units; none where they stand as they are.
    pub(super) fn row_order(&self, clump: usize) -> Option<Vec<u32>> {
        let How::Shuffled { seed, epoch, .. } = self.how else {
            return None;
        };
        let positions = &self.clumps.get(clump)?.positions;
        let rows = u32::try_from(positions.end - positions.start).ok()?;
        let clump = u64::try_from(clump).ok()?;
        Some(shuffled(rows, key(seed, epoch, Stream::Rows { clump })))
    }
}

pub(super) fn rows_of(unit_rows: &[u64], unit: u32) -> u64 {
    let at = usize::try_from(unit).unwrap_or(usize::MAX);
    unit_rows.get(at).copied().unwrap_or(0)
}

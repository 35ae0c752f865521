//! What the planner is told of a dataset before it is read: rows, bytes, bounds and nulls, from the footers.
//!
//! Rows are exact. Bounds are exact where Parquet's are: of whole numbers, dates, times and decimals whose file and dataset
//! agree on the type. Those of texts may be cut short, and floats have none, since Parquet leaves NaN out. An aggregate that asks
//! for exact ones is answered from here, and nothing is read.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::array::{Array, ArrayRef, UInt64Array};
use arrow::datatypes::{DataType, Field};
use datafusion::common::stats::Precision;
use datafusion::common::{ColumnStatistics, ScalarValue, Statistics};
use futures::future::try_join_all;
use jetbridge_cache::Footer;

use crate::dataset::{Dataset, partition_array};
use crate::error::ServiceError;
use crate::node::Node;
use crate::plan::{Plan, RunFile, file_bounds};

/// Row groups of a plan beyond which the columns' bounds are not gathered: planning must not take longer than reading.
const MAX_GROUPS: usize = 20_000;
/// The same of row groups times columns: whoever asks for ten thousand columns has no use for the bounds of them all.
const MAX_BOUNDS: usize = 400_000;
/// Footers that are asked for at once.
const FOOTERS_AT_ONCE: usize = 64;

/// The statistics of what a plan reads, one entry for each column of the dataset; those not among `columns` are not known.
///
/// # Errors
/// A footer that cannot be read.
pub(super) async fn of_plan(node: &Node, plan: &Plan, columns: &[usize]) -> Result<Statistics, ServiceError> {
    let dataset = &plan.dataset;
    let mut statistics = Statistics::new_unknown(&dataset.schema);
    statistics.num_rows = Precision::Exact(to_usize(plan.runs.iter().map(|run| run.rows).sum()));
    statistics.total_byte_size = Precision::Inexact(to_usize(plan.bytes));
    let files: Vec<&RunFile> = plan.runs.iter().flat_map(|run| &run.files).collect();
    let groups: usize = files.iter().map(|file| file.row_groups.len()).sum();
    if groups > MAX_GROUPS || groups.saturating_mul(columns.len()) > MAX_BOUNDS {
        return Ok(statistics);
    }
    let footers = footers(node, dataset, &files).await?;
    for &column in columns {
        let Some(known) = statistics.column_statistics.get_mut(column) else {
            continue;
        };
        let field = dataset.schema.field(column);
        let mut gathered = Gathered::default();
        for file in &files {
            gathered.add(dataset, file, footers.get(&file.file), field);
        }
        *known = gathered.finish(field);
    }
    // A limit cuts within a row group, whose bounds are then those of more rows than are read.
    let read_whole = plan.runs.iter().all(|run| run.limit.is_none());
    Ok(if read_whole {
        statistics
    } else {
        statistics.to_inexact()
    })
}

async fn footers(
    node: &Node,
    dataset: &Dataset,
    files: &[&RunFile],
) -> Result<HashMap<usize, Arc<Footer>>, ServiceError> {
    let mut footers = HashMap::with_capacity(files.len());
    for some in files.chunks(FOOTERS_AT_ONCE) {
        let read = some.iter().map(|file| async {
            let footer = node.cache.footer(&dataset.files[file.file].open).await?;
            Ok::<_, ServiceError>((file.file, footer))
        });
        footers.extend(try_join_all(read).await?);
    }
    Ok(footers)
}

/// The bounds of one column, as far as they were gathered.
#[derive(Default)]
struct Gathered {
    min: Bound,
    max: Bound,
    nulls: Option<u64>,
    groups: usize,
    bytes: u64,
    /// A file has the column in another type, or not at all.
    is_adapted: bool,
    /// How many nulls there are is not known of a row group.
    nulls_unknown: bool,
}

/// The least or the greatest of some values; unknown for good once one was not known.
#[derive(Default)]
enum Bound {
    #[default]
    None,
    Of(ScalarValue),
    Unknown,
}

impl Bound {
    fn add(&mut self, value: Option<ScalarValue>, keep: std::cmp::Ordering) {
        let Some(value) = value.filter(|value| !value.is_null()) else {
            *self = Self::Unknown;
            return;
        };
        match self {
            Self::None => *self = Self::Of(value),
            Self::Of(known) => match value.partial_cmp(known) {
                Some(order) if order == keep => *self = Self::Of(value),
                Some(_) => {}
                None => *self = Self::Unknown,
            },
            Self::Unknown => {}
        }
    }

    fn precision(self, exact: bool) -> Precision<ScalarValue> {
        match self {
            Self::Of(value) if exact => Precision::Exact(value),
            Self::Of(value) => Precision::Inexact(value),
            Self::None | Self::Unknown => Precision::Absent,
        }
    }
}

impl Gathered {
    fn add(&mut self, dataset: &Dataset, file: &RunFile, footer: Option<&Arc<Footer>>, field: &Field) {
        let Some(footer) = footer else {
            self.give_up();
            return;
        };
        if let Some((position, partition)) = dataset.partition(field.name()) {
            let value = &dataset.files[file.file].values[position];
            let value = partition_array(partition.kind, std::iter::once(value));
            for &group in &file.row_groups {
                let rows = rows_of(footer, group);
                self.add_group(&value, &value, (0, rows, value.is_null(0).then_some(rows).or(Some(0))));
            }
            return;
        }
        match footer.position(field.name()) {
            Some(root) => {
                self.is_adapted |= footer.schema.field(root).data_type() != field.data_type();
                self.bytes += file
                    .row_groups
                    .iter()
                    .map(|&group| bytes_of(footer, group, root))
                    .sum::<u64>();
            }
            None => self.is_adapted = true,
        }
        let (min, max, nulls) = file_bounds(footer, field.name(), value_type(field.data_type()));
        for &group in &file.row_groups {
            let at = usize::try_from(group).unwrap_or(usize::MAX);
            self.add_group(&min, &max, (at, rows_of(footer, group), null_count(&nulls, at)));
        }
    }

    /// Adds the row group at a position of the bounds, of so many rows and nulls.
    fn add_group(&mut self, min: &ArrayRef, max: &ArrayRef, (at, rows, nulls): (usize, u64, Option<u64>)) {
        self.groups += 1;
        self.nulls_unknown |= nulls.is_none();
        self.nulls = Some(self.nulls.unwrap_or(0) + nulls.unwrap_or(0));
        if nulls == Some(rows) {
            // A row group of nulls alone bounds nothing.
            return;
        }
        self.min
            .add(ScalarValue::try_from_array(min, at).ok(), std::cmp::Ordering::Less);
        self.max
            .add(ScalarValue::try_from_array(max, at).ok(), std::cmp::Ordering::Greater);
    }

    fn give_up(&mut self) {
        self.min = Bound::Unknown;
        self.max = Bound::Unknown;
        self.nulls_unknown = true;
    }

    fn finish(self, field: &Field) -> ColumnStatistics {
        let exact = !self.is_adapted && bounds_are_exact(field.data_type());
        let null_count = match self.nulls {
            Some(nulls) if !self.nulls_unknown => Precision::Exact(to_usize(nulls)),
            _ => Precision::Absent,
        };
        let byte_size = match self.bytes {
            0 => Precision::Absent,
            bytes => Precision::Inexact(to_usize(bytes)),
        };
        ColumnStatistics {
            null_count,
            min_value: self.min.precision(exact),
            max_value: self.max.precision(exact),
            byte_size,
            ..ColumnStatistics::new_unknown()
        }
    }
}

fn null_count(nulls: &UInt64Array, at: usize) -> Option<u64> {
    (at < nulls.len() && nulls.is_valid(at)).then(|| nulls.value(at))
}

fn rows_of(footer: &Footer, group: u32) -> u64 {
    let group = usize::try_from(group).ok().and_then(|at| footer.row_groups.get(at));
    group.map_or(0, |group| group.rows)
}

fn bytes_of(footer: &Footer, group: u32, root: usize) -> u64 {
    let group = usize::try_from(group).ok().and_then(|at| footer.row_groups.get(at));
    group
        .and_then(|group| group.decoded_bytes.get(root))
        .copied()
        .unwrap_or(0)
}

/// Bounds speak of values, not of how a column is laid out.
fn value_type(data_type: &DataType) -> &DataType {
    match data_type {
        DataType::Dictionary(_, value) => value,
        other => other,
    }
}

fn bounds_are_exact(data_type: &DataType) -> bool {
    data_type.is_integer()
        || data_type.is_decimal()
        || matches!(
            data_type,
            DataType::Boolean
                | DataType::Date32
                | DataType::Date64
                | DataType::Timestamp(..)
                | DataType::Time32(_)
                | DataType::Time64(_)
        )
}

fn to_usize(count: u64) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
}

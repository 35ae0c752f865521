//! From a plan to the rows that leave.
//!
//! A query runs as a task of its own, a few batches ahead of its reader. It ends when its rows do, with its first error, when its
//! time is over, when it is cancelled, and when the answer is dropped: whatever it holds goes with it, its turn last.

use std::sync::Arc;

use arrow::array::{ArrayRef, RecordBatch, RecordBatchOptions};
use arrow::datatypes::SchemaRef;
use datafusion::physical_plan::{SendableRecordBatchStream, execute_stream};
use futures::{StreamExt, stream};
use jetbridge_cache::schema;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio_util::task::AbortOnDropHandle;

use super::errors::of_datafusion;
use super::limits::Deadline;
use super::stop::Stop;
use super::{Answer, Planned};
use crate::error::ServiceError;

/// Batches that a query makes ahead of its reader.
const BATCHES_AHEAD: usize = 2;
/// A batch of more than twice these bytes is cut.
const BATCH_BYTES: usize = 2 << 20;
/// Cuts are whole words of a validity bitmap.
const CUT_ALIGN_ROWS: usize = 64;

/// Begins to run a plan, while `turn` lasts.
///
/// # Errors
/// A plan that cannot be begun.
pub(super) fn begin(
    threads: &Handle,
    planned: Planned,
    deadline: Deadline,
    turn: OwnedSemaphorePermit,
) -> Result<Answer, ServiceError> {
    let _entered = threads.enter();
    let context = planned.context.task_ctx();
    let stop = Stop::default();
    let plan = stop
        .guard(Arc::clone(&planned.plan))
        .map_err(|error| of_datafusion(&error))?;
    let rows = execute_stream(plan, context).map_err(|error| of_datafusion(&error))?;
    let shape = Shape {
        schema: Arc::clone(&planned.schema),
        batch_rows: planned.options.batch_rows.max(1),
    };
    let (give, given) = mpsc::channel(BATCHES_AHEAD);
    let watched = deadline.clone();
    let running = Running {
        rows,
        _planned: planned,
        _turn: turn,
    };
    let schema = Arc::clone(&shape.schema);
    let task = threads.spawn(run(running, shape, deadline, give));
    let state = Some((given, AbortOnDropHandle::new(task), watched, stop.on_drop()));
    let batches = stream::unfold(state, |state| async {
        let (mut given, task, watched, stop) = state?;
        // The task looks at the clock itself, but not while an operator keeps its thread to itself.
        match watched.hold(given.recv()).await {
            Ok(Some(batch)) => Some((batch, Some((given, task, watched, stop)))),
            // A task that panicked says nothing more, and its answer is not whole.
            Ok(None) => match task.await {
                Ok(()) => None,
                Err(_) => Some((Err(died()), None)),
            },
            Err(error) => Some((Err(error), None)),
        }
    });
    Ok(Answer {
        schema,
        batches: batches.boxed(),
    })
}

/// What a query holds while it runs, in the order in which it lets go.
struct Running {
    rows: SendableRecordBatchStream,
    _planned: Planned,
    _turn: OwnedSemaphorePermit,
}

/// What leaves.
struct Shape {
    schema: SchemaRef,
    batch_rows: usize,
}

async fn run(
    mut running: Running,
    shape: Shape,
    deadline: Deadline,
    give: mpsc::Sender<Result<RecordBatch, ServiceError>>,
) {
    loop {
        let batch = match deadline.hold(running.rows.next()).await {
            Ok(None) => return,
            Ok(Some(Ok(batch))) => shape.fit(batch),
            Ok(Some(Err(error))) => Err(of_datafusion(&error)),
            Err(error) => Err(error),
        };
        let batch = match batch {
            Ok(batch) => batch,
            Err(error) => {
                // What the query held is free before anybody hears of its end.
                drop(running);
                let _ = give.send(Err(error)).await;
                return;
            }
        };
        for piece in shape.pieces(&batch) {
            match deadline.hold(give.send(Ok(piece))).await {
                Ok(Ok(())) => {}
                // The reader has gone.
                Ok(Err(_)) => return,
                Err(error) => {
                    drop(running);
                    let _ = give.send(Err(error)).await;
                    return;
                }
            }
        }
    }
}

impl Shape {
    /// A batch of the advertised schema: names, nullability and metadata as they were told, whatever an operator made of
    /// them.
    fn fit(&self, batch: RecordBatch) -> Result<RecordBatch, ServiceError> {
        if batch.schema_ref() == &self.schema {
            return Ok(batch);
        }
        let internal = |what: String| ServiceError::Internal {
            what: format!("a query's answer is not of its schema: {what}"),
        };
        if batch.num_columns() != self.schema.fields().len() {
            return Err(internal(format!("{} columns", batch.num_columns())));
        }
        let fields = self.schema.fields().iter().zip(batch.columns());
        let columns = fields
            .map(|(field, column)| schema::fit(column, field))
            .collect::<Result<Vec<ArrayRef>, _>>()
            .map_err(|error| internal(error.to_string()))?;
        let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
        RecordBatch::try_new_with_options(Arc::clone(&self.schema), columns, &options)
            .map_err(|error| internal(error.to_string()))
    }

    /// A batch in pieces that are neither too long nor too large; none of a batch without rows.
    fn pieces(&self, batch: &RecordBatch) -> Vec<RecordBatch> {
        let rows = batch.num_rows();
        let bytes: usize = batch
            .columns()
            .iter()
            .map(|column| column.to_data().get_slice_memory_size().unwrap_or(0))
            .sum();
        let by_bytes = if bytes > 2 * BATCH_BYTES {
            rows.div_ceil(bytes.div_ceil(BATCH_BYTES))
        } else {
            rows
        };
        let each = by_bytes.min(self.batch_rows).max(1);
        let each = if each > CUT_ALIGN_ROWS {
            each / CUT_ALIGN_ROWS * CUT_ALIGN_ROWS
        } else {
            each
        };
        if rows <= self.batch_rows && by_bytes == rows {
            return if rows == 0 { Vec::new() } else { vec![batch.clone()] };
        }
        (0..rows)
            .step_by(each)
            .map(|from| batch.slice(from, each.min(rows - from)))
            .collect()
    }
}

fn died() -> ServiceError {
    ServiceError::Internal {
        what: "a query: an operator panicked".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::Int64Array;
    use arrow::datatypes::{DataType, Field, Schema};

    use super::*;

    fn shape(nullable: bool, batch_rows: usize) -> Shape {
        let field = Field::new("a", DataType::Int64, nullable);
        let schema = Schema::new_with_metadata(vec![field], [("k".to_owned(), "v".to_owned())].into());
        Shape {
            schema: Arc::new(schema),
            batch_rows,
        }
    }

    fn batch(names: &[&str], values: Vec<Option<i64>>) -> RecordBatch {
        let column: ArrayRef = Arc::new(Int64Array::from(values));
        RecordBatch::try_from_iter(names.iter().map(|name| (*name, Arc::clone(&column)))).unwrap()
    }

    #[test]
    fn the_advertised_schema_is_forced_onto_the_rows() {
        let other_name = batch(&["b"], vec![Some(1), Some(2)]);
        let shape = shape(false, 10);
        let fitted = shape.fit(other_name).unwrap();
        assert_eq!(fitted.schema(), shape.schema);
        let null = batch(&["a"], vec![Some(1), None]);
        assert!(shape.fit(null).is_err());
        let other = batch(&["a", "b"], vec![Some(1)]);
        assert!(shape.fit(other).is_err());
    }

    #[test]
    fn long_and_large_batches_are_cut() {
        let rows = |rows: usize, most: usize| {
            let batch = batch(&["a"], vec![Some(0); rows]);
            let pieces = shape(true, most).pieces(&batch);
            pieces.iter().map(RecordBatch::num_rows).collect::<Vec<_>>()
        };
        assert_eq!(rows(0, 10), [0; 0]);
        assert_eq!(rows(10, 10), [10]);
        assert_eq!(rows(25, 10), [10, 10, 5]);
        let large = rows(1 << 20, usize::MAX);
        assert!(large.len() >= 4 && large.iter().sum::<usize>() == 1 << 20, "{large:?}");
    }
}

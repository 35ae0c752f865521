//! A query begins anew while none of its rows went out.
//!
//! ```text
//! begin -> rows -> end
//!   ^       '--(a worker is lost)--> no row went out yet: begin without it
//!   '-----------------------------'  else: UNAVAILABLE
//! ```
//! Each beginning is planned anew from the statement: what a plan learned while it ran, such as the bounds that a join
//! or a top-k query found for a scan, is true of that run alone.
//!
//! Why not a task alone anew: other tasks have taken in part of what it gave, and nobody can tell which.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use arrow::array::RecordBatch;
use arrow::datatypes::SchemaRef;
use datafusion::common::tree_node::TreeNodeRecursion;
use datafusion::common::{Result, internal_err};
use datafusion::error::DataFusionError;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::{DisplayAs, DisplayFormatType, ExecutionPlan, PhysicalExpr, PlanProperties};
use futures::TryStreamExt;
use futures::future::BoxFuture;
use futures::stream::{self, StreamExt};

use super::lost::{Loss, told_by};
use crate::error::ServiceError;
use crate::sql::errors::carried;

/// How often a query is begun at most; each time without one more worker.
const MAX_BEGINNINGS: usize = 4;
/// What a query waits before it begins anew when it is not known who was lost: time for the membership to hear of it.
const PAUSE: Duration = Duration::from_millis(500);

/// Begins a query without the workers of some ids.
pub(super) type Begin = Arc<dyn Fn(Vec<String>) -> BoxFuture<'static, Result<SendableRecordBatchStream>> + Send + Sync>;

/// Hears of an error that a query ends with.
pub(super) type Failed = Arc<dyn Fn(&DataFusionError) + Send + Sync>;

/// A plan that survives losses before its first row.
pub(super) struct Retried {
    first: Arc<dyn ExecutionPlan>,
    begin: Begin,
    failed: Failed,
}

impl Retried {
    /// The plan `first`, of one partition, which `begin` begins.
    pub(super) fn new(first: Arc<dyn ExecutionPlan>, begin: Begin, failed: Failed) -> Self {
        Self { first, begin, failed }
    }
}

impl fmt::Debug for Retried {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Retried")
            .field("first", &self.first)
            .finish_non_exhaustive()
    }
}

impl DisplayAs for Retried {
    fn fmt_as(&self, _: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Retried")
    }
}

impl ExecutionPlan for Retried {
    fn name(&self) -> &'static str {
        "Retried"
    }

    fn properties(&self) -> &Arc<PlanProperties> {
        self.first.properties()
    }

    /// None: what is below is on its way to other nodes, and nobody is to add to it what cannot be sent.
    fn children(&self) -> Vec<&Arc<dyn ExecutionPlan>> {
        Vec::new()
    }

    fn apply_expressions(
        &self,
        _: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        Ok(TreeNodeRecursion::Continue)
    }

    fn with_new_children(self: Arc<Self>, _: Vec<Arc<dyn ExecutionPlan>>) -> Result<Arc<dyn ExecutionPlan>> {
        Ok(self)
    }

    fn execute(&self, partition: usize, _: Arc<TaskContext>) -> Result<SendableRecordBatchStream> {
        if partition != 0 {
            return internal_err!("a plan that was placed has one partition, and {partition} was asked for");
        }
        let failed = Arc::clone(&self.failed);
        let rows = rows(self.schema(), Arc::clone(&self.begin));
        let rows = rows.inspect_err(move |error| failed(error));
        Ok(Box::pin(RecordBatchStreamAdapter::new(self.schema(), rows)))
    }
}

/// The rows of a query that is begun as often as need be.
fn rows(schema: SchemaRef, begin: Begin) -> SendableRecordBatchStream {
    let state = Running {
        begin,
        state: State::Beginning,
        lost: Vec::new(),
        beginnings: 0,
        is_sent: false,
    };
    let rows = stream::unfold(state, |mut state| async move {
        let next = state.next().await?;
        Some((next, state))
    });
    Box::pin(RecordBatchStreamAdapter::new(schema, rows.boxed()))
}

/// A query between its beginning and its end.
struct Running {
    begin: Begin,
    state: State,
    lost: Vec<String>,
    beginnings: usize,
    /// Whether a batch went out.
    is_sent: bool,
}

enum State {
    Beginning,
    Giving(SendableRecordBatchStream),
    Ended,
}

impl Running {
    async fn next(&mut self) -> Option<Result<RecordBatch>> {
        loop {
            let given = match &mut self.state {
                State::Beginning => match self.begun().await {
                    Ok(rows) => {
                        self.state = State::Giving(rows);
                        continue;
                    }
                    Err(error) => Some(Err(error)),
                },
                State::Giving(rows) => rows.next().await,
                State::Ended => return None,
            };
            let error = match given {
                Some(Err(error)) => error,
                Some(Ok(batch)) => {
                    self.is_sent = true;
                    return Some(Ok(batch));
                }
                None => {
                    self.state = State::Ended;
                    return None;
                }
            };
            // What the query still holds is let go of before it begins anew.
            self.state = State::Ended;
            let Some(loss) = told_by(&error) else {
                return Some(Err(error));
            };
            if self.is_sent || self.beginnings >= MAX_BEGINNINGS {
                return Some(Err(self.too_late(&error)));
            }
            self.without(loss).await;
        }
    }

    async fn begun(&mut self) -> Result<SendableRecordBatchStream> {
        self.beginnings += 1;
        (self.begin)(self.lost.clone()).await
    }

    async fn without(&mut self, loss: Loss) {
        metrics::counter!("jetbridge_sql_retries_total").increment(1);
        tracing::info!(
            ?loss,
            "a query begins anew: a worker was lost before its first row went out"
        );
        match loss {
            Loss::Of(id) if !self.lost.contains(&id) => self.lost.push(id),
            Loss::Of(_) | Loss::Somebody => tokio::time::sleep(PAUSE).await,
        }
        self.state = State::Beginning;
    }

    fn too_late(&self, error: &DataFusionError) -> DataFusionError {
        let when = if self.is_sent {
            "after rows of the answer went out; what came is not the whole answer"
        } else {
            "each time that it began"
        };
        carried(ServiceError::Busy {
            what: format!("the query lost a worker {when} ({error})"),
        })
    }
}

#[cfg(test)]
mod tests {
    use arrow::array::{ArrayRef, Int32Array};
    use parking_lot::Mutex;
    use tonic::Code;

    use super::super::lost;
    use super::*;
    use crate::sql::errors::of_datafusion;

    fn row(number: i32) -> RecordBatch {
        let column: ArrayRef = Arc::new(Int32Array::from(vec![number]));
        RecordBatch::try_from_iter([("n", column)]).unwrap()
    }

    fn loss(id: &str) -> DataFusionError {
        DataFusionError::External(Box::new(lost::status(id, &"connection reset")))
    }

    type Script = Vec<Result<RecordBatch>>;

    /// What a query gives whose beginnings go by scripts, and without whom each was begun.
    async fn told(scripts: Vec<Script>) -> (Vec<Result<RecordBatch>>, Vec<Vec<String>>) {
        let begun = Arc::new(Mutex::new(Vec::new()));
        let scripts = Mutex::new(scripts.into_iter());
        let schema = row(0).schema();
        let (seen, given) = (Arc::clone(&begun), Arc::clone(&schema));
        let begin: Begin = Arc::new(move |without| {
            seen.lock().push(without);
            let script = stream::iter(scripts.lock().next().unwrap());
            let rows = Box::pin(RecordBatchStreamAdapter::new(Arc::clone(&given), script));
            Box::pin(async move { Ok(rows as SendableRecordBatchStream) })
        });
        let given = rows(schema, begin).collect().await;
        let begun = begun.lock().clone();
        (given, begun)
    }

    #[tokio::test]
    async fn a_loss_before_the_first_row_begins_the_query_anew_without_the_lost() {
        let (given, begun) = told(vec![
            vec![Err(loss("a"))],
            vec![Err(loss("b"))],
            vec![Ok(row(1)), Ok(row(2))],
        ])
        .await;
        let given: Vec<RecordBatch> = given.into_iter().map(Result::unwrap).collect();
        assert_eq!(given, [row(1), row(2)]);
        assert_eq!(
            begun,
            [vec![], vec!["a".to_owned()], vec!["a".to_owned(), "b".to_owned()]]
        );
    }

    #[tokio::test]
    async fn a_loss_after_the_first_row_is_an_error_and_the_end() {
        let (given, begun) = told(vec![vec![Ok(row(1)), Err(loss("a")), Ok(row(2))]]).await;
        assert_eq!((begun.len(), given.len()), (1, 2));
        assert_eq!(given[0].as_ref().unwrap(), &row(1));
        let error = of_datafusion(given[1].as_ref().unwrap_err());
        assert_eq!(error.code(), Code::Unavailable);
        assert!(error.to_string().contains("not the whole answer"), "{error}");
        assert!(error.to_string().ends_with("try again"), "{error}");
    }

    #[tokio::test]
    async fn a_query_is_not_begun_for_ever() {
        let (given, begun) = told((0..10).map(|_| vec![Err(loss("a"))]).collect()).await;
        assert_eq!((begun.len(), given.len()), (MAX_BEGINNINGS, 1));
        let error = of_datafusion(given[0].as_ref().unwrap_err());
        assert_eq!(error.code(), Code::Unavailable);
    }

    #[tokio::test]
    async fn other_errors_are_passed_on_as_they_are() {
        let error = DataFusionError::Execution("it is Tuesday".to_owned());
        let (given, begun) = told(vec![vec![Err(error)]]).await;
        assert_eq!((given.len(), begun.len()), (1, 1));
        assert!(given[0].as_ref().unwrap_err().to_string().contains("Tuesday"));
    }
}

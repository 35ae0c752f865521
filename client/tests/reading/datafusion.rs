//! Tables of a DataFusion session, over servers that answer by a script.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use arrow::array::RecordBatch;
use datafusion::catalog::TableProvider;
use datafusion::common::DataFusionError;
use datafusion::common::stats::Precision;
use datafusion::execution::TaskContext;
use datafusion::physical_plan::statistics::StatisticsArgs;
use datafusion::physical_plan::{ExecutionPlan, ExecutionPlanProperties};
use datafusion::prelude::{SessionConfig, SessionContext};
use futures::{StreamExt, TryStreamExt};
use jetbridge_client::datafusion::{RemoteScanExec, RemoteTable, client_error};
use jetbridge_client::{Error, ErrorKind};
use tonic::Status;

use super::support::server::{Script, Server, Step};
use super::support::{client, expected, numbers, until};

const ENDPOINTS: [i64; 7] = [20, 0, 100, 1, 33, 64, 7];
const BATCH_ROWS: usize = 4;

async fn serving(script: Script) -> Server {
    Server::start(Script {
        endpoints: ENDPOINTS.to_vec(),
        ..script
    })
    .await
}

async fn table(server: &Server) -> RemoteTable {
    RemoteTable::open(&client(&server.uri()), "/t").await.unwrap()
}

fn context(partitions: usize) -> SessionContext {
    let config = SessionConfig::new()
        .with_target_partitions(partitions)
        .with_batch_size(BATCH_ROWS);
    SessionContext::new_with_config(config)
}

/// A scan of all of the server's dataset.
async fn scan(server: &Server, partitions: usize) -> (Arc<dyn ExecutionPlan>, Arc<TaskContext>) {
    let context = context(partitions);
    let scan = table(server).await.scan(&context.state(), None, &[], None).await;
    (scan.unwrap(), context.task_ctx())
}

/// The rows of a partition.
async fn read(scan: &Arc<dyn ExecutionPlan>, partition: usize, task: &Arc<TaskContext>) -> Vec<RecordBatch> {
    let rows = scan.execute(partition, Arc::clone(task)).unwrap();
    rows.try_collect().await.unwrap()
}

fn kind_of(error: &DataFusionError) -> Option<ErrorKind> {
    client_error(error).map(Error::kind)
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_have_all_rows_between_them_in_batches_of_the_sessions_size() {
    let server = serving(Script::default()).await;
    for partitions in [1, 3, 7, 20] {
        let (scan, task) = scan(&server, partitions).await;
        assert_eq!(scan.output_partitioning().partition_count(), partitions.min(7));
        let mut rows = Vec::new();
        for partition in 0..partitions.min(7) {
            for batch in read(&scan, partition, &task).await {
                assert!((1..=BATCH_ROWS).contains(&batch.num_rows()));
                assert_eq!(batch.schema(), scan.schema());
                rows.extend(numbers(&batch));
            }
        }
        rows.sort_unstable();
        assert_eq!(rows, expected(&ENDPOINTS));
        assert!(scan.execute(partitions.min(7), task).is_err());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_scan_did_is_counted() {
    let server = serving(Script::default()).await;
    let (scan, task) = scan(&server, 2).await;
    for partition in 0..2 {
        read(&scan, partition, &task).await;
    }
    let metrics = scan.metrics().unwrap();
    assert_eq!(metrics.output_rows(), Some(225));
    let count = |name: &str| metrics.sum_by_name(name).map(|sum| sum.as_usize());
    assert_eq!(count("endpoints_read"), Some(ENDPOINTS.len()));
    assert!(count("received_bytes") > Some(1000));
    let served = metrics.iter().flat_map(|metric| metric.labels());
    let places: Vec<&str> = served
        .filter(|label| label.name() == "place")
        .map(|label| label.value())
        .collect();
    assert!(
        !places.is_empty() && places.iter().all(|place| *place == server.uri()),
        "{places:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_dropped_ends_at_the_server() {
    let hanging = (0..7).map(|endpoint| (endpoint, vec![vec![Step::Rows(1), Step::Hang]]));
    let server = serving(Script {
        streams: hanging.collect(),
        ..Script::default()
    })
    .await;
    let (scan, task) = scan(&server, 2).await;
    let mut rows = scan.execute(0, task).unwrap();
    rows.next().await.unwrap().unwrap();
    until("a stream is open", || server.state.open.load(Ordering::SeqCst) > 0).await;
    drop(rows);
    until("no stream is open", || server.state.open.load(Ordering::SeqCst) == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_of_the_servers_comes_with_its_words_and_kind() {
    let damaged = Step::Fail(Status::data_loss("a.parquet: row group 3 is damaged"));
    let server = serving(Script {
        streams: [(2, vec![vec![Step::Rows(5), damaged]])].into(),
        ..Script::default()
    })
    .await;
    let context = context(4);
    context.register_table("t", Arc::new(table(&server).await)).unwrap();
    let error = context
        .sql("select n, text from t")
        .await
        .unwrap()
        .collect()
        .await
        .unwrap_err();
    assert_eq!(kind_of(&error), Some(ErrorKind::DataLoss), "{error}");
    for words in ["reading /t", "a.parquet: row group 3 is damaged", &server.uri()] {
        assert!(error.to_string().contains(words), "{error}");
    }
    let missing = RemoteTable::named(&client("grpc://127.0.0.1:1"), "lake", "trips").await;
    assert_eq!(missing.unwrap_err().kind(), ErrorKind::Connect);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dataset_of_another_schema_than_was_looked_up_is_stale() {
    // This server leaves no column out, whatever it is asked for.
    let server = serving(Script::default()).await;
    let context = context(2);
    context.register_table("t", Arc::new(table(&server).await)).unwrap();
    let error = context
        .sql("select text from t")
        .await
        .unwrap()
        .collect()
        .await
        .unwrap_err();
    assert_eq!(kind_of(&error), Some(ErrorKind::Stale), "{error}");
    assert!(
        error.to_string().contains("its column \"text\" is another one now"),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn tickets_are_kept_valid_from_when_a_partition_is_executed() {
    let server = serving(Script {
        tickets_live: Some(Duration::from_secs(2)),
        ..Script::default()
    })
    .await;
    let (scan, task) = scan(&server, 1).await;
    let rows = scan.execute(0, task).unwrap();
    until("all tickets are renewed", || {
        server.state.renewals.load(Ordering::SeqCst) > ENDPOINTS.len()
    })
    .await;
    assert!(server.gets().is_empty(), "{:?}", server.gets());
    let batches: Vec<RecordBatch> = rows.try_collect().await.unwrap();
    assert_eq!(batches.iter().map(RecordBatch::num_rows).sum::<usize>(), 225);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_tells_no_counts_is_believed_none() {
    let server = serving(Script::default()).await;
    let (scan, _) = scan(&server, 2).await;
    assert!(scan.downcast_ref::<RemoteScanExec>().unwrap().plan().rows.is_none());
    for args in [StatisticsArgs::new(), StatisticsArgs::new().with_partition(Some(1))] {
        let known = scan.statistics_from_inputs(&[], &args).unwrap();
        assert_eq!(
            (known.num_rows, known.total_byte_size),
            (Precision::Absent, Precision::Absent)
        );
    }
}

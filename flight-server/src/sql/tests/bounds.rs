//! Queries that would never end, hold too much, or are too many.

use arrow::array::Int64Array;
use tokio::time::Instant;
use tonic::Code;

use super::*;

async fn lake(settings: &[&str]) -> Lake {
    let numbers: Vec<i64> = (0..100_000).collect();
    let texts: Vec<String> = numbers
        .iter()
        .map(|number| format!("{:>40}", number * 7919 % 100_003))
        .collect();
    let rows = table(vec![
        ("n", Arc::new(Int64Array::from(numbers)) as ArrayRef),
        ("text", Arc::new(StringArray::from(texts))),
    ]);
    Lake::with(&[("t/0.parquet", rows)], settings).await
}

const ENDLESS: &str = "SELECT count(*) FROM lake.t a, lake.t b, lake.t c WHERE a.n + b.n + c.n = 7";

#[tokio::test(flavor = "multi_thread")]
async fn a_product_that_never_ends_is_ended_in_time() {
    let lake = lake(&[]).await;
    let begun = Instant::now();
    let error = lake
        .ask(&query_within(ENDLESS, Duration::from_millis(300)))
        .await
        .unwrap_err();
    assert_eq!(error.code(), Code::DeadlineExceeded, "{error:?}");
    assert!(begun.elapsed() < Duration::from_secs(60), "{:?}", begun.elapsed());
    lake.comes_to_rest().await;
    assert_eq!(lake.rows("SELECT count(*) FROM lake.t WHERE n < 10").await, ["10"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_in_memory_is_refused_and_frees_it() {
    let lake = lake(&["--sql-memory", "8MiB", "--sql-query-memory", "8MiB"]).await;
    // The side of a join that is held does not spill.
    let held = "SELECT count(*) FROM lake.t a JOIN lake.t b ON a.text = b.text JOIN lake.t c ON b.text = c.text";
    let error = lake.refused(held).await;
    assert_eq!(error.code(), Code::ResourceExhausted, "{error:?}");
    assert!(error.to_string().contains("sql_query_memory"), "{error}");
    lake.comes_to_rest().await;
    assert_eq!(lake.rows("SELECT count(*) FROM lake.t WHERE n < 10").await, ["10"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sort_that_does_not_fit_spills_below_the_data_folder() {
    let lake = lake(&[
        "--memory",
        "1GiB",
        "--sql-memory",
        "160MiB",
        "--sql-query-memory",
        "128MiB",
    ])
    .await;
    let spill = lake.folder.path().join("data/sql-spill");
    assert!(spill.is_dir());
    let sql = "SELECT count(*), min(r) FROM (SELECT text, n, row_number() OVER (ORDER BY text, n) AS r FROM \
               (SELECT a.text, b.n FROM lake.t a CROSS JOIN (SELECT n FROM lake.t WHERE n < 40) b))";
    assert_eq!(lake.rows(sql).await, ["4000000|1"]);
    lake.comes_to_rest().await;
    let plan = lake.counts(sql).await;
    let spilled = plan.split("spill_count=").skip(1).any(|rest| !rest.starts_with('0'));
    assert!(spilled, "{plan}");
}

#[tokio::test(flavor = "multi_thread")]
async fn those_beyond_the_queue_are_turned_away_and_come_back() {
    let lake = Arc::new(lake(&["--sql-queries", "1", "--sql-queue", "1"]).await);
    let cancel = tokio_util::sync::CancellationToken::new();
    let endless = Query {
        cancel: cancel.clone(),
        ..query(ENDLESS)
    };
    let first = lake.node.sql.run(&lake.node, &endless).await.unwrap();
    let second = tokio::spawn({
        let lake = Arc::clone(&lake);
        async move { lake.rows("SELECT count(*) FROM lake.t WHERE n < 5").await }
    });
    while lake.node.sql.waiting() == 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    let third = lake.node.sql.run(&lake.node, &query("SELECT 1")).await.err().unwrap();
    assert_eq!(third.code(), Code::Unavailable, "{third:?}");
    cancel.cancel();
    let outcome: Result<Vec<RecordBatch>, ServiceError> = first.batches.try_collect().await;
    assert_eq!(outcome.unwrap_err().code(), Code::Cancelled);
    assert_eq!(second.await.unwrap(), ["5"]);
    lake.comes_to_rest().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_is_dropped_frees_all_that_it_held() {
    let lake = lake(&[]).await;
    let product = "SELECT a.n, b.text FROM lake.t a CROSS JOIN lake.t b";
    let answer = lake.begun(&query(product)).await;
    assert_eq!(lake.node.sql.running(), 1);
    assert!(lake.node.sql.memory_used() > 0);
    drop(answer);
    lake.comes_to_rest().await;
    let endless = query_within(ENDLESS, Duration::from_secs(60));
    let run = lake.node.sql.run(&lake.node, &endless).await.unwrap();
    drop(run);
    lake.comes_to_rest().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn batches_are_as_long_as_the_session_asks() {
    let lake = lake(&[]).await;
    let mut short = query("SELECT n FROM lake.t");
    short.options.batch_rows = 1000;
    let batches = lake.ask(&short).await.unwrap();
    assert!(batches.iter().all(|batch| batch.num_rows() <= 1000));
    assert_eq!(batches.iter().map(RecordBatch::num_rows).sum::<usize>(), 100_000);
}

/// A stride of them is as much as a row group may have ready: it comes once the one before was taken.
#[tokio::test(flavor = "multi_thread")]
async fn values_of_megabytes_are_read_to_the_end() {
    const ROWS: usize = 24;
    const LENGTH: usize = 3 << 20;
    let texts: Vec<String> = (0..ROWS)
        .map(|row| "0".repeat(LENGTH - 3) + &format!("{row:03}"))
        .collect();
    let lake = Lake::of(&[(
        "t/0.parquet",
        table(vec![("text", Arc::new(StringArray::from(texts)) as ArrayRef)]),
    )])
    .await;
    let sql = "SELECT count(*), sum(length(text)), max(right(text, 3)) FROM lake.t WHERE text <> 'x'";
    let read = tokio::time::timeout(Duration::from_secs(60), lake.rows(sql)).await;
    assert_eq!(read.expect("it ends"), [format!("{ROWS}|{}|023", ROWS * LENGTH)]);
    lake.comes_to_rest().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_few_words_do_not_make_gigabytes() {
    let lake = lake(&[]).await;
    for sql in [
        "SELECT array_length(range(0, 1000000000))",
        "SELECT sum(length(repeat(text, 1000000))) FROM lake.t",
        "SELECT sum(array_length(array_repeat(text, 1000000))) FROM lake.t",
    ] {
        let error = lake.refused(sql).await;
        assert_eq!(error.code(), Code::ResourceExhausted, "{sql}: {error:?}");
        assert!(error.to_string().contains("one query may hold"), "{error}");
    }
    lake.comes_to_rest().await;
    let sql = "SELECT sum(length(repeat(text, 10))), sum(array_length(range(0, n % 10))) FROM lake.t";
    assert_eq!(lake.rows(sql).await, ["40000000|450000"]);
}

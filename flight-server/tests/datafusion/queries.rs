//! Answers: the same as of the same rows in memory, in the schema that the server advertises.

use arrow::array::RecordBatch;
use arrow::datatypes::DataType;
use datafusion::catalog::TableProvider;
use futures::StreamExt;
use jetbridge_client::datafusion::{RemoteTable, client_error};
use jetbridge_client::{Error, ErrorKind, Scan};

use super::lake::{FILES, Lake, ROWS, ask, client, plan, rows, session, write};

/// Queries whose answers do not depend on the order of the rows.
const QUERIES: &[&str] = &[
    "select * from lake.trips",
    "select * from lake.zones",
    "select vendor, id from lake.trips",
    "select count(*) from lake.trips",
    "select count(*) from lake.trips where narrow % 2 = 0",
    "select count(*) from lake.trips where vendor = 'bob'",
    "select 7 from lake.zones",
    "select count(*) from lake.zones a cross join lake.zones b",
    "select sum(id), min(at), max(tip), count(distinct kind) from lake.trips",
    "select place['x'], place['Full name'], tags[1] from lake.trips where place['x'] between 3 and 9",
    "select place from lake.trips where place is null or place['x'] is null",
    "select vendor, count(*), avg(tip) from lake.trips group by vendor having count(*) > 10",
    "select id, name from lake.trips join lake.zones on narrow = zone where land = 'fr' and flag",
    "select a.id, b.id from lake.trips a join lake.trips b on a.id = b.id + 17999",
    "select id from lake.trips where id in (select zone * 300 from lake.zones where year = 2024)",
    "select zone from lake.zones where year = 2023 and land <> 'fr' and zone >= 3",
    "select year, land, count(*) from lake.zones group by year, land",
    "select land from lake.zones where year > 2023",
    "select id from lake.trips order by id desc limit 25",
    "select id, day from lake.trips where vendor like '%n' order by day, id limit 11 offset 3",
    "with t as (select id from lake.trips where flag) select max(id) from t",
    "select id from lake.trips where id < 5 union all select zone from lake.zones where zone > 27",
];

#[tokio::test(flavor = "multi_thread")]
async fn queries_have_the_answers_that_they_have_over_the_same_rows_in_memory() {
    let lake = Lake::new();
    let server = lake.server();
    let ((remote, _), local) = (session(&server).await, lake.in_memory());
    for sql in QUERIES {
        let expected = rows(&local, sql).await;
        assert!(!expected.is_empty(), "{sql}");
        assert_eq!(rows(&remote, sql).await, expected, "{sql}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_gives_as_many_rows_and_no_column_gives_rows_all_the_same() {
    let lake = Lake::new();
    let server = lake.server();
    let (context, _) = session(&server).await;
    for (sql, count) in [
        ("select id, vendor from lake.trips limit 7", 7),
        ("select id from lake.trips limit 7000", 7000),
        ("select id from lake.trips limit 1000000", FILES * ROWS),
        ("select id from lake.trips where flag limit 100", 100),
        ("select id from lake.trips limit 0", 0),
        ("select 1 from lake.trips", FILES * ROWS),
        ("select 1 from lake.trips limit 4000", 4000),
    ] {
        let given = ask(&context, sql).await.unwrap();
        assert_eq!(given.iter().map(RecordBatch::num_rows).sum::<usize>(), count, "{sql}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_count_of_all_rows_reads_none() {
    let lake = Lake::new();
    let server = lake.server();
    let (context, _) = session(&server).await;
    let counted = plan(&context, "select count(*) from lake.trips").await;
    assert!(!counted.contains("RemoteScanExec"), "{counted}");
    let filtered = plan(&context, "select count(*) from lake.trips where id < 10").await;
    assert!(filtered.contains("RemoteScanExec"), "{filtered}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_schema_is_the_servers_to_the_bit() {
    let lake = Lake::new();
    let server = lake.server();
    let (context, _) = session(&server).await;
    let table = RemoteTable::open(&client(&server), "/lake/trips").await.unwrap();
    let schema = table.schema();
    let written = lake.trips()[0].schema();
    assert_eq!(schema.fields(), written.fields());
    let told = client(&server).plan(&Scan::of("/lake/trips")).await.unwrap().schema;
    assert_eq!(
        schema, told,
        "what the server says of the files' own metadata is its affair"
    );
    assert!(matches!(
        schema.field_with_name("kind").unwrap().data_type(),
        DataType::Dictionary(..)
    ));
    for projection in [None, Some(vec![5, 10, 0]), Some(vec![])] {
        let state = context.state();
        let scan = table.scan(&state, projection.as_ref(), &[], None).await.unwrap();
        let expected = projection.map_or_else(|| schema.as_ref().clone(), |columns| schema.project(&columns).unwrap());
        assert_eq!(*scan.schema(), expected);
        let batches = datafusion::physical_plan::collect(scan, context.task_ctx())
            .await
            .unwrap();
        assert!(batches.iter().all(|batch| *batch.schema() == expected));
        assert_eq!(batches.iter().map(RecordBatch::num_rows).sum::<usize>(), FILES * ROWS);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_is_dropped_leaves_nothing_open() {
    let lake = Lake::new();
    let server = lake.server();
    let (context, _) = session(&server).await;
    for _ in 0..20 {
        let query = context.sql("select * from lake.trips").await.unwrap();
        let mut stream = query.execute_stream().await.unwrap();
        stream.next().await.unwrap().unwrap();
    }
    assert_eq!(
        rows(&context, "select count(id) from lake.trips").await,
        [(FILES * ROWS).to_string()]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_server_says_of_its_files_is_told_with_its_kind() {
    let lake = Lake::new();
    let broken = lake.folder.path().join("lake/broken/3.parquet");
    write(&broken, &lake.trips()[3]);
    // The footer tells of row groups whose bytes are others now.
    let mut bytes = std::fs::read(&broken).unwrap();
    bytes[4..3000].fill(0xff);
    std::fs::write(&broken, bytes).unwrap();
    let server = lake.server();
    let (context, _) = session(&server).await;
    let error = ask(&context, "select * from lake.broken").await.unwrap_err();
    assert_eq!(
        client_error(&error).map(Error::kind),
        Some(ErrorKind::DataLoss),
        "{error}"
    );
    for words in ["reading /lake/broken", "3.parquet"] {
        assert!(error.to_string().contains(words), "{error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_written() {
    let lake = Lake::new();
    let server = lake.server();
    let (context, _) = session(&server).await;
    for sql in [
        "create table lake.fresh as select 1 as one",
        "insert into lake.zones values (1, 'x', 2023, 'it')",
        "drop table lake.zones",
    ] {
        assert!(ask(&context, sql).await.is_err(), "{sql}");
    }
    assert_eq!(rows(&context, "select count(*) from lake.zones").await, ["60"]);
}

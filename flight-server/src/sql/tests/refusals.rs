//! What is refused, in which words, and where.

use tokio::time::Instant;
use tonic::Code;

use super::*;

async fn lake() -> Lake {
    let rows = batch!(
        ("id", Int64, [1, 2, 0]),
        ("name", Utf8, ["a", "b", "c"]),
        ("Capital", Int64, [1, 2, 3])
    );
    Lake::of(&[("t.parquet", rows)]).await
}

const T: &str = "\"/lake/t.parquet\"";

fn place(error: &ServiceError) -> Option<(u64, u64)> {
    match error {
        ServiceError::Sql(error) => error.position,
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_parse_or_fit_has_a_place() {
    let lake = lake().await;
    let error = lake.refused(&format!("SELECT id\nFROM {T} WHERE id == = 3")).await;
    assert_eq!(
        (error.code(), place(&error)),
        (Code::InvalidArgument, Some((2, 36))),
        "{error}"
    );
    let error = lake.refused(&format!("SELECT id,\n  nam FROM {T}")).await;
    assert_eq!(
        (error.code(), place(&error)),
        (Code::InvalidArgument, Some((2, 3))),
        "{error}"
    );
    assert!(
        error
            .to_string()
            .starts_with("there is no column nam; did you mean name?"),
        "{error}"
    );
    let error = lake.refused(&format!("SELECT Capital FROM {T}")).await;
    assert!(error.to_string().contains("did you mean \"Capital\"?"), "{error}");
    let error = lake.refused(&format!("SELECT zebra FROM {T}")).await;
    assert!(error.to_string().starts_with("there is no column zebra"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn types_that_do_not_fit_are_refused() {
    let lake = lake().await;
    for sql in [
        format!("SELECT id + name FROM {T} WHERE name > interval '1' day"),
        format!("SELECT sum(name) FROM {T}"),
        format!("SELECT nosuchfunction(id) FROM {T}"),
        format!("SELECT id FROM {T} WHERE id"),
        format!("SELECT id, count(*) FROM {T}"),
        format!("SELECT cast('abc' AS int) + id FROM {T}"),
    ] {
        let error = lake.refused(&sql).await;
        assert_eq!(error.code(), Code::InvalidArgument, "{sql}: {error:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn values_that_cannot_be_computed_with_are_the_clients_affair() {
    let lake = lake().await;
    let error = lake.refused(&format!("SELECT 10 / id FROM {T}")).await;
    assert_eq!(error.code(), Code::InvalidArgument, "{error:?}");
    assert!(error.to_string().to_lowercase().contains("divi"), "{error}");
    let error = lake.refused(&format!("SELECT id FROM {T} WHERE 10 % id = 1")).await;
    assert_eq!(error.code(), Code::InvalidArgument, "{error:?}");
    let error = lake.refused(&format!("SELECT cast(name AS bigint) FROM {T}")).await;
    assert_eq!(error.code(), Code::InvalidArgument, "{error:?}");
    assert_eq!(lake.rows(&format!("SELECT count(*) FROM {T}")).await, ["3"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_are_refused_even_inside_a_query() {
    let lake = lake().await;
    for sql in [
        format!("INSERT INTO {T} VALUES (1, 'x', 1)"),
        format!("EXPLAIN DELETE FROM {T}"),
        "CREATE EXTERNAL TABLE x STORED AS CSV LOCATION '/etc/passwd'".to_owned(),
        "SET datafusion.execution.target_partitions = 1000000".to_owned(),
        format!("SELECT * INTO x FROM {T}"),
    ] {
        let error = lake.refused(&sql).await;
        assert!(
            matches!(error.code(), Code::Unimplemented | Code::InvalidArgument),
            "{sql}: {error:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_parameters_are_refused_with_their_number() {
    let lake = lake().await;
    let ask = async |sql: &str, values: Option<RecordBatch>| {
        let query = Query {
            parameters: values,
            ..query(sql)
        };
        let error = lake.node.sql.run(&lake.node, &query).await.err().unwrap();
        assert_eq!(error.code(), Code::InvalidArgument, "{error:?}");
        error.to_string()
    };
    let sql = format!("SELECT * FROM {T} WHERE id = $1");
    let one = |text: &str| batch!(("a", Utf8, [text]));
    assert!(ask(&sql, None).await.contains("no values were given"));
    let two = batch!(("a", Int64, [1]), ("b", Int64, [1]));
    assert!(ask(&sql, Some(two)).await.contains("has 1 parameters, and 2 values"));
    assert!(ask(&sql, Some(one("abc"))).await.contains("$1"));
    let flag = batch!(("a", Boolean, [true]));
    assert!(ask(&sql, Some(flag)).await.contains("parameter $1 is Int64"));
    let rows = batch!(("a", Int64, [1, 2]));
    assert!(ask(&sql, Some(rows)).await.contains("one row"));
    assert!(
        ask(&format!("SELECT * FROM {T} WHERE id = $2"), Some(one("1")))
            .await
            .contains("$2")
    );
    assert!(
        ask(&format!("SELECT * FROM {T} WHERE id = $x"), Some(one("1")))
            .await
            .contains("$x")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_file_is_named_and_nothing_else_is() {
    let lake = lake().await;
    std::fs::write(lake.folder.path().join("lake/bad.parquet"), b"PAR1 no parquet PAR1").unwrap();
    let error = lake.refused("SELECT * FROM \"/lake/bad.parquet\"").await;
    assert_eq!(error.code(), Code::DataLoss, "{error:?}");
    assert!(error.to_string().contains("bad.parquet"), "{error}");
    let shown = lake.rows("SHOW TABLES").await;
    assert!(shown.iter().any(|row| row.contains("|public|lake|")), "{shown:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_columns_and_a_megabyte_of_text_are_answered() {
    let columns: Vec<(String, ArrayRef)> = (0..10_000)
        .map(|at| {
            (
                format!("c{at}"),
                Arc::new(arrow::array::Int64Array::from(vec![at])) as ArrayRef,
            )
        })
        .collect();
    let wide = RecordBatch::try_from_iter(columns).unwrap();
    let lake = Lake::of(&[("wide.parquet", wide)]).await;
    let begun = Instant::now();
    for sql in [
        "SELECT * FROM \"/lake/wide.parquet\"",
        "SELECT * FROM \"/lake/wide.parquet\" WHERE c9999 > 0 ORDER BY c7 LIMIT 5",
    ] {
        let rows = lake.ask(&query(sql)).await.unwrap();
        assert_eq!((rows[0].num_columns(), rows[0].num_rows()), (10_000, 1), "{sql}");
        let last: &arrow::array::Int64Array = arrow::array::AsArray::as_primitive(rows[0].column(9_999));
        assert_eq!(last.value(0), 9_999);
    }
    for (sql, expected) in [
        ("SELECT c9999 FROM \"/lake/wide.parquet\" WHERE c5 = 5", "9999"),
        ("SELECT count(*) FROM \"/lake/wide.parquet\"", "1"),
        ("SELECT count(*) FROM \"/lake/wide.parquet\" WHERE c5 < 5", "0"),
    ] {
        assert_eq!(lake.rows(sql).await, [expected], "{sql}");
    }
    // With names in the place of the star, a plan of each of these took minutes.
    assert!(begun.elapsed() < Duration::from_secs(240), "{:?}", begun.elapsed());
    let some: Vec<String> = (0..500).map(|at| format!("c{}", at * 20)).collect();
    let some = format!("SELECT {} FROM \"/lake/wide.parquet\"", some.join(", "));
    let rows = lake.ask(&query(&some)).await.unwrap();
    assert_eq!(rows[0].num_columns(), 500);
    let values: Vec<String> = (0..150_000).map(|value| value.to_string()).collect();
    let long = format!(
        "SELECT c7 FROM \"/lake/wide.parquet\" WHERE c7 IN ({})",
        values.join(",")
    );
    assert!(long.len() > 900_000);
    assert_eq!(lake.rows(&long).await, ["7"]);
}

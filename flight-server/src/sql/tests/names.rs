//! Which table a name means.

use tonic::Code;

use super::super::PUBLIC;
use super::*;

fn numbers(from: i64) -> RecordBatch {
    batch!(("n", Int64, [from, from + 1]))
}

async fn lake() -> Lake {
    Lake::of(&[
        ("trips/0.parquet", numbers(0)),
        ("trips/1.parquet", numbers(2)),
        ("sub/zones.parquet", numbers(10)),
        ("v1.2/rates.parquet", numbers(20)),
        ("Capital/Days.parquet", numbers(30)),
        ("by/year=2023/a.parquet", numbers(40)),
        ("by/year=2024/a.parquet", numbers(50)),
    ])
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_has_a_name_a_path_and_a_uri() {
    let lake = lake().await;
    let uri = format!("file://{}", lake.folder.path().join("lake/trips").display());
    for name in [
        "lake.trips".to_owned(),
        "LAKE.Trips".to_owned(),
        "jetbridge.lake.trips".to_owned(),
        "\"/lake/trips\"".to_owned(),
        "lake.\"/lake/trips\"".to_owned(),
        format!("\"{uri}\""),
    ] {
        assert_eq!(
            lake.rows(&format!("SELECT count(*), sum(n) FROM {name}")).await,
            ["4|6"],
            "{name}"
        );
    }
    for (name, sum) in [
        ("lake.sub.zones", 21),
        ("\"lake.sub\".zones", 21),
        ("jetbridge.\"lake.sub\".zones", 21),
        ("\"/lake/sub/zones.parquet\"", 21),
        ("\"lake.v1.2\".rates", 41),
        ("\"lake.Capital\".\"Days\"", 61),
        ("lake.by", 182),
    ] {
        assert_eq!(
            lake.rows(&format!("SELECT sum(n) FROM {name}")).await,
            [sum.to_string()],
            "{name}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_catalog_is_listed() {
    let lake = lake().await;
    let tables = lake.node.sql.tables(&lake.node, None).await.unwrap();
    let names: Vec<String> = tables
        .iter()
        .map(|entry| format!("{}/{} {}", entry.schema, entry.name, entry.path))
        .collect();
    assert_eq!(
        names,
        [
            "lake/by /lake/by",
            "lake/trips /lake/trips",
            "lake.Capital/Days /lake/Capital/Days.parquet",
            "lake.sub/zones /lake/sub/zones.parquet",
            "lake.v1.2/rates /lake/v1.2/rates.parquet",
        ]
        .map(|line| match line {
            // A folder of one file reads as the dataset that the folder is.
            "lake.Capital/Days /lake/Capital/Days.parquet" => "lake/Capital /lake/Capital",
            "lake.sub/zones /lake/sub/zones.parquet" => "lake/sub /lake/sub",
            "lake.v1.2/rates /lake/v1.2/rates.parquet" => "lake/v1.2 /lake/v1.2",
            other => other,
        })
        .into_iter()
        .collect::<std::collections::BTreeSet<_>>()
        .into_iter()
        .collect::<Vec<_>>()
    );
    assert_eq!(lake.node.sql.schemas(&lake.node).await.unwrap(), ["lake"]);
    assert_eq!(lake.node.sql.tables(&lake.node, Some(PUBLIC)).await.unwrap().len(), 0);
    assert_eq!(lake.node.sql.tables(&lake.node, Some("lake")).await.unwrap().len(), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn show_and_describe_and_the_information_schema_tell_of_it() {
    let lake = lake().await;
    let shown = lake.rows("SHOW TABLES").await;
    assert!(
        shown.iter().any(|row| row == "jetbridge|lake|trips|BASE TABLE"),
        "{shown:?}"
    );
    assert_eq!(lake.rows("DESCRIBE lake.by").await, ["n|Int64|YES", "year|Int64|YES"]);
    let columns = "SELECT column_name, data_type FROM information_schema.columns \
                   WHERE table_schema = 'lake' AND table_name = 'by' ORDER BY ordinal_position";
    assert_eq!(lake.rows(columns).await, ["n|Int64", "year|Int64"]);
    let shown = lake.rows("SHOW COLUMNS FROM lake.trips").await;
    assert!(shown.len() == 1 && shown[0].contains("|n|"), "{shown:?}");
    let schemata = lake
        .rows("SELECT schema_name FROM information_schema.schemata WHERE schema_name = 'lake'")
        .await;
    assert_eq!(schemata, ["lake"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_mount_and_a_new_file_are_there_at_once() {
    let lake = lake().await;
    let error = lake.refused("SELECT * FROM more.fresh").await;
    assert_eq!(error.code(), Code::NotFound);
    write(&lake.folder.path().join("more/fresh/0.parquet"), &numbers(7));
    lake.mount("/more", "more").await;
    assert_eq!(lake.rows("SELECT n FROM more.fresh ORDER BY n").await, ["7", "8"]);
    let shown = lake.rows("SHOW TABLES").await;
    assert!(shown.iter().any(|row| row.contains("|more|fresh|")), "{shown:?}");
    lake.node.remove_mount(&NsPath::parse("/more").unwrap()).await.unwrap();
    assert_eq!(lake.refused("SELECT * FROM more.fresh").await.code(), Code::NotFound);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_nothing_has_is_told_with_the_nearest() {
    let lake = lake().await;
    let refused = async |sql: &str| {
        let error = lake.refused(sql).await;
        assert_eq!(error.code(), Code::NotFound, "{error}");
        error.to_string()
    };
    assert_eq!(
        refused("SELECT * FROM lake.tripps").await,
        "there is no table lake.tripps; did you mean lake.trips?"
    );
    assert_eq!(
        refused("SELECT * FROM trips").await,
        "there is no table trips; did you mean lake.trips?"
    );
    assert_eq!(
        refused("SELECT * FROM \"/lake/tripz\"").await,
        "there is no table /lake/tripz; did you mean \"/lake/trips\"?"
    );
    assert!(
        refused("SELECT * FROM nowhere.zebra")
            .await
            .contains("information_schema.tables")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_has_a_schema() {
    let lake = lake().await;
    let mut query = query("SELECT sum(n) FROM trips");
    query.options.schema = "lake".to_owned();
    assert_eq!(rows(&lake.ask(&query).await.unwrap()), ["6"]);
    query.options.catalog = "other".to_owned();
    assert_eq!(lake.ask(&query).await.unwrap_err().code(), Code::NotFound);
}

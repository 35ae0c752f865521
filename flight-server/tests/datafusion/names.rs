//! Which table a name means, and which names are told.

use jetbridge_client::datafusion::{RemoteTable, client_error};
use jetbridge_client::{Error, ErrorKind};
use serde_json::json;

use super::lake::{Lake, ask, client, rows, session, write};

#[tokio::test(flavor = "multi_thread")]
async fn a_table_has_the_names_of_the_servers_sql_and_its_paths() {
    let lake = Lake::new();
    let server = lake.server();
    let (context, _) = session(&server).await;
    let uri = format!("file://{}", lake.folder.path().join("lake/sub/deep").display());
    for name in [
        "jetbridge.\"lake.sub\".deep".to_owned(),
        "\"lake.sub\".deep".to_owned(),
        "\"lake.sub.deep\".rates".to_owned(),
        "\"/lake/sub/deep\"".to_owned(),
        "\"/lake/sub/deep/rates.parquet\"".to_owned(),
        "lake.\"/lake/sub/deep\"".to_owned(),
        format!("\"{uri}\""),
    ] {
        let given = rows(&context, &format!("select count(*), sum(zone) from {name}")).await;
        assert_eq!(given, ["20|190"], "{name}");
    }
    // Not the default catalog of a session, but one with a name of its own.
    let other = datafusion::prelude::SessionContext::new();
    jetbridge_client::datafusion::register(&other, &client(&server))
        .await
        .unwrap();
    assert_eq!(rows(&other, "select count(*) from jetbridge.lake.zones").await, ["60"]);
    assert_eq!(
        rows(&other, "select count(*) from jetbridge.public.\"/lake/zones\"").await,
        ["60"]
    );
    let table = RemoteTable::open(&client(&server), "/lake/sub/deep").await.unwrap();
    other.register_table("rates", std::sync::Arc::new(table)).unwrap();
    assert_eq!(rows(&other, "select max(name) from rates").await, ["zone 9"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_nothing_has_is_no_table_and_functions_are_still_found() {
    let lake = Lake::new();
    let server = lake.server();
    let (context, _) = session(&server).await;
    for name in ["lake.tripps", "trips", "\"/lake/tripps\"", "nowhere.x"] {
        let error = ask(&context, &format!("select * from {name}")).await.unwrap_err();
        assert!(error.to_string().contains("not found"), "{error}");
    }
    assert_eq!(
        rows(&context, "select count(*) from generate_series(1, 7)").await,
        ["7"]
    );
    let missing = RemoteTable::named(&client(&server), "lake", "tripps")
        .await
        .unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound);
    assert_eq!(missing.message(), "there is no table lake.tripps");
    // What a server says of a name that it cannot look up is told.
    let error = ask(&context, "select * from \"/lake/../x\"").await.unwrap_err();
    assert_eq!(
        client_error(&error).map(Error::kind),
        Some(ErrorKind::InvalidArgument),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_mount_is_there_at_once_and_listed_when_asked_again() {
    let lake = Lake::new();
    let server = lake.server();
    let (context, catalog) = session(&server).await;
    let shown = async || rows(&context, "show tables").await;
    assert!(shown().await.contains(&"jetbridge|lake|trips|BASE TABLE".to_owned()));
    let columns = "select column_name, data_type from information_schema.columns where table_name = 'zones'";
    assert_eq!(
        rows(&context, columns).await,
        ["land|Utf8", "name|Utf8", "year|Int64", "zone|Int64"]
    );
    let more = lake.folder.path().join("more");
    write(&more.join("fresh/0.parquet"), &lake.trips()[0].project(&[0]).unwrap());
    let body = json!({ "path": "/more", "uri": format!("file://{}", more.display()) });
    client(&server).action("mount.add", &body).await.unwrap();
    assert_eq!(rows(&context, "select min(id) from more.fresh").await, ["0"]);
    let fresh = "jetbridge|more|fresh|BASE TABLE".to_owned();
    assert!(!shown().await.contains(&fresh));
    catalog.refresh().await.unwrap();
    assert!(shown().await.contains(&fresh));
    client(&server)
        .action("mount.remove", &json!({ "path": "/more" }))
        .await
        .unwrap();
    assert!(ask(&context, "select min(id) from more.fresh").await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_gone_is_told_as_such() {
    let lake = Lake::new();
    let server = lake.server();
    let (context, catalog) = session(&server).await;
    server.kill();
    let error = ask(&context, "select count(*) from lake.trips").await.unwrap_err();
    assert!(
        error.to_string().contains("looking for the table lake.trips"),
        "{error}"
    );
    let kind = client_error(&error).map(Error::kind);
    assert!(
        matches!(kind, Some(ErrorKind::Connect | ErrorKind::Unavailable)),
        "{error:?}"
    );
    // The names stay as they were.
    assert!(catalog.refresh().await.is_err());
    assert!(!rows(&context, "show tables").await.is_empty());
}

//! Tables over a cluster: each partition reads its owners, and goes on elsewhere when one is lost.

use std::collections::BTreeSet;
use std::sync::Arc;

use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use datafusion::physical_plan::{ExecutionPlan, collect};
use futures::StreamExt;
use jetbridge_client::datafusion::RemoteScanExec;
use serde_json::json;

use super::lake::{FILES, Lake, ROWS, client, session};
use super::process::{Process, until};

/// A coordinator and three workers that have their seats.
async fn cluster(lake: &Lake) -> (Process, Vec<Process>) {
    let coordinator = lake.process("coordinator", "coordinator", &["--mount", &lake.mount()]);
    let joined = ["--coordinator", &coordinator.uri];
    let workers = (0..3)
        .map(|n| lake.process("worker", &format!("worker-{n}"), &joined))
        .collect();
    let client = client(&coordinator);
    until("three workers have seats", async || {
        let members = client.action("cluster.members", &json!({})).await.unwrap();
        let members = members[0]["members"].as_array().unwrap().clone();
        members.iter().filter(|member| member["seat"] == true).count() == 3
    })
    .await;
    (coordinator, workers)
}

/// The scan of a plan, which has but one.
fn scan_of(plan: &Arc<dyn ExecutionPlan>) -> Arc<dyn ExecutionPlan> {
    match plan.children().as_slice() {
        [] => Arc::clone(plan),
        [below] => scan_of(below),
        children => panic!("{} children", children.len()),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_read_the_owners_each_its_own() {
    let lake = Lake::new();
    let (coordinator, _workers) = cluster(&lake).await;
    let (context, _) = session(&coordinator).await;
    let query = context.sql("select id, vendor from lake.trips").await.unwrap();
    let plan = query.create_physical_plan().await.unwrap();
    let scan = scan_of(&plan);
    let remote = scan.downcast_ref::<RemoteScanExec>().unwrap();
    let endpoints = &remote.plan().endpoints;
    let owner = |endpoint: &usize| endpoints[*endpoint].locations[0].clone();
    let owners: BTreeSet<String> = (0..endpoints.len()).map(|endpoint| owner(&endpoint)).collect();
    assert!(owners.len() >= 2, "{owners:?}");
    assert!(remote.partitions().len() >= owners.len());
    for partition in remote.partitions() {
        let owners: BTreeSet<String> = partition.iter().map(owner).collect();
        assert_eq!(owners.len(), 1, "{owners:?}");
    }
    let shown = datafusion::physical_plan::displayable(scan.as_ref())
        .one_line()
        .to_string();
    assert!(shown.contains(&format!("locations={}", owners.len())), "{shown}");
    let batches = collect(Arc::clone(&scan), context.task_ctx()).await.unwrap();
    assert_eq!(
        batches.iter().map(|batch| batch.num_rows()).sum::<usize>(),
        FILES * ROWS
    );
    let metrics = scan.metrics().unwrap();
    let places: BTreeSet<String> = metrics
        .iter()
        .flat_map(|metric| metric.labels())
        .filter(|label| label.name() == "place")
        .map(|label| label.value().to_owned())
        .collect();
    assert!(places.len() >= owners.len(), "{places:?} served, {owners:?} own");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_killed_costs_no_row() {
    let lake = Lake::new();
    let (coordinator, mut workers) = cluster(&lake).await;
    let (context, _) = session(&coordinator).await;
    let query = context.sql("select id, vendor from lake.trips").await.unwrap();
    let mut stream = query.execute_stream().await.unwrap();
    let mut ids = Vec::new();
    while let Some(batch) = stream.next().await {
        ids.extend_from_slice(batch.unwrap().column(0).as_primitive::<Int64Type>().values());
        if workers.len() == 3 {
            workers.remove(0).kill();
        }
    }
    ids.sort_unstable();
    let all = i64::try_from(FILES * ROWS).unwrap();
    assert!(ids.iter().copied().eq(0..all), "{} rows", ids.len());
    let counted = context
        .sql("select count(vendor), count(*) from lake.trips where id >= 0")
        .await
        .unwrap();
    let counted = counted.collect().await.unwrap();
    assert_eq!(counted[0].column(1).as_primitive::<Int64Type>().value(0), all);
}

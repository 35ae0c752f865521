//! Plans on their way to another node: the same plan comes out, and gives the same rows.

use datafusion::physical_plan::{collect, displayable};
use datafusion_distributed::{DistributedCodec, DistributedExt};
use datafusion_proto::bytes::{
    physical_plan_from_bytes_with_proto_converter, physical_plan_to_bytes_with_proto_converter,
};
use datafusion_proto::physical_plan::DeduplicatingProtoConverter;

use super::random::{Dice, batch, question};
use super::*;
use crate::sql::distributed::codec::ScanCodec;

/// Sends the plan of a question and runs what arrives.
async fn sent(lake: &Lake, sql: &str) -> Vec<String> {
    let planned = lake.node.sql.physical_plan(&lake.node, &query(sql)).await.unwrap();
    let state = planned.context.state();
    let config = state.config().clone();
    let config = config.with_distributed_user_codec(ScanCodec::new(Arc::clone(&lake.node)));
    let (codec, converter) = (
        DistributedCodec::new_combined_with_user(&config),
        DeduplicatingProtoConverter::default(),
    );
    let context = state.task_ctx();
    let lines = |plan: &dyn datafusion::physical_plan::ExecutionPlan| displayable(plan).indent(true).to_string();
    let before = lines(planned.plan.as_ref());
    let bytes = physical_plan_to_bytes_with_proto_converter(planned.plan, &codec, &converter).unwrap();
    let plan = physical_plan_from_bytes_with_proto_converter(&bytes, &context, &codec, &converter).unwrap();
    assert_eq!(lines(plan.as_ref()), before, "{sql}");
    rows(&collect(plan, context).await.unwrap())
}

async fn try_seed(seed: u64, questions: u32) {
    let mut dice = Dice(seed);
    let files: Vec<RecordBatch> = (0..4).map(|file| batch(&mut dice, 300, file)).collect();
    let names: Vec<String> = (0..files.len()).map(|file| format!("t/{file}.parquet")).collect();
    let mut written: Vec<(&str, RecordBatch)> = names.iter().map(String::as_str).zip(files).collect();
    written.push(("u/0.parquet", batch(&mut dice, 40, 2)));
    let lake = Lake::of(&written).await;
    for _ in 0..questions {
        let sql = question(&mut dice);
        let sql = sql.replace(" T ", " lake.t T ").replace("FROM U ", "FROM lake.u ");
        let expected = lake.rows(&sql).await;
        assert_eq!(sorted(sent(&lake, &sql).await), sorted(expected), "seed {seed}: {sql}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_that_was_sent_is_the_same_and_gives_the_same_rows() {
    for seed in [7, 20_240_229] {
        try_seed(seed, 40).await;
    }
    let seed = u64::from(std::process::id()) + 1;
    println!("seed {seed}");
    try_seed(seed, 40).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_scan_is_not_read_as_one() {
    use datafusion::execution::TaskContext;
    use datafusion_proto::physical_plan::PhysicalExtensionCodec;

    let lake = Lake::of(&[("t/0.parquet", batch!(("a", Int64, [1])))]).await;
    let codec = ScanCodec::new(Arc::clone(&lake.node));
    let converter = DeduplicatingProtoConverter::default();
    for bytes in [&b"nonsense"[..], &[0xff; 40], b"\x0a\x05/lake"] {
        let read = codec.try_decode(bytes, &[], &TaskContext::default(), &converter);
        assert!(read.is_err(), "{bytes:?}");
    }
}

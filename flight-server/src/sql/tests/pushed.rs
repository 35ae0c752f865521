//! What a scan takes over from the plan above it, and what it then does not read.

use arrow::array::Int64Array;

use super::*;

/// Eight files, each of ascending numbers and of one text.
async fn files() -> Lake {
    let file = |at: i64| {
        let numbers: Vec<i64> = (at * 1000..(at + 1) * 1000).collect();
        let texts: Vec<String> = numbers.iter().map(|number| format!("text {}", number % 10)).collect();
        table(vec![
            ("n", Arc::new(Int64Array::from(numbers)) as ArrayRef),
            ("text", Arc::new(StringArray::from(texts))),
            ("other", Arc::new(Int64Array::from(vec![at; 1000]))),
        ])
    };
    let names: Vec<String> = (0..8).map(|at| format!("t/{at}.parquet")).collect();
    let files: Vec<(&str, RecordBatch)> = (0..).zip(&names).map(|(at, name)| (name.as_str(), file(at))).collect();
    Lake::of(&files).await
}

/// The largest of the scans' counts in the text of a plan that ran.
fn count(plan: &str, name: &str) -> u64 {
    let name = format!("{name}=");
    let counted = plan.split(&name).skip(1).map(|rest| {
        let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
        digits.parse().unwrap()
    });
    counted.max().unwrap_or_else(|| panic!("no {name} in {plan}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_condition_is_the_scans_and_prunes_by_statistics() {
    let lake = files().await;
    let plan = lake
        .plan("SELECT text FROM lake.t WHERE n >= 3500 AND n < 4200 AND text LIKE '%7'")
        .await;
    assert!(!plan.contains("FilterExec"), "{plan}");
    assert!(plan.contains("row_groups=2") && plan.contains("predicate="), "{plan}");
    let rows = lake
        .rows("SELECT n FROM lake.t WHERE n >= 3500 AND n < 4200 AND text LIKE '%7'")
        .await;
    assert_eq!(rows.len(), 70);
    assert_eq!(lake.rows("SELECT n FROM lake.t WHERE n > 1000000").await.len(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn counts_and_bounds_need_no_reading() {
    let lake = files().await;
    let plan = lake.plan("SELECT count(*), min(n), max(n) FROM lake.t").await;
    assert!(!plan.contains("DatasetScanExec"), "{plan}");
    assert_eq!(
        lake.rows("SELECT count(*), min(n), max(n) FROM lake.t").await,
        ["8000|0|7999"]
    );
    // Bounds of texts may be cut short, so those are read.
    let plan = lake.plan("SELECT max(text) FROM lake.t").await;
    assert!(plan.contains("DatasetScanExec"), "{plan}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_top_k_query_leaves_out_row_groups_that_cannot_matter() {
    let lake = files().await;
    let sql = "SELECT n, text FROM lake.t ORDER BY n LIMIT 5";
    assert_eq!(lake.rows(sql).await[0], "0|text 0");
    let plan = lake.counts(sql).await;
    assert!(plan.contains("DynamicFilter"), "{plan}");
    assert!(count(&plan, "row_groups_left_out") > 0, "{plan}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_join_leaves_out_row_groups_without_its_keys() {
    let few = batch!(("k", Int64, [3333, 3334]));
    let lake = files().await;
    write(&lake.folder.path().join("lake/few.parquet"), &few);
    let sql = "SELECT n, text FROM \"/lake/few.parquet\" JOIN lake.t ON k = n ORDER BY n";
    assert_eq!(lake.rows(sql).await, ["3333|text 3", "3334|text 4"]);
    let plan = lake.counts(sql).await;
    assert!(count(&plan, "row_groups_left_out") >= 6, "{plan}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_reads_no_more_files_than_it_takes() {
    let lake = files().await;
    let plan = lake.plan("SELECT text FROM lake.t LIMIT 1500").await;
    assert!(plan.contains("row_groups=2"), "{plan}");
}

#[tokio::test(flavor = "multi_thread")]
async fn columns_that_nothing_needs_are_not_read() {
    let lake = files().await;
    let plan = lake.plan("SELECT sum(other) FROM lake.t WHERE n % 2 = 0").await;
    assert!(plan.contains("columns=[other"), "{plan}");
    assert_eq!(
        lake.rows("SELECT sum(other) FROM lake.t WHERE n % 2 = 0").await,
        ["14000"]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bare_scan_is_told_and_gives_the_same_rows() {
    let lake = files().await;
    let scan = async |sql: &str| lake.node.sql.describe(&lake.node, &query(sql)).await.unwrap().scan;
    let spec = scan("SELECT text, n FROM lake.t WHERE n BETWEEN 10 AND 19 AND text <> 'text 5'")
        .await
        .unwrap();
    assert_eq!(spec.path, "/lake/t");
    assert_eq!(spec.columns, Some(vec!["text".to_owned(), "n".to_owned()]));
    let plan = lake.node.plan(&spec).await.unwrap();
    assert_eq!(plan.output.fields().len(), 2);
    assert!(scan("SELECT * FROM lake.t").await.is_some());
    assert_eq!(scan("SELECT * FROM lake.t LIMIT 3").await.unwrap().limit, Some(3));
    for sql in [
        "SELECT n + 1 FROM lake.t",
        "SELECT n AS m FROM lake.t",
        "SELECT count(*) FROM lake.t",
        "SELECT n FROM lake.t ORDER BY n",
        "SELECT n FROM lake.t LIMIT 3 OFFSET 1",
        "SELECT n FROM lake.t WHERE abs(n) = 1",
        "SELECT DISTINCT n FROM lake.t",
        "SELECT a.n FROM lake.t a JOIN lake.t b ON a.n = b.n",
        "EXPLAIN SELECT n FROM lake.t",
    ] {
        assert!(scan(sql).await.is_none(), "{sql}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_piece_goes_to_another_node_as_a_ticket() {
    use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};

    use super::super::scan::{DatasetScanExec, ScanPiece};

    let lake = files().await;
    let planned = lake
        .node
        .sql
        .physical_plan(&lake.node, &query("SELECT n FROM lake.t WHERE n < 2500"))
        .await
        .unwrap();
    let mut found = None;
    planned
        .plan
        .apply(|node| {
            found = node.downcast_ref::<DatasetScanExec>().cloned().or(found.take());
            Ok(TreeNodeRecursion::Continue)
        })
        .unwrap();
    let scan = found.unwrap();
    let mut rows = 0;
    for piece in scan.partitions().iter().flat_map(|partition| &partition.pieces) {
        let ticket = piece.seal(&lake.node).unwrap();
        let same = ScanPiece::redeem(&lake.node, &ticket, piece.rows, piece.bytes).unwrap();
        assert_eq!(same.splits().len(), piece.splits().len());
        rows += crate::flight::testing::do_get(&lake.node, &ticket)
            .await
            .iter()
            .map(RecordBatch::num_rows)
            .sum::<usize>();
    }
    assert_eq!(rows, 3000);
}

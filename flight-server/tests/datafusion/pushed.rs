//! What a query leaves to the server, and that it makes no difference.

use std::sync::Arc;

use async_trait::async_trait;
use datafusion::arrow::datatypes::SchemaRef;
use datafusion::catalog::{Session, TableProvider};
use datafusion::common::Result;
use datafusion::logical_expr::{Expr, TableType};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::prelude::SessionContext;
use jetbridge_client::datafusion::RemoteTable;

use super::lake::{Dice, Lake, client, plan, rows, session};

#[tokio::test(flavor = "multi_thread")]
async fn columns_conditions_and_limits_are_in_the_scan() {
    let lake = Lake::new();
    let server = lake.server();
    let (context, _) = session(&server).await;
    let of = async |sql: &str| plan(&context, sql).await;
    let exact = of("select vendor from lake.trips where id >= 4000 and vendor like 'a%' and flag").await;
    assert!(!exact.contains("FilterExec"), "{exact}");
    for words in [
        r#""id" >= 4000"#,
        r#""vendor" LIKE 'a%'"#,
        r#""flag""#,
        "columns=[vendor]",
    ] {
        assert!(exact.contains(words), "{exact}");
    }
    // Row groups that cannot pass are none of the endpoints; zones' folders neither.
    let pruned = of("select vendor from lake.trips where id < 3000").await;
    assert!(pruned.contains("endpoints=1,"), "{pruned}");
    let folder = of("select name from lake.zones where year = 2024").await;
    assert!(
        folder.contains("endpoints=1,") && !folder.contains("FilterExec"),
        "{folder}"
    );
    // The server gives more rows than pass, so they are looked at again.
    let wider = of("select vendor from lake.trips where fare > 1.5").await;
    assert!(
        wider.contains("FilterExec") && wider.contains(r#"filter="fare" > 1.5"#),
        "{wider}"
    );
    let unknown = of("select vendor from lake.trips where narrow % 3 = 1").await;
    assert!(
        unknown.contains("FilterExec") && !unknown.contains("filter="),
        "{unknown}"
    );
    let limited = of("select id from lake.trips limit 100").await;
    assert!(
        limited.contains("limit=100") && limited.contains("endpoints=1,"),
        "{limited}"
    );
    // Only one worker could count rows that pass.
    let both = of("select id from lake.trips where flag limit 100").await;
    assert!(both.contains("filter=") && !both.contains("limit="), "{both}");
    let nested = of("select id from lake.trips where place['x'] = 3").await;
    assert!(
        nested.contains(r#""place"."x" = 3"#) && !nested.contains("FilterExec"),
        "{nested}"
    );
}

/// The same table, which takes over no condition.
#[derive(Debug)]
struct Unpushed(RemoteTable);

#[async_trait]
impl TableProvider for Unpushed {
    fn schema(&self) -> SchemaRef {
        self.0.schema()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        assert!(filters.is_empty());
        self.0.scan(state, projection, filters, limit).await
    }
}

/// Conditions such as people write, floats and their odd values among them.
fn term(dice: &mut Dice) -> String {
    let sign = dice.pick(&["<", "<=", ">", ">=", "=", "<>"]);
    let not = dice.pick(&["", "NOT "]);
    let word = dice.pick(&["ann", "bob", "it''s", "Ann", "zoë", "", "m"]);
    let text = dice.pick(&["vendor", "kind", "place['Full name']"]);
    match dice.roll(14) {
        0 => format!("id {sign} {}", dice.roll(18_000)),
        1 => format!("narrow {sign} {}", dice.roll(50)),
        2 => format!("{} {sign} narrow", dice.roll(50)),
        3 => format!(
            "fare {sign} {}",
            dice.pick(&["0.0", "-0.0", "1.5", "-2.25", "1e300", "cast('NaN' as double)"])
        ),
        4 => format!(
            "single {sign} {}",
            dice.pick(&["cast(0.1 as real)", "0.1", "7.5", "0.0"])
        ),
        5 => format!("{text} {sign} '{word}'"),
        6 => format!(
            "{text} {not}LIKE '{}'",
            dice.pick(&["a%", "%n", "_o_", "%''%", "ann", "%"])
        ),
        7 => format!(
            "day {not}BETWEEN date '2023-12-10' AND date '2024-01-{:02}'",
            1 + dice.roll(20)
        ),
        8 => format!(
            "at {sign} arrow_cast('1970-01-{:02}T01:02:03.000004Z', 'Timestamp(Microsecond, Some(\"UTC\"))')",
            1 + dice.roll(12)
        ),
        9 => format!(
            "tip {sign} cast('{}.{:02}' as decimal(10, 2))",
            dice.roll(10),
            dice.roll(100)
        ),
        10 => format!("place['x'] {not}IN ({}, {}, 3, 4, 5)", dice.roll(30), dice.roll(30)),
        11 => format!(
            "{} IS {not}NULL",
            dice.pick(&["narrow", "fare", "vendor", "kind", "place['x']", "flag"])
        ),
        12 => format!("flag IS {not}{}", dice.pick(&["TRUE", "FALSE", "UNKNOWN"])),
        _ => format!("{text} {not}IN ('ann', '{word}', 'x', 'y', 'z')"),
    }
}

fn condition(dice: &mut Dice, depth: usize) -> String {
    if depth == 0 || dice.roll(3) == 0 {
        return term(dice);
    }
    let (left, right) = (condition(dice, depth - 1), condition(dice, depth - 1));
    let not = if dice.roll(5) == 0 { "NOT " } else { "" };
    format!("{not}({left} {} {right})", dice.pick(&["AND", "AND", "OR"]))
}

/// Whether the session's plan of a query leaves conditions to the server, and whether it looks at rows again.
async fn seen(context: &SessionContext, sql: &str) -> (bool, bool) {
    let plan = plan(context, sql).await;
    (plan.contains(", filter="), plan.contains("FilterExec"))
}

#[tokio::test(flavor = "multi_thread")]
async fn random_conditions_pass_the_same_rows_wherever_they_are_evaluated() {
    let lake = Lake::new();
    let server = lake.server();
    let ((pushed, _), unpushed, local) = (session(&server).await, SessionContext::new(), lake.in_memory());
    let table = RemoteTable::open(&client(&server), "/lake/trips").await.unwrap();
    unpushed.register_table("trips", Arc::new(Unpushed(table))).unwrap();
    let (mut exact, mut wider, mut not) = (0, 0, 0);
    let seed = 20_240_229;
    let mut dice = Dice(seed);
    for turn in 0..150 {
        let sql = format!("select id from lake.trips where {}", condition(&mut dice, 2));
        let expected = rows(&local, &sql).await;
        assert_eq!(rows(&pushed, &sql).await, expected, "seed {seed}, turn {turn}: {sql}");
        let same = sql.replace("lake.trips", "trips");
        assert_eq!(
            rows(&unpushed, &same).await,
            expected,
            "seed {seed}, turn {turn}: {sql}"
        );
        match seen(&pushed, &sql).await {
            (true, false) => exact += 1,
            (true, true) => wider += 1,
            (false, _) => not += 1,
        }
    }
    // The test would show nothing otherwise.
    assert!(
        exact > 30 && wider > 10,
        "{exact} exact, {wider} wider, {not} not pushed"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn conditions_that_are_too_long_for_a_filter_are_looked_at_here() {
    let lake = Lake::new();
    let server = lake.server();
    let ((remote, _), local) = (session(&server).await, lake.in_memory());
    let many: Vec<String> = (0..9000).map(|id| (id * 2).to_string()).collect();
    let sql = format!(
        "select vendor from lake.trips where id in ({}) and flag",
        many.join(", ")
    );
    let text = plan(&remote, &sql).await;
    assert!(
        text.contains("FilterExec") && text.contains(r#"filter="flag""#),
        "{text:.500}"
    );
    assert_eq!(rows(&remote, &sql).await, rows(&local, &sql).await);
    // More conditions than were offered together: the table itself looks at those that do not fit.
    let table = RemoteTable::open(&client(&server), "/lake/trips").await.unwrap();
    let long = |offset: i64| {
        let ids = (0..6000_i64)
            .map(|id| datafusion::prelude::lit(id * 2 + offset))
            .collect();
        datafusion::prelude::in_list(datafusion::prelude::col("id"), ids, false)
    };
    let state = remote.state();
    let scan = table
        .scan(&state, Some(&vec![4]), &[long(0), long(6000)], Some(10))
        .await
        .unwrap();
    let batches = datafusion::physical_plan::collect(scan, remote.task_ctx())
        .await
        .unwrap();
    let found: usize = batches.iter().map(|batch| batch.num_rows()).sum();
    assert_eq!(found, 3000);
    assert!(batches.iter().all(|batch| batch.num_columns() == 1));
}

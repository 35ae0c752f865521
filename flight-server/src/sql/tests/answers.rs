//! What queries answer, beside what plain Rust makes of the same rows.

use std::collections::BTreeMap;
use std::sync::Arc;

use arrow::array::{Date32Array, Decimal128Array, Int32Array, Int64Array, StructArray};
use arrow::datatypes::{DataType, Field};

use super::*;

const ORDERS: i64 = 3_000;
const LINES: i64 = 4;

/// Orders, by two files, and their lines, by three.
async fn shop() -> Lake {
    let orders = |range: std::ops::Range<i64>| {
        let keys: Vec<i64> = range.clone().collect();
        let customers: Vec<i64> = range.clone().map(|key| key % 97).collect();
        let days: Vec<i32> = range.clone().map(|key| i32::try_from(key % 1000).unwrap()).collect();
        let status: StringArray = range
            .map(|key| Some(["F", "O", "P"][usize::try_from(key % 3).unwrap()]))
            .collect();
        table(vec![
            ("o_key", Arc::new(Int64Array::from(keys)) as ArrayRef),
            ("o_customer", Arc::new(Int64Array::from(customers))),
            ("o_date", Arc::new(Date32Array::from(days))),
            ("o_status", Arc::new(status)),
        ])
    };
    let lines = |range: std::ops::Range<i64>| {
        let keys: Vec<i64> = range.clone().map(|line| line / LINES).collect();
        let prices: Vec<i128> = range.clone().map(|line| i128::from(line % 10_000) * 7).collect();
        let prices = Decimal128Array::from(prices).with_precision_and_scale(15, 2).unwrap();
        let quantities: Int32Array = range.map(|line| i32::try_from(line % 50).unwrap()).collect();
        table(vec![
            ("l_key", Arc::new(Int64Array::from(keys)) as ArrayRef),
            ("l_price", Arc::new(prices)),
            ("l_quantity", Arc::new(quantities)),
        ])
    };
    let cut = ORDERS / 2;
    let third = ORDERS * LINES / 3;
    Lake::of(&[
        ("orders/0.parquet", orders(0..cut)),
        ("orders/1.parquet", orders(cut..ORDERS)),
        ("lines/0.parquet", lines(0..third)),
        ("lines/1.parquet", lines(third..2 * third)),
        ("lines/2.parquet", lines(2 * third..ORDERS * LINES)),
    ])
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn aggregates_and_joins_are_those_of_the_rows() {
    let lake = shop().await;
    assert_eq!(lake.rows("SELECT count(*) FROM lake.lines").await, ["12000"]);
    assert_eq!(
        lake.rows("SELECT min(o_key), max(o_key), count(o_date) FROM lake.orders")
            .await,
        ["0|2999|3000"]
    );
    let mut sums: BTreeMap<&str, (i64, i64)> = BTreeMap::new();
    for line in 0..ORDERS * LINES {
        let order = line / LINES;
        if order % 97 < 10 && line % 50 > 20 {
            let sum = sums
                .entry(["F", "O", "P"][usize::try_from(order % 3).unwrap()])
                .or_default();
            sum.0 += 1;
            sum.1 += line % 10_000 * 7;
        }
    }
    let expected: Vec<String> = sums
        .iter()
        .map(|(status, (count, cents))| format!("{status}|{count}|{}.{:02}", cents / 100, cents % 100))
        .collect();
    let joined = "SELECT o_status, count(*), sum(l_price) FROM lake.orders JOIN lake.lines ON o_key = l_key \
                  WHERE o_customer < 10 AND l_quantity > 20 GROUP BY o_status ORDER BY o_status";
    // Cold, then out of the chunk tier.
    for _ in 0..3 {
        assert_eq!(lake.rows(joined).await, expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_shapes_of_a_benchmark_run() {
    let lake = shop().await;
    let exists = "SELECT o_status, count(*) FROM lake.orders WHERE EXISTS \
                  (SELECT 1 FROM lake.lines WHERE l_key = o_key AND l_quantity = 49) GROUP BY o_status ORDER BY 1";
    assert_eq!(lake.rows(exists).await.len(), 3);
    let scalar = "SELECT count(*) FROM lake.lines WHERE l_price > (SELECT avg(l_price) FROM lake.lines)";
    assert_eq!(lake.rows(scalar).await.len(), 1);
    let outer = "SELECT c, count(*) FROM (SELECT o_key, count(l_key) AS c FROM lake.orders \
                 LEFT JOIN lake.lines ON o_key = l_key AND l_quantity < 2 GROUP BY o_key) GROUP BY c ORDER BY c";
    let counted = lake.rows(outer).await;
    assert_eq!(
        counted
            .iter()
            .map(|row| row.split('|').nth(1).unwrap().parse::<i64>().unwrap())
            .sum::<i64>(),
        ORDERS
    );
    let window = "SELECT o_key FROM (SELECT o_key, row_number() OVER (PARTITION BY o_customer ORDER BY o_key DESC) AS r \
                  FROM lake.orders) WHERE r = 1 AND o_key > 2990 ORDER BY o_key";
    assert_eq!(
        lake.rows(window).await,
        ["2991", "2992", "2993", "2994", "2995", "2996", "2997", "2998", "2999"]
    );
    let with = "WITH best AS (SELECT l_key, sum(l_price) AS total FROM lake.lines GROUP BY l_key) \
                SELECT l_key FROM best WHERE total = (SELECT max(total) FROM best) ORDER BY 1";
    assert_eq!(lake.rows(with).await, ["2499"]);
    let dates = "SELECT count(*) FROM lake.orders WHERE o_date >= date '1970-02-01' AND o_date < date '1970-02-01' + interval '1' month";
    assert_eq!(lake.rows(dates).await, ["84"]);
    let union = "SELECT count(*) FROM (SELECT o_key FROM lake.orders UNION SELECT l_key FROM lake.lines)";
    assert_eq!(lake.rows(union).await, ["3000"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_and_offsets_count_rows() {
    let lake = shop().await;
    for (sql, count) in [
        ("SELECT * FROM lake.orders LIMIT 7", 7),
        ("SELECT * FROM lake.orders LIMIT 0", 0),
        ("SELECT * FROM lake.orders LIMIT 5 OFFSET 2998", 2),
        ("SELECT * FROM lake.orders WHERE o_status = 'F' LIMIT 11", 11),
        ("SELECT o_key FROM lake.orders WHERE o_key < 0 LIMIT 11", 0),
        ("SELECT 1 FROM lake.orders WHERE o_status = 'F'", 1000),
    ] {
        assert_eq!(lake.rows(sql).await.len(), count, "{sql}");
    }
    assert_eq!(
        lake.rows("SELECT o_key FROM lake.orders ORDER BY o_date DESC, o_key LIMIT 3")
            .await,
        ["999", "1999", "2999"]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn fields_of_structs_and_partition_columns_are_columns() {
    let place = StructArray::from(vec![
        (
            Arc::new(Field::new("city", DataType::Utf8, true)),
            Arc::new(StringArray::from(vec!["Aachen", "Bonn"])) as ArrayRef,
        ),
        (
            Arc::new(Field::new("zip", DataType::Int64, true)),
            Arc::new(Int64Array::from(vec![52062, 53111])) as ArrayRef,
        ),
    ]);
    let rows = |from: i64| {
        table(vec![
            ("n", Arc::new(Int64Array::from(vec![from, from + 1])) as ArrayRef),
            ("place", Arc::new(place.clone())),
        ])
    };
    let lake = Lake::of(&[
        ("t/year=2023/country=de/0.parquet", rows(0)),
        ("t/year=2024/country=de/0.parquet", rows(10)),
        ("t/year=2024/country=__HIVE_DEFAULT_PARTITION__/0.parquet", rows(20)),
    ])
    .await;
    assert_eq!(
        sorted(
            lake.rows("SELECT place.city, n, year, country FROM lake.t WHERE place['zip'] > 53000")
                .await
        ),
        ["Bonn|11|2024|de", "Bonn|1|2023|de", "Bonn|21|2024|null"]
    );
    assert_eq!(
        lake.rows("SELECT year, sum(n) FROM lake.t WHERE country = 'de' GROUP BY year ORDER BY year")
            .await,
        ["2023|1", "2024|21"]
    );
    assert_eq!(
        lake.rows("SELECT sum(n) FROM lake.t WHERE country IS NULL AND year > 2023")
            .await,
        ["41"]
    );
    let plan = lake.plan("SELECT place.zip FROM lake.t WHERE year = 2024").await;
    assert!(
        !plan.contains("ProjectionExec") && !plan.contains("FilterExec"),
        "{plan}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_and_nulls_and_odd_names_are_answered() {
    let empty = table(vec![
        ("a", Arc::new(Int64Array::from(Vec::<i64>::new())) as ArrayRef),
        ("b", Arc::new(StringArray::from(Vec::<&str>::new()))),
    ]);
    let odd = table(vec![
        (
            "Größe (cm)",
            Arc::new(Int64Array::from(vec![Some(1), None])) as ArrayRef,
        ),
        ("select", Arc::new(StringArray::from(vec![None, Some("x")]))),
    ]);
    let lake = Lake::of(&[("empty.parquet", empty), ("odd.parquet", odd)]).await;
    let empty = "\"/lake/empty.parquet\"";
    assert_eq!(
        lake.rows(&format!("SELECT count(*), sum(a) FROM {empty}")).await,
        ["0|null"]
    );
    assert_eq!(lake.rows(&format!("SELECT * FROM {empty}")).await.len(), 0);
    assert_eq!(
        lake.rows(&format!("SELECT a FROM {empty} WHERE b = 'x' ORDER BY a LIMIT 1"))
            .await
            .len(),
        0
    );
    let odd = "\"/lake/odd.parquet\"";
    assert_eq!(
        lake.rows(&format!("SELECT \"Größe (cm)\", \"select\" FROM {odd} ORDER BY 1"))
            .await,
        ["1|null", "null|x"]
    );
    assert_eq!(
        lake.rows(&format!("SELECT count(*) FROM {odd} WHERE \"select\" IS NULL"))
            .await,
        ["1"]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn parameters_stand_in_for_values() {
    let lake = shop().await;
    let ask = async |sql: &str, values: RecordBatch| {
        let query = Query {
            parameters: Some(values),
            ..query(sql)
        };
        lake.ask(&query).await
    };
    let values = batch!(("a", Int64, [10]), ("b", Utf8, ["F"]));
    for sql in [
        "SELECT count(*) FROM lake.orders WHERE o_key < $1 AND o_status = $2",
        "SELECT count(*) FROM lake.orders WHERE o_key < ? AND o_status = ?",
    ] {
        assert_eq!(rows(&ask(sql, values.clone()).await.unwrap()), ["4"]);
        let described = lake.node.sql.describe(&lake.node, &query(sql)).await.unwrap();
        let types: Vec<String> = described
            .parameters
            .fields()
            .iter()
            .map(|field| format!("{} {}", field.name(), field.data_type()))
            .collect();
        assert_eq!(types, ["$1 Int64", "$2 Utf8"]);
    }
    let date = batch!(("a", Utf8, ["1970-01-03"]));
    let days = ask("SELECT count(*) FROM lake.orders WHERE o_date < $1", date).await;
    assert_eq!(rows(&days.unwrap()), ["6"]);
    let limit = batch!(("a", Int64, [3]));
    assert_eq!(
        rows(&ask("SELECT o_key FROM lake.orders LIMIT $1", limit).await.unwrap()).len(),
        3
    );
    let null = batch!(("a", Int64, [None]));
    let none = ask("SELECT count(*) FROM lake.orders WHERE o_key = $1", null).await;
    assert_eq!(rows(&none.unwrap()), ["0"]);
}

//! Conditions that a query engine leaves to a filter: the filter must take their words as they were meant.

use datafusion::prelude::{SessionContext, col, ident, in_list, lit};
use jetbridge_client::datafusion::pushdown::{MAX_FILTER_LEVELS, MAX_FILTER_TERMS, Pushed};

use super::*;

/// A condition as DataFusion offers it to a table: typed, and simplified.
fn offered(sql: &str) -> Expr {
    let state = SessionContext::new().state();
    let schema = df_schema(&schema()).unwrap();
    let written = state
        .create_logical_expr(sql, &schema)
        .unwrap_or_else(|error| panic!("{sql}: {error}"));
    let context = SimplifyContext::builder()
        .with_schema(Arc::new(schema.clone()))
        .with_config_options(Arc::clone(state.config_options()))
        .build();
    let simplifier = ExprSimplifier::new(context);
    simplifier
        .simplify(simplifier.coerce(written, &schema).unwrap())
        .unwrap()
}

/// What DataFusion makes of each row.
fn evaluated(condition: &Expr) -> Vec<Option<bool>> {
    let state = SessionContext::new().state();
    let schema = df_schema(&schema()).unwrap();
    let batch = batch();
    let values = state
        .create_physical_expr(condition.clone(), &schema)
        .unwrap()
        .evaluate(&batch)
        .unwrap();
    let values = values.into_array(batch.num_rows()).unwrap();
    arrow::array::AsArray::as_boolean(&values).iter().collect()
}

/// What the filter of these words makes of each row.
fn filtered(sql: &str) -> Vec<Option<bool>> {
    let batch = batch();
    let filter = parse(sql).row_filter(&batch.schema()).unwrap();
    filter.evaluate(&batch).unwrap().iter().collect()
}

/// Whether it is pushed, and as the same.
#[track_caller]
fn check(sql: &str) -> Option<bool> {
    let condition = offered(sql);
    let pushed = Pushed::of(&condition, &schema())?;
    let (there, here) = (filtered(&pushed.sql), evaluated(&condition));
    if pushed.is_exact {
        assert_eq!(there, here, "{sql}, pushed as {}", pushed.sql);
    } else {
        let lost = here
            .iter()
            .zip(&there)
            .filter(|(here, there)| **here == Some(true) && **there != Some(true));
        assert_eq!(
            lost.count(),
            0,
            "{sql}, pushed as {}: {here:?} there {there:?}",
            pushed.sql
        );
    }
    Some(pushed.is_exact)
}

#[test]
fn what_is_the_same_is_the_same_for_each_row() {
    for sql in [
        "id < 3",
        "3 > id",
        "id <> 2 AND NOT (id = 1 OR ok)",
        "id NOT BETWEEN 2 AND 5",
        "big = 18446744073709551615",
        "big > arrow_cast(2, 'UInt64')",
        "ok",
        "NOT ok",
        "ok IS NOT TRUE",
        "(id > 1) IS UNKNOWN",
        "name = 'it''s'",
        "name >= 'b' OR name IS NULL",
        "name LIKE '%n'",
        "name NOT ILIKE 'A%'",
        "name NOT IN ('ann', 'x', 'y', 'z')",
        "view <= 'bob'",
        "large = 'bob'",
        "dict = 'ann'",
        "dict < 'b' OR dict LIKE 'b%'",
        "day = date '1998-12-01'",
        "day BETWEEN date '1970-01-01' AND date '1999-01-01'",
        "at > arrow_cast('1970-01-01T00:00:00', 'Timestamp(Microsecond, None)')",
        "utc = arrow_cast('2024-01-02T12:30:00Z', 'Timestamp(Microsecond, Some(\"UTC\"))')",
        "price = cast(0.07 as decimal(15, 2))",
        "price NOT IN (cast(0.05 as decimal(15, 2)), cast(0.06 as decimal(15, 2)), cast(0 as decimal(15, 2)), \
         cast(1 as decimal(15, 2)))",
        "wide < cast(0.5 as decimal(38, 10))",
        "s['x'] >= arrow_cast(2, 'Int32')",
        "s['Y y'] = 'b'",
        "\"a.b\" = 20",
        "\"L TAX\" < \"Case\" OR \"Case\" = 3",
        "f IS NULL",
        "g IS NOT NULL",
    ] {
        assert_eq!(check(sql), Some(true), "{sql}: {}", offered(sql));
    }
}

#[test]
fn a_filter_over_floats_loses_no_row() {
    let values = ["1.5", "0.0", "-0.0", "-1.0", "1e300"];
    for sign in ["<", "<=", ">", ">=", "=", "<>"] {
        for value in values {
            for column in ["f", "g"] {
                let sql = format!("{column} {sign} {value}");
                let is_pushed = check(&sql);
                assert_ne!(is_pushed, Some(true), "{sql}");
                check(&format!("({sql} AND id < 3) OR name = 'bob'"));
                check(&format!("NOT ({sql})"));
            }
        }
    }
    assert_eq!(check("f < 1.5"), Some(false));
    assert_eq!(check("f IN (1.5, 0.0, 2.0, 3.0)"), Some(false));
    assert_eq!(check("f NOT IN (1.5, 5.0, 2.0, 3.0)"), Some(false));
}

#[test]
fn the_longest_and_deepest_that_is_pushed_is_taken() {
    let ids = (0..6000_i64).map(lit).collect();
    let mut deep = col("ok");
    for level in 0..MAX_FILTER_LEVELS / 2 {
        let other = col("id").gt(lit(i64::try_from(level).unwrap()));
        deep = Expr::Not(Box::new(deep)).and(other);
    }
    let wide = (0..MAX_FILTER_TERMS / 4 - 2).map(|_| ident("Case").gt(ident("L TAX")));
    let negative = (0..MAX_FILTER_TERMS - 20).map(|_| lit(-1_i64)).collect();
    for condition in [
        in_list(col("id"), ids, false),
        in_list(col("id"), negative, true),
        deep,
        wide.reduce(Expr::or).unwrap(),
    ] {
        let pushed = Pushed::of(&condition, &schema()).unwrap();
        assert!(pushed.is_exact);
        Predicate::parse(&pushed.sql, &schema()).unwrap_or_else(|error| panic!("{error}: {:.300}", pushed.sql));
    }
}
